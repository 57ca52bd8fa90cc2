//! The one place where calls become jobs: chooses and installs plans, submits jobs, and drives the engine until they are done, with
//! spin-then-park waiting, stall checks and the timeout. It is behind one lock per communicator, held by whoever runs. Invariant:
//! once there is a verdict the engine is never stepped again.

use super::shared::Shared;
use crate::{
    call::Call,
    config::Config,
    dtype::DType,
    engine::{Engine, Fault, Job, JobId, MAX_COUNTERS, Place, compile},
    error::{Error, Kind},
    kernel::{Kernel, Store, Variant},
    layout::{Extent, Layout},
    op::ReduceOp,
    plan::{Checked, Choice, Collective, Cost, Model, Shape, Wanted, checked, choose},
    stall::{Wait, left, mismatch},
};
use hfr_transport::{
    PeerAddress,
    control::{Control, Report},
    shm::{Board, Doorbell, Segment, Waiter},
    store::Store as Rendezvous,
};
use std::{
    collections::HashMap,
    os::fd::RawFd,
    sync::Arc,
    time::{Duration, Instant},
};

/// One call, untyped: what to do with which memory.
#[derive(Clone, Copy, Debug)]
pub struct RawCall {
    /// Which collective.
    pub collective: Collective,
    /// Type of the elements.
    pub dtype: DType,
    /// How to reduce; ignored where nothing is reduced.
    pub op: ReduceOp,
    /// Elements: of the whole buffer, or per rank for reduce_scatter's output and all_gather's input.
    pub count: usize,
    /// First element of the input; equal to where the plan's output lies when the call is in place.
    pub input: *const u8,
    /// First element of the output.
    pub output: *mut u8,
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

struct Candidate {
    checked: Checked,
    cost: Cost,
    piece: usize,
    window: usize,
    run: Option<usize>,
}

/// How ranks of a group speak before and beside the data path; absent in a group of one.
pub struct Group {
    pub store: Arc<dyn Rendezvous>,
    pub name: String,
    pub control: Control,
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
    model: Model,
    timeout: Duration,
    algorithm: Option<String>,
    families: HashMap<Collective, Vec<Candidate>>,
    choices: HashMap<(Collective, usize), Choice>,
    /// By node: slots and counters handed out so far.
    used: (Vec<usize>, Vec<usize>),
    installs: u64,
    sequence: u64,
    watch: Vec<(RawFd, bool)>,
}

/// A running call.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    pub job: JobId,
    pub call: Call,
}

