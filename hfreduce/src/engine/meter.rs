//! What a rank's stages cost: bytes, and the time in which each kind of stage was under way. Kinds overlap, so the times do not add up to
//! the call's. It has no clock of its own. Invariant: where nobody asked for it, nothing is measured.

use super::{Engine, Job, Op};

/// One kind of stage, over all calls since the meter was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stage {
    /// Bytes that were copied, read by additions, or sent.
    pub bytes: u64,
    /// Nanoseconds in which at least one was under way.
    pub nanoseconds: u64,
}

impl Stage {
    /// GB/s while it was under way; 0 where it never was.
    pub fn rate(&self) -> f64 {
        match self.nanoseconds {
            0 => 0.0,
            time => self.bytes as f64 / time as f64,
        }
    }
}

/// A rank's stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stages {
    /// From the user's buffers into slots: D2H, where they are on a device.
    pub copy_in: Stage,
    /// Additions; bytes of all terms.
    pub add: Stage,
    /// Puts into other nodes, until the wire is done with them.
    pub network: Stage,
    /// From slots into the user's buffers: H2D, where they are on a device.
    pub copy_out: Stage,
}

/// A kind of stage.
#[derive(Clone, Copy)]
enum Kind {
    CopyIn,
    Add,
    Network,
    CopyOut,
}

/// Measures.
pub(super) struct Meter {
    now: fn() -> u64,
    stages: Stages,
    /// By kind: how many are under way, and since when any is.
    open: [(usize, u64); 4],
}

impl Meter {
    fn new(now: fn() -> u64) -> Meter {
        Meter {
            now,
            stages: Stages::default(),
            open: [(0, 0); 4],
        }
    }

    fn stage(&mut self, kind: Kind) -> &mut Stage {
        match kind {
            Kind::CopyIn => &mut self.stages.copy_in,
            Kind::Add => &mut self.stages.add,
            Kind::Network => &mut self.stages.network,
            Kind::CopyOut => &mut self.stages.copy_out,
        }
    }

    fn begin(&mut self, kind: Kind, bytes: usize) {
        self.stage(kind).bytes += bytes as u64;
        let now = (self.now)();
        let open = &mut self.open[kind as usize];
        if open.0 == 0 {
            open.1 = now;
        }
        open.0 += 1;
    }

    fn end(&mut self, kind: Kind) {
        let now = (self.now)();
        let open = &mut self.open[kind as usize];
        // One that had begun before the meter was started.
        if open.0 == 0 {
            return;
        }
        open.0 -= 1;
        if open.0 == 0 {
            let time = now.saturating_sub(open.1);
            self.stage(kind).nanoseconds += time;
        }
    }
}

impl Kind {
    fn of(op: &Op) -> Option<Kind> {
        Some(match op {
            Op::Take { .. } => Kind::CopyIn,
            Op::Give { .. } => Kind::CopyOut,
            Op::Reduce { .. } => Kind::Add,
            Op::Put { .. } | Op::SignalAway { .. } => Kind::Network,
            Op::Nothing => return None,
        })
    }
}

impl Meter {
    /// A step of a job's chunk is begun; what has `landed` where it is to be given is not copied.
    pub(super) fn begin_step(&mut self, op: &Op, job: &Job, chunk: u64, landed: bool) {
        let count = match op {
            Op::Give { .. } if landed => 0,
            Op::Take { piece, .. } => job.input(*piece, chunk).1,
            Op::Give { piece, .. } => job.output(*piece, chunk).1,
            Op::Put { part, .. } => job.input(*part, chunk).1,
            Op::Reduce { part, terms, .. } => terms.len() * job.input(*part, chunk).1,
            Op::SignalAway { .. } | Op::Nothing => 0,
        };
        if let Some(kind) = Kind::of(op) {
            self.begin(kind, count * job.size);
        }
    }

    /// A step is done.
    pub(super) fn end_step(&mut self, op: &Op) {
        if let Some(kind) = Kind::of(op) {
            self.end(kind);
        }
    }
}

impl Engine {
    /// Measures stages by this clock, in nanoseconds, from now on; or no longer.
    pub fn set_meter(&mut self, now: Option<fn() -> u64>) {
        self.meter = now.map(|now| Box::new(Meter::new(now)));
    }

    /// What stages have cost since the meter was set.
    pub fn stages(&self) -> Option<Stages> {
        self.meter.as_ref().map(|meter| meter.stages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    #[test]
    fn overlapping_stages_count_their_time_once() {
        let mut meter = Meter::new(|| NOW.get());
        let mut at = |time, f: &mut dyn FnMut(&mut Meter)| {
            NOW.set(time);
            f(&mut meter);
        };
        at(5, &mut |m| m.end(Kind::Network));
        at(10, &mut |m| m.begin(Kind::CopyIn, 100));
        at(20, &mut |m| m.begin(Kind::CopyIn, 100));
        at(25, &mut |m| m.begin(Kind::Add, 7));
        at(30, &mut |m| m.end(Kind::CopyIn));
        at(35, &mut |m| m.end(Kind::Add));
        at(50, &mut |m| m.end(Kind::CopyIn));
        at(60, &mut |m| m.begin(Kind::CopyIn, 1));
        at(61, &mut |m| m.end(Kind::CopyIn));
        let stages = meter.stages;
        let stage = |bytes, nanoseconds| Stage { bytes, nanoseconds };
        assert_eq!(stages.copy_in, stage(201, 41));
        assert_eq!(stages.add, stage(7, 10));
        assert_eq!(stages.network, stage(0, 0));
    }
}
