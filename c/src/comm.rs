//! What a communicator is on this side: the library's, how far it has come, and the calls that are under way on it. Knows no collective.
//! Invariant: `calls` counts everything that may still touch a caller's buffer or the communicator itself; nothing is dropped before it is 0.

use crate::{
    calls::Calls,
    fail::{Fail, Outcome, caught, guard},
    redop::Operation,
    table::{Table, fresh},
    value::Code,
};
use hfr::{Communicator, DType, Error, Pending, device};
use std::{
    collections::{HashMap, HashSet},
    ffi::{c_int, c_void},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
};

/// `hfrComm_t` and `hfrReducer_t`.
pub type Handle = *mut c_void;

/// All communicators that live.
pub static COMMS: Table<Comm> = Table::new("communicator");

/// How far a communicator has come.
enum State {
    /// Ranks are still coming.
    Starting,
    Ready(Arc<Communicator>),
    /// It was not to be.
    Failed(Fail),
    /// Finalized, or given up before it was ready.
    Left {
        rank: usize,
        size: usize,
    },
}

/// One communicator of C's.
pub struct Comm {
    pub handle: usize,
    /// Calls return with their results.
    pub blocking: bool,
    /// The process that made it: in a forked child nothing of it runs.
    process: u32,
    pub calls: Arc<Calls>,
    /// The process uses CUDA, as far as is known: every call asks where its buffers are.
    asks: AtomicBool,
    /// The device that was current when it was made; -1 without one.
    device: AtomicI32,
    state: Mutex<State>,
    last: Mutex<String>,
    /// What `hfrCommRegister` gave out.
    pub registered: Mutex<HashSet<usize>>,
    /// What `hfrRedOpCreatePreMulSum` made.
    pub operations: Mutex<HashMap<c_int, (DType, Operation)>>,
}

