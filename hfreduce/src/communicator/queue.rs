//! Calls that run while their callers go on: one worker thread per communicator runs them in the order in which they were started, several
//! at a time in the engine's pipeline. It starts with the first of them. Invariant: a call is told its end exactly once, however
//! the communicator ends.

use super::{
    Communicator,
    core::{Core, EndsOnPanic, RawCall, Running},
    pending::{Pending, Promise},
    place,
    shared::Shared,
};
use crate::{
    device::OnDevice,
    error::{Error, Kind},
};
use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::ThreadId,
    time::Duration,
};

struct Order {
    call: RawCall,
    promise: Promise,
    device: Option<OnDevice>,
}

impl Order {
    /// Whether the call's buffers are ready.
    fn is_ready(&self) -> Result<bool, Error> {
        let Some(device) = &self.device else {
            return Ok(true);
        };
        device.context.adopt()?;
        device.gate.is_open()
    }

    /// Whether the driver may be asked for what it gives only when no stream waits.
    fn is_first(&self) -> bool {
        self.device.as_ref().is_some_and(OnDevice::is_first)
    }
}

/// The queue between callers and the worker.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    idle: Condvar,
    /// `State::open`, for those who do not hold the lock.
    open: AtomicUsize,
    at_gate: AtomicBool,
}

#[derive(Default)]
struct State {
    orders: Vec<Order>,
    /// Calls that were ordered and have not ended.
    open: usize,
    started: bool,
    closed: bool,
    /// The worker, while it lives.
    worker: Option<ThreadId>,
}

impl Queue {
    /// Whether calls are under way that later ones must come behind.
    pub fn busy(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0
    }

    /// Whether nothing is under way but streams that have not come to their calls.
    pub fn at_gate(&self) -> bool {
        self.at_gate.load(Ordering::Relaxed)
    }

    /// Orders wait for the worker.
    fn waiting(&self) -> bool {
        self.state.lock().is_ok_and(|s| !s.orders.is_empty())
    }

    /// Ends the worker once it has nothing to do.
    pub fn close(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.closed = true;
        }
        self.changed.notify_all();
    }

    /// Waits for at most `limit` until the worker is gone, and with it what it held; not on the worker itself, which would be in a callback.
    pub fn gone(&self, limit: Duration) {
        let Ok(state) = self.state.lock() else {
            return;
        };
        let own = std::thread::current().id();
        let lives = |state: &mut State| state.worker.is_some_and(|worker| worker != own);
        drop(self.idle.wait_timeout_while(state, limit, lives));
    }

    /// Waits until no call is open, for at most `limit`; whether none is.
    pub fn drained(&self, limit: Duration) -> bool {
        let Ok(state) = self.state.lock() else {
            return true;
        };
        let idle = self
            .idle
            .wait_timeout_while(state, limit, |state| state.open > 0);
        idle.unwrap_or_else(PoisonError::into_inner).0.open == 0
    }

    fn next(&self) -> Option<Vec<Order>> {
        let guard = self.state.lock().ok()?;
        let mut state = self
            .changed
            .wait_while(guard, |s| s.orders.is_empty() && !s.closed)
            .ok()?;
        (!state.orders.is_empty()).then(|| std::mem::take(&mut state.orders))
    }

    fn take(&self) -> Vec<Order> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.orders)
    }

    fn ended(&self, order: &Order, result: Result<(), Error>) {
        if let Ok(mut state) = self.state.lock() {
            state.open -= 1;
            self.open.store(state.open, Ordering::Release);
            if state.open == 0 {
                self.idle.notify_all();
            }
        }
        if let Some(device) = &order.device {
            device.mark.release();
        }
        order.promise.tell(result);
    }

    /// Waits a little, or until something is ordered.
    fn pause(&self) {
        if let Ok(state) = self.state.lock() {
            let waiting = |state: &mut State| state.orders.is_empty() && !state.closed;
            drop(self.changed.wait_timeout_while(state, LOOK, waiting));
        }
    }
}

