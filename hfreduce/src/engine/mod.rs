//! The engine: runs one rank's steps of the installed plans. It knows no clock, no lock and no waiting: `step` does what can be done now
//! and says whether that was anything. The same engine runs on threads, on processes over shared memory and wires, and in the
//! simulator's virtual time. Invariant: a step of chunk c begins only when its gates are open and all the rank's steps of chunk
//! c - window are done (the window rule on which the checker's proof stands).

mod act;
mod blocked;
mod compile;
mod events;
mod fault;
mod find;
mod job;
mod landing;
mod meter;
mod program;
mod reduce;
mod tell;

pub use blocked::Blocked;
pub use compile::compile;
pub use fault::Fault;
pub use job::{Block, Blocks, Job, JobId};
pub use meter::{Stage, Stages};
pub use program::{Author, Gate, Lands, Op, Place, Program, Raise, Source, Step, Target, Term};

use meter::Meter;
use tell::{Bells, open, tell};

use crate::{
    call::Call,
    device::Device,
    layout::{HEADER, Turn},
};
use hfr_transport::{
    Event, Notice, Put, Transport,
    shm::{Board, Doorbell, Permit, Segment},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// One installed plan: its steps, how far each has come, and the jobs that are running on it.
struct Run {
    steps: Vec<Step>,
    /// By step: chunks begun.
    begun: Vec<u64>,
    /// By step: chunks done.
    done: Vec<u64>,
    /// The least of `done`.
    floor: u64,
    /// Steps whose `done` is the floor: the others are looked at again only when there is none left.
    behind: usize,
    /// Chunks that have a job.
    end: u64,
    window: u64,
    slots: u64,
    slot_bytes: usize,
    /// The chunk whose turn was asked for last, and its turn: the next one is most often the same, or the next, and others take a division.
    last: (u64, Turn),
    jobs: VecDeque<(u64, Job)>,
    /// By step that gives to a device what others show: memory of this rank's to copy on from, one slot after the other.
    aside: BTreeMap<usize, Vec<u8>>,
}

impl Run {
    #[inline]
    fn turn(&mut self, chunk: u64) -> Turn {
        let (last, turn) = self.last;
        let turn = match chunk.wrapping_sub(last) {
            0 => return turn,
            1 => turn.next(self.slots, self.slot_bytes),
            _ => Turn::of(chunk, self.slots, self.slot_bytes),
        };
        self.last = (chunk, turn);
        turn
    }
}

/// One rank's engine.
pub struct Engine {
    segment: Arc<Segment>,
    board: Board,
    bells: Bells,
    /// Bit of the own local rank in a header's word of given ranks; 0 for local ranks it cannot name.
    me: u64,
    /// By local rank: what is needed to read its memory; empty where that may not be.
    permits: Vec<Permit>,
    transport: Option<Box<dyn Transport>>,
    device: Option<Box<dyn Device>>,
    runs: Vec<Run>,
    /// How often plans were forgotten.
    epoch: u64,
    active: Vec<usize>,
    /// By counter of this node: whom to wake when a put to this rank raises it.
    arrivals: Vec<Option<Raise>>,
    landings: landing::Landings,
    events: Vec<Event>,
    copied: Vec<u64>,
    scratch: reduce::Scratch,
    budget: usize,
    meter: Option<Box<Meter>>,
}

// SAFETY: the raw pointers in `scratch` mean nothing between steps.
unsafe impl Send for Engine {}

/// Chunk bits of a notice; the rest is the number of the counter. Only a check: notices of one counter arrive in order.
const CHUNK_BITS: u32 = 12;

/// Whoever waits for a piece of more bytes than this is woken at once: what this rank does next takes longer than ringing.
const AT_ONCE: usize = 4 << 10;

/// Counters a node's board may have, so that their numbers fit into a notice.
pub const MAX_COUNTERS: usize = 1 << (32 - CHUNK_BITS);

impl Engine {
    /// An engine for the rank with local rank `local`, over its node's segment and board; `bells` are those of all its node's ranks in order.
    /// Without a transport only plans that stay inside the node can be installed.
    pub fn new(
        segment: Arc<Segment>,
        board: Board,
        bells: Vec<Doorbell>,
        local: usize,
        transport: Option<Box<dyn Transport>>,
    ) -> Engine {
        Engine {
            segment,
            board,
            bells: Bells::new(bells),
            me: if local < 64 { 1 << local } else { 0 },
            permits: Vec::new(),
            transport,
            device: None,
            runs: Vec::new(),
            epoch: 0,
            active: Vec::new(),
            arrivals: Vec::new(),
            landings: landing::Landings::default(),
            events: Vec::with_capacity(64),
            copied: Vec::with_capacity(64),
            scratch: reduce::Scratch::default(),
            budget: usize::MAX,
            meter: None,
        }
    }

    /// Lets each `step` do at most so many acts: the simulator's way to stop anywhere.
    pub fn set_budget(&mut self, acts: usize) {
        self.budget = acts;
    }

    /// Jobs may have buffers in this device's memory from now on. Only when nothing runs on another one.
    pub fn attach(&mut self, device: Box<dyn Device>) {
        debug_assert!(!self.copying());
        self.device = Some(device);
    }

    /// Whether copies of the device are under way: their end rings no doorbell.
    pub fn copying(&self) -> bool {
        self.device.as_ref().is_some_and(|d| d.busy())
    }

    /// The device that was attached.
    pub fn attached(&mut self) -> Option<&mut Box<dyn Device>> {
        self.device.as_mut()
    }

    fn device(&mut self) -> &mut Box<dyn Device> {
        let device = self.attached();
        device.expect("a job with buffers on a device comes after the device")
    }

    /// The wire to the other nodes.
    pub fn transport(&mut self) -> Option<&mut Box<dyn Transport>> {
        self.transport.as_mut()
    }

    /// Takes over a plan, laid out at `place` on every node; returns its number for [`Engine::submit`]. All ranks install the
    /// same plans in the same order, on counters that read zero.
    pub fn install(
        &mut self,
        program: Program,
        layout: &crate::layout::Layout,
        window: usize,
    ) -> usize {
        for raise in program.arrivals {
            let counter = raise.counter;
            if self.arrivals.len() <= counter {
                self.arrivals.resize_with(counter + 1, || None);
            }
            self.arrivals[counter] = Some(raise);
        }
        self.landings
            .install(&program.lands, self.runs.len(), layout.slots());
        let steps = program.steps.len();
        self.runs.push(Run {
            begun: vec![0; steps],
            done: vec![0; steps],
            floor: 0,
            behind: steps,
            end: 0,
            window: window as u64,
            slots: layout.slots(),
            slot_bytes: layout.slot_bytes(),
            last: (0, Turn::of(0, layout.slots(), layout.slot_bytes())),
            jobs: VecDeque::with_capacity(64),
            aside: BTreeMap::new(),
            steps: program.steps,
        });
        self.runs.len() - 1
    }

    /// Forgets all installed plans but the first `keep`. Only when nothing runs, on any rank.
    pub fn uninstall(&mut self, keep: usize, counters: usize) {
        debug_assert!(self.active.is_empty());
        self.runs.truncate(keep);
        self.epoch += 1;
        self.arrivals.truncate(counters);
        self.landings.truncate(counters);
    }

    /// Starts a job on an installed plan, behind the jobs that are running on it.
    ///
    /// # Safety
    /// The job's pointers must be good for its extent, the output for nobody but the engine, until [`Engine::finished`] says so or the
    /// engine is never stepped again; other ranks may read the input until then, or until they find that its consent was withdrawn. Input and output must be equal where they overlap as the plan says, or not overlap.
    pub unsafe fn submit(&mut self, run: usize, job: &Job) -> JobId {
        let id = run;
        let run = &mut self.runs[run];
        let base = run.end;
        run.end += job.extent.chunks();
        run.jobs.push_back((base, job.clone()));
        if run.steps.is_empty() {
            run.floor = run.end;
        }
        if !self.active.contains(&id) {
            self.active.push(id);
        }
        JobId {
            epoch: self.epoch,
            run: id,
            end: self.runs[id].end,
        }
    }

    /// Whether this rank has done its part of the job.
    pub fn finished(&self, job: JobId) -> bool {
        job.epoch != self.epoch || self.runs[job.run].floor >= job.end
    }

    /// Whether any job is running.
    pub fn busy(&self) -> bool {
        !self.active.is_empty()
    }

    /// Does what can be done now, and wakes whoever waits for it. `Ok(false)`: nothing could.
    pub fn step(&mut self) -> Result<bool, Fault> {
        let moved = self.advance();
        self.ring();
        moved
    }

    /// Wakes whoever sleeps and waits for what was done. Owed after [`Engine::advance`].
    #[inline]
    pub fn ring(&mut self) {
        self.bells.ring();
    }

    /// As [`Engine::step`], but may leave ranks that sleep unwoken until [`Engine::ring`]: ringing waits until this core's writes have
    /// reached the others, and while it does nothing can be read. For small pieces that is a third of a call's time.
    pub fn advance(&mut self) -> Result<bool, Fault> {
        let mut moved = self.poll()? | self.poll_device()?;
        if moved {
            self.ring();
        }
        let mut acts = self.budget;
        let mut i = 0;
        while i < self.active.len() {
            let run = self.active[i];
            moved |= self.pass(run, &mut acts)?;
            let r = &mut self.runs[run];
            let ended = |(base, job): &(u64, Job)| base + job.extent.chunks() <= r.floor;
            let done = r.jobs.iter().take_while(|job| ended(job)).count();
            let mut small = false;
            if done > 0 {
                small = r.jobs[done - 1].1.extent.chunks() == 1;
                // Dropped where they are.
                r.jobs.drain(..done);
                moved = true;
            }
            if r.jobs.is_empty() {
                self.active.swap_remove(i);
                if small {
                    self.expect(run);
                }
            } else {
                i += 1;
            }
        }
        Ok(moved)
    }

    /// One chunk of every step that can do one.
    fn pass(&mut self, run: usize, acts: &mut usize) -> Result<bool, Fault> {
        // Taken out while they are read: a step touches no job.
        let jobs = std::mem::take(&mut self.runs[run].jobs);
        let moved = self.pass_over(run, &jobs, acts);
        self.runs[run].jobs = jobs;
        moved
    }

    fn pass_over(
        &mut self,
        run: usize,
        jobs: &VecDeque<(u64, Job)>,
        acts: &mut usize,
    ) -> Result<bool, Fault> {
        let mut moved = false;
        for i in 0..self.runs[run].steps.len() {
            if *acts == 0 {
                break;
            }
            let r = &mut self.runs[run];
            let chunk = r.begun[i];
            if chunk >= r.end.min(r.floor + r.window) {
                continue;
            }
            let turn = r.turn(chunk);
            if !open(&self.segment, &self.board, &mut r.steps[i], chunk, turn) {
                continue;
            }
            let (base, job) = jobs
                .iter()
                .find(|(base, job)| chunk < base + job.extent.chunks())
                .expect("every chunk below `end` has a job");
            if self.begin(run, i, (chunk, turn), *base, job)? {
                *acts -= 1;
                moved = true;
            }
        }
        Ok(moved)
    }

    /// Begins one step of one chunk; all but puts and the device's copies are done at once. `false`: it must wait for what the step began before.
    fn begin(
        &mut self,
        run: usize,
        i: usize,
        (chunk, turn): (u64, Turn),
        base: u64,
        job: &Job,
    ) -> Result<bool, Fault> {
        let r = &mut self.runs[run];
        let copied = match r.steps[i].op {
            Op::Take { .. } => job.sides.input,
            Op::Give { .. } => job.sides.output,
            _ => false,
        };
        let sent = matches!(r.steps[i].op, Op::Put { .. } | Op::SignalAway { .. });
        // A step's chunks end in order, also where one call's buffers are on a device and the next one's are not.
        if !copied && !sent && r.begun[i] > r.done[i] {
            return Ok(false);
        }
        r.begun[i] += 1;
        if let Some(meter) = &mut self.meter {
            let op = &r.steps[i].op;
            let landed = matches!(*op, Op::Give { lands: Some(counter), .. } if self.landings.has(counter, chunk));
            meter.begin_step(op, job, chunk - base, landed);
        }
        if copied {
            self.act_on_device(run, i, job, chunk - base, turn)?;
        } else if sent {
            self.ring();
            self.send(run, i, job, chunk, base, turn)?;
        } else {
            if let Err(fault) = self.act(run, i, job, chunk - base, turn) {
                // Nothing is under way: for reports the step has not begun.
                self.runs[run].begun[i] -= 1;
                return Err(fault);
            }
            self.finish(run, i, turn);
            if job.extent.piece() * job.size > AT_ONCE {
                self.ring();
            }
        }
        Ok(true)
    }

    fn send(
        &mut self,
        run: usize,
        i: usize,
        job: &Job,
        chunk: u64,
        base: u64,
        turn: Turn,
    ) -> Result<(), Fault> {
        let ticket = ticket(run, i);
        let put = match self.runs[run].steps[i].op {
            Op::Put {
                peer,
                part,
                from,
                source,
                to,
                counter,
            } => {
                let bytes = job.input(part, chunk - base).1 * job.size;
                Put {
                    peer,
                    from: from.at(turn),
                    len: HEADER + bytes,
                    body: self.body(job, (chunk, base), from.at(turn), source, bytes),
                    to: to.at(turn),
                    notice: notice(counter, chunk),
                    ticket,
                }
            }
            Op::SignalAway { peer, counter } => Put {
                peer,
                from: 0,
                len: 0,
                body: None,
                to: 0,
                notice: notice(counter, chunk),
                ticket,
            },
            _ => unreachable!("only puts and signals leave the node"),
        };
        self.put(put, job.call)
    }

    fn put(&mut self, put: Put, ours: Call) -> Result<(), Fault> {
        let Some(transport) = &mut self.transport else {
            unreachable!("a plan that leaves the node was installed without a transport");
        };
        transport.put(put).map_err(|error| Fault::Wire {
            error,
            ours: Some(ours),
        })
    }

    /// A step of its next chunk, whose turn it is, is done.
    fn finish(&mut self, run: usize, i: usize, turn: Turn) {
        let r = &mut self.runs[run];
        let chunk = r.done[i];
        r.done[i] += 1;
        if let Some(meter) = &mut self.meter {
            meter.end_step(&r.steps[i].op);
        }
        if let Some(raise) = &r.steps[i].raise {
            tell(
                &self.segment,
                &self.board,
                &mut self.bells,
                raise,
                chunk,
                turn,
            );
        }
        if chunk == r.floor {
            r.behind -= 1;
            if r.behind == 0 {
                r.floor = r.done.iter().copied().min().unwrap_or(r.end);
                r.behind = r.done.iter().filter(|done| **done == r.floor).count();
            }
        }
    }

    /// The call that is furthest behind.
    pub fn current(&self) -> Option<Call> {
        let run = self.active.first()?;
        self.runs[*run].jobs.front().map(|(_, job)| job.call)
    }
}

fn ticket(run: usize, step: usize) -> u64 {
    (run as u64) << 32 | step as u64
}

fn notice(counter: usize, chunk: u64) -> Notice {
    debug_assert!(counter < MAX_COUNTERS);
    Notice((counter as u32) << CHUNK_BITS | (chunk & ((1 << CHUNK_BITS) - 1)) as u32)
}

fn counter_of(notice: Notice) -> usize {
    (notice.0 >> CHUNK_BITS) as usize
}
