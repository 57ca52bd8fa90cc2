//! Whom a rank waits for, read from its steps: what reports and the judgement of a stall stand on. It changes nothing.

use super::{Engine, Op};
use crate::call::Call;

/// A step that waits for another rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The engine's number of the plan.
    pub run: usize,
    /// The plan's stage.
    pub stage: usize,
    /// Chunk of the call.
    pub chunk: u64,
    /// The rank it waits for; the own one, where a copy between device and host memory is under way.
    pub rank: u32,
    /// The call it is part of.
    pub call: Call,
}

impl Engine {
    /// Which steps wait for which ranks, for reports. Of those that wait for this rank's own, only copies of its device are told.
    pub fn blocked(&self, rank: u32) -> Vec<Blocked> {
        let mut found: Vec<Blocked> = Vec::new();
        for &run in &self.active {
            let r = &self.runs[run];
            for (i, step) in r.steps.iter().enumerate() {
                let sending = r.begun[i] > r.done[i];
                let chunk = if sending { r.done[i] } else { r.begun[i] };
                if chunk >= r.end.min(r.floor + r.window) {
                    continue;
                }
                let Some((base, job)) = r.jobs.iter().find(|(b, j)| chunk < b + j.extent.chunks())
                else {
                    continue;
                };
                let mut waits_for = |other: u32| {
                    if (other != rank || sending) && !found.iter().any(|b| b.rank == other) {
                        found.push(Blocked {
                            run,
                            stage: step.stage,
                            chunk: chunk.saturating_sub(*base),
                            rank: other,
                            call: job.call,
                        });
                    }
                };
                if sending {
                    match step.op {
                        Op::Put { peer, .. } | Op::SignalAway { peer, .. } => {
                            waits_for(peer as u32);
                        }
                        _ => waits_for(rank),
                    }
                    continue;
                }
                for gate in &step.gates {
                    if self.board.load(gate.counter) <= chunk {
                        waits_for(gate.writer);
                    }
                }
            }
        }
        found
    }
}
