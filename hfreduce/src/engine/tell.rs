//! How ranks of a node tell each other what is done: stamps on slots, counters on the board, doorbells for those who sleep. It moves no bytes.

use super::{Raise, Step, act::stamp};
use crate::layout::Turn;
use hfr_transport::shm::{Board, Doorbell, Segment};
use std::sync::atomic::Ordering;

/// The doorbells of a node's ranks, and which of them are to be rung.
pub(super) struct Bells {
    bells: Vec<Doorbell>,
    /// Local ranks that wait for counters that have gone up and have not been rung for it, each once.
    owed: Vec<usize>,
    /// By local rank: whether it is among them.
    listed: Vec<bool>,
}

impl Bells {
    /// Those of all ranks of the node, in order.
    pub fn new(bells: Vec<Doorbell>) -> Bells {
        Bells {
            owed: Vec::with_capacity(bells.len()),
            listed: vec![false; bells.len()],
            bells,
        }
    }

    /// The counter has gone up: whoever waits for it is to be rung.
    pub fn owe(&mut self, raise: &Raise) {
        for &local in &raise.ring {
            if !std::mem::replace(&mut self.listed[local], true) {
                self.owed.push(local);
            }
        }
    }

    /// Whether that local rank had not taken back what it shows when what was read before was read.
    pub fn shows(&self, local: usize) -> bool {
        self.bells[local].shows()
    }

    /// Rings all that are owed it.
    #[inline]
    pub fn ring(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        Doorbell::ring_all(self.owed.iter().map(|&local| &self.bells[local]));
        for local in self.owed.drain(..) {
            self.listed[local] = false;
        }
    }
}

/// Whether all that a step's chunk waits for is there; `turn` is the chunk's.
pub(super) fn open(
    segment: &Segment,
    board: &Board,
    step: &mut Step,
    chunk: u64,
    turn: Turn,
) -> bool {
    step.gates.iter_mut().all(|gate| {
        if gate.seen <= chunk {
            gate.seen = match gate.slot {
                Some(slot) => stamp(segment, slot.at(turn)).load(Ordering::Acquire),
                None => board.load(gate.counter),
            };
        }
        gate.seen > chunk
    })
}

/// A step's chunk is done: `turn` as above.
pub(super) fn tell(
    segment: &Segment,
    board: &Board,
    bells: &mut Bells,
    raise: &Raise,
    chunk: u64,
    turn: Turn,
) {
    if let Some(slot) = raise.slot {
        stamp(segment, slot.at(turn)).store(chunk + 1, Ordering::Release);
    }
    board.store(raise.counter, chunk + 1);
    bells.owe(raise);
}