/// Looks through poison: what it guards is whole after every statement.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Comm {
    /// One that starts, with a handle of its own; `gpu` as the settings or its parent have it.
    pub fn starting(blocking: bool, gpu: Option<bool>) -> Arc<Comm> {
        let asks = gpu.unwrap_or_else(device::in_use);
        let current = asks.then(device::current).flatten();
        let comm = Arc::new(Comm {
            handle: fresh(),
            blocking,
            process: std::process::id(),
            calls: Arc::default(),
            asks: AtomicBool::new(asks),
            device: AtomicI32::new(current.unwrap_or(-1)),
            state: Mutex::new(State::Starting),
            last: Mutex::default(),
            registered: Mutex::default(),
            operations: Mutex::default(),
        });
        comm.calls.begin();
        COMMS.add(comm.handle, comm.clone());
        comm
    }

    /// The handle as C has it.
    pub fn handle(&self) -> Handle {
        std::ptr::without_provenance_mut(self.handle)
    }

    /// Whether calls ask where their buffers are, even without a stream.
    pub fn asks(&self) -> bool {
        self.asks.load(Ordering::Relaxed)
    }

    /// A call has met CUDA: later ones ask.
    pub fn ask_from_now_on(&self) {
        self.asks.store(true, Ordering::Relaxed);
    }

    /// Says which device it is for, before it has met one.
    pub fn meant_for(&self, device: c_int) {
        self.device.store(device, Ordering::Relaxed);
    }

    /// The device of its calls, or the one that was current when it was made; -1 for the host.
    pub fn device(&self) -> c_int {
        let met = self.made().and_then(|made| made.device());
        met.unwrap_or_else(|| self.device.load(Ordering::Relaxed))
    }

    /// What its start has come to.
    pub fn started(&self, outcome: Outcome<Communicator>) {
        let mut state = lock(&self.state);
        match (&*state, outcome) {
            (State::Starting, Ok(made)) => *state = State::Ready(Arc::new(made)),
            (State::Starting, Err(fail)) => {
                self.noted(fail.clone());
                *state = State::Failed(fail);
            }
            // Aborted while it started: the others are to know.
            (_, Ok(made)) => made.abort("the rank gave up while it started"),
            (_, Err(_)) => {}
        }
        drop(state);
        self.calls.end(Ok(()));
    }

    /// The library's communicator, if it is there.
    pub fn made(&self) -> Option<Arc<Communicator>> {
        match &*lock(&self.state) {
            State::Ready(made) => Some(made.clone()),
            _ => None,
        }
    }

    /// The library's communicator, for a call.
    pub fn ready(&self) -> Outcome<Arc<Communicator>> {
        let made = match &*lock(&self.state) {
            State::Ready(made) => made.clone(),
            State::Failed(fail) => return Err(fail.clone()),
            State::Starting => {
                return Err(Fail::usage(
                    "the communicator still starts; wait until hfrCommGetAsyncError says hfrSuccess, or for hfrGroupEnd",
                ));
            }
            State::Left { .. } => {
                return Err(Fail::usage(
                    "the communicator was finalized; all that is left to do is hfrCommDestroy",
                ));
            }
        };
        if self.calls.splits() {
            return Err(Fail::usage(
                "a split of the communicator is under way; wait until hfrCommGetAsyncError says hfrSuccess, or for hfrGroupEnd",
            ));
        }
        Ok(made)
    }

    /// This rank and the number of ranks, while they are known.
    pub fn place(&self) -> Option<(usize, usize)> {
        match &*lock(&self.state) {
            State::Ready(made) => Some((made.rank(), made.size())),
            State::Left { rank, size } => Some((*rank, *size)),
            _ => None,
        }
    }

    /// Keeps a failure's text for `hfrGetLastError`.
    pub fn noted(&self, fail: Fail) -> Fail {
        fail.text.clone_into(&mut lock(&self.last));
        fail
    }

    /// The text of the last failure.
    pub fn last(&self) -> String {
        lock(&self.last).clone()
    }

    /// A call that goes on by itself; its end is for `hfrCommGetAsyncError`.
    pub fn watch(&self, pending: &Pending) {
        let calls = self.calls.clone();
        calls.begin();
        pending.then(move |outcome| calls.end(outcome.map_err(Fail::from)));
    }

    /// As `watch`, of a call on a stream: to its caller it is made when it is on the stream, and only its failure is told.
    pub fn watch_on_stream(&self, pending: &Pending) {
        let calls = self.calls.clone();
        calls.begin_on_stream();
        pending.then(move |outcome| calls.end_on_stream(outcome.map_err(Fail::from)));
    }

    /// For `hfrCommGetAsyncError`.
    pub fn condition(&self) -> Outcome<Code> {
        self.own()?;
        if let State::Failed(fail) = &*lock(&self.state) {
            return Ok(fail.code);
        }
        if self.calls.running() {
            return Ok(Code::InProgress);
        }
        let group = self.made().and_then(|made| made.failure()).map(Fail::from);
        let fail = group.or_else(|| self.calls.failed());
        Ok(fail.map_or(Code::Success, |fail| self.noted(fail).code))
    }

    /// An error in a process that was forked off after the communicator was made.
    fn own(&self) -> Outcome<()> {
        if self.process == std::process::id() {
            return Ok(());
        }
        Err(Fail::argument(
            "the communicator belongs to the process that this one was forked from; make one of your own",
        ))
    }

    /// Waits for all calls but `own` of the caller's, and lets the library's communicator go.
    pub fn leave(&self, own: usize) -> Outcome<()> {
        self.own()?;
        self.calls.idle(own);
        let mut state = lock(&self.state);
        let State::Ready(made) = &*state else {
            return Ok(());
        };
        let left = State::Left {
            rank: made.rank(),
            size: made.size(),
        };
        let before = std::mem::replace(&mut *state, left);
        // The farewell takes its time: others may ask for the rank meanwhile.
        drop(state);
        drop(before);
        Ok(())
    }

    /// Ends the group for everybody.
    pub fn abort(&self) -> Outcome<()> {
        self.own()?;
        let made = self.made();
        let Some(made) = made else {
            let mut state = lock(&self.state);
            if matches!(&*state, State::Starting) {
                *state = State::Left { rank: 0, size: 0 };
                return Ok(());
            }
            drop(state);
            return self.leave(0);
        };
        made.abort("hfrCommAbort was called");
        drop(made);
        self.leave(0)
    }
}

