//! Calls that move shares: all_to_all, gather, scatter, uneven shares, messages between two ranks; and calls that are started. Integers, so
//! that every element is compared exactly.

use crate::value::random;
use hfr_tests::ranks;
use hfreduce::{
    Block, Blocks, Collective, Communicator, DType, Error, Kind, Pending, RawCall, ReduceOp,
    Reducer, Wire,
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

fn shapes() -> [(&'static [usize], Wire); 5] {
    [
        (&[1], Wire::Auto),
        (&[3], Wire::Auto),
        (&[2, 2], Wire::Local),
        (&[2, 1], Wire::Tcp),
        (&[1, 3, 1], Wire::Local),
    ]
}

/// What rank `from` has for rank `to` as its element `i` in a call.
fn element(call: usize, from: usize, to: usize, i: usize) -> i64 {
    random((call as u64) << 48 ^ (from as u64) << 40 ^ (to as u64) << 32 ^ i as u64) as i64
}

fn block(call: usize, from: usize, to: usize, count: usize) -> impl Iterator<Item = i64> {
    (0..count).map(move |i| element(call, from, to, i))
}

/// Elements from one rank to another in an uneven exchange; some have none.
fn pair(call: usize, from: usize, to: usize) -> usize {
    (random((call * 64 + from * 8 + to) as u64) % 4) as usize * [5, 3000, 40_001][call % 3]
}

fn even(comm: &Communicator, call: usize, count: usize) {
    let (me, n) = (comm.rank(), comm.size());
    let input: Vec<i64> = (0..n).flat_map(|to| block(call, me, to, count)).collect();
    let mut output = vec![-1; n * count];
    comm.all_to_all(&input, &mut output).expect("all_to_all");
    let wanted: Vec<i64> = (0..n)
        .flat_map(|from| block(call, from, me, count))
        .collect();
    assert!(output == wanted, "all_to_all of {count}");

    let root = call % n;
    let mut shared = vec![-1; count];
    let whole = if me == root { &input[..] } else { &[] };
    comm.scatter(whole, &mut shared, root).expect("scatter");
    assert!(
        shared.iter().copied().eq(block(call, root, me, count)),
        "scatter of {count} from {root}"
    );
    let mut all = vec![-1; if me == root { n * count } else { 0 }];
    comm.gather(&shared, &mut all, root).expect("gather");
    assert!(me != root || all == input, "gather of {count} at {root}");
}

fn uneven(comm: &Communicator, call: usize) {
    let (me, n) = (comm.rank(), comm.size());
    let sent: Vec<usize> = (0..n).map(|to| pair(call, me, to)).collect();
    let received: Vec<usize> = (0..n).map(|from| pair(call, from, me)).collect();
    let input: Vec<i64> = (0..n)
        .flat_map(|to| block(call, me, to, sent[to]))
        .collect();
    let mut output = vec![-1; received.iter().sum()];
    comm.all_to_all_v(&input, &sent, &mut output, &received)
        .expect("all_to_all_v");
    let wanted = (0..n).flat_map(|from| block(call, from, me, received[from]));
    assert!(output.iter().copied().eq(wanted), "all_to_all_v {call}");

    let counts: Vec<usize> = (0..n).map(|rank| pair(call, rank, 7)).collect();
    let own: Vec<i64> = block(call, me, 9, counts[me]).collect();
    let mut all = vec![-1; counts.iter().sum()];
    comm.all_gather_v(&own, &mut all, &counts)
        .expect("all_gather_v");
    let wanted = (0..n).flat_map(|rank| block(call, rank, 9, counts[rank]));
    assert!(all.iter().copied().eq(wanted), "all_gather_v {call}");

    let mut sum = vec![-1; counts[me]];
    let input: Vec<i64> = (0..n)
        .flat_map(|to| block(call, me, to, counts[to]))
        .collect();
    comm.reduce_scatter_v(&input, &mut sum, &counts, ReduceOp::Sum)
        .expect("reduce_scatter_v");
    let total = |i| (0..n).fold(0i64, |s, r| s.wrapping_add(element(call, r, me, i)));
    assert!(
        (0..counts[me]).all(|i| sum[i] == total(i)),
        "reduce_scatter_v {call}"
    );
}

#[test]
fn shares_even_and_uneven() {
    for (nodes, wire) in shapes() {
        ranks(
            nodes,
            wire,
            |_| (),
            |comm| {
                for (call, count) in [3, 0, 1, 700, 40_000].into_iter().enumerate() {
                    even(&comm, call, count);
                    uneven(&comm, call);
                }
            },
        );
    }
}

/// Registered buffers, and blocks that lie anywhere.
#[test]
fn blocks_in_registered_memory_backwards() {
    ranks(
        &[2, 2],
        Wire::Local,
        |_| (),
        |comm| {
            let (me, n, count) = (comm.rank(), comm.size(), 5000);
            let mut input = comm.alloc::<i64>(n * count).expect("memory");
            let mut output = comm.alloc::<i64>(n * count).expect("memory");
            for to in 0..n {
                for (i, e) in block(1, me, to, count).enumerate() {
                    input[(n - 1 - to) * count + i] = e;
                }
            }
            let backwards = |base: *mut i64| -> Vec<Block> {
                let at = |r: usize| base.wrapping_add((n - 1 - r) * count).cast();
                (0..n).map(|r| Block { at: at(r), count }).collect()
            };
            let call = RawCall {
                collective: Collective::AllToAll,
                dtype: DType::I64,
                op: ReduceOp::Sum,
                count,
                input: std::ptr::null(),
                output: std::ptr::null_mut(),
                blocks: Some(Arc::new(Blocks {
                    input: backwards(input.as_mut_ptr()),
                    output: backwards(output.as_mut_ptr()),
                })),
            };
            // SAFETY: the blocks are parts of two buffers that live until the call has returned.
            unsafe { comm.run(call) }.expect("all_to_all");
            for from in 0..n {
                let got = &output[(n - 1 - from) * count..][..count];
                assert!(
                    got.iter().copied().eq(block(1, from, me, count)),
                    "from {from}"
                );
            }
        },
    );
}

#[test]
fn counts_that_do_not_fit_are_the_same_error_everywhere_and_harm_nothing() {
    let errors = ranks(
        &[2, 2],
        Wire::Local,
        |_| (),
        |comm| {
            let (me, n) = (comm.rank(), comm.size());
            let mut sent = vec![5; n];
            if me == 1 {
                sent[2] = 6;
            }
            let input = vec![7i64; sent.iter().sum()];
            let error = comm.all_to_all_v(&input, &sent, &mut vec![0; 5 * n], &vec![5; n]);
            uneven(&comm, 1);
            error.expect_err("rank 1 sends too much")
        },
    );
    for error in &errors {
        assert_eq!(error.kind, Kind::InvalidArgument);
        assert_eq!(error.to_string(), errors[0].to_string());
    }
    let text = errors[0].to_string();
    assert!(
        text.contains("rank 1 sends 6 elements to rank 2, which expects 5"),
        "{text}"
    );
}

#[test]
fn lists_of_lengths_that_differ_are_a_mismatch_on_every_rank() {
    let errors = ranks(
        &[3],
        Wire::Auto,
        |_| (),
        |comm| {
            let me = comm.rank();
            // The same longest and the same own length, so that only the lists tell.
            let counts = if me == 2 { [8, 3, 2] } else { [8, 4, 2] };
            let input = vec![1i64 + me as i64; counts[me]];
            let mut output = vec![0; counts.iter().sum()];
            comm.all_gather_v(&input, &mut output, &counts)
                .expect_err("lists differ")
        },
    );
    for error in errors {
        assert_eq!(error.kind, Kind::Mismatch, "{error}");
    }
}

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
fn started_calls_run_in_order_and_say_when_they_end() {
    ranks(
        &[2, 2],
        Wire::Local,
        |_| (),
        |comm| {
            let n = comm.size();
            let told = Arc::new(AtomicUsize::new(0));
            let mut buffers: Vec<Vec<i64>> = (0..9)
                .map(|c| vec![c as i64 + comm.rank() as i64; 10_000])
                .collect();
            let pending: Vec<Pending> = buffers
                .iter_mut()
                .map(|buffer| {
                    let call = RawCall {
                        collective: Collective::AllReduce,
                        dtype: DType::I64,
                        op: ReduceOp::Sum,
                        count: buffer.len(),
                        input: buffer.as_ptr().cast(),
                        output: buffer.as_mut_ptr().cast(),
                        blocks: None,
                    };
                    // SAFETY: the buffers are left alone until all have been waited for.
                    let pending = unsafe { comm.start(call) };
                    let told = told.clone();
                    pending.then(move |result: Result<(), Error>| {
                        told.fetch_add(usize::from(result.is_ok()), Ordering::Relaxed);
                    });
                    pending
                })
                .collect();
            // A blocking call goes behind those that were started.
            comm.barrier().expect("a barrier");
            for p in &pending {
                assert_eq!(p.wait_for(std::time::Duration::from_secs(20)), Some(Ok(())));
            }
            for (c, buffer) in buffers.iter().enumerate() {
                let sum = (c * n + n * (n - 1) / 2) as i64;
                assert!(buffer.iter().all(|e| *e == sum), "call {c}");
            }
            // `then` of the last is called before a later call's end is told.
            comm.barrier().expect("a barrier");
            assert_eq!(told.load(Ordering::Relaxed), 9);
        },
    );
}

#[test]
fn named_tensors_come_together_in_one_buffer() {
    ranks(
        &[2, 1],
        Wire::Local,
        |_| (),
        |comm| {
            let comm = Arc::new(comm);
            let me = comm.rank();
            let mut reducer = Reducer::new(comm.clone(), DType::I64, ReduceOp::Sum);
            let counts = [("embedding", 5000), ("bias", 3), ("head", 700)];
            for (name, count) in counts {
                reducer.register(name, count).expect("new");
            }
            assert_eq!(reducer.total(), 5703);
            assert!(reducer.register("bias", 3).is_err(), "twice");
            let mut tensors: Vec<Vec<i64>> = (0..3)
                .map(|t| block(t, me, 0, counts[t].1).collect())
                .collect();
            let mut fused = vec![-1i64; reducer.total()];
            // SAFETY: tensors and buffer live until after the synchronization.
            let names = unsafe {
                reducer.set_fused_destination(fused.as_mut_ptr().cast());
                for t in [2, 0, 1] {
                    let (at, count) = (tensors[t].as_mut_ptr().cast(), counts[t].1);
                    reducer.reduce(counts[t].0, at, count).expect("registered");
                }
                let at = tensors[0].as_mut_ptr().cast();
                assert!(reducer.reduce("tail", at, 1).is_err(), "unknown");
                assert!(reducer.reduce("bias", at, 4).is_err(), "too long");
                reducer.synchronize().expect("all are reduced")
            };
            assert_eq!(names, ["head", "embedding", "bias"]);
            let sum = |t, i| (0..3).fold(0i64, |s, r| s.wrapping_add(element(t, r, 0, i)));
            let wanted = (0..3).flat_map(|t| (0..counts[t].1).map(move |i| sum(t, i)));
            assert!(fused.iter().copied().eq(wanted));
        },
    );
}
