//! The one place where calls become jobs: submits them on their plans (`install`) and drives the engine until they are done, with
//! waiting (look, hand over, park), stall checks and the timeout. It is behind one lock per communicator, held by whoever runs. Invariant:
//! once there is a verdict the engine is never stepped again.

mod device;
mod install;
mod ready;
mod wait;

use self::{install::Candidate, ready::Ready};
use super::shared::Shared;
use crate::{
    call::Call,
    config::Config,
    device::{Firsts, OnDevice, Sides},
    dtype::DType,
    engine::{Blocks, Engine, Fault, Job, JobId},
    error::{Error, Kind},
    kernel::Store,
    layout::Extent,
    op::ReduceOp,
    plan::{Choice, Collective, Model, Shape},
    stall::{left, mismatch},
};
use hfr_transport::{
    PeerAddress,
    control::{Control, Report},
    shm::{Board, Doorbell, Permit, Placement, Segment, Unread, Waiter},
    store::Store as Rendezvous,
};
use rustc_hash::FxHashMap;
use std::{
    os::fd::RawFd,
    sync::Arc,
    time::{Duration, Instant},
};

/// One call, untyped: what to do with which memory.
#[derive(Clone, Debug)]
pub struct RawCall {
    /// Which collective.
    pub collective: Collective,
    /// Type of the elements. Where nothing is reduced, any type of the right size.
    pub dtype: DType,
    /// How to reduce; ignored where nothing is reduced.
    pub op: ReduceOp,
    /// Elements: of the whole buffer; or of a share, where buffers are made of shares (all_gather, reduce_scatter, gather, scatter: of one
    /// rank's; all_to_all: of what one rank sends to another). Not used by all_to_all_v.
    pub count: usize,
    /// First element of the input; equal to where the plan's output lies when the call is in place. Not read where the rank has no input.
    pub input: *const u8,
    /// First element of the output. Not written where the rank gets none.
    pub output: *mut u8,
    /// Where the shares lie, if not one behind the other. For all_gather and reduce_scatter they may differ in length, alike on all ranks.
    /// all_to_all_v needs both sides.
    pub blocks: Option<Arc<Blocks>>,
}

// SAFETY: plain addresses; whoever makes the call promises the memory.
unsafe impl Send for RawCall {}

/// Where things lie in a node's segment.
#[derive(Clone, Copy, Debug)]
pub struct Arena {
    /// Offset of the board.
    pub board: usize,
    /// Counters of the board.
    pub counters: usize,
    /// Offset of the slots.
    pub slots: usize,
    /// Bytes of slots.
    pub bytes: usize,
}

/// How ranks of a group speak before and beside the data path; absent in a group of one.
pub struct Group {
    pub store: Arc<dyn Rendezvous>,
    pub name: String,
    pub control: Control,
    /// The rank whose process arbitrates; none, where that is no member of this group.
    pub arbiter: Option<usize>,
    pub peers: Vec<PeerAddress>,
}

/// What the lock protects.
pub struct Core {
    pub shape: Shape,
    pub rank: usize,
    pub node: usize,
    pub shared: Arc<Shared>,
    pub group: Option<Arc<Group>>,
    pub segment: Arc<Segment>,
    engine: Engine,
    arena: Arena,
    bell: Doorbell,
    waiter: Waiter,
    pub model: Model,
    timeout: Duration,
    algorithm: Option<String>,
    // Both are asked in every call, by keys that no stranger chooses.
    families: FxHashMap<Collective, Vec<Candidate>>,
    choices: FxHashMap<(Collective, usize), Choice>,
    /// By node: slots and counters handed out so far.
    used: (Vec<usize>, Vec<usize>),
    installs: u64,
    sequence: u64,
    watch: Vec<(RawFd, bool)>,
    /// Which kinds of calls on the device have been used.
    pub firsts: Arc<Firsts<crate::device::Kind>>,
    /// Nothing moved when it was last looked for at length.
    tired: bool,
    crowd: wait::Crowd,
    /// Where sums, and what other nodes send, are to lie, where that is known.
    pub sums: Option<Placement>,
    /// Whoever runs the engine also waits for a stream to come to a call.
    pub at_gate: bool,
    /// Whether all ranks may read the memory of all others of their nodes.
    pub reaches: bool,
}

/// A running call.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    pub job: JobId,
    pub call: Call,
}

