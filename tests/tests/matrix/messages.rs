//! Messages between two ranks: order, independence, and how they fail. Integers, so that every element is compared exactly.

use crate::shares::block;
use hfr_tests::ranks;
use hfreduce::{Communicator, DType, Kind, Pending, ReduceOp, Wire};

fn start_send(comm: &Communicator, data: &[i64], to: usize, tag: u64) -> Pending {
    // SAFETY: the callers keep `data` until they have waited.
    unsafe { comm.start_send(DType::I64, data.len(), data.as_ptr().cast(), to, tag) }
}

fn start_recv(comm: &Communicator, data: &mut [i64], from: usize, tag: u64) -> Pending {
    // SAFETY: as above.
    unsafe { comm.start_recv(DType::I64, data.len(), data.as_mut_ptr().cast(), from, tag) }
}

#[test]
fn messages_keep_their_order_and_do_not_hold_each_other_up() {
    for (nodes, wire) in [
        (&[3][..], Wire::Auto),
        (&[2, 2], Wire::Local),
        (&[1, 2], Wire::Tcp),
    ] {
        ranks(
            nodes,
            wire,
            |_| (),
            |comm| {
                let (me, n) = (comm.rank(), comm.size());
                let (next, before) = ((me + 1) % n, (me + n - 1) % n);
                let counts = [1, 0, 90_000, 64, 4097];
                let data: Vec<Vec<i64>> = (0..counts.len())
                    .map(|c| block(c, me, next, counts[c]).collect())
                    .collect();
                let mut got: Vec<Vec<i64>> = counts.iter().map(|c| vec![-1; *c]).collect();
                let mut back = vec![-1; 777];
                let own: Vec<i64> = block(50, me, before, 777).collect();
                // Against the ring's direction a message that comes last is received first, and a collective runs in between.
                let turned = start_recv(&comm, &mut back, next, 5);
                let sends: Vec<_> = data.iter().map(|d| start_send(&comm, d, next, 0)).collect();
                let mut sum = vec![me as i64 + 1; 1000];
                comm.all_reduce(&mut sum, ReduceOp::Sum)
                    .expect("all_reduce");
                assert!(sum.iter().all(|s| *s == (n * (n + 1) / 2) as i64));
                let mut recvs = Vec::new();
                for buffer in &mut got {
                    recvs.push(start_recv(&comm, buffer, before, 0));
                }
                let last = start_send(&comm, &own, before, 5);
                for pending in sends.iter().chain(&recvs).chain([&turned, &last]) {
                    pending.wait().expect("a message");
                }
                for (c, buffer) in got.iter().enumerate() {
                    assert!(
                        buffer.iter().copied().eq(block(c, before, me, counts[c])),
                        "message {c}"
                    );
                }
                assert!(
                    back.iter().copied().eq(block(50, next, me, 777)),
                    "the turned message"
                );
            },
        );
    }
}

#[test]
fn messages_that_do_not_match_fail_at_both_ends_in_the_words_of_the_group() {
    let errors = ranks(
        &[4],
        Wire::Auto,
        |_| (),
        |comm| {
            let error = match comm.rank() {
                1 => comm.send(&[1i64, 2, 3], 3).err(),
                3 => comm.recv(&mut [0i64; 4], 1).err(),
                _ => None,
            };
            comm.barrier().expect("the group itself has not failed");
            error
        },
    );
    let (sender, receiver) = (errors[1].as_ref().unwrap(), errors[3].as_ref().unwrap());
    for (error, other) in [(sender, "send to rank 3"), (receiver, "recv from rank 1")] {
        let text = error.to_string();
        assert_eq!(error.kind, Kind::Mismatch, "{text}");
        let both = text.contains("rank 1 calls send_recv #1 of 3 int64")
            && text.contains("rank 3 calls send_recv #1 of 4 int64");
        assert!(both && text.contains(other), "{text}");
    }
    ranks(
        &[2],
        Wire::Auto,
        |_| (),
        |comm| {
            let error = comm.send(&[1i64], comm.rank()).expect_err("to itself");
            assert_eq!(error.kind, Kind::InvalidArgument, "{error}");
            let mut one = [comm.rank() as i64 + 1];
            comm.all_reduce(&mut one, ReduceOp::Sum)
                .expect("still usable");
            assert_eq!(one, [3]);
        },
    );
}

#[test]
fn a_message_nobody_takes_fails_when_the_time_is_up_or_the_group_is_closed() {
    let short =
        |config: &mut hfreduce::Config| config.timeout = std::time::Duration::from_millis(700);
    ranks(&[2], Wire::Auto, short, |comm| {
        // Both send: as neither receives, neither message finds its match.
        let other = 1 - comm.rank();
        let error = comm.send(&[1i64], other).expect_err("nobody receives");
        assert_eq!(error.kind, Kind::Timeout, "{error}");
        let text = format!("send to rank {other}: no matching recv");
        assert!(error.to_string().contains(&text), "{error}");
        let data = [5i64];
        let pending = start_send(&comm, &data, other, 0);
        assert!(pending.wait().is_err(), "the channel has failed for good");
        comm.barrier().expect("the group itself has not failed");
    });
    ranks(
        &[2],
        Wire::Auto,
        |_| (),
        |comm| {
            let mut data = [0i64];
            if comm.rank() == 0 {
                let pending = start_recv(&comm, &mut data, 1, 0);
                comm.barrier().expect("a barrier");
                drop(comm);
                assert!(pending.wait().is_err(), "the group is closed");
            } else {
                comm.barrier().expect("a barrier");
            }
        },
    );
}

#[test]
fn a_message_behind_an_abort_ends() {
    ranks(
        &[2],
        Wire::Auto,
        |_| (),
        |comm| {
            let (me, other) = (comm.rank(), 1 - comm.rank());
            let mut got = [0i64];
            if me == 0 {
                comm.send(&[7i64], other).expect("a message");
            } else {
                comm.recv(&mut got, other).expect("a message");
                assert_eq!(got, [7]);
            }
            // The other rank may be out of it, and have aborted, before this one looks.
            let met = comm.barrier();
            assert!(met.is_ok() || comm.failure().is_some(), "{met:?}");
            comm.abort("for a test");
            for sends in [true, false] {
                let pending = if sends {
                    start_send(&comm, &[1], other, 0)
                } else {
                    start_recv(&comm, &mut got, other, 0)
                };
                let ended = pending.wait_for(std::time::Duration::from_secs(10));
                let error = ended.expect("it ends").expect_err("aborted");
                assert_eq!(error.kind, Kind::Aborted, "{error}");
            }
        },
    );
}
