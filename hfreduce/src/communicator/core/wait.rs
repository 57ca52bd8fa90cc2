//! How a call waits: looks for a while, hands the core over, sleeps until something may have changed; and what is said of whom it waits for.

use super::{Core, FIRST_CHECK, Group, LOOK};
use crate::{
    engine::Engine,
    error::{Error, Kind},
    stall::Wait,
};
use hfr_transport::shm::{Looked, Waiter};
use std::time::Duration;

/// Whether the rank hands its core on while it waits. After somebody who computes had the core for long, the rank sleeps at once for some
/// times: a sleeper that is woken goes before who computes, and who has yielded goes behind. Then it tries again, and if that ends the same way
/// it sleeps twice as often. What had the core may have been passing by.
#[derive(Default)]
pub(super) struct Crowd {
    /// So many more times it sleeps at once.
    left: u32,
    /// So often it slept after it last got its core back late; 0 where it has not since.
    last: u32,
}

impl Crowd {
    const FEWEST: u32 = 16;
    const MOST: u32 = 256;

    /// Whether to sleep at once this time.
    fn sleeps(&mut self) -> bool {
        let sleeps = self.left > 0;
        self.left = self.left.saturating_sub(1);
        sleeps
    }

    /// How a look that hands the core on has ended.
    fn note(&mut self, looked: Looked) {
        if looked.crowded {
            self.last = (2 * self.last).clamp(Self::FEWEST, Self::MOST);
            self.left = self.last;
        } else if looked.ready {
            self.last = 0;
        }
    }
}

impl Core {
    /// Looks for a while, then sleeps until something may have changed. Whether anything moved.
    pub(super) fn park(&mut self) -> Result<bool, Error> {
        let unheard = self.at_gate || self.engine.copying();
        let longest = if unheard { LOOK } else { FIRST_CHECK };
        let waiter = match (unheard, self.tired) {
            // The ends of copies are asked of the driver, which is no cheap look, and gates are looked at only between two parks.
            (true, true) => Waiter::with_pauses(1),
            (true, false) => Waiter::with_pauses(self.waiter.pauses()),
            (false, _) if self.crowd.sleeps() => Waiter::with_pauses(self.waiter.pauses()),
            (false, _) => self.waiter,
        };
        let (engine, shared) = (&mut self.engine, &self.shared);
        let mut fault = None;
        let mut look = |engine: &mut Engine| {
            shared.poisoned()
                || shared.rung()
                || match engine.advance() {
                    Ok(moved) => moved,
                    Err(f) => {
                        fault = Some(f);
                        true
                    }
                }
        };
        // A look at a wire is a system call: those who sleep do not wait for several.
        let glanced = engine.transport().is_none() && waiter.glance(|| look(engine));
        let moved = glanced || {
            engine.ring();
            let looked = waiter.look(|| look(engine));
            if waiter == self.waiter {
                self.crowd.note(looked);
            }
            looked.ready
        };
        let slept = if moved {
            Ok(true)
        } else {
            // Only now: arming what wakes a sleeper costs some wires system calls.
            self.watch.clear();
            if let Some(wire) = engine.transport() {
                wire.watch(&mut self.watch);
            }
            let rung = self.bell.park(Some(longest), &self.watch, || look(engine));
            rung.map(|moved| moved || look(engine))
        };
        if let Some(fault) = fault {
            return Err(self.fault(fault));
        }
        self.tired = !matches!(slept, Ok(true));
        // Jobs are still in the engine, with pointers into buffers that the caller gets back now: the group must end here.
        slept.map_err(|e| {
            let error = self.here(Error::new(Kind::Memory, e.cause, e.remedy));
            self.fail(error)
        })
    }

    pub(super) fn note_waits(&self) {
        let waits = self.engine.blocked(self.rank as u32).into_iter().map(|b| {
            let installed = self.families.values().flatten();
            let plan = installed
                .filter(|c| c.run == Some(b.run))
                .map(|c| c.checked.plan())
                .next();
            Wait {
                rank: b.rank as usize,
                stage: plan.map_or(String::new(), |p| p.describe(b.stage)),
                chunk: b.chunk,
            }
        });
        self.shared.history.waits(waits.collect());
    }

    /// Where nobody arbitrates any more: a rank that this one waits for, and that is known to have gone.
    pub(super) fn waits_for_one_that_left(&self, group: &Group) -> Option<usize> {
        if !group.control.is_orphaned() {
            return None;
        }
        let gone = |rank: &usize| group.arbiter == Some(*rank) || group.control.has_ended(*rank);
        let waits = self.engine.blocked(self.rank as u32).into_iter();
        waits.map(|b| b.rank as usize).find(gone)
    }

    pub(super) fn stalled(&self, waited: Duration) -> Error {
        self.note_waits();
        let mut error = self.here(Error::new(
            Kind::Timeout,
            if self.engine.copying() {
                format!(
                    "a copy between device and host memory has not ended for {:.1} s",
                    waited.as_secs_f64()
                )
            } else {
                format!("no progress for {:.1} s", waited.as_secs_f64())
            },
            "look at the ranks it waits for, or raise HFR_TIMEOUT",
        ));
        error.operation = self.engine.current().map(|c| c.to_string());
        let waits = self.engine.blocked(self.rank as u32);
        let others = waits.iter().map(|w| w.rank as usize);
        error.peer = others.clone().find(|r| *r != self.rank);
        error.chunk = waits.first().map(|w| w.chunk);
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowded_rank_sleeps_more_often_each_time_and_forgets_it_when_it_is_served() {
        let crowded = Looked {
            ready: false,
            crowded: true,
        };
        let served = Looked {
            ready: true,
            crowded: false,
        };
        let mut crowd = Crowd::default();
        let count = |crowd: &mut Crowd| std::iter::from_fn(|| crowd.sleeps().then_some(())).count();
        assert_eq!(count(&mut crowd), 0);
        for expected in [16, 32, 64, 128, 256, 256] {
            crowd.note(crowded);
            assert_eq!(count(&mut crowd), expected);
        }
        crowd.note(served);
        crowd.note(crowded);
        assert_eq!(count(&mut crowd), 16);
    }
}
