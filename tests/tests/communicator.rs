//! The communicator on threads, each a rank with a segment mapping, sockets and control connection of its own: the matrix of sizes, shapes,
//! wires, types and ways to call.

use hfr_tests::ranks;
use hfreduce::{Collective, DType, Kind, RawCall, ReduceOp, Wire};

const SIZES: [usize; 14] = [
    0, 1, 3, 4, 7, 64, 100, 1000, 1023, 1024, 4095, 4097, 65535, 65536,
];

fn input(rank: usize, i: usize) -> i64 {
    ((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7) as i64 ^ ((rank as i64 + 1) << 40)
}

fn shapes() -> Vec<(Vec<usize>, Wire)> {
    let mut all = vec![
        (vec![1], Wire::Auto),
        (vec![2], Wire::Auto),
        (vec![5], Wire::Auto),
    ];
    for wire in [Wire::Local, Wire::Tcp] {
        for nodes in [&[1, 1][..], &[2, 2], &[3, 5], &[1, 1, 1], &[2, 1, 2, 1]] {
            all.push((nodes.to_vec(), wire));
        }
    }
    all
}

#[test]
fn every_collective_on_every_shape_and_wire() {
    for (nodes, wire) in shapes() {
        ranks(
            &nodes,
            wire,
            |_| (),
            |comm| {
                let (me, n) = (comm.rank(), comm.size());
                for count in SIZES.into_iter().filter(|c| *c < 5000 || c * n < 400_000) {
                    let mine: Vec<i64> = (0..count).map(|i| input(me, i)).collect();
                    let sum = |i: usize| (0..n).fold(0i64, |s, r| s.wrapping_add(input(r, i)));
                    let sums: Vec<i64> = (0..count).map(sum).collect();
                    let what = format!("{nodes:?} {wire:?} rank {me} count {count}");

                    let mut buffer = mine.clone();
                    comm.all_reduce(&mut buffer, ReduceOp::Sum).expect(&what);
                    assert!(buffer == sums, "all_reduce {what}");
                    let mut out = vec![0; count];
                    comm.all_reduce_into(&mine, &mut out, ReduceOp::Sum)
                        .expect(&what);
                    assert!(out == sums, "all_reduce_into {what}");

                    let mut gathered = vec![0; count * n];
                    comm.all_gather(&mine, &mut gathered).expect(&what);
                    let all: Vec<i64> = (0..n)
                        .flat_map(|r| (0..count).map(move |i| input(r, i)))
                        .collect();
                    assert!(gathered == all, "all_gather {what}");
                    let mut gathered = vec![0; count * n];
                    gathered[me * count..][..count].copy_from_slice(&mine);
                    comm.all_gather_in_place(&mut gathered).expect(&what);
                    assert!(gathered == all, "all_gather_in_place {what}");

                    let wide: Vec<i64> = (0..count * n).map(|i| input(me, i)).collect();
                    let mut out = vec![0; count];
                    comm.reduce_scatter(&wide, &mut out, ReduceOp::Sum)
                        .expect(&what);
                    assert!(
                        (0..count).all(|i| out[i] == sum(me * count + i)),
                        "reduce_scatter {what}"
                    );
                    let mut wide = wide;
                    comm.reduce_scatter_in_place(&mut wide, ReduceOp::Sum)
                        .expect(&what);
                    assert!(
                        wide[me * count..][..count] == out,
                        "reduce_scatter_in_place {what}"
                    );

                    for root in [0, n - 1] {
                        let mut buffer = mine.clone();
                        comm.broadcast(&mut buffer, root).expect(&what);
                        assert!(
                            (0..count).all(|i| buffer[i] == input(root, i)),
                            "broadcast {what}"
                        );
                        let mut buffer = mine.clone();
                        comm.reduce(&mut buffer, ReduceOp::Sum, root).expect(&what);
                        assert!(
                            buffer == if me == root { &sums[..] } else { &mine[..] },
                            "reduce {what}"
                        );
                    }
                    comm.barrier().expect(&what);
                }
            },
        );
    }
}

/// Plans that do not fit together are forgotten and installed anew, with nothing lost: every round uses more plans than fit.
#[test]
fn plans_come_and_go_when_their_memory_is_small() {
    for wire in [Wire::Local, Wire::Tcp] {
        ranks(
            &[2, 1, 2],
            wire,
            |config| config.slots = 24 << 20,
            |comm| {
                let (me, n) = (comm.rank(), comm.size());
                for round in 0..6 {
                    let count = 1000 + 777 * round;
                    let mine: Vec<i64> = (0..count).map(|i| input(me + round, i)).collect();
                    let sum =
                        |i: usize| (0..n).fold(0i64, |s, r| s.wrapping_add(input(r + round, i)));
                    for root in 0..n {
                        let mut buffer = mine.clone();
                        comm.broadcast(&mut buffer, root).expect("broadcast");
                        assert!((0..count).all(|i| buffer[i] == input(root + round, i)));
                        let mut buffer = mine.clone();
                        comm.reduce(&mut buffer, ReduceOp::Sum, root)
                            .expect("reduce");
                        assert!(me != root || (0..count).all(|i| buffer[i] == sum(i)));
                    }
                    let mut buffer = mine.clone();
                    comm.all_reduce(&mut buffer, ReduceOp::Sum)
                        .expect("all_reduce");
                    assert!((0..count).all(|i| buffer[i] == sum(i)));
                    comm.barrier().expect("barrier");
                }
            },
        );
    }
}

/// What comes over TCP lands in the output of a rank that waits for it; not so where another call was made there, which must be told what came.
#[test]
fn what_comes_lands_in_an_output_but_not_in_that_of_another_call() {
    // The first halves are 5,056 and 5,120 bytes: with its header of 64 the shorter one would fill the longer one's output.
    const COUNTS: [usize; 2] = [10_000, 10_200];
    let errors = ranks(
        &[1, 1],
        Wire::Tcp,
        |_| (),
        |comm| {
            let mut buffer = vec![1 + comm.rank() as u8; 11_000];
            for round in 0..3 {
                comm.broadcast(&mut buffer, 0).expect("broadcast");
                assert!(buffer.iter().all(|byte| *byte == 1 + round));
                buffer.fill(2 + round + 5 * comm.rank() as u8);
            }
            // Nothing is copied where the rank is there before what comes.
            comm.measure(true);
            if comm.rank() == 0 {
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
            comm.broadcast(&mut buffer, 0).expect("broadcast");
            let stages = comm.stages().expect("measured");
            assert!(comm.rank() == 0 || stages.copy_out.bytes == 0, "{stages:?}");
            assert!(buffer.iter().all(|byte| *byte == 4));
            buffer.fill(9);
            if comm.rank() == 0 {
                // The other one is there first.
                std::thread::sleep(std::time::Duration::from_millis(200));
                let _ = comm.broadcast(&mut buffer[..COUNTS[0]], 0);
                return None;
            }
            let error = comm.broadcast(&mut buffer[..COUNTS[1]], 0);
            assert!(
                buffer.iter().all(|byte| *byte == 9),
                "something was written"
            );
            Some(error.expect_err("calls differ"))
        },
    );
    let error = errors.into_iter().flatten().next().expect("rank 1's");
    assert_eq!(error.kind, Kind::Mismatch, "{error}");
    let text = error.to_string();
    assert!(
        COUNTS.iter().all(|n| text.contains(&n.to_string())),
        "{text}"
    );
}

/// A call that is like the one before it takes a shorter way: one that differs in any one thing must not.
#[test]
fn calls_in_a_row_may_differ_in_any_one_thing() {
    for nodes in [&[1][..], &[3], &[2, 1]] {
        ranks(
            nodes,
            Wire::Local,
            |_| (),
            |comm| {
                let (me, n) = (comm.rank(), comm.size());
                let (whole, part) = (n as i64 * (n as i64 + 1) / 2, me as i64 + 1);
                // Every line is made twice in a row, with memory of its own.
                let twice = |call: &dyn Fn()| {
                    call();
                    call();
                };
                let reduced = |count: usize, op, want: i64| {
                    let mut buffer = vec![part; count];
                    comm.all_reduce(&mut buffer, op).expect("all_reduce");
                    assert!(buffer == vec![want; count], "{op:?} of {count}");
                };
                twice(&|| reduced(5, ReduceOp::Sum, whole));
                twice(&|| reduced(6, ReduceOp::Sum, whole));
                twice(&|| reduced(6, ReduceOp::Max, n as i64));
                twice(&|| reduced(6, ReduceOp::PremulSum(2.0), 2 * whole));
                twice(&|| reduced(6, ReduceOp::PremulSum(3.0), 3 * whole));
                for factor in [0.0f64, -0.0] {
                    let mut buffer = [1.0f32; 6];
                    comm.all_reduce(&mut buffer, ReduceOp::PremulSum(factor))
                        .expect("all_reduce");
                    assert_eq!(
                        buffer.map(f32::is_sign_negative),
                        [factor.is_sign_negative(); 6]
                    );
                }
                twice(&|| reduced(6, ReduceOp::Sum, whole));
                // Elements of the same length, whose sum is another one.
                twice(&|| {
                    let mut buffer = [part as f64 + 0.5; 6];
                    comm.all_reduce(&mut buffer, ReduceOp::Sum)
                        .expect("all_reduce");
                    assert_eq!(buffer, [whole as f64 + 0.5 * n as f64; 6]);
                });
                // Another output: the input stays.
                twice(&|| {
                    let (mine, mut sums) = ([part as f64 + 0.5; 6], [0.0; 6]);
                    comm.all_reduce_into(&mine, &mut sums, ReduceOp::Sum)
                        .expect("all_reduce_into");
                    assert_eq!(mine, [part as f64 + 0.5; 6]);
                    assert_eq!(sums, [whole as f64 + 0.5 * n as f64; 6]);
                });
                for root in 0..n {
                    twice(&|| {
                        let mut buffer = [part; 6];
                        comm.broadcast(&mut buffer, root).expect("broadcast");
                        assert_eq!(buffer, [root as i64 + 1; 6]);
                    });
                }
                // Shares of the same length as this rank's, and of others.
                for longer in [0, 1, 0] {
                    let counts: Vec<usize> = (0..n).map(|r| 6 + longer * r).collect();
                    let want: Vec<i64> =
                        (0..n).flat_map(|r| vec![r as i64 + 1; counts[r]]).collect();
                    twice(&|| {
                        let mut all = vec![0; want.len()];
                        comm.all_gather_v(&vec![part; counts[me]], &mut all, &counts)
                            .expect("all_gather_v");
                        assert_eq!(all, want);
                    });
                    twice(&|| {
                        let mut all = vec![0; 6 * n];
                        comm.all_gather(&[part; 6], &mut all).expect("all_gather");
                        assert!((0..n).all(|r| all[6 * r..][..6] == [r as i64 + 1; 6]));
                    });
                }
                // A started one behind its like, and the other way round.
                twice(&|| {
                    let mut sum = [part; 6];
                    comm.scope(|s| s.all_reduce(&mut sum, ReduceOp::Sum)?.wait())
                        .expect("all_reduce");
                    assert_eq!(sum, [whole; 6]);
                    reduced(6, ReduceOp::Sum, whole);
                });
                // What is refused is refused behind its like, and nothing has started.
                let (mine, mut all) = (vec![part; 6 * n], vec![0i64; 6 * n]);
                comm.all_to_all(&mine, &mut all).expect("all_to_all");
                assert!((0..n).all(|r| all[6 * r..][..6] == [r as i64 + 1; 6]));
                let at = all.as_mut_ptr().cast::<u8>();
                let onto_itself = RawCall {
                    collective: Collective::AllToAll,
                    dtype: DType::I64,
                    op: ReduceOp::Sum,
                    count: 6,
                    input: at.cast_const(),
                    output: at,
                    blocks: None,
                };
                // SAFETY: the vector outlives the call, and is as long as it says.
                let refused = unsafe { comm.run(onto_itself) };
                assert_eq!(refused.is_err(), n > 1);
                twice(&|| reduced(6, ReduceOp::BOr, (0..n as i64).fold(0, |s, r| s | (r + 1))));
                let mut buffer = [0.0f64; 6];
                assert!(comm.all_reduce(&mut buffer, ReduceOp::BOr).is_err());
                twice(&|| reduced(6, ReduceOp::BOr, (0..n as i64).fold(0, |s, r| s | (r + 1))));
            },
        );
    }
}
