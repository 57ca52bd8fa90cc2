//! How a call becomes a job: its arguments are checked, its plan is found, and the engine is given its memory. Calls come in rows that differ in
//! nothing but their memory; what the last one became is kept for those like it. Invariant: a call that is like the last one becomes the job
//! that it would become without it.

use super::{Core, RawCall, Running, ready::Ready};
use crate::{
    call::Call,
    device::{OnDevice, Sides},
    engine::{Job, JobId},
    error::Error,
    kernel::Store,
    layout::Extent,
    plan::Collective,
};

/// Calls of at least this many bytes write results past the caches: nobody reads them while they are still there. Not where an input is
/// reduced in place: its lines are in a cache when the result comes, and streaming over them took 20 % more time.
const STREAM_FROM: usize = 8 << 20;
/// Pieces of fewer bytes are copied into slots even where others could read them where they lie: a call of the system takes longer.
const SHOWN_FROM: usize = 4 << 10;
/// And so are shares of fewer bytes where slots would do without hearing back.
const SHOWN_SHARE: usize = 32 << 10;

/// What a call became, but for its number and its memory.
pub(super) struct Recipe {
    /// Its addresses are compared with each other alone: the memory may be gone.
    call: RawCall,
    /// Bytes of the larger buffer.
    bytes: usize,
    run: usize,
    job: Job,
}

impl Recipe {
    /// Whether calls may be like this one: where buffers are on a device or in blocks, there is more to look at than is kept here, and a factor
    /// has more values than compare equal.
    fn is_kept(&self) -> bool {
        self.call.blocks.is_none() && !self.job.sides.any() && self.call.op.factor().is_none()
    }

    /// Whether the call becomes the same job, with its own number and memory.
    fn fits(&self, raw: &RawCall) -> bool {
        let call = &self.call;
        raw.count == call.count
            && raw.collective == call.collective
            && raw.dtype == call.dtype
            && raw.op == call.op
            && raw.blocks.is_none()
            && begins_alike(raw) == begins_alike(call)
            && in_place(raw, self.bytes) == in_place(call, self.bytes)
    }
}

/// Whether input and output begin at the same place.
fn begins_alike(raw: &RawCall) -> bool {
    raw.input == raw.output.cast_const()
}

/// Whether an input is reduced where the result comes, in a call of so many bytes of the larger buffer.
fn in_place(raw: &RawCall, bytes: usize) -> bool {
    raw.collective.reduces() && (raw.output as usize).wrapping_sub(raw.input as usize) < bytes
}

impl Core {
    /// Starts a call. Installing its plan, where that is new, waits for all ranks.
    ///
    /// # Safety
    /// As [`Engine::submit`](crate::engine::Engine::submit).
    pub unsafe fn submit(
        &mut self,
        raw: &RawCall,
        device: Option<&OnDevice>,
    ) -> Result<Running, Error> {
        if self.shared.poisoned()
            && let Some(error) = self.shared.verdict()
        {
            return Err(error);
        }
        if let Some(last) = &mut self.last
            && device.is_none()
            && last.fits(raw)
        {
            self.sequence += 1;
            let job = &mut last.job;
            job.call.sequence = self.sequence;
            (job.input, job.output) = (raw.input, raw.output);
            self.shared.history.begin(&job.call);
            return Ok(Running {
                call: job.call,
                // SAFETY: the caller promises the memory.
                job: unsafe { self.engine.submit(last.run, job) },
            });
        }
        let mut ready = self.prepare_call(raw)?;
        if raw.collective == Collective::AllToAllV {
            ready.count = self.agree_on_counts(raw)?;
        }
        self.sequence += 1;
        let call = ready.call(raw, self.sequence);
        self.shared.history.begin(&call);
        // SAFETY: the caller promises the memory.
        match unsafe { self.submit_as(raw, device, call, ready) } {
            Ok(job) => Ok(Running { job, call }),
            Err(error) => {
                self.shared.history.end(&call, false);
                Err(error)
            }
        }
    }

    /// # Safety
    /// As [`Core::submit`].
    unsafe fn submit_as(
        &mut self,
        raw: &RawCall,
        device: Option<&OnDevice>,
        call: Call,
        ready: Ready,
    ) -> Result<JobId, Error> {
        let size = raw.dtype.size();
        let shares = raw.collective.shares(self.shape.ranks());
        let bytes = ready.count * size * shares.map_or(1, |(input, output)| input.max(output));
        let choice = self.choice(raw.collective, bytes)?;
        let run = self.installed(raw.collective, choice.plan, &call)?;
        let sides = device.map_or(Sides::default(), |d| d.sides);
        if let Some(device) = device {
            if sides.any() {
                // The others go on with the call: this rank's trouble with its device is everyone's.
                let end = self.families[&raw.collective][choice.plan].end;
                let attached = self.attach(device.context, end);
                attached
                    .map_err(|e| self.here(e))
                    .map_err(|e| self.fail(e))?;
            }
            device.met();
        }
        let candidate = &self.families[&raw.collective][choice.plan];
        let job = Job {
            call,
            input: raw.input,
            output: raw.output,
            blocks: ready.blocks,
            sides,
            extent: Extent::new(
                candidate.checked.plan(),
                ready.count,
                size,
                choice.piece.min(candidate.piece),
            ),
            size,
            kernel: ready.kernel,
            store: if bytes >= STREAM_FROM && !in_place(raw, bytes) {
                Store::Streaming
            } else {
                Store::Cached
            },
            shown_from: if self.shows(raw.collective, bytes) {
                SHOWN_FROM
            } else {
                usize::MAX
            },
        };
        // SAFETY: the caller promises the memory.
        let id = unsafe { self.engine.submit(run, &job) };
        let recipe = Recipe {
            call: raw.clone(),
            bytes,
            run,
            job,
        };
        self.last = recipe.is_kept().then_some(recipe);
        Ok(id)
    }

    /// Whether ranks of a node read each other's memory in a call of so many bytes of the larger buffer. It takes the kernel some time per page and
    /// per call, so it is for buffers that stay in the caches, and hardly for ranks that share cores. Where one rank alone has something to show,
    /// large buffers move faster through slots: one core reads from memory while another writes. The bounds were measured (docs/performance.md).
    pub(super) fn shows(&self, collective: Collective, bytes: usize) -> bool {
        let shared = self.model.shares_cores(&self.shape);
        let bytes = bytes.next_power_of_two();
        let share = bytes / self.shape.ranks();
        let most = match collective {
            Collective::AllReduce | Collective::ReduceScatter | Collective::Barrier => 0,
            Collective::AllToAll | Collective::AllToAllV if share < SHOWN_SHARE => 0,
            Collective::AllToAll | Collective::AllToAllV if shared => 4 << 20,
            Collective::AllGather if share < SHOWN_SHARE => 0,
            _ if shared => 0,
            Collective::AllToAll | Collective::AllToAllV | Collective::AllGather => 16 << 20,
            Collective::Reduce { .. } => 512 << 10,
            _ => 1 << 20,
        };
        self.reaches && bytes <= most
    }
}
