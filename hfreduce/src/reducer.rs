//! The shape in which HFReduce itself is used by its trainer (as far as its public benchmark shows): tensors are registered by name once, each
//! is handed over when its gradient is ready, and one call waits for all. Results go into one fused buffer, tensor behind tensor in the
//! order of registration, or stay in place. It knows nothing of how a reduction is carried out.

use crate::{
    communicator::{Communicator, Enqueued, Pending, RawCall},
    device::Stream,
    dtype::DType,
    error::{Error, Kind},
    op::ReduceOp,
    plan::Collective,
};
use std::{collections::HashMap, sync::Arc};

struct Tensor {
    /// Elements in front of it in the fused buffer.
    first: usize,
    count: usize,
}

/// Named tensors of one type that are reduced over a group, each as soon as it is ready.
///
/// All ranks register the same tensors in the same order, and hand them over in the same order.
pub struct Reducer {
    comm: Arc<Communicator>,
    dtype: DType,
    op: ReduceOp,
    tensors: HashMap<String, Tensor>,
    total: usize,
    fused: Option<usize>,
    running: Vec<Running>,
}

/// A tensor that was handed over, and the streams' way to wait for it, if it was handed over on one.
struct Running {
    name: String,
    pending: Pending,
    on: Option<Enqueued>,
}

impl Reducer {
    /// A reducer without tensors.
    pub fn new(comm: Arc<Communicator>, dtype: DType, op: ReduceOp) -> Reducer {
        Reducer {
            comm,
            dtype,
            op,
            tensors: HashMap::new(),
            total: 0,
            fused: None,
            running: Vec::new(),
        }
    }

    fn invalid(&self, cause: String, remedy: &str) -> Error {
        Error::new(Kind::InvalidArgument, cause, remedy).at(self.comm.rank(), self.comm.node())
    }

    /// Makes a tensor of `count` elements known.
    ///
    /// # Errors
    /// A name that is known already; more elements than memory can hold.
    pub fn register(&mut self, name: &str, count: usize) -> Result<(), Error> {
        if self.tensors.contains_key(name) {
            return Err(self.invalid(
                format!("a tensor `{name}` is registered already"),
                "register each tensor once, under a name of its own",
            ));
        }
        let total = self.total.checked_add(count);
        let bytes = total.and_then(|t| t.checked_mul(self.dtype.size()));
        let (Some(total), Some(_)) = (total, bytes.filter(|b| *b <= isize::MAX as usize)) else {
            return Err(self.invalid(
                format!("tensor `{name}` of {count} elements is more than memory can hold"),
                "check the count, which is in elements",
            ));
        };
        let first = self.total;
        self.tensors
            .insert(name.to_owned(), Tensor { first, count });
        self.total = total;
        Ok(())
    }

    /// Elements of all registered tensors: what the fused buffer must hold.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Results go to `at`, which holds [`Reducer::total`] elements; null: each stays in place.
    ///
    /// # Safety
    /// The buffer must be good for results until the last [`Reducer::synchronize`], and for nobody else between a reduction and the
    /// synchronization behind it.
    pub unsafe fn set_fused_destination(&mut self, at: *mut u8) {
        self.fused = (!at.is_null()).then_some(at as usize);
    }

    /// Hands a tensor over; returns at once.
    ///
    /// # Errors
    /// A name that is not registered, another count than registered; failures of the reduction come with [`Reducer::synchronize`].
    ///
    /// # Safety
    /// The tensor must be left alone until [`Reducer::synchronize`] has returned, and be writable where results stay in place.
    pub unsafe fn reduce(
        &mut self,
        name: &str,
        tensor: *mut u8,
        count: usize,
    ) -> Result<(), Error> {
        let call = self.call(name, tensor, count)?;
        // SAFETY: the caller's promise, and that of `set_fused_destination`.
        let pending = unsafe { self.comm.start(call) };
        self.running.push(Running {
            name: name.to_owned(),
            pending,
            on: None,
        });
        Ok(())
    }

    /// Hands over a tensor in device memory, behind what `stream` has been given; returns at once. The fused destination is device memory too.
    ///
    /// # Errors
    /// As [`Reducer::reduce`], and what [`Communicator::enqueue`] refuses.
    ///
    /// # Safety
    /// As [`Reducer::reduce`], with work on the device in the place of threads.
    pub unsafe fn enqueue(
        &mut self,
        name: &str,
        tensor: *mut u8,
        count: usize,
        stream: Stream,
    ) -> Result<(), Error> {
        let call = self.call(name, tensor, count)?;
        // SAFETY: the caller's promise, and that of `set_fused_destination`.
        let on = unsafe { self.comm.enqueue(call, stream) }?;
        self.running.push(Running {
            name: name.to_owned(),
            pending: on.pending().clone(),
            on: Some(on),
        });
        Ok(())
    }

    fn call(&self, name: &str, tensor: *mut u8, count: usize) -> Result<RawCall, Error> {
        let Some(known) = self.tensors.get(name) else {
            return Err(self.invalid(
                format!("no tensor `{name}` is registered"),
                "register every tensor before it is reduced",
            ));
        };
        if known.count != count {
            return Err(self.invalid(
                format!(
                    "tensor `{name}` has {count} elements and was registered with {}",
                    known.count
                ),
                "a tensor keeps its length",
            ));
        }
        let output = match self.fused {
            Some(base) => (base + known.first * self.dtype.size()) as *mut u8,
            None => tensor,
        };
        Ok(RawCall {
            collective: Collective::AllReduce,
            dtype: self.dtype,
            op: self.op,
            count,
            input: tensor,
            output,
            blocks: None,
        })
    }

    /// Waits for all tensors that were handed over; returns their names in that order.
    ///
    /// # Errors
    /// The first failure; none of the results is to be used then.
    pub fn synchronize(&mut self) -> Result<Vec<String>, Error> {
        let mut first = Ok(());
        let mut names = Vec::with_capacity(self.running.len());
        for Running { name, pending, .. } in self.running.drain(..) {
            first = first.and(pending.wait());
            names.push(name);
        }
        first.map(|()| names)
    }

    /// The same for a stream: what it is given from now on waits for the tensors that were handed over on streams, and the host does not. Waits on
    /// the host for the others.
    ///
    /// # Errors
    /// The first failure that is known already; one that comes later is every later call's.
    pub fn synchronize_on(&mut self, stream: Stream) -> Result<Vec<String>, Error> {
        let mut first = Ok(());
        let mut names = Vec::with_capacity(self.running.len());
        for Running { name, pending, on } in self.running.drain(..) {
            first = first.and(match on {
                Some(on) => on
                    .block(stream)
                    // The tensors are in use: where the stream cannot wait for that, the host must.
                    .or_else(|error| pending.wait().and(Err(error)))
                    .and(pending.result().unwrap_or(Ok(()))),
                None => pending.wait(),
            });
            names.push(name);
        }
        first.map(|()| names)
    }
}

impl Drop for Reducer {
    /// The tensors are their owner's again.
    fn drop(&mut self) {
        for running in &self.running {
            let _ = running.pending.wait();
        }
    }
}
