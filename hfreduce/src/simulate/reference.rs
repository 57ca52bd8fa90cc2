//! What the simulator's calls work on: the inputs, which buffers there are, and what every rank must get. It knows no engine and no plan's
//! stages, only what each collective means.

use super::Random;
use crate::{
    engine::{Block, Blocks},
    plan::{Collective, Plan},
};
use std::sync::Arc;

/// The input element of a rank in a call: random bits, the same for whoever asks.
pub(super) fn input(seed: u64, call: usize, rank: usize, element: usize) -> i64 {
    let key = (call as u64) << 48 ^ (rank as u64) << 32 ^ element as u64;
    Random(seed ^ key.wrapping_mul(0xd6e8_feb8_6659_fd93)).next() as i64
}

/// What a rank must get: by element of its output.
pub(super) fn wanted(
    plan: &Plan,
    seed: u64,
    call: usize,
    rank: usize,
    count: usize,
    e: usize,
) -> Option<i64> {
    let ranks = plan.shape.ranks();
    let sum = |e: usize| (0..ranks).fold(0i64, |s, r| s.wrapping_add(input(seed, call, r, e)));
    match plan.collective {
        Collective::AllReduce => Some(sum(e)),
        Collective::ReduceScatter => Some(sum(rank * count + e)),
        Collective::AllGather => Some(input(seed, call, e / count, e % count)),
        Collective::Broadcast { root } => Some(input(seed, call, root as usize, e)),
        Collective::Reduce { root } => (rank == root as usize).then(|| sum(e)),
        Collective::Barrier => None,
        Collective::AllToAll => Some(input(seed, call, e / count, rank * count + e % count)),
        Collective::AllToAllV => {
            let (from, at) = find((0..ranks).map(|from| pair(from, rank, count)), e);
            let before: usize = (0..rank).map(|to| pair(from, to, count)).sum();
            Some(input(seed, call, from, before + at))
        }
        Collective::Gather { .. } => Some(input(seed, call, e / count, e % count)),
        Collective::Scatter { root } => Some(input(seed, call, root as usize, rank * count + e)),
        Collective::SendRecv => (rank == 1).then(|| input(seed, call, 0, e)),
    }
}

/// Elements that `from` sends to `to` in an all_to_all_v: none, one, two or three thirds of `count`.
fn pair(from: usize, to: usize, count: usize) -> usize {
    count * ((3 * from + 5 * to + 1) % 4) / 3
}

/// In which of the blocks of these lengths element `e` is, and where in it.
fn find(lengths: impl Iterator<Item = usize>, mut e: usize) -> (usize, usize) {
    for (block, length) in lengths.enumerate() {
        if e < length {
            return (block, e);
        }
        e -= length;
    }
    unreachable!("the element is in some block")
}

/// Elements of the input and of the output of a rank for a call of `count`.
pub(super) fn lengths(plan: &Plan, rank: usize, count: usize) -> (usize, usize) {
    let ranks = plan.shape.ranks();
    let only = |here: bool, count: usize| if here { count } else { 0 };
    match plan.collective {
        Collective::ReduceScatter => (ranks * count, count),
        Collective::AllGather => (count, ranks * count),
        Collective::Barrier => (0, 0),
        Collective::AllToAll => (ranks * count, ranks * count),
        Collective::AllToAllV => (
            (0..ranks).map(|to| pair(rank, to, count)).sum(),
            (0..ranks).map(|from| pair(from, rank, count)).sum(),
        ),
        Collective::Gather { root } => (count, only(rank == root as usize, ranks * count)),
        Collective::Scatter { root } => (only(rank == root as usize, ranks * count), count),
        Collective::SendRecv => (only(rank == 0, count), only(rank == 1, count)),
        Collective::AllReduce | Collective::Broadcast { .. } | Collective::Reduce { .. } => {
            (count, count)
        }
    }
}

/// The blocks of a rank's buffers, where the call has such.
pub(super) fn blocks(
    plan: &Plan,
    rank: usize,
    count: usize,
    job: (*mut i64, *mut i64),
) -> Option<Arc<Blocks>> {
    if plan.collective != Collective::AllToAllV {
        return None;
    }
    let cut = |base: *mut i64, lengths: &dyn Fn(usize) -> usize| {
        let mut first = 0;
        let block = |other| {
            let (at, count) = (base.wrapping_add(first).cast(), lengths(other));
            first += count;
            Block { at, count }
        };
        (0..plan.shape.ranks()).map(block).collect()
    };
    Some(Arc::new(Blocks {
        input: cut(job.0, &|to| pair(rank, to, count)),
        output: cut(job.1, &|from| pair(from, rank, count)),
    }))
}

/// Whose input and output lie where in a call in place: both starts, from where buffers of their own would start.
pub(super) fn in_place(
    plan: &Plan,
    rank: usize,
    count: usize,
    (input, output): (*mut i64, *mut i64),
) -> (*mut i64, *mut i64) {
    match plan.collective {
        Collective::ReduceScatter => (input, input.wrapping_add(rank * count)),
        Collective::AllGather => (output.wrapping_add(rank * count), output),
        Collective::Gather { root } if rank == root as usize => {
            (output.wrapping_add(rank * count), output)
        }
        Collective::Scatter { root } if rank == root as usize => {
            (input, input.wrapping_add(rank * count))
        }
        Collective::AllReduce | Collective::Broadcast { .. } | Collective::Reduce { .. } => {
            (input, input)
        }
        Collective::Gather { .. }
        | Collective::Scatter { .. }
        | Collective::Barrier
        | Collective::AllToAll
        | Collective::AllToAllV
        | Collective::SendRecv => (input, output),
    }
}
