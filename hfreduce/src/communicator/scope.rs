//! Calls that run while the caller goes on: a scope in the manner of `std::thread::scope`. Buffers are borrowed until the scope ends, and it
//! does not end before every call in it has; that is what makes it sound, however the caller leaves. Calls are run in order by one
//! worker thread per communicator, several at a time in the engine's pipeline.

use super::{
    Communicator,
    core::{Core, RawCall, Running},
    raw,
};
use crate::{dtype::Element, error::Error, op::ReduceOp, plan::Collective};
use std::{
    marker::PhantomData,
    sync::{Arc, Condvar, Mutex},
};

/// Where the worker leaves a call's result.
#[derive(Default)]
struct Slot {
    result: Mutex<Option<Result<(), Error>>>,
    told: Condvar,
}

impl Slot {
    fn tell(&self, result: Result<(), Error>) {
        if let Ok(mut slot) = self.result.lock() {
            *slot = Some(result);
        }
        self.told.notify_all();
    }

    fn wait(&self) -> Result<(), Error> {
        let guard = self.result.lock().expect("nobody panics while holding it");
        let told = self.told.wait_while(guard, |r| r.is_none());
        told.expect("nobody panics while holding it")
            .clone()
            .expect("waited for it")
    }
}

struct Order {
    call: RawCall,
    slot: Arc<Slot>,
}

/// The queue between callers and the worker.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    orders: Vec<Order>,
    /// Calls that were ordered and have not ended.
    open: usize,
    started: bool,
    closed: bool,
}

impl Queue {
    /// Whether calls are under way that later ones must come behind.
    pub fn busy(&self) -> bool {
        self.state.lock().is_ok_and(|s| s.open > 0)
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

    fn next(&self) -> Option<Vec<Order>> {
        let guard = self.state.lock().ok()?;
        let mut state = self
            .changed
            .wait_while(guard, |s| s.orders.is_empty() && !s.closed)
            .ok()?;
        (!state.orders.is_empty()).then(|| std::mem::take(&mut state.orders))
    }

    fn ended(&self, order: &Order, result: Result<(), Error>) {
        if let Ok(mut state) = self.state.lock() {
            state.open -= 1;
        }
        order.slot.tell(result);
    }
}

/// Runs orders until the queue is closed.
fn work(core: &Mutex<Core>, queue: &Queue) {
    let mut running: Vec<(Order, Running)> = Vec::new();
    while let Some(orders) = queue.next() {
        let mut core = core
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut incoming = orders;
        loop {
            for order in incoming.drain(..) {
                // SAFETY: whoever ordered keeps the buffers until told.
                match unsafe { core.submit(&order.call) } {
                    Ok(job) => running.push((order, job)),
                    Err(error) => queue.ended(&order, Err(error)),
                }
            }
            if running.is_empty() {
                break;
            }
            let outcome = core
                .run(|core| running.iter().any(|(_, job)| core.finished(job)) || queue.waiting());
            running.retain(|(order, job)| {
                let result = match &outcome {
                    Ok(()) if core.finished(job) => Ok(()),
                    Ok(()) => return true,
                    Err(error) => Err(error.clone()),
                };
                core.ended(job, result.is_ok());
                queue.ended(order, result);
                false
            });
            if let Ok(mut state) = queue.state.lock() {
                incoming = std::mem::take(&mut state.orders);
            }
        }
    }
}

impl Communicator {
    /// Runs `f` with a scope in which calls may be started that run while `f` goes on. Returns when `f` and all of them have ended.
    ///
    /// Calls of one communicator run in the order in which they were started, which must be the same on all ranks.
    ///
    /// # Errors
    /// What `f` returns; otherwise the first failure of a call nobody waited for.
    pub fn scope<'env, T, E, F>(&'env self, f: F) -> Result<T, E>
    where
        F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> Result<T, E>,
        E: From<Error>,
    {
        struct All(Mutex<Vec<Arc<Slot>>>);
        impl Drop for All {
            // Also when `f` panics: the buffers are borrowed until every call has ended.
            fn drop(&mut self) {
                let slots = self
                    .0
                    .get_mut()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                for slot in slots {
                    let _ = slot.wait();
                }
            }
        }
        let all = All(Mutex::new(Vec::new()));
        let scope = Scope {
            comm: self,
            slots: &all.0,
            scope: PhantomData,
        };
        // SAFETY: `scope` refers to `all`, which outlives it; the closure cannot keep it.
        let result = f(unsafe { &*std::ptr::from_ref(&scope) });
        let slots = std::mem::take(
            &mut *all
                .0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        let mut first = Ok(());
        for slot in &slots {
            first = first.and(slot.wait());
        }
        let value = result?;
        first.map_err(E::from)?;
        Ok(value)
    }

    /// Hands a call to the worker thread and returns at once.
    ///
    /// # Safety
    /// The buffers must be left alone until the slot is told.
    unsafe fn order(&self, call: RawCall) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        let queue = &self.queue;
        let mut state = queue
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if !state.started {
            let (core, queue) = (self.core.clone(), self.queue.clone());
            let spawned = std::thread::Builder::new()
                .name("hfr-worker".into())
                .spawn(move || work(&core, &queue));
            if let Err(why) = spawned {
                slot.tell(Err(Error::new(
                    crate::error::Kind::Start,
                    format!("no thread for overlapping calls: {why}"),
                    "raise the limit on threads",
                )));
                return slot;
            }
            state.started = true;
        }
        state.open += 1;
        state.orders.push(Order {
            call,
            slot: slot.clone(),
        });
        drop(state);
        queue.changed.notify_all();
        self.shared.ring();
        slot
    }

