//! Messages of a rank to itself, as programs written for NCCL send them among those to all others: copied, on the host or on their stream, and no
//! call of the group. Knows nothing of other calls. Invariant: all pairs are seen to fit before the first is copied.

use crate::{
    fail::{Fail, Outcome},
    group::{Call, Noted},
    stream::Way,
};
use hfr::{DType, device};
use std::collections::BTreeMap;

/// One side of a message: what is expected to agree with the other, and where it is.
struct Side {
    what: (DType, usize),
    way: Way,
    at: *mut u8,
}

/// What one communicator sends to itself, and what it receives from itself.
#[derive(Default)]
struct Own {
    sends: Vec<Side>,
    recvs: Vec<Side>,
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
        let way = noted.way;
        match noted.call {
            Call::Send {
                dtype, count, from, ..
            } => own.sends.push(Side {
                what: (dtype, count),
                way,
                at: from.cast_mut(),
            }),
            Call::Recv {
                dtype, count, into, ..
            } => own.recvs.push(Side {
                what: (dtype, count),
                way,
                at: into,
            }),
            Call::Collective(_) => {}
        }
    }
    by_comm.values().try_for_each(Own::fits)?;
    for own in by_comm.values() {
        // SAFETY: the caller's promise.
        unsafe { own.copy() }?;
    }
    Ok(others)
}

impl Own {
    /// Whether every message has its counterpart.
    fn fits(&self) -> Outcome<()> {
        if self.sends.len() != self.recvs.len() {
            return Err(Fail::argument(format!(
                "a group sends {} messages to the own rank and receives {} from it; give each its counterpart",
                self.sends.len(),
                self.recvs.len()
            )));
        }
        for (send, recv) in self.sends.iter().zip(&self.recvs) {
            let ((sent, count), (expected, room)) = (send.what, recv.what);
            if send.what != recv.what {
                return Err(Fail::argument(format!(
                    "{count} elements of {sent} are sent to the own rank and {room} of {expected} expected; make them agree"
                )));
            }
            if send.way != recv.way {
                return Err(Fail::argument(
                    "a message to the own rank is sent and received on different streams, or on one side on the host; use one \
                     stream for both",
                ));
            }
        }
        Ok(())
    }

    /// # Safety
    /// The buffers are good, as the header has it.
    unsafe fn copy(&self) -> Outcome<()> {
        for (send, recv) in self.sends.iter().zip(&self.recvs) {
            let (dtype, count) = send.what;
            let bytes = count * dtype.size();
            match send.way {
                _ if bytes == 0 => {}
                // SAFETY: both are good for as many elements, as the caller promises; they may be the same memory.
                Way::Host => unsafe { std::ptr::copy(send.at, recv.at, bytes) },
                // SAFETY: the same, when the stream comes to it.
                Way::On(stream) => unsafe { device::copy(send.at, recv.at, bytes, stream) }?,
            }
        }
        Ok(())
    }
}
