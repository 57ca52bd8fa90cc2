//! Ways to call: overlapping calls in a scope, groups split off, several communicators and threads at once. Integers, so that every
//! element is compared exactly.

use crate::value::random;
use hfr_tests::ranks;
use hfreduce::{Communicator, Error, ReduceOp, Wire};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn input(call: usize, rank: usize, i: usize) -> i64 {
    random((call as u64) << 48 ^ (rank as u64) << 32 ^ i as u64) as i64
}

fn mine(call: usize, rank: usize, count: usize) -> Vec<i64> {
    (0..count).map(|i| input(call, rank, i)).collect()
}

fn sum(call: usize, members: impl Iterator<Item = usize> + Clone, i: usize) -> i64 {
    members.fold(0, |s, r| s.wrapping_add(input(call, r, i)))
}

fn shapes() -> [(&'static [usize], Wire); 4] {
    [
        (&[1], Wire::Auto),
        (&[3], Wire::Auto),
        (&[2, 2], Wire::Local),
        (&[2, 1], Wire::Tcp),
    ]
}

/// Buffers of one call in a scope.
struct Buffers {
    reduced: Vec<i64>,
    gathered: Vec<i64>,
    spread: Vec<i64>,
    wide: Vec<i64>,
    scattered: Vec<i64>,
}

fn overlap(comm: &Communicator, wait: bool) {
    let (me, n) = (comm.rank(), comm.size());
    let counts = [1, 0, 700, 9, 30_000, 64, 3, 4097, 12_345];
    let inputs: Vec<Vec<i64>> = (0..counts.len()).map(|c| mine(c, me, counts[c])).collect();
    let mut all: Vec<Buffers> = (0..counts.len())
        .map(|c| Buffers {
            reduced: inputs[c].clone(),
            gathered: vec![0; counts[c] * n],
            spread: inputs[c].clone(),
            wide: mine(c, me, counts[c] * n),
            scattered: vec![0; counts[c]],
        })
        .collect();
    comm.scope(|s| {
        let mut handles = Vec::new();
        for (c, b) in all.iter_mut().enumerate() {
            let started = [
                s.all_reduce(&mut b.reduced, ReduceOp::Sum)?,
                s.all_gather(&inputs[c], &mut b.gathered)?,
                s.broadcast(&mut b.spread, c % n)?,
                s.reduce_scatter(&b.wide, &mut b.scattered, ReduceOp::Sum)?,
            ];
            if wait {
                handles.extend(started);
            } else {
                started.into_iter().for_each(drop);
            }
        }
        // Backwards: the order of waiting is the caller's own affair.
        handles.into_iter().rev().try_for_each(|h| h.wait())
    })
    .expect("no call fails");
    for (c, b) in all.iter().enumerate() {
        let count = counts[c];
        for i in 0..count {
            assert_eq!(b.reduced[i], sum(c, 0..n, i), "all_reduce {c}");
            assert_eq!(b.spread[i], input(c, c % n, i), "broadcast {c}");
            assert_eq!(b.scattered[i], sum(c, 0..n, me * count + i), "scatter {c}");
            for r in 0..n {
                assert_eq!(b.gathered[r * count + i], input(c, r, i), "gather {c}");
            }
        }
    }
}

#[test]
fn overlapping_calls_waited_for_or_not() {
    for (nodes, wire) in shapes() {
        ranks(
            nodes,
            wire,
            |_| (),
            |comm| {
                overlap(&comm, true);
                overlap(&comm, false);
                comm.barrier().expect("still usable");
            },
        );
    }
}

#[test]
fn a_panic_in_a_scope_ends_only_after_the_calls() {
    ranks(
        &[2, 2],
        Wire::Local,
        |_| (),
        |comm| {
            let mut buffers: Vec<Vec<i64>> = (0..6).map(|c| mine(c, comm.rank(), 20_000)).collect();
            let left = catch_unwind(AssertUnwindSafe(|| {
                comm.scope(|s| -> Result<(), Error> {
                    for buffer in &mut buffers {
                        let _ = s.all_reduce(buffer, ReduceOp::Sum)?;
                    }
                    std::panic::resume_unwind(Box::new("on purpose"))
                })
            }));
            assert!(left.is_err(), "the panic goes on to the caller");
            for (c, buffer) in buffers.iter().enumerate() {
                assert!(
                    (0..buffer.len()).all(|i| buffer[i] == sum(c, 0..4, i)),
                    "buffer {c} was given back before its call had ended"
                );
            }
            comm.barrier().expect("still usable");
        },
    );
}

/// Checks that `comm` reduces over exactly `members`, ranks of the whole job in this group's order.
fn reduces_over(comm: &Communicator, whole: usize, members: &[usize]) {
    assert_eq!(comm.size(), members.len());
    assert_eq!(members[comm.rank()], whole, "the order of keys");
    let mut buffer = mine(7, whole, 3000);
    comm.all_reduce(&mut buffer, ReduceOp::Sum).expect("sum");
    let of = members.iter().copied();
    assert!((0..3000).all(|i| buffer[i] == sum(7, of.clone(), i)));
    let mut all = vec![0; members.len()];
    comm.all_gather(&[whole as i64], &mut all).expect("gather");
    assert!(all.iter().zip(members).all(|(a, m)| *a == *m as i64));
}

#[test]
fn groups_split_off() {
    for (nodes, wire) in [
        (&[4][..], Wire::Auto),
        (&[2, 2], Wire::Local),
        (&[2, 2], Wire::Tcp),
    ] {
        ranks(
            nodes,
            wire,
            |_| (),
            |comm| {
                let me = comm.rank();
                let half = comm.split(Some(me as u32 / 2), 0).expect("split");
                let half = half.expect("has a color");
                reduces_over(&half, me, &[me / 2 * 2, me / 2 * 2 + 1]);
                let odd = comm.split(Some(me as u32 % 2), me as i64).expect("split");
                let odd = odd.expect("has a color");
                reduces_over(&odd, me, &[me % 2, me % 2 + 2]);
                let turned = comm.split(Some(9), -(me as i64)).expect("split");
                let turned = turned.expect("has a color");
                reduces_over(&turned, me, &[3, 2, 1, 0]);
                let nested = turned
                    .split(Some(turned.rank() as u32 / 2), 0)
                    .expect("split");
                let nested = nested.expect("has a color");
                let high = [3, 2];
                reduces_over(&nested, me, if me >= 2 { &high } else { &[1, 0] });
                let some = comm.split((me != 1).then_some(0), 0).expect("split");
                match some {
                    None => assert_eq!(me, 1, "no color, no group"),
                    Some(group) => reduces_over(&group, me, &[0, 2, 3]),
                }
                reduces_over(&comm, me, &[0, 1, 2, 3]);
            },
        );
    }
}

#[test]
fn two_communicators_and_two_threads_at_once() {
    for (nodes, wire) in [
        (&[2][..], Wire::Auto),
        (&[2, 1], Wire::Local),
        (&[1, 2], Wire::Tcp),
    ] {
        ranks(
            nodes,
            wire,
            |_| (),
            |comm| {
                let other = comm.split(Some(0), -(comm.rank() as i64)).expect("split");
                let other = other.expect("has a color");
                let (n, me) = (comm.size(), comm.rank());
                let work = |comm: &Communicator, base: usize| {
                    for call in base..base + 40 {
                        let mut buffer = mine(call, me, 37 * (call % 50));
                        comm.all_reduce(&mut buffer, ReduceOp::Sum).expect("sum");
                        assert!((0..buffer.len()).all(|i| buffer[i] == sum(call, 0..n, i)));
                    }
                };
                std::thread::scope(|s| {
                    s.spawn(|| work(&comm, 0));
                    s.spawn(|| work(&other, 1000));
                });
            },
        );
    }
}
