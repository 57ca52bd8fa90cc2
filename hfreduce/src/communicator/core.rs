//! The one place where calls become jobs: submits them (`submit`) on their plans (`install`) and drives the engine until they are done, with
//! waiting (look, hand over, park), stall checks and the timeout. It is behind one lock per communicator, held by whoever runs. Invariant:
//! once there is a verdict the engine is never stepped again.

mod device;
mod install;
mod ready;
mod submit;
mod wait;

use self::{install::Candidate, submit::Recipe};
use super::shared::Shared;
use crate::{
    call::Call,
    config::Config,
    device::Firsts,
    dtype::DType,
    engine::{Blocks, Engine, Fault, JobId},
    error::{Error, Kind},
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
    /// What the last call became.
    last: Option<Recipe>,
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
pub struct EndsOnPanic<'a>(pub &'a Shared);

impl Drop for EndsOnPanic<'_> {
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
            last: None,
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

    /// Whether the call is done on this rank.
    pub fn finished(&self, running: &Running) -> bool {
        self.engine.finished(running.job)
    }

    /// Notes the end of a call.
    pub fn ended(&self, running: &Running, well: bool) {
        self.shared.history.end(&running.call, well);
    }

    /// Runs everything that was submitted.
    fn drain(&mut self) -> Result<(), Error> {
        self.run(|core| !core.engine.busy())
    }

    /// Runs the engine until `done`; the other ranks' ends come, or the error that all ranks return. Whoever calls it holds an [`EndsOnPanic`]: after a
    /// panic the engine has lost the jobs that it was at.
    pub fn run(&mut self, done: impl Fn(&Core) -> bool) -> Result<(), Error> {
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
