//! The communicator: what users hold. It checks arguments and hands calls to `core`, on the caller's own thread, or behind the calls
//! that overlap. Invariant: after the first failure every call returns that same error, on every rank.

mod address;
mod calls;
mod channel;
mod connect;
mod core;
mod enqueue;
mod fork;
mod hello;
mod identity;
mod meeting;
mod memory;
mod pending;
mod place;
mod queue;
mod rdma;
mod scope;
mod shared;
mod split;

pub use self::{
    core::RawCall,
    enqueue::Enqueued,
    identity::UniqueId,
    memory::Registered,
    pending::Pending,
    scope::{Handle, Scope},
};

use self::{
    channel::Channels,
    core::{Core, EndsOnPanic, Group},
    fork::Generation,
    meeting::{Meeting, Server},
    memory::Heap,
    queue::Queue,
    shared::Shared,
};
use crate::{
    config::Config,
    device::{Context, Firsts, OnDevice},
    dtype::{DType, Element},
    engine::Stages,
    error::{Error, Kind},
    plan::{Model, Shape},
    tuning::Tuning,
};
use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

/// A group of ranks that call collectives together. All ranks make the same calls in the same order.
///
/// Calls from several threads on one communicator are run one after the other; for calls that are independent of each other, give each
/// thread a communicator of its own ([`Communicator::split`]).
pub struct Communicator {
    core: Arc<Mutex<Core>>,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    group: Option<Arc<Group>>,
    heap: Arc<Heap>,
    config: Config,
    shape: Shape,
    model: Model,
    node: usize,
    wire: &'static str,
    single_copy: bool,
    splits: Mutex<u64>,
    /// Where the buffers on a device are, once there was one.
    context: OnceLock<Context>,
    firsts: Arc<Firsts<crate::device::Kind>>,
    channels: Channels,
    born: Generation,
    /// How long closing waits for the others.
    patience: Duration,
    /// Where all ranks meet, until this process has closed all groups that come of it.
    meeting: Option<Arc<Meeting>>,
}

const _: () = {
    const fn for_several_threads<T: Send + Sync>() {}
    for_several_threads::<Communicator>();
    for_several_threads::<Registered<f32>>();
};

impl Communicator {
    /// Joins the job that the environment describes (torchrun, MPI launchers, Slurm, `hfr run`); alone where there is none.
    ///
    /// # Errors
    /// A variable that makes no sense, or what [`Communicator::connect`] meets.
    pub fn from_env() -> Result<Communicator, Error> {
        Communicator::connect(&Config::from_env()?)
    }

    /// Joins the group that `config` describes; returns when all ranks have come.
    ///
    /// # Errors
    /// Ranks that do not come in time, a wrong secret, no shared memory, settings that differ: each with what to do.
    pub fn connect(config: &Config) -> Result<Communicator, Error> {
        let mut parts = connect::connect(config)?;
        let server = parts
            .server
            .take()
            .map(|server| Arc::new(Mutex::new(server)));
        Ok(Communicator::of(parts, config.clone()).meeting_at(server))
    }

    /// Joins the group that meets where `id` says: the rank, the number of ranks and all other settings are `config`'s. Whoever made the id may
    /// have any rank, or none.
    ///
    /// # Errors
    /// As [`Communicator::connect`].
    pub fn join(id: &UniqueId, config: &Config) -> Result<Communicator, Error> {
        let mut config = config.clone();
        config.rendezvous = Some(id.address().to_string());
        config.cookie = id.secret().to_vec();
        let parts = connect::connect_to(&config)?;
        // Not before: after a failure the id is as good as it was.
        Ok(Communicator::of(parts, config).meeting_at(id.server()))
    }

