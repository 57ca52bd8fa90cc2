//! Calls that move shares: all_to_all, gather, scatter, uneven shares; and calls that are started. Integers, so
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

pub fn block(call: usize, from: usize, to: usize, count: usize) -> impl Iterator<Item = i64> {
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

/// Started calls whose plans do not all fit: a later one makes the plans of those in front of it be forgotten.
#[test]
fn plans_are_forgotten_under_calls_that_were_started() {
    ranks(
        &[2, 1, 2],
        Wire::Local,
        |config| config.slots = 4 << 20,
        |comm| {
            let n = comm.size();
            for round in 0..4 {
                let mut buffers: Vec<Vec<i64>> = (0..2 * n)
                    .map(|c| block(round * 100 + c, comm.rank(), 0, 3000 + c).collect())
                    .collect();
                let pending: Vec<Pending> = buffers
                    .iter_mut()
                    .enumerate()
                    .map(|(c, buffer)| {
                        let call = RawCall {
                            collective: Collective::Broadcast {
                                root: (c % n) as u32,
                            },
                            dtype: DType::I64,
                            op: ReduceOp::Sum,
                            count: buffer.len(),
                            input: buffer.as_ptr().cast(),
                            output: buffer.as_mut_ptr().cast(),
                            blocks: None,
                        };
                        // SAFETY: the buffers are left alone until all have been waited for.
                        unsafe { comm.start(call) }
                    })
                    .collect();
                for p in &pending {
                    p.wait().expect("a broadcast");
                }
                for (c, buffer) in buffers.iter().enumerate() {
                    let wanted = block(round * 100 + c, c % n, 0, 3000 + c);
                    assert!(buffer.iter().copied().eq(wanted), "broadcast {c}");
                }
            }
        },
    );
}

#[test]
fn blocks_that_lie_over_each_other_are_refused() {
    ranks(
        &[2],
        Wire::Auto,
        |_| (),
        |comm| {
            let mut memory = vec![comm.rank() as i64 + 3; 20];
            let at = memory.as_mut_ptr();
            let blocks = |firsts: [usize; 2]| -> Vec<Block> {
                let block = |first: usize| Block {
                    at: at.wrapping_add(first).cast(),
                    count: 5,
                };
                firsts.map(block).to_vec()
            };
            let call = |collective, input, output| RawCall {
                collective,
                dtype: DType::I64,
                op: ReduceOp::Sum,
                count: 5,
                input: at.cast(),
                output: at.cast(),
                blocks: Some(Arc::new(Blocks { input, output })),
            };
            let (to_all, gather) = (Collective::AllToAllV, Collective::AllGather);
            for wrong in [
                call(to_all, blocks([0, 5]), blocks([0, 10])),
                call(to_all, blocks([0, 5]), blocks([10, 14])),
                call(to_all, blocks([0, 5]), blocks([9, 15])),
                // The input lies where another rank's share is to come.
                call(gather, Vec::new(), blocks([2, 9])),
            ] {
                // SAFETY: all blocks lie in one buffer that lives until the call has returned.
                let error = unsafe { comm.run(wrong) }.expect_err("blocks overlap");
                assert_eq!(error.kind, Kind::InvalidArgument, "{error}");
            }
            // In place: the own share of the output is the input.
            let own = if comm.rank() == 0 { [0, 7] } else { [7, 0] };
            // SAFETY: as above.
            unsafe { comm.run(call(gather, Vec::new(), blocks(own))) }.expect("in place");
            assert_eq!(
                (memory[0], memory[7]),
                (comm.rank() as i64 + 3, 4 - comm.rank() as i64)
            );
        },
    );
}