/// The body of an exported function on a communicator: as `guard`, and its failure is the communicator's last.
pub fn on(what: &str, handle: Handle, f: impl FnOnce(&Arc<Comm>) -> Outcome<Code>) -> Code {
    guard(what, || {
        let comm = COMMS.get(handle)?;
        let rank = || comm.place().map(|(rank, _)| rank);
        caught(|| f(&comm)).map_err(|fail| comm.noted(fail.within(what, rank())))
    })
}

/// How a communicator comes to be, or none for a rank without part in a split.
type Make = Box<dyn FnOnce() -> Result<Option<Communicator>, Error> + Send>;

/// A start of a communicator that can be handed to a thread. If it is dropped instead, the communicator has failed.
pub struct Start {
    what: &'static str,
    comm: Option<Arc<Comm>>,
    parent: Option<Arc<Comm>>,
    make: Option<Make>,
    /// The parent knows: no other call until it has ended.
    begun: bool,
}

impl Start {
    /// `comm` is the one that starts; `parent` the one that is split.
    pub fn new(
        what: &'static str,
        comm: Option<Arc<Comm>>,
        parent: Option<Arc<Comm>>,
        make: Make,
    ) -> Start {
        Start {
            what,
            comm,
            parent,
            make: Some(make),
            begun: false,
        }
    }

    fn begin(&mut self) {
        if let Some(parent) = &self.parent
            && !self.begun
        {
            parent.calls.begin_split();
            self.begun = true;
        }
    }

    /// Whether the caller waits for it: a split is a call on the parent.
    pub fn blocking(&self) -> bool {
        let waits = self.parent.as_ref().or(self.comm.as_ref());
        waits.is_none_or(|comm| comm.blocking)
    }

    /// The handle of the communicator that is split; splits of one must be made in their order.
    pub fn parent(&self) -> Option<usize> {
        self.parent.as_ref().map(|parent| parent.handle)
    }

    fn told(&self, outcome: Outcome<Option<Communicator>>) -> Outcome<()> {
        let rank = self
            .parent
            .as_ref()
            .and_then(|p| p.place())
            .map(|(rank, _)| rank);
        let outcome = outcome.map_err(|fail| fail.within(self.what, rank));
        let short = match &outcome {
            Ok(_) => Ok(()),
            Err(fail) => Err(fail.clone()),
        };
        if let Some(comm) = &self.comm {
            comm.started(outcome.and_then(|made| {
                made.ok_or_else(|| {
                    Fail::new(
                        Code::InternalError,
                        "a split with a color gave no communicator",
                    )
                })
            }));
        }
        if let Some(parent) = &self.parent
            && self.begun
        {
            parent
                .calls
                .end_split(short.clone().map_err(|fail| parent.noted(fail)));
        }
        short
    }

    /// Makes the communicator, on this thread.
    pub fn run(mut self) -> Outcome<()> {
        self.begin();
        let Some(make) = self.make.take() else {
            return Ok(());
        };
        let outcome = caught(|| Ok(make()?));
        self.told(outcome)
    }

    /// Hands `starts` to a thread, one after the other.
    pub fn spawn(mut starts: Vec<Start>) -> Outcome<std::thread::JoinHandle<Outcome<()>>> {
        starts.iter_mut().for_each(Start::begin);
        let work = move || {
            let mut first = Ok(());
            for start in starts {
                first = first.and(start.run());
            }
            first
        };
        std::thread::Builder::new()
            .name("hfr-start".into())
            .spawn(work)
            .map_err(|why| {
                Fail::new(
                    Code::SystemError,
                    format!("no thread to start a communicator: {why}; raise the limit on threads"),
                )
            })
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        if self.make.take().is_some() {
            let fail = Fail::new(
                Code::SystemError,
                "the communicator was not started: its group failed before",
            );
            // Whoever dropped it tells the caller.
            let _ = self.told(Err(fail));
        }
    }
}
