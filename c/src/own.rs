//! Messages of a rank to itself, as programs written for NCCL send them among those to all others: copied, without the library. Knows nothing of
//! other calls. Invariant: all pairs are seen to fit before the first is copied.

use crate::{
    fail::{Fail, Outcome},
    group::{Call, Noted},
};
use hfr::DType;
use std::collections::BTreeMap;

/// What one communicator sends to itself, and what it receives from itself.
#[derive(Default)]
struct Own {
    sends: Vec<(DType, usize, *const u8)>,
    recvs: Vec<(DType, usize, *mut u8)>,
}

/// Whether a call is a message from a rank to itself.
pub fn is_own(noted: &Noted) -> bool {
    match noted.call {
        Call::Send { to: peer, .. } | Call::Recv { from: peer, .. } => peer == noted.on.rank(),
        Call::Collective(_) => false,
    }
}

/// Copies the messages of a group that are to the own rank, the first sent into the first received; returns the other calls.
///
/// # Safety
/// The buffers of the calls are good, as the header has it.
pub unsafe fn deliver(calls: Vec<Noted>) -> Outcome<Vec<Noted>> {
    let (own, others): (Vec<Noted>, Vec<Noted>) = calls.into_iter().partition(is_own);
    let mut by_comm: BTreeMap<usize, Own> = BTreeMap::new();
    for noted in own {
        let own = by_comm.entry(noted.comm.handle).or_default();
        match noted.call {
            Call::Send {
                dtype, count, from, ..
            } => own.sends.push((dtype, count, from)),
            Call::Recv {
                dtype, count, into, ..
            } => own.recvs.push((dtype, count, into)),
            Call::Collective(_) => {}
        }
    }
    for own in by_comm.values() {
        if own.sends.len() != own.recvs.len() {
            return Err(Fail::argument(format!(
                "a group sends {} messages to the own rank and receives {} from it; give each its counterpart",
                own.sends.len(),
                own.recvs.len()
            )));
        }
        for ((sent, count, _), (expected, room, _)) in own.sends.iter().zip(&own.recvs) {
            if (sent, count) != (expected, room) {
                return Err(Fail::argument(format!(
                    "{count} elements of {sent} are sent to the own rank and {room} of {expected} expected; make them agree"
                )));
            }
        }
    }
    for own in by_comm.values() {
        for ((dtype, count, from), (_, _, into)) in own.sends.iter().zip(&own.recvs) {
            if *count > 0 {
                // SAFETY: both are good for as many elements, as the caller promises; they may be the same memory.
                unsafe { std::ptr::copy(*from, *into, count * dtype.size()) };
            }
        }
    }
    Ok(others)
}
