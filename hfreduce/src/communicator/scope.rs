//! Calls that run while the caller goes on: a scope in the manner of `std::thread::scope`. Buffers are borrowed until the scope ends, and it
//! does not end before every call in it has; that is what makes it sound, however the caller leaves.

use super::{Communicator, calls::raw, core::RawCall, pending::Pending};
use crate::{dtype::Element, error::Error, op::ReduceOp, plan::Collective};
use std::{marker::PhantomData, sync::Mutex};

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
        struct All(Mutex<Vec<Pending>>);
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
        // The last one first: when it has ended, so have the others, and the caller was woken once.
        if let Some(last) = slots.last() {
            let _ = last.wait();
        }
        let mut first = Ok(());
        for slot in &slots {
            first = first.and(slot.wait());
        }
        let value = result?;
        first.map_err(E::from)?;
        Ok(value)
    }
}

/// Calls that overlap with their caller; see [`Communicator::scope`].
pub struct Scope<'scope, 'env: 'scope> {
    comm: &'env Communicator,
    slots: &'scope Mutex<Vec<Pending>>,
    scope: PhantomData<&'scope mut &'scope ()>,
}

/// A call that was started in a scope.
#[must_use = "a failure of the call is only seen by waiting for it, or at the end of the scope"]
pub struct Handle<'scope> {
    slot: Pending,
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
        self.slot.is_done()
    }
}

impl<'scope> Scope<'scope, '_> {
    fn start(&'scope self, call: RawCall) -> Handle<'scope> {
        // SAFETY: the buffers are borrowed for 'scope, and the scope ends only when the call has.
        let slot = unsafe { self.comm.start(call) };
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
