//! From an operation to a kernel, the same for every instruction set. Knows neither element types nor instructions.
//! Invariant: an operation an element type does not have yields `None`, never another operation.

use super::lanes::{
    Arithmetic, Avg, BAnd, BOr, BXor, Bits, Fold, Lanes, Max, Min, PremulSum, Prod, Run, Sum,
};
use crate::op::ReduceOp;

/// An instruction set's way into the shared loop: a function compiled with its features.
pub(super) trait Entry {
    /// The loop for these lanes and this operation.
    fn entry<L: Lanes, O: Fold<L> + Fold<L::Tail>>() -> Run;
}

/// The kernel of a float.
pub(super) fn float<E: Entry, L: Arithmetic<Tail: Arithmetic>>(op: ReduceOp) -> Option<Run> {
    Some(match op {
        ReduceOp::Sum => E::entry::<L, Sum>(),
        ReduceOp::Prod => E::entry::<L, Prod>(),
        ReduceOp::Min => E::entry::<L, Min>(),
        ReduceOp::Max => E::entry::<L, Max>(),
        ReduceOp::Avg => E::entry::<L, Avg>(),
        ReduceOp::PremulSum(_) => E::entry::<L, PremulSum>(),
        ReduceOp::BAnd | ReduceOp::BOr | ReduceOp::BXor => return None,
    })
}

/// The kernel of an integer.
pub(super) fn integer<E: Entry, L: Bits<Tail: Bits>>(op: ReduceOp) -> Option<Run> {
    match op {
        ReduceOp::BAnd => Some(E::entry::<L, BAnd>()),
        ReduceOp::BOr => Some(E::entry::<L, BOr>()),
        ReduceOp::BXor => Some(E::entry::<L, BXor>()),
        _ => float::<E, L>(op),
    }
}