/// A stream that has not come to its call is looked at so often in a row, and then this often.
const LOOKS: usize = 30;
const LOOK: Duration = Duration::from_micros(50);

/// What the worker leaves behind, however it ends: a queue that takes no orders, and promises that were broken.
struct Closes<'a>(&'a Queue);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.open = 0;
        self.0.open.store(0, Ordering::Release);
        let orders = std::mem::take(&mut state.orders);
        drop(state);
        self.0.idle.notify_all();
        drop(orders);
    }
}

/// The worker has let go of everything, however it ends.
struct Leaves<'a>(&'a Queue);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .worker = None;
        self.0.idle.notify_all();
    }
}

/// Orders that run, by the plan they run on: there they end in order, so that only the first of each plan is ever asked.
#[derive(Default)]
struct Flight {
    /// By plan: its number, and its orders.
    plans: Vec<(usize, VecDeque<Flying>)>,
    started: u64,
}

/// One of them, with its place among all that were started.
struct Flying {
    place: u64,
    order: Order,
    running: Running,
}

impl Flight {
    fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    fn push(&mut self, order: Order, running: Running) {
        let plan = running.job.run();
        let flying = Flying {
            place: self.started,
            order,
            running,
        };
        self.started += 1;
        match self.plans.iter_mut().find(|(run, _)| *run == plan) {
            Some((_, orders)) => orders.push_back(flying),
            None => self.plans.push((plan, VecDeque::from([flying]))),
        }
    }

    fn has_ended(&self, core: &Core) -> bool {
        let mut firsts = self.plans.iter().filter_map(|(_, orders)| orders.front());
        firsts.any(|first| core.finished(&first.running))
    }

    /// Those that have ended, or all, in the order in which they were started.
    fn take(&mut self, core: &Core, all: bool) -> Vec<Flying> {
        let mut taken = Vec::new();
        for (_, orders) in &mut self.plans {
            while let Some(first) =
                orders.pop_front_if(|first| all || core.finished(&first.running))
            {
                taken.push(first);
            }
        }
        self.plans.retain(|(_, orders)| !orders.is_empty());
        taken.sort_unstable_by_key(|flying| flying.place);
        taken
    }
}

/// Runs orders until the queue is closed.
fn work(core: &Mutex<Core>, queue: &Queue) {
    let shared = core
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .shared
        .clone();
    let mut waiting: VecDeque<Order> = VecDeque::new();
    let mut running = Flight::default();
    let mut looks = LOOKS;
    let _closes = Closes(queue);
    loop {
        let incoming = if running.is_empty() && waiting.is_empty() {
            match queue.next() {
                Some(orders) => orders,
                None => return,
            }
        } else {
            queue.take()
        };
        waiting.extend(incoming);
        if running.is_empty() && !at_hand(queue, &shared, &waiting, &mut looks) {
            continue;
        }
        looks = LOOKS;
        // Told with the lock released: a callback may take long, and other threads may want to call.
        for (order, result) in turn(core, queue, &mut waiting, &mut running) {
            queue.ended(&order, result);
        }
    }
}

/// Whether the next call can be started, or ended: waits a little for its buffers, at first by looking again and again.
fn at_hand(queue: &Queue, shared: &Shared, waiting: &VecDeque<Order>, looks: &mut usize) -> bool {
    let Some(next) = waiting.front() else {
        return false;
    };
    let at_hand = shared.poisoned() || !matches!(next.is_ready(), Ok(false));
    queue.at_gate.store(!at_hand, Ordering::Relaxed);
    if !at_hand && *looks > 0 {
        *looks -= 1;
        std::thread::yield_now();
    } else if !at_hand {
        queue.pause();
    }
    at_hand
}

