//! HFReduce's own shape for Python: named tensors, each handed over when it is ready, and one call that waits for all. Knows nothing of how
//! they are reduced. Invariants: tensors and the fused destination are referenced until `synchronize` has returned; the lock is only
//! taken detached, so that nobody waits for it who holds up the one that has it.

use crate::{
    buffer::{Keep, Place, View, resolve},
    communicator::Communicator,
    dtype::Type,
    error::{closed, invalid, raise_in},
    inner::{Inner, Object},
    keep::{Held, in_callback},
    names::{Name, operation},
};
use hfreduce::{DType, Error, Kind, device::Stream};
use pyo3::{
    intern,
    prelude::*,
    types::{PyString, PyType},
};
use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

/// The library's reducer and what its running reductions use.
pub struct State {
    reducer: Option<hfreduce::Reducer>,
    keep: Keep,
    fused: Option<(Py<PyAny>, usize)>,
}

impl Drop for State {
    /// May be detached.
    fn drop(&mut self) {
        // Waits until nothing is used any more.
        self.reducer.take();
        let mut keep = std::mem::take(&mut self.keep);
        keep.extend(self.fused.take().map(|(object, _)| object));
        drop(Held::new(keep));
    }
}

/// It, until its communicator is closed.
pub type Shared = Arc<Mutex<Option<State>>>;

/// Named tensors of one type that are reduced over a group, each as soon as it is ready.
#[pyclass(frozen, module = "hfreduce")]
pub struct Reducer {
    state: Shared,
    group: Arc<Inner>,
    dtype: DType,
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
        work: impl FnOnce(&mut hfreduce::Reducer, &mut State) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let state = state.as_mut()?;
            let mut reducer = state.reducer.take()?;
            let done = work(&mut reducer, state);
            state.reducer = Some(reducer);
            Some(done)
        });
        done.ok_or_else(|| closed(py, self.group.rank))?
            .map_err(|error| raise_in(py, operation, error))
    }

    /// The buffer's memory, of this reducer's type.
    fn view(
        &self,
        buffer: &Bound<'_, PyAny>,
        operation: &'static str,
        stream: Option<Stream>,
        keep: &mut Keep,
    ) -> PyResult<View> {
        let place = Place {
            rank: self.group.rank,
            operation,
            role: "tensor",
            index: None,
            stream,
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
        let state = State {
            reducer: Some(hfreduce::Reducer::new(group.get(py)?, dtype, op)),
            keep: Keep::new(),
            fused: None,
        };
        let state = Arc::new(Mutex::new(Some(state)));
        group.hold(&state);
        Ok(Reducer {
            state,
            group,
            dtype,
        })
    }

    /// Makes a tensor of `count` elements known. All ranks register the same tensors in the same order.
    fn register(&self, py: Python<'_>, name: &str, count: usize) -> PyResult<()> {
        self.with(py, "register", |r, _| r.register(name, count))
    }

    /// Elements of all registered tensors.
    fn total(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, "total", |r, _| Ok(r.total()))
    }

    /// Results go into this buffer, tensor behind tensor in the order of registration; with None each stays in place.
    #[pyo3(signature = (destination))]
    fn set_fused_dest(&self, py: Python<'_>, destination: Object<'_, '_>) -> PyResult<()> {
        const OPERATION: &str = "set_fused_dest";
        let fused = match destination {
            None => None,
            Some(destination) => {
                let mut keep = Keep::new();
                let view = self.view(destination, OPERATION, None, &mut keep)?;
                if !view.writable {
                    let why = "the destination is read-only; pass a writable one";
                    return Err(invalid(py, self.group.rank, OPERATION, why));
                }
                // An export is a memoryview, which holds its owner.
                let object = keep.pop().unwrap_or_else(|| destination.clone().unbind());
                Some((view, object))
            }
        };
        let (at, fused) = match fused {
            None => (0, None),
            Some((view, object)) => (view.at.addr(), Some((object, view.count))),
        };
        self.with(py, OPERATION, move |reducer, state| {
            // SAFETY: the destination is referenced in the state until the last reduction into it has ended.
            unsafe { reducer.set_fused_destination(at as *mut u8) };
            let before = std::mem::replace(&mut state.fused, fused);
            state.keep.extend(before.map(|(object, _)| object));
            Ok(())
        })
    }

    /// Hands a tensor over; returns at once. It must be left alone until `synchronize` has returned.
    fn async_reduce(&self, py: Python<'_>, name: &str, tensor: &Bound<'_, PyAny>) -> PyResult<()> {
        const OPERATION: &str = "async_reduce";
        let mut keep = vec![tensor.clone().unbind()];
        let view = self.view(tensor, OPERATION, None, &mut keep)?;
        let (rank, at) = (self.group.rank, view.at.addr());
        self.with(py, OPERATION, move |reducer, state| {
            let (total, room) = (reducer.total(), state.fused.as_ref().map(|f| f.1));
            let refuse = |cause: String, remedy: &str| {
                let error = Error::new(Kind::InvalidArgument, cause, remedy);
                Err(Error {
                    rank: Some(rank),
                    ..error
                })
            };
            match room {
                Some(room) if room < total => refuse(
                    format!("the fused destination has {room} elements, and all tensors {total}"),
                    "pass one that holds total() elements",
                ),
                None if !view.writable => refuse(
                    "the tensor is read-only, and results stay in place".to_owned(),
                    "set a fused destination, or pass a writable tensor",
                ),
                _ => {
                    // SAFETY: referenced in the state until `synchronize` has returned.
                    unsafe { reducer.reduce(name, at as *mut u8, view.count) }?;
                    state.keep.append(&mut keep);
                    Ok(())
                }
            }
        })
    }

    /// Waits for all tensors that were handed over; returns their names in that order.
    fn synchronize(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        if in_callback() {
            let why =
                "called in a callback, on the thread that runs the calls, which would be for ever";
            return Err(invalid(py, self.group.rank, "synchronize", why));
        }
        let mut ended = Keep::new();
        let taken = &mut ended;
        self.with(py, "synchronize", move |reducer, state| {
            let names = reducer.synchronize();
            *taken = std::mem::take(&mut state.keep);
            names
        })
    }
}

impl Drop for Reducer {
    /// Waits, detached, until nothing uses the tensors any more.
    fn drop(&mut self) {
        take(&self.state);
    }
}

/// How long a communicator that is closed waits for its reducers' work before it is given up.
const PATIENCE: Duration = Duration::from_secs(2);

fn take(state: &Shared) {
    let take = || state.lock().unwrap_or_else(PoisonError::into_inner).take();
    Python::try_attach(|py| py.detach(|| drop(take())));
}

/// Ends a reducer whose communicator is closed; detached. What still runs after a moment is aborted, since its tensors are in use.
pub fn close(state: &Shared, comm: &hfreduce::Communicator) {
    // Whoever synchronizes has the lock, and is right to wait.
    let Some(state) = state.try_lock().ok().and_then(|mut state| state.take()) else {
        return;
    };
    if state.keep.is_empty() {
        return;
    }
    let (tell, told) = mpsc::channel();
    let waits = std::thread::Builder::new().spawn(move || {
        drop(state);
        // Nobody listens after the second wait.
        let _ = tell.send(());
    });
    if waits.is_ok() && told.recv_timeout(PATIENCE).is_err() {
        comm.abort("the communicator was closed while tensors were reduced");
        let _ = told.recv_timeout(PATIENCE);
    }
}
