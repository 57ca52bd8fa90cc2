//! The communicator: what users hold. It checks arguments and hands calls to `core`, on the caller's own thread, or behind the calls
//! that overlap. Invariant: after the first failure every call returns that same error, on every rank.

mod connect;
mod core;
mod memory;
mod scope;
mod shared;

pub use self::{
    core::RawCall,
    memory::Registered,
    scope::{Handle, Scope},
};

use self::{
    core::{Core, Group},
    memory::Heap,
    scope::Queue,
    shared::Shared,
};
use crate::{
    config::Config,
    dtype::{DType, Element},
    error::{Error, Kind},
    op::ReduceOp,
    plan::{Collective, Shape},
};
use hfr_transport::store::StoreServer;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    node: usize,
    wire: &'static str,
    splits: Mutex<u64>,
    /// Where all ranks meet, in rank 0's process: held as long as any of its groups lives there, and locked only because a server is
    /// not for several threads while a communicator is.
    server: Option<Arc<Mutex<StoreServer>>>,
}

const _: () = {
    const fn for_several_threads<T: Send + Sync>() {}
    for_several_threads::<Communicator>();
    for_several_threads::<Registered<f32>>();
};

fn raw<T: Element>(
    collective: Collective,
    op: ReduceOp,
    count: usize,
    input: *const T,
    output: *mut T,
) -> RawCall {
    RawCall {
        collective,
        dtype: T::DTYPE,
        op,
        count,
        input: input.cast(),
        output: output.cast(),
    }
}

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
        Ok(Communicator::of(connect::connect(config)?, config.clone()))
    }

    fn of(parts: connect::Parts, config: Config) -> Communicator {
        Communicator {
            queue: Arc::default(),
            shared: parts.core.shared.clone(),
            group: parts.core.group.clone(),
            heap: parts.heap,
            config,
            shape: parts.core.shape.clone(),
            node: parts.core.node,
            wire: parts.wire,
            splits: Mutex::new(0),
            server: parts.server.map(|server| Arc::new(Mutex::new(server))),
            core: Arc::new(Mutex::new(parts.core)),
        }
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

    /// How nodes reach each other: `local`, `tcp`, or `none` with one node.
    pub fn transport(&self) -> &'static str {
        self.wire
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn invalid(&self, cause: String, remedy: &str) -> Error {
        Error::new(Kind::InvalidArgument, cause, remedy).at(self.rank(), self.node)
    }

    fn fits(&self, what: &str, whole: usize, share: usize) -> Result<(), Error> {
        if share.checked_mul(self.size()) == Some(whole) {
            return Ok(());
        }
        Err(self.invalid(
            format!("{what} has {whole} elements, and one share has {share}"),
            &format!("it holds one share for each of the {} ranks", self.size()),
        ))
    }

    fn same(&self, what: &str, input: usize, output: usize) -> Result<(), Error> {
        if input == output {
            return Ok(());
        }
        Err(self.invalid(
            format!("{what}: the input has {input} elements and the output {output}"),
            "both have the same length",
        ))
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
        if self.queue.busy() {
            // SAFETY: the caller's promise.
            return unsafe { self.run_behind(call) };
        }
        let mut core = self.lock();
        // SAFETY: the caller's promise, until this returns: then the call has ended, or the engine never runs again.
        let running = unsafe { core.submit(&call) }?;
        let result = core.run(|core| core.finished(&running));
        core.ended(&running, result.is_ok());
        if let Err(error) = &result
            && error.kind != Kind::InvalidArgument
        {
            eprint!(
                "hfreduce: {error}\n{}",
                self.shared.history.dump(self.rank(), self.node)
            );
        }
        result
    }

    fn call<T: Element>(
        &self,
        collective: Collective,
        op: ReduceOp,
        count: usize,
        input: *const T,
        output: *mut T,
    ) -> Result<(), Error> {
        // SAFETY: the callers below pass pointers of slices they hold, of lengths that fit.
        unsafe { self.run(raw(collective, op, count, input, output)) }
    }

    /// Reduces `buffer` over all ranks, in place: afterwards it is the same on all, bit for bit.
    ///
    /// # Errors
    /// An operation that the type does not have; a failure of the group.
    pub fn all_reduce<T: Element>(&self, buffer: &mut [T], op: ReduceOp) -> Result<(), Error> {
        let at = buffer.as_mut_ptr();
        self.call(Collective::AllReduce, op, buffer.len(), at, at)
    }

    /// As [`Communicator::all_reduce`], from `input` into `output` of the same length.
    ///
    /// # Errors
    /// Lengths that differ; as [`Communicator::all_reduce`].
    pub fn all_reduce_into<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Error> {
        self.same("all_reduce", input.len(), output.len())?;
        self.call(
            Collective::AllReduce,
            op,
            input.len(),
            input.as_ptr(),
            output.as_mut_ptr(),
        )
    }

    /// Reduces one block per rank and leaves each rank its own: `input` has `output.len()` elements for each rank.
    ///
    /// # Errors
    /// Lengths that do not fit; as [`Communicator::all_reduce`].
    pub fn reduce_scatter<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Error> {
        self.fits("reduce_scatter's input", input.len(), output.len())?;
        self.call(
            Collective::ReduceScatter,
            op,
            output.len(),
            input.as_ptr(),
            output.as_mut_ptr(),
        )
    }

    /// As [`Communicator::reduce_scatter`], in place: this rank's result takes the place of its block. The other blocks keep their contents.
    ///
    /// # Errors
    /// A length that is no multiple of the number of ranks; as [`Communicator::all_reduce`].
    pub fn reduce_scatter_in_place<T: Element>(
        &self,
        buffer: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Error> {
        let share = buffer.len() / self.size();
        self.fits("reduce_scatter's buffer", buffer.len(), share)?;
        let at = buffer.as_mut_ptr();
        self.call(
            Collective::ReduceScatter,
            op,
            share,
            at,
            at.wrapping_add(self.rank() * share),
        )
    }

    /// Gives every rank every rank's `input`: `output` has one block of `input.len()` elements for each rank, in rank order.
    ///
    /// # Errors
    /// Lengths that do not fit; as [`Communicator::all_reduce`].
    pub fn all_gather<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.fits("all_gather's output", output.len(), input.len())?;
        self.call(
            Collective::AllGather,
            ReduceOp::Sum,
            input.len(),
            input.as_ptr(),
            output.as_mut_ptr(),
        )
    }

    /// As [`Communicator::all_gather`], in place: this rank's input is its own block of `buffer`.
    ///
    /// # Errors
    /// A length that is no multiple of the number of ranks; as [`Communicator::all_reduce`].
    pub fn all_gather_in_place<T: Element>(&self, buffer: &mut [T]) -> Result<(), Error> {
        let share = buffer.len() / self.size();
        self.fits("all_gather's buffer", buffer.len(), share)?;
        let at = buffer.as_mut_ptr();
        self.call(
            Collective::AllGather,
            ReduceOp::Sum,
            share,
            at.wrapping_add(self.rank() * share),
            at,
        )
    }

    /// Gives every rank the root's `buffer`.
    ///
    /// # Errors
    /// A root that is no rank; as [`Communicator::all_reduce`].
    pub fn broadcast<T: Element>(&self, buffer: &mut [T], root: usize) -> Result<(), Error> {
        let root = self.root(root)?;
        let at = buffer.as_mut_ptr();
        self.call(
            Collective::Broadcast { root },
            ReduceOp::Sum,
            buffer.len(),
            at,
            at,
        )
    }

    /// Reduces `buffer` over all ranks; the root's becomes the result, the others' keep their contents.
    ///
    /// # Errors
    /// As [`Communicator::broadcast`].
    pub fn reduce<T: Element>(
        &self,
        buffer: &mut [T],
        op: ReduceOp,
        root: usize,
    ) -> Result<(), Error> {
        let root = self.root(root)?;
        let at = buffer.as_mut_ptr();
        self.call(Collective::Reduce { root }, op, buffer.len(), at, at)
    }

    /// Returns when all ranks have come here.
    ///
    /// # Errors
    /// A failure of the group.
    pub fn barrier(&self) -> Result<(), Error> {
        let nothing: *mut u8 = std::ptr::null_mut();
        self.call(Collective::Barrier, ReduceOp::Sum, 0, nothing, nothing)
    }

    fn root(&self, root: usize) -> Result<u32, Error> {
        if root < self.size() {
            return Ok(root as u32);
        }
        Err(self.invalid(
            format!("root {root} in a group of {} ranks", self.size()),
            "the root is a rank of the group",
        ))
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

    /// Makes a communicator of the ranks with the same `color`, ordered by `key` and then by rank here; `None` for no part in any. All ranks call it.
    ///
    /// # Errors
    /// As [`Communicator::connect`]; a failure of this group.
    pub fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Communicator>, Error> {
        let number = {
            let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
            *splits += 1;
            *splits
        };
        let word = color.map_or(-1, i64::from);
        let mut all = vec![0i64; 2 * self.size()];
        self.all_gather(&[word, key], &mut all)?;
        if color.is_none() {
            return Ok(None);
        }
        let mut members: Vec<usize> = (0..self.size()).filter(|r| all[2 * r] == word).collect();
        members.sort_by_key(|r| (all[2 * r + 1], *r));
        let mut config = self.config.clone();
        config.rank = members.iter().position(|r| *r == self.rank()).unwrap_or(0);
        config.world = members.len();
        if config.world == 1 {
            return Communicator::connect(&config).map(Some);
        }
        let group = self.group.as_ref().expect("a group of several ranks");
        let (store, name) = (
            group.store.clone(),
            format!("{}/{number}.{word}", group.name),
        );
        let parts = connect::join(&config, store, &name)?;
        let mut comm = Communicator::of(parts, config);
        comm.server = self.server.clone();
        Ok(Some(comm))
    }

    /// Ends the group: every call on every rank fails from now on, those that run included. Bounded in time.
    pub fn abort(&self, why: &str) {
        let error =
            Error::new(Kind::Aborted, format!("aborted: {why}"), "").at(self.rank(), self.node);
        match &self.group {
            Some(group) => {
                let report = hfr_transport::control::Report::Failure(error.to_bytes());
                group.control.report(report);
                self.shared.await_verdict(error, Duration::from_secs(2));
            }
            None => self.shared.poison(error),
        }
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
        self.queue.close();
        if let Some(group) = &self.group {
            if !self.shared.poisoned() && self.wire == "tcp" {
                let key = format!("{}/farewell", group.name);
                let until = Instant::now() + FAREWELL;
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
            group.control.leave();
        }
        self.server.take();
    }
}