/// Calls of at least this many bytes write results past the caches: nobody reads them while they are still there.
const STREAM_FROM: usize = 8 << 20;
/// The first check after a stall, doubled from then on.
const FIRST_CHECK: Duration = Duration::from_millis(100);
const LAST_CHECK: Duration = Duration::from_secs(2);
/// A verdict is due within this time after a report; control itself answers within one second.
const VERDICT: Duration = Duration::from_millis(2500);
/// A connection that breaks is most often a process that died or left, which the control plane tells better: it goes first for so long.
const WORD: Duration = Duration::from_millis(400);
/// Blocking steps of the start-up of a plan look for a verdict this often.
const SLICE: Duration = Duration::from_millis(250);

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
            families: HashMap::new(),
            choices: HashMap::new(),
            used: (vec![0; nodes], vec![0; nodes]),
            installs: 0,
            sequence: 0,
            shape,
            watch: Vec::new(),
        }
    }

    fn here(&self, error: Error) -> Error {
        error.at(self.rank, self.node)
    }

    /// Checks the arguments that this rank can check alone.
    fn validate(&self, call: &RawCall) -> Result<Option<Kernel>, Error> {
        let ranks = self.shape.ranks();
        if let Some(root) = call.collective.root()
            && root as usize >= ranks
        {
            return Err(self.here(Error::new(
                Kind::InvalidArgument,
                format!(
                    "{} with root {root} in a group of {ranks} ranks",
                    call.collective.name()
                ),
                "the root is a rank of the group",
            )));
        }
        if !call.collective.reduces() {
            return Ok(None);
        }
        Kernel::new(Variant::best(), call.dtype, call.op, ranks)
            .map(Some)
            .map_err(|why| {
                self.here(Error::new(
                    Kind::InvalidArgument,
                    why.to_string(),
                    "choose a supported combination",
                ))
            })
    }

    /// Starts a call. Installing its plan, where that is new, waits for all ranks.
    ///
    /// # Safety
    /// As [`Engine::submit`].
    pub unsafe fn submit(&mut self, raw: &RawCall) -> Result<Running, Error> {
        if let Some(error) = self.shared.verdict() {
            return Err(error);
        }
        let kernel = self.validate(raw)?;
        self.sequence += 1;
        let call = Call {
            sequence: self.sequence,
            count: raw.count as u64,
            root: raw.collective.root().unwrap_or(u32::MAX),
            collective: Call::code(raw.collective),
            dtype: raw.dtype as u8,
            op: if kernel.is_some() {
                raw.op.code() + 1
            } else {
                0
            },
            zero: 0,
            factor: match &kernel {
                Some(_) => raw.op.factor().map_or(0, f64::to_bits),
                None => 0,
            },
        };
        self.shared.history.begin(&call);
        match self.submit_as(raw, call, kernel) {
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
        call: Call,
        kernel: Option<Kernel>,
    ) -> Result<JobId, Error> {
        let size = raw.dtype.size();
        let blocks = match raw.collective {
            Collective::ReduceScatter | Collective::AllGather => self.shape.ranks(),
            _ => 1,
        };
        let bytes = raw.count * size * blocks;
        let choice = self.choice(raw.collective, bytes)?;
        let run = self.installed(raw.collective, choice.plan, &call)?;
        let candidate = &self.families[&raw.collective][choice.plan];
        let job = Job {
            call,
            input: raw.input,
            output: raw.output,
            extent: Extent::new(
                candidate.checked.plan(),
                raw.count,
                size,
                choice.piece.min(candidate.piece),
            ),
            size,
            kernel,
            store: if bytes >= STREAM_FROM {
                Store::Streaming
            } else {
                Store::Cached
            },
        };
        // SAFETY: the caller of `submit` promises the memory.
        Ok(unsafe { self.engine.submit(run, job) })
    }

    /// The plan and piece for this size; the same on all ranks, since all compute it from the same numbers.
    fn choice(&mut self, collective: Collective, bytes: usize) -> Result<Choice, Error> {
        let key = (collective, bytes.next_power_of_two());
        if let Some(choice) = self.choices.get(&key) {
            return Ok(*choice);
        }
        if !self.families.contains_key(&collective) {
            let plans = checked(collective, &self.shape).map_err(|flaw| {
                self.here(Error::new(
                    Kind::Start,
                    format!("a plan is wrong: {flaw}"),
                    "this is a bug of the library; please report it with the group's shape",
                ))
            })?;
            let family = plans.into_iter().map(|c| self.candidate(c)).collect();
            self.families.insert(collective, family);
        }
        let family = &self.families[&collective];
        let costs: Vec<Cost> = family.iter().map(|c| c.cost.clone()).collect();
        let mut choice = choose(&self.model, &self.shape, &costs, Wanted { bytes: key.1 });
        if let (Collective::AllReduce, Some(name)) = (collective, &self.algorithm) {
            let found = family.iter().position(|c| c.checked.plan().name == name);
            choice.plan = found.ok_or_else(|| {
                let names: Vec<_> = family.iter().map(|c| c.checked.plan().name).collect();
                self.here(Error::new(
                    Kind::InvalidArgument,
                    format!("HFR_ALGO={name} is no plan for this group"),
                    format!("choose one of {}", names.join(", ")),
                ))
            })?;
            let one = [costs[choice.plan].clone()];
            choice.piece = choose(&self.model, &self.shape, &one, Wanted { bytes: key.1 }).piece;
        }
        self.choices.insert(key, choice);
        Ok(choice)
    }

    fn candidate(&self, checked: Checked) -> Candidate {
        let cost = checked.plan().cost();
        let large = Wanted { bytes: 1 << 30 };
        let piece = choose(&self.model, &self.shape, std::slice::from_ref(&cost), large).piece;
        // Nobody sends a large buffer by a one-shot plan: its slots need only hold what it is chosen for.
        let piece = if checked.plan().name == "one_shot" {
            piece.min(64 << 10)
        } else {
            piece
        };
        Candidate {
            window: self.model.window(&self.shape, &cost, piece),
            checked,
            cost,
            piece,
            run: None,
        }
    }

    /// The engine's number of the plan; installs it first where needed.
    fn installed(
        &mut self,
        collective: Collective,
        plan: usize,
        call: &Call,
    ) -> Result<usize, Error> {
        let candidate = &self.families[&collective][plan];
        if let Some(run) = candidate.run {
            return Ok(run);
        }
        let layout = Layout::new(candidate.checked.plan(), candidate.piece, candidate.window);
        self.agree(&call.to_string())?;
        if !self.fits(&layout) {
            self.evict()?;
        }
        let place = Place {
            slots: self.used.0.iter().map(|u| self.arena.slots + u).collect(),
            counters: self.used.1.clone(),
        };
        let ready = self.prepare(collective, plan, &layout, &place);
        self.settle(&ready)?;
        let (run, window) = (ready?, self.families[&collective][plan].window);
        let run = self.engine.install(run, &layout, window);
        for node in 0..self.shape.nodes() {
            self.used.0[node] += layout.bytes(node).next_multiple_of(4096);
            self.used.1[node] += layout.counters(node);
        }
        // Nobody may send before everybody has installed.
        self.settle(&Ok(()))?;
        if let Some(c) = self
            .families
            .get_mut(&collective)
            .and_then(|f| f.get_mut(plan))
        {
            c.run = Some(run);
        }
        Ok(run)
    }

    fn fits(&self, layout: &Layout) -> bool {
        (0..self.shape.nodes()).all(|n| {
            self.used.0[n] + layout.bytes(n) <= self.arena.bytes
                && self.used.1[n] + layout.counters(n) <= self.arena.counters.min(MAX_COUNTERS)
        })
    }

    /// Makes room: forgets every plan and zeroes the counters. All ranks do it at the same call, with nothing running.
    fn evict(&mut self) -> Result<(), Error> {
        self.engine.uninstall(0, 0);
        for candidate in self.families.values_mut().flatten() {
            candidate.run = None;
        }
        if self.shape.local(self.rank) == 0 {
            let bytes = Board::bytes(self.used.1[self.node]);
            let at = self.segment.at(self.arena.board, bytes);
            // SAFETY: the board lies there; all ranks have agreed on this call with idle engines and touch it again only after
            // the next agreement.
            unsafe { at.write_bytes(0, bytes) };
        }
        self.used.0.fill(0);
        self.used.1.fill(0);
        self.settle(&Ok(()))
    }

    /// Reserves memory, connects to peers and compiles the plan; may fail on one rank alone.
    fn prepare(
        &mut self,
        collective: Collective,
        plan: usize,
        layout: &Layout,
        place: &Place,
    ) -> Result<crate::engine::Program, Error> {
        let too_big = layout.bytes(self.node) > self.arena.bytes
            || layout.counters(self.node) > self.arena.counters;
        if too_big {
            return Err(self.here(Error::new(
                Kind::Memory,
                format!(
                    "the plan needs {} bytes of slots and {} counters per node",
                    layout.bytes(self.node),
                    layout.counters(self.node)
                ),
                "the group is larger than this build's arena",
            )));
        }
        if self.shape.local(self.rank) == 0 {
            let counters = Board::bytes(layout.counters(self.node));
            let board = self.arena.board + Board::bytes(place.counters[self.node]);
            self.segment
                .reserve(board, counters)
                .and_then(|()| {
                    self.segment
                        .reserve(place.slots[self.node], layout.bytes(self.node))
                })
                .map_err(|e| self.here(Error::new(Kind::Memory, e.cause, e.remedy)))?;
        }
        let program = compile(
            &self.families[&collective][plan].checked,
            layout,
            place,
            self.rank,
        );
        if let Some(group) = &self.group {
            let peers: Vec<_> = program
                .peers
                .iter()
                .map(|&r| group.peers[r].clone())
                .collect();
            if !peers.is_empty() {
                self.connect(&peers)?;
            }
        }
        Ok(program)
    }

    fn connect(&mut self, peers: &[PeerAddress]) -> Result<(), Error> {
        let (rank, node) = (self.rank, self.node);
        let deadline = Instant::now() + self.timeout;
        loop {
            let slice = deadline.min(Instant::now() + 8 * SLICE);
            let wire = self
                .engine
                .transport()
                .expect("a group of several nodes has a wire");
            match wire.connect(peers, slice) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    if let Some(verdict) = self.shared.verdict() {
                        return Err(verdict);
                    }
                    if Instant::now() >= deadline {
                        let mut e = Error::new(Kind::Wire, error.to_string(), "check that the nodes can reach each other on this interface (HFR_SOCKET_IFNAME)").at(rank, node);
                        e.peer = error.peer;
                        return Err(e);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    /// All ranks are about to install a plan for the same call; refuses calls that differ. Nothing runs afterwards anywhere.
    fn agree(&mut self, call: &str) -> Result<(), Error> {
        self.drain()?;
        let calls = self.exchange("call", call.as_bytes())?;
        let other = calls.iter().position(|c| c != call.as_bytes());
        match other {
            None => Ok(()),
            Some(other) => {
                let first = String::from_utf8_lossy(&calls[0]).into_owned();
                let differs = calls.iter().position(|c| *c != calls[0]).unwrap_or(other);
                let second = String::from_utf8_lossy(&calls[differs]).into_owned();
                Err(self.fail(mismatch(0, &first, differs, &second)))
            }
        }
    }

    /// Everyone has come so far; one rank's failure is everyone's.
    fn settle<T>(&mut self, mine: &Result<T, Error>) -> Result<(), Error> {
        if let Err(error) = mine {
            return Err(self.fail(error.clone()));
        }
        self.exchange("ready", b"").map(drop)
    }

    fn exchange(&mut self, what: &str, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let Some(group) = self.group.clone() else {
            return Ok(vec![mine.to_vec()]);
        };
        self.installs += 1;
        let key = format!("{}/install/{}/{what}", group.name, self.installs);
        let started = Instant::now();
        loop {
            let slice = Instant::now() + SLICE;
            match group
                .store
                .gather(&key, self.shape.ranks(), self.rank, mine, slice)
            {
                Ok(all) => {
                    self.wait_for(&[]);
                    return Ok(all);
                }
                Err(error) => {
                    if let Some(verdict) = self.shared.verdict() {
                        return Err(verdict);
                    }
                    let over = started.elapsed() >= self.timeout;
                    let absent = match &error {
                        hfr_transport::store::Error::Missing { missing, .. } => missing.as_slice(),
                        _ => &[],
                    };
                    let missing = !absent.is_empty();
                    if !missing && let Some(verdict) = self.shared.hear(WORD) {
                        return Err(verdict);
                    }
                    self.wait_for(absent);
                    if over || !missing {
                        let error = self.here(Error::new(
                            if missing {
                                Kind::Timeout
                            } else {
                                Kind::PeerLost
                            },
                            error.to_string(),
                            "all ranks must make the same calls in the same order",
                        ));
                        if missing {
                            return Err(self.time_out(error));
                        }
                        return Err(self.fail(error));
                    }
                    group.control.report(Report::Check(Vec::new()));
                }
            }
        }
    }

    /// Notes whom this rank waits for before its call can start.
    fn wait_for(&self, ranks: &[usize]) {
        let wait = |&rank: &usize| Wait {
            rank,
            stage: "all ranks prepare the call's plan".to_owned(),
            chunk: 0,
        };
        self.shared.history.waits(ranks.iter().map(wait).collect());
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
        let mut idle: Option<(Instant, Duration)> = None;
        loop {
            if self.shared.poisoned() {
                return Err(self
                    .shared
                    .verdict()
                    .expect("the flag is set after the verdict"));
            }
            let moved = match self.engine.step() {
                Ok(moved) => moved,
                Err(fault) => return Err(self.fault(fault)),
            };
            if done(self) {
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
                    if group.control.is_orphaned() && self.waits_for(0) {
                        return Err(self.fail(left(0)));
                    }
                    group.control.report(Report::Check(Vec::new()));
                }
                idle = Some((since, check + check.min(LAST_CHECK)));
            }
        }
    }

    /// Spins a little, then sleeps until something may have changed. Whether anything moved.
    fn park(&mut self) -> Result<bool, Error> {
        self.watch.clear();
        if let Some(wire) = self.engine.transport() {
            wire.watch(&mut self.watch);
        }
        let (engine, shared) = (&mut self.engine, &self.shared);
        let mut fault = None;
        let look = || {
            shared.poisoned()
                || match engine.step() {
                    Ok(moved) => moved,
                    Err(f) => {
                        fault = Some(f);
                        true
                    }
                }
        };
        let slept = self
            .waiter
            .wait(&self.bell, Some(FIRST_CHECK), &self.watch, look);
        if let Some(fault) = fault {
            return Err(self.fault(fault));
        }
        slept.map_err(|e| self.here(Error::new(Kind::Memory, e.cause, e.remedy)))
    }

    fn note_waits(&self) {
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

    fn waits_for(&self, rank: u32) -> bool {
        let mut waits = self.engine.blocked(self.rank as u32).into_iter();
        waits.any(|b| b.rank == rank)
    }

    fn stalled(&self, waited: Duration) -> Error {
        self.note_waits();
        let mut error = self.here(Error::new(
            Kind::Timeout,
            format!("no progress for {:.1} s", waited.as_secs_f64()),
            "look at the ranks it waits for, or raise HFR_TIMEOUT",
        ));
        error.operation = self.engine.current().map(|c| c.to_string());
        let waits = self.engine.blocked(self.rank as u32);
        error.peer = waits.first().map(|w| w.rank as usize);
        error.chunk = waits.first().map(|w| w.chunk);
        error
    }

    fn fault(&mut self, fault: Fault) -> Error {
        let error = match fault {
            Fault::Mismatch { rank, theirs, ours } => {
                let theirs = theirs.to_string();
                mismatch(self.rank, &ours.to_string(), rank as usize, &theirs)
            }
            Fault::Wire { error, ours } => {
                self.note_waits();
                if let Some(group) = &self.group {
                    group.control.report(Report::Check(Vec::new()));
                    if let Some(verdict) = self.shared.hear(WORD) {
                        return verdict;
                    }
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
        if explained && group.control.is_orphaned() {
            // Nobody arbitrates any more; that rank 0 has left is what all can see alike.
            self.shared.poison(left(0));
            return self.shared.verdict().unwrap_or(error);
        }
        group.control.report(how(error.to_bytes()));
        self.shared.await_verdict(error, VERDICT)
    }
}