    fn of(parts: connect::Parts, mut config: Config) -> Communicator {
        config.place = Some(parts.place);
        // Groups that come of this one, whose rank 0 may be another, go by the same figures.
        config.tuning = parts.tuning.map(Tuning::Measured);
        Communicator {
            queue: Arc::default(),
            shared: parts.core.shared.clone(),
            group: parts.core.group.clone(),
            heap: parts.heap,
            config,
            shape: parts.core.shape.clone(),
            model: parts.core.model,
            node: parts.core.node,
            wire: parts.wire,
            splits: Mutex::new(0),
            context: OnceLock::new(),
            single_copy: parts.core.reaches,
            firsts: parts.core.firsts.clone(),
            channels: Channels::default(),
            born: Generation::default(),
            patience: FAREWELL,
            meeting: None,
            core: Arc::new(Mutex::new(parts.core)),
        }
    }

    fn meeting_at(mut self, server: Option<Server>) -> Communicator {
        let group = self.group.as_ref();
        self.meeting =
            group.map(|group| Arc::new(Meeting::new(group, self.rank(), self.size(), server)));
        self
    }

    /// CPUs for threads that work for this rank, where they are to be bound.
    fn cpus(&self) -> Option<Vec<usize>> {
        self.config.place.as_ref()?.threads.clone()
    }

    /// This process's rank.
    pub fn rank(&self) -> usize {
        self.config.rank
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.shape.ranks()
    }

    /// This rank's node.
    pub fn node(&self) -> usize {
        self.node
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.shape.nodes()
    }

    /// This rank's number on its node.
    pub fn local_rank(&self) -> usize {
        self.shape.local(self.rank())
    }

    /// Ranks on this node.
    pub fn local_size(&self) -> usize {
        self.shape.on(self.node)
    }

    /// The ranks of every node.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The figures that plans and pieces are chosen by, the same on all ranks.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How nodes reach each other: `local`, `tcp`, or `none` with one node.
    pub fn transport(&self) -> &'static str {
        self.wire
    }

    /// Whether ranks of a node read each other's buffers where they lie, where that is quicker than through shared memory: the system lets all of
    /// them, none has `HFR_SINGLE_COPY=off`, and no buffers are on GPUs.
    pub fn single_copy(&self) -> bool {
        self.single_copy
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn invalid(&self, cause: String, remedy: &str) -> Error {
        Error::new(Kind::InvalidArgument, cause, remedy).at(self.rank(), self.node)
    }

    /// Makes a call with plain addresses; the typed methods come here.
    ///
    /// # Errors
    /// Invalid arguments, with nothing started; otherwise a failure of the group, the same on all ranks, after which every call fails.
    ///
    /// # Safety
    /// The memory must be good for the call: `count` elements, times the number of ranks for reduce_scatter's input and all_gather's
    /// output; the output for nobody else. Input and output are equal as the collective's in-place form has it, or do not overlap.
    pub unsafe fn run(&self, call: RawCall) -> Result<(), Error> {
        self.born.check()?;
        if self.queue.busy() {
            // SAFETY: the caller's promise; we wait here until the call has ended.
            return unsafe { self.start(call) }.wait();
        }
        // SAFETY: the caller's promise.
        let result = unsafe { self.run_quietly(&call, None) };
        if let Err(error) = &result
            && error.kind != Kind::InvalidArgument
            && self.shared.first_told()
        {
            eprint!(
                "hfreduce: {error}\n{}",
                self.shared.history.dump(self.rank(), self.node)
            );
        }
        result
    }

    /// Runs a call on this thread, and leaves it to the caller to say how it failed.
    ///
    /// # Safety
    /// As [`Communicator::run`].
    unsafe fn run_quietly(&self, call: &RawCall, device: Option<&OnDevice>) -> Result<(), Error> {
        let mut core = self.lock();
        // Behind the lock, so that in a panic nobody steps the engine in between.
        let _ends = EndsOnPanic(&self.shared);
        // SAFETY: the caller's promise, until this returns: then the call has ended, or the engine never runs again.
        let running = unsafe { core.submit(call, device) }?;
        let result = core.run(|core| core.finished(&running));
        if result.is_err() {
            core.quiesce();
        }
        core.ended(&running, result.is_ok());
        result
    }

    /// Memory for `count` elements in the node's shared segment: calls on it copy nothing in or out. Zeroed. Not collective.
    ///
    /// # Errors
    /// Too little memory, with figures.
    pub fn alloc<T: Element>(&self, count: usize) -> Result<Registered<T>, Error> {
        self.heap
            .alloc(count)
            .map_err(|e| e.at(self.rank(), self.node))
    }

    /// Starts measuring what this rank's stages cost, from nothing; or ends it. For benchmarks: it costs two looks at the clock per stage.
    pub fn measure(&self, on: bool) {
        self.lock().measure(on);
    }

    /// What this rank's stages have cost since [`Communicator::measure`]; waits for calls that are running.
    pub fn stages(&self) -> Option<Stages> {
        self.lock().stages()
    }

    /// What ended the group, if something did: every call fails with it from then on.
    pub fn failure(&self) -> Option<Error> {
        self.shared.verdict()
    }

    /// Ends the group: every call on every rank fails from now on, those that run included. Bounded in time.
    pub fn abort(&self, why: &str) {
        if self.born.is_past() {
            return;
        }
        self.channels.abort(why);
        let error =
            Error::new(Kind::Aborted, format!("aborted: {why}"), "").at(self.rank(), self.node);
        self.report_failure(error);
    }

    /// Ends the group with an error that was met outside of the engine; returns what everyone returns.
    fn report_failure(&self, error: Error) -> Error {
        let Some(group) = &self.group else {
            self.shared.poison(error.clone());
            return error;
        };
        let report = hfr_transport::control::Report::Failure(error.to_bytes());
        group.control.report(report);
        self.shared.await_verdict(error, Duration::from_secs(2))
    }

    /// The last 64 calls of this rank and whom it waits for, as text; SIGUSR1 prints the same.
    pub fn report(&self) -> String {
        self.shared.history.dump(self.rank(), self.node)
    }

    /// The rank's element types with a name for each, as [`DType`] has them.
    pub fn dtypes() -> &'static [DType] {
        &DType::ALL
    }
}

