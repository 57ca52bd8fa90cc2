//! HFReduce's own shape for Python: named tensors, each handed over when it is ready, and one call that waits for all. Knows nothing of how
//! they are reduced. Invariants: tensors and the fused destination are referenced until `synchronize` has returned; the lock is only
//! taken detached, so that who waits for it does not hold up who has it.

use crate::{
    buffer::{Keep, Place, View, resolve},
    communicator::Communicator,
    dtype::Type,
    error::{closed, invalid, raise_in},
    inner::{Inner, Object},
    names::{Name, operation},
};
use hfreduce::{DType, Error};
use pyo3::{
    intern,
    prelude::*,
    types::{PyString, PyType},
};
use std::sync::{Arc, Mutex, PoisonError};

/// The library's reducer, until its communicator is closed.
pub type Shared = Arc<Mutex<Option<hfreduce::Reducer>>>;

/// Named tensors of one type that are reduced over a group, each as soon as it is ready.
#[pyclass(frozen, module = "hfreduce")]
pub struct Reducer {
    reducer: Shared,
    group: Arc<Inner>,
    dtype: DType,
    /// What the running reductions use.
    keep: Mutex<Keep>,
    fused: Mutex<Option<(Py<PyAny>, usize)>>,
}

fn named(py: Python<'_>, rank: usize, dtype: &Bound<'_, PyAny>) -> PyResult<DType> {
    let text = if dtype.is_instance_of::<PyType>() {
        dtype.getattr(intern!(py, "__name__"))?.str()?
    } else {
        dtype.str()?
    };
    let text = text.to_cow()?;
    match Type::from_name(text.strip_prefix("torch.").unwrap_or(&text)) {
        Some(Type::Number(dtype)) => Ok(dtype),
        _ => {
            let why = format!("{text} is no type that can be reduced, such as float32 or bfloat16");
            Err(invalid(py, rank, "Reducer", &why))
        }
    }
}

impl Reducer {
    /// Does something with the library's reducer, detached.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        operation: &'static str,
        work: impl FnOnce(&mut hfreduce::Reducer) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| {
            let mut reducer = self.reducer.lock().unwrap_or_else(PoisonError::into_inner);
            reducer.as_mut().map(work)
        });
        done.ok_or_else(|| closed(py, self.group.rank))?
            .map_err(|error| raise_in(py, operation, error))
    }

    /// The buffer's memory, of this reducer's type.
    fn view(
        &self,
        buffer: &Bound<'_, PyAny>,
        operation: &'static str,
        keep: &mut Keep,
    ) -> PyResult<View> {
        let place = Place {
            rank: self.group.rank,
            operation,
            role: "tensor",
            index: None,
        };
        let view = resolve(buffer, place, keep)?;
        let of = Type::Number(self.dtype);
        if view.of != of {
            let why = format!("has elements of type {}, and this reducer {of}", view.of);
            return Err(place.refuse_type(&why));
        }
        Ok(view)
    }
}

#[pymethods]
impl Reducer {
    #[new]
    #[pyo3(signature = (comm, dtype=None, op=None, *, factor=None))]
    fn new(
        comm: &Bound<'_, Communicator>,
        dtype: Object<'_, '_>,
        op: Option<&Bound<'_, PyString>>,
        factor: Option<f64>,
    ) -> PyResult<Reducer> {
        let py = comm.py();
        let group = comm.get().inner.clone();
        let dtype = match dtype {
            Some(dtype) => named(py, group.rank, dtype)?,
            None => DType::F32,
        };
        let op = operation(group.rank, Name::AllReduce, op, factor)?;
        let reducer = hfreduce::Reducer::new(group.get(py)?, dtype, op);
        let reducer = Arc::new(Mutex::new(Some(reducer)));
        group.hold(&reducer);
        Ok(Reducer {
            reducer,
            group,
            dtype,
            keep: Mutex::default(),
            fused: Mutex::default(),
        })
    }

    /// Makes a tensor of `count` elements known. All ranks register the same tensors in the same order.
    fn register(&self, py: Python<'_>, name: &str, count: usize) -> PyResult<()> {
        self.with(py, "register", |r| r.register(name, count))
    }

    /// Elements of all registered tensors.
    fn total(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, "total", |r| Ok(r.total()))
    }

    /// Results go into this buffer, tensor behind tensor in the order of registration; with None each stays in place.
    #[pyo3(signature = (destination))]
    fn set_fused_dest(&self, py: Python<'_>, destination: Object<'_, '_>) -> PyResult<()> {
        const OPERATION: &str = "set_fused_dest";
        let fused = match destination {
            None => None,
            Some(destination) => {
                let mut keep = Keep::new();
                let view = self.view(destination, OPERATION, &mut keep)?;
                if !view.writable {
                    let why = "the destination is read-only; pass a writable one";
                    return Err(invalid(py, self.group.rank, OPERATION, why));
                }
                // An export is a memoryview, which holds its owner.
                let object = keep.pop().unwrap_or_else(|| destination.clone().unbind());
                Some((view, object))
            }
        };
        // As a number: an address is not for other threads, and the closure might be.
        let at = fused.as_ref().map_or(0, |(view, _)| view.at.addr());
        self.with(py, OPERATION, move |r| {
            // SAFETY: the destination is referenced here until another takes its place, or the reducer's last reduction has ended.
            unsafe { r.set_fused_destination(at as *mut u8) };
            Ok(())
        })?;
        let mut held = self.fused.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *held, fused.map(|(view, object)| (object, view.count)));
        drop(held);
        // Reductions that run may still write there.
        let mut keep = self.keep.lock().unwrap_or_else(PoisonError::into_inner);
        keep.extend(before.map(|(object, _)| object));
        Ok(())
    }

    /// Hands a tensor over; returns at once. It must be left alone until `synchronize` has returned.
    fn async_reduce(
        &self,
        py: Python<'_>,
        name: &str,
        tensor: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        const OPERATION: &str = "async_reduce";
        let mut keep = vec![tensor.clone().unbind()];
        let view = self.view(tensor, OPERATION, &mut keep)?;
        let room = self
            .fused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|(_, count)| *count);
        let refuse = |why: &str| Err(invalid(py, self.group.rank, OPERATION, why));
        if room.is_none() && !view.writable {
            return refuse("the tensor is read-only, and there is no fused destination");
        }
        let at = view.at.addr();
        let total = self.total(py)?;
        if room.is_some_and(|room| room < total) {
            return refuse(&format!(
                "the fused destination has {} elements, and all tensors {total}",
                room.unwrap_or(0)
            ));
        }
        let held = || self.keep.lock().unwrap_or_else(PoisonError::into_inner);
        held().append(&mut keep);
        self.with(py, OPERATION, move |r| {
            // SAFETY: referenced in `keep` until `synchronize` has returned, or the reducer's last reduction has ended.
            unsafe { r.reduce(name, at as *mut u8, view.count) }
        })
    }

    /// Waits for all tensors that were handed over; returns their names in that order.
    fn synchronize(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let names = self.with(py, "synchronize", hfreduce::Reducer::synchronize);
        let mut keep = self.keep.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = std::mem::take(&mut *keep);
        // Whoever is referenced no more may run code of its own.
        drop(keep);
        drop(ended);
        names
    }
}

impl Drop for Reducer {
    /// Waits, detached, until nothing uses the tensors any more.
    fn drop(&mut self) {
        Python::try_attach(|py| {
            py.detach(|| {
                let mut reducer = self.reducer.lock().unwrap_or_else(PoisonError::into_inner);
                reducer.take();
            });
        });
    }
}
