//! The engine's device, and what its stages cost. It knows no call. Invariant: all slots that are in use are pinned before a job copies
//! from or to a device.

use super::Core;
use crate::{
    device::{Context, Cuda},
    engine::Stages,
    error::Error,
};
use std::time::Duration;

/// Copies under way end by themselves, within this time.
const QUIET: Duration = Duration::from_secs(1);

impl Core {
    /// Starts the meter of stages, or ends it.
    pub fn measure(&mut self, on: bool) {
        fn now() -> u64 {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
        }
        self.engine.set_meter(on.then_some(now));
    }

    /// What the meter says.
    pub fn stages(&self) -> Option<Stages> {
        self.engine.stages()
    }

    /// The device copies from and to the first `bytes` bytes of slots.
    pub(super) fn attach(&mut self, context: Context, bytes: usize) -> Result<(), Error> {
        if self.engine.attached().is_none() {
            let device = Cuda::new(context, self.segment.clone())?;
            self.engine.attach(Box::new(device));
        }
        let at = self.segment.at(self.arena.slots, bytes);
        let device = self.engine.attached();
        device.map_or(Ok(()), |device| device.cover(at, bytes))
    }

    /// After a failure: no copy is under way any more when this returns, or it has been said that the device does not answer.
    pub fn quiesce(&mut self) {
        let quiet = self.engine.attached().is_none_or(|d| d.drain(QUIET));
        if !quiet {
            eprintln!(
                "hfreduce: rank {} (node {}): a copy between device and host memory has not ended; neither reuse nor free the buffers of calls that failed",
                self.rank, self.node
            );
        }
    }
}