/// How long a rank that closes its communicator waits for the others, so that nobody meets a closed connection in a last call.
const FAREWELL: Duration = Duration::from_secs(2);

impl Drop for Communicator {
    fn drop(&mut self) {
        if self.born.is_past() {
            // A forked child: connections, threads and memory are the parent's. They are left as they are until the process ends.
            std::mem::forget((self.core.clone(), self.queue.clone(), self.shared.clone()));
            std::mem::forget((self.group.clone(), self.heap.clone(), self.meeting.clone()));
            return;
        }
        self.channels.close(FAREWELL);
        // Calls that were started end first: they have the buffers.
        let began = Instant::now();
        let mut drained = self.queue.drained(FAREWELL);
        // A stream that has not come to its call yet is nobody's failure.
        while !drained && self.queue.at_gate() && began.elapsed() < self.config.timeout {
            drained = self.queue.drained(FAREWELL);
        }
        if !drained {
            self.abort("the communicator was closed while calls were running");
            self.queue.drained(FAREWELL);
        }
        self.queue.close();
        self.queue.gone(FAREWELL);
        if let Some(group) = &self.group {
            if !self.shared.poisoned() && matches!(self.wire, "tcp" | "verbs") {
                self.farewell(group);
            }
            group.control.leave();
        }
        if let (Some(meeting), true) = (&self.meeting, self.shared.poisoned()) {
            meeting.failed();
        }
    }
}

impl Communicator {
    /// Ranks whose connections carry bytes close together, so that nobody's last bytes are cut off.
    fn farewell(&self, group: &Group) {
        let key = format!("{}/farewell", group.name);
        let until = Instant::now() + self.patience;
        // Whoever does not come in time has either failed, which everyone hears, or is late, which costs nobody else.
        while !self.shared.poisoned() && Instant::now() < until {
            let slice = until.min(Instant::now() + Duration::from_millis(100));
            let all = group
                .store
                .gather(&key, self.size(), self.rank(), b"", slice);
            if !matches!(all, Err(hfr_transport::store::Error::Missing { .. })) {
                break;
            }
        }
    }
}