/// Starts what is ready, in order, and runs the engine until something has ended.
fn turn(
    core: &Mutex<Core>,
    queue: &Queue,
    waiting: &mut VecDeque<Order>,
    running: &mut Flight,
) -> Vec<(Order, Result<(), Error>)> {
    let mut core = core.lock().unwrap_or_else(PoisonError::into_inner);
    // Behind the lock, so that in a panic nobody steps the engine in between.
    let shared = core.shared.clone();
    let _ends = EndsOnPanic(&shared);
    let mut ended = Vec::new();
    while let Some(next) = waiting.front() {
        let started = match next.is_ready() {
            // A group that has ended starts nothing, whether its buffers are ready or not.
            Ok(false) if !core.shared.poisoned() => break,
            // Calls that are under way end first, and release the streams that wait for them.
            Ok(true) if next.is_first() && !running.is_empty() => break,
            // SAFETY: whoever ordered keeps the buffers until told.
            Ok(_) => unsafe { start(&mut core, next) },
            // Whose device it is, everybody is told.
            Err(error) => {
                let error = core.here(error);
                Err(core.fail(error))
            }
        };
        let order = waiting.pop_front().expect("it was in front");
        match started {
            Ok(job) => running.push(order, job),
            Err(error) => ended.push((order, Err(error))),
        }
    }
    if running.is_empty() || !ended.is_empty() {
        return ended;
    }
    core.at_gate = !waiting.is_empty();
    let next = waiting.front();
    let outcome = core.run(|core| {
        running.has_ended(core)
            || queue.waiting()
            || next.is_some_and(|order| !order.is_first() && !matches!(order.is_ready(), Ok(false)))
    });
    core.at_gate = false;
    if outcome.is_err() {
        core.quiesce();
    }
    for flying in running.take(&core, outcome.is_err()) {
        core.ended(&flying.running, outcome.is_ok());
        ended.push((flying.order, outcome.clone()));
    }
    ended
}

/// # Safety
/// As [`Core::submit`].
unsafe fn start(core: &mut Core, order: &Order) -> Result<Running, Error> {
    // SAFETY: the caller's promise.
    unsafe { core.submit(&order.call, order.device.as_ref()) }
}

impl Communicator {
    /// Starts a call and returns at once. Calls of one communicator run in the order in which they were made, blocking ones included, which
    /// must be the same on all ranks. Errors come with the result.
    ///
    /// # Safety
    /// As [`Communicator::run`], and the buffers must be left alone until the call has ended.
    pub unsafe fn start(&self, call: RawCall) -> Pending {
        self.order(call, None)
    }

    /// The same, for a call on a device too.
    pub(super) fn order(&self, call: RawCall, device: Option<OnDevice>) -> Pending {
        if let Err(error) = self.born.check() {
            return Pending::ended(Err(error));
        }
        let (promise, pending) = Promise::new();
        let queue = &self.queue;
        let mut state = queue.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            let aborted = || Error::new(Kind::Aborted, "the communicator is closed", "");
            let verdict = self.failure().unwrap_or_else(aborted);
            return Pending::ended(Err(verdict));
        }
        if !state.started {
            let (core, queue) = (self.core.clone(), self.queue.clone());
            let cpus = self.cpus();
            let spawned = std::thread::Builder::new()
                .name("hfr-worker".into())
                .spawn(move || {
                    let _leaves = Leaves(&queue);
                    cpus.iter().for_each(|cpus| place::run_on(cpus));
                    work(&core, &queue);
                    drop(core);
                });
            match spawned {
                Ok(thread) => state.worker = Some(thread.thread().id()),
                Err(why) => {
                    return Pending::ended(Err(Error::new(
                        Kind::Start,
                        format!("no thread for overlapping calls: {why}"),
                        "raise the limit on threads",
                    )));
                }
            }
            state.started = true;
        }
        state.open += 1;
        queue.open.store(state.open, Ordering::Release);
        state.orders.push(Order {
            call,
            promise,
            device,
        });
        drop(state);
        queue.changed.notify_all();
        self.shared.ring();
        pending
    }
}