    /// Runs a call behind those of the worker, and waits for it.
    ///
    /// # Safety
    /// As [`Communicator::run`].
    pub(super) unsafe fn run_behind(&self, call: RawCall) -> Result<(), Error> {
        // SAFETY: the caller's promise; we wait here until the slot is told.
        unsafe { self.order(call) }.wait()
    }
}

/// Calls that overlap with their caller; see [`Communicator::scope`].
pub struct Scope<'scope, 'env: 'scope> {
    comm: &'env Communicator,
    slots: &'scope Mutex<Vec<Arc<Slot>>>,
    scope: PhantomData<&'scope mut &'scope ()>,
}

/// A call that was started in a scope.
#[must_use = "a failure of the call is only seen by waiting for it, or at the end of the scope"]
pub struct Handle<'scope> {
    slot: Arc<Slot>,
    scope: PhantomData<&'scope ()>,
}

impl Handle<'_> {
    /// Waits until the call has ended on this rank.
    ///
    /// # Errors
    /// The call's.
    pub fn wait(self) -> Result<(), Error> {
        self.slot.wait()
    }

    /// Whether the call has ended.
    pub fn is_done(&self) -> bool {
        self.slot.result.lock().is_ok_and(|r| r.is_some())
    }
}

impl<'scope> Scope<'scope, '_> {
    fn start(&'scope self, call: RawCall) -> Handle<'scope> {
        // SAFETY: the buffers are borrowed for 'scope, and the scope ends only when the call has.
        let slot = unsafe { self.comm.order(call) };
        if let Ok(mut slots) = self.slots.lock() {
            slots.push(slot.clone());
        }
        Handle {
            slot,
            scope: PhantomData,
        }
    }

    /// Starts an all_reduce in place.
    ///
    /// # Errors
    /// None yet; failures come with the handle.
    pub fn all_reduce<T: Element>(
        &'scope self,
        buffer: &'scope mut [T],
        op: ReduceOp,
    ) -> Result<Handle<'scope>, Error> {
        Ok(self.start(raw(
            Collective::AllReduce,
            op,
            buffer.len(),
            buffer.as_ptr(),
            buffer.as_mut_ptr(),
        )))
    }

    /// Starts a broadcast in place.
    ///
    /// # Errors
    /// As [`Scope::all_reduce`].
    pub fn broadcast<T: Element>(
        &'scope self,
        buffer: &'scope mut [T],
        root: usize,
    ) -> Result<Handle<'scope>, Error> {
        let collective = Collective::Broadcast { root: root as u32 };
        Ok(self.start(raw(
            collective,
            ReduceOp::Sum,
            buffer.len(),
            buffer.as_ptr(),
            buffer.as_mut_ptr(),
        )))
    }

    /// Starts a reduce_scatter: `input` is one block of `output.len()` elements per rank.
    ///
    /// # Errors
    /// Lengths that do not fit.
    pub fn reduce_scatter<T: Element>(
        &'scope self,
        input: &'scope [T],
        output: &'scope mut [T],
        op: ReduceOp,
    ) -> Result<Handle<'scope>, Error> {
        self.comm
            .fits("reduce_scatter's input", input.len(), output.len())?;
        Ok(self.start(raw(
            Collective::ReduceScatter,
            op,
            output.len(),
            input.as_ptr(),
            output.as_mut_ptr(),
        )))
    }

    /// Starts an all_gather: `output` is one block of `input.len()` elements per rank.
    ///
    /// # Errors
    /// Lengths that do not fit.
    pub fn all_gather<T: Element>(
        &'scope self,
        input: &'scope [T],
        output: &'scope mut [T],
    ) -> Result<Handle<'scope>, Error> {
        self.comm
            .fits("all_gather's output", output.len(), input.len())?;
        Ok(self.start(raw(
            Collective::AllGather,
            ReduceOp::Sum,
            input.len(),
            input.as_ptr(),
            output.as_mut_ptr(),
        )))
    }
}