/// Calls of at least this many bytes write results past the caches: nobody reads them while they are still there. Not where an input is
/// reduced in place: its lines are in a cache when the result comes, and streaming over them took 20 % more time. Nor in a broadcast, whose
/// receivers do little else than write: streaming took twice as long.
const STREAM_FROM: usize = 8 << 20;
/// Pieces of fewer bytes are copied into slots even where others could read them where they lie: a call of the system takes longer.
const SHOWN_FROM: usize = 4 << 10;
/// And so are shares of fewer bytes where slots would do without hearing back.
const SHOWN_SHARE: usize = 32 << 10;
/// The first check after a stall, doubled from then on.
const FIRST_CHECK: Duration = Duration::from_millis(100);
/// What no doorbell tells (the end of a copy, a stream that comes to a gate) is looked for this often.
const LOOK: Duration = Duration::from_micros(50);
const LAST_CHECK: Duration = Duration::from_secs(2);
/// A verdict is due within this time after a report; control itself answers within one second.
const VERDICT: Duration = Duration::from_millis(2500);
/// A connection that breaks is most often a process that died or left, which the control plane tells better: it goes first for so long.
const WORD: Duration = Duration::from_millis(400);

/// A panic hands buffers back to their owners while the engine still holds their addresses: it must never be stepped again.
pub struct EndsOnPanic(pub Arc<Shared>);

impl Drop for EndsOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::new(
                Kind::Aborted,
                "the engine met a state that must not be (its panic says which)",
                "this is a bug of the library; please report it",
            );
            self.0.poison(error.at(self.0.rank, self.0.node));
        }
    }
}

impl Core {
    #[allow(
        clippy::too_many_arguments,
        reason = "one caller; each is a plain fact of the start"
    )]
    pub fn new(
        config: &Config,
        shape: Shape,
        node: usize,
        shared: Arc<Shared>,
        group: Option<Group>,
        segment: Arc<Segment>,
        bells: Vec<Doorbell>,
        engine_wire: Option<Box<dyn hfr_transport::Transport>>,
        arena: Arena,
        model: Model,
        waiter: Waiter,
    ) -> Core {
        let local = shape.local(config.rank);
        let board = Board::new(segment.clone(), arena.board, arena.counters);
        let bell = bells[local].clone();
        let nodes = shape.nodes();
        Core {
            rank: config.rank,
            node,
            shared,
            group: group.map(Arc::new),
            engine: Engine::new(segment.clone(), board, bells, local, engine_wire),
            segment,
            arena,
            bell,
            waiter,
            model,
            timeout: config.timeout,
            algorithm: config.algorithm.clone(),
            families: FxHashMap::default(),
            choices: FxHashMap::default(),
            used: (vec![0; nodes], vec![0; nodes]),
            installs: 0,
            sequence: 0,
            shape,
            watch: Vec::new(),
            firsts: Arc::default(),
            tired: false,
            crowd: wait::Crowd::default(),
            sums: None,
            at_gate: false,
            reaches: false,
        }
    }

    /// All ranks may read the memory of all others of their nodes; these are the permits of this one's.
    pub fn reach(&mut self, permits: Vec<Permit>) {
        self.engine.reach(permits);
        self.reaches = true;
    }

    /// As this rank tells it.
    pub fn here(&self, error: Error) -> Error {
        error.at(self.rank, self.node)
    }

    /// Starts a call. Installing its plan, where that is new, waits for all ranks.
    ///
    /// # Safety
    /// As [`Engine::submit`].
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
        let mut ready = self.prepare_call(raw)?;
        if raw.collective == Collective::AllToAllV {
            ready.count = self.agree_on_counts(raw)?;
        }
        self.sequence += 1;
        let call = ready.call(raw, self.sequence);
        self.shared.history.begin(&call);
        match self.submit_as(raw, device, call, ready) {
            Ok(job) => Ok(Running { job, call }),
            Err(error) => {
                self.shared.history.end(&call, false);
                Err(error)
            }
        }
    }

    fn submit_as(
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
        let behind = (raw.output as usize).wrapping_sub(raw.input as usize);
        let one_buffer =
            ready.kernel.is_some() || matches!(raw.collective, Collective::Broadcast { .. });
        let in_place = one_buffer && behind < bytes;
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
            store: if bytes >= STREAM_FROM && !in_place {
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
        // SAFETY: the caller of `submit` promises the memory.
        Ok(unsafe { self.engine.submit(run, job) })
    }

    /// Whether ranks of a node read each other's memory in a call of so many bytes of the larger buffer. It takes the kernel some time per page and
    /// per call, so it is for buffers that stay in the caches, and hardly for ranks that share cores. Where one rank alone has something to show,
    /// large buffers move faster through slots: one core reads from memory while another writes. The bounds were measured (docs/performance.md).
    fn shows(&self, collective: Collective, bytes: usize) -> bool {
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
            Collective::Reduce { .. } => 256 << 10,
            _ => 1 << 20,
        };
        self.reaches && bytes <= most
    }

    /// Whether the call is done on this rank.
    pub fn finished(&self, running: &Running) -> bool {
        self.engine.finished(running.job)
    }

    /// Notes the end of a call.
    pub fn ended(&self, running: &Running, well: bool) {
        self.shared.history.end(&running.call, well);
    }

    /// Runs everything that was submitted.
    pub fn drain(&mut self) -> Result<(), Error> {
        self.run(|core| !core.engine.busy())
    }

    /// Runs the engine until `done`; the other ranks' ends come, or the error that all ranks return.
    pub fn run(&mut self, done: impl Fn(&Core) -> bool) -> Result<(), Error> {
        let _ends = EndsOnPanic(self.shared.clone());
        let mut idle: Option<(Instant, Duration)> = None;
        loop {
            if self.shared.poisoned() {
                return Err(self
                    .shared
                    .verdict()
                    .expect("the flag is set after the verdict"));
            }
            let moved = match self.engine.advance() {
                Ok(moved) => moved,
                Err(fault) => return Err(self.fault(fault)),
            };
            self.shared.heed();
            if done(self) {
                self.engine.ring();
                if idle.is_some_and(|(_, check)| check > FIRST_CHECK) {
                    self.shared.history.waits(Vec::new());
                }
                return Ok(());
            }
            if moved {
                idle = None;
                continue;
            }
            if self.park()? {
                idle = None;
                continue;
            }
            let now = Instant::now();
            let (since, check) = *idle.get_or_insert((now, FIRST_CHECK));
            let waited = now - since;
            if waited >= self.timeout {
                let error = self.stalled(waited);
                return Err(self.time_out(error));
            }
            if waited >= check {
                self.note_waits();
                if let Some(group) = &self.group {
                    if let Some(rank) = self.waits_for_one_that_left(group) {
                        return Err(self.fail(left(rank)));
                    }
                    group.control.report(Report::Check(Vec::new()));
                }
                idle = Some((since, check + check.min(LAST_CHECK)));
            }
        }
    }

    fn fault(&mut self, fault: Fault) -> Error {
        let error = match fault {
            Fault::Device { error, ours } => {
                let mut error = self.here(error);
                error.operation = ours.map(|c| c.to_string());
                error
            }
            Fault::Mismatch { rank, theirs, ours } => {
                let theirs = theirs.to_string();
                mismatch(self.rank, &ours.to_string(), rank as usize, &theirs)
            }
            Fault::Unread { rank, error, ours } => {
                if let Some(verdict) = self.hear_why() {
                    return verdict;
                }
                let (kind, remedy) = match &error {
                    Unread::Failed { .. } if !error.is_gone() => (
                        Kind::Memory,
                        "set HFR_SINGLE_COPY=off if the buffer is in memory that the kernel reads for nobody, such as a device's",
                    ),
                    _ => (Kind::PeerLost, "look at that process's own output"),
                };
                let cause = format!("what it shows cannot be read: {error}");
                let mut e = self.here(Error::new(kind, cause, remedy));
                e.peer = Some(rank as usize);
                e.operation = Some(ours.to_string());
                e
            }
            Fault::Wire { error, ours } => {
                if let Some(verdict) = self.hear_why() {
                    return verdict;
                }
                let mut e = self.here(Error::new(
                    Kind::Wire,
                    error.to_string(),
                    "look at that rank's process and at the network between the nodes",
                ));
                e.peer = error.peer;
                e.operation = ours.map(|c| c.to_string());
                e
            }
        };
        self.fail(error)
    }

    /// The verdict, if others soon know why this rank cannot go on.
    fn hear_why(&mut self) -> Option<Error> {
        self.note_waits();
        let group = self.group.as_ref()?;
        group.control.report(Report::Check(Vec::new()));
        self.shared.hear(WORD)
    }

    /// Tells everyone, and returns what everyone returns.
    pub fn fail(&mut self, error: Error) -> Error {
        self.report(error, Report::Failure)
    }

    fn time_out(&mut self, error: Error) -> Error {
        self.report(error, Report::Timeout)
    }

    fn report(&mut self, error: Error, how: fn(Vec<u8>) -> Report) -> Error {
        let Some(group) = &self.group else {
            self.shared.poison(error.clone());
            return error;
        };
        let explained = matches!(error.kind, Kind::Wire | Kind::Timeout | Kind::PeerLost);
        if explained
            && group.control.is_orphaned()
            && let Some(arbiter) = group.arbiter
        {
            // Nobody arbitrates any more; that the arbiter has left is what all can see alike.
            self.shared.poison(left(arbiter));
            return self.shared.verdict().unwrap_or(error);
        }
        group.control.report(how(error.to_bytes()));
        self.shared.await_verdict(error, VERDICT)
    }
}
