//! HFReduce's own shape for Python: named tensors, each handed over when it is ready, and one call that waits for all. Knows nothing of how
//! they are reduced. Invariants: tensors and the fused destination are referenced until `synchronize` has returned, and those on a stream until
//! their reductions have ended; the lock is only taken detached, so that nobody waits for it who holds up the one that has it.

use crate::{
    buffer::{Keep, Maker, Place, View, resolve},
    communicator::Communicator,
    device,
    dtype::Type,
    error::{closed, invalid, raise_in},
    inner::{Inner, Object},
    keep::{Held, in_callback},
    names::{Name, operation},
};
use hfreduce::{Collective, DType, Enqueued, Error, Kind, RawCall, ReduceOp, device::Stream};
use pyo3::{
    intern,
    prelude::*,
    types::{PyString, PyType},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

/// The library's reducer and what its running reductions use.
pub struct State {
    reducer: Option<hfreduce::Reducer>,
    keep: Keep,
    fused: Option<Fused>,
    /// First element and number of elements of each registered tensor.
    tensors: HashMap<String, (usize, usize)>,
    /// Reductions on streams, which no stream waits for yet.
    on_streams: Vec<Enqueued>,
    /// What was handed over, in this order.
    names: Vec<String>,
}

/// Where results go.
struct Fused {
    object: Py<PyAny>,
    at: usize,
    count: usize,
    on_device: bool,
}

impl Drop for State {
    /// May be detached.
    fn drop(&mut self) {
        // Waits until nothing is used any more.
        self.reducer.take();
        for one in self.on_streams.drain(..) {
            let _ = one.pending().wait();
        }
        let mut keep = std::mem::take(&mut self.keep);
        keep.extend(self.fused.take().map(|fused| fused.object));
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
    op: ReduceOp,
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
        maker: Maker,
        keep: &mut Keep,
    ) -> PyResult<View> {
        let place = Place {
            rank: self.group.rank,
            operation,
            role: "tensor",
            index: None,
            maker,
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
            tensors: HashMap::new(),
            on_streams: Vec::new(),
            names: Vec::new(),
        };
        let state = Arc::new(Mutex::new(Some(state)));
        group.hold(&state);
        Ok(Reducer {
            state,
            group,
            dtype,
            op,
        })
    }

    /// Makes a tensor of `count` elements known. All ranks register the same tensors in the same order.
    fn register(&self, py: Python<'_>, name: &str, count: usize) -> PyResult<()> {
        self.with(py, "register", |reducer, state| {
            reducer.register(name, count)?;
            let first = reducer.total() - count;
            state.tensors.insert(name.to_owned(), (first, count));
            Ok(())
        })
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
                let view = self.view(destination, OPERATION, Maker::Either, &mut keep)?;
                if !view.writable {
                    let why = "the destination is read-only; pass a writable one";
                    return Err(invalid(py, self.group.rank, OPERATION, why));
                }
                // An export is a memoryview, which holds its owner.
                let object = keep.pop().unwrap_or_else(|| destination.clone().unbind());
                Some(Fused {
                    object,
                    at: view.at.addr(),
                    count: view.count,
                    on_device: view.device.is_some(),
                })
            }
        };
        let at = fused.as_ref().map_or(0, |fused| fused.at);
        self.with(py, OPERATION, move |reducer, state| {
            // SAFETY: the destination is referenced in the state until the last reduction into it has ended.
            unsafe { reducer.set_fused_destination(at as *mut u8) };
            let before = std::mem::replace(&mut state.fused, fused);
            state.keep.extend(before.map(|before| before.object));
            Ok(())
        })
    }

    /// Hands a tensor over; returns at once. It must be left alone until `synchronize` has returned. With a stream, the reduction is behind
    /// what the stream has been given, and the tensor and the fused destination are in device memory or pinned.
    #[pyo3(signature = (name, tensor, *, stream=None))]
    fn async_reduce(
        &self,
        py: Python<'_>,
        name: &str,
        tensor: &Bound<'_, PyAny>,
        stream: Object<'_, '_>,
    ) -> PyResult<()> {
        const OPERATION: &str = "async_reduce";
        let mut keep = vec![tensor.clone().unbind()];
        let stream = device::stream(self.group.rank, OPERATION, stream)?;
        let view = self.view(tensor, OPERATION, Maker::of(stream), &mut keep)?;
        let (comm, of) = (self.group.get(py)?, (self.dtype, self.op));
        let (at, count, writable) = (view.at.addr(), view.count, view.writable);
        self.with(py, OPERATION, move |reducer, state| {
            state
                .accept(reducer, (writable, stream))
                .map_err(|e| Error {
                    rank: Some(comm.rank()),
                    ..e
                })?;
            match stream {
                // SAFETY: referenced in the state until `synchronize` has returned, or the reduction has ended.
                None => unsafe { reducer.reduce(name, at as *mut u8, count) }?,
                Some(stream) => {
                    let call = state.call(name, (at, count), of)?;
                    // SAFETY: as above.
                    let on = unsafe { comm.enqueue(call, stream) }?;
                    state.on_streams.push(on);
                }
            }
            state.names.push(name.to_owned());
            state.keep.append(&mut keep);
            Ok(())
        })
    }

    /// Waits for all tensors that were handed over; returns their names in that order. With a stream, what the stream is given from now on
    /// waits for those that were handed over on streams, and the host waits for none of them.
    #[pyo3(signature = (*, stream=None))]
    fn synchronize(&self, py: Python<'_>, stream: Object<'_, '_>) -> PyResult<Vec<String>> {
        const OPERATION: &str = "synchronize";
        let stream = device::stream(self.group.rank, OPERATION, stream)?;
        if in_callback() {
            let why =
                "called in a callback, on the thread that runs the calls, which would be for ever";
            return Err(invalid(py, self.group.rank, OPERATION, why));
        }
        let mut ended = Keep::new();
        let taken = &mut ended;
        self.with(py, OPERATION, move |reducer, state| {
            let names = std::mem::take(&mut state.names);
            let mut outcome = reducer.synchronize().map(|_| names);
            let on_streams = std::mem::take(&mut state.on_streams);
            let keep = std::mem::take(&mut state.keep);
            let Some(stream) = stream else {
                for one in on_streams {
                    let end = one.pending().wait();
                    outcome = outcome.and_then(|names| end.map(|()| names));
                }
                *taken = keep;
                return outcome;
            };
            // The last reduction that ends lets go of everything.
            let held = Arc::new(Held::new(keep));
            for one in on_streams {
                let known = one.pending().result().unwrap_or(Ok(()));
                let end = known.and_then(|()| one.block(stream));
                outcome = outcome.and_then(|names| end.map(|()| names));
                let held = held.clone();
                one.pending().then(move |_| drop(held));
            }
            outcome
        })
    }
}

impl State {
    /// Refuses a tensor that cannot be reduced into what is there.
    fn accept(
        &self,
        reducer: &hfreduce::Reducer,
        (writable, stream): (bool, Option<Stream>),
    ) -> Result<(), Error> {
        let refuse = |cause: String, remedy| Err(Error::new(Kind::InvalidArgument, cause, remedy));
        let total = reducer.total();
        match &self.fused {
            Some(fused) if fused.count < total => refuse(
                format!(
                    "the fused destination has {} elements, and all tensors {total}",
                    fused.count
                ),
                "pass one that holds total() elements",
            ),
            Some(fused) if fused.on_device && stream.is_none() => refuse(
                "the fused destination is in device memory, and the tensor was given without a stream"
                    .to_owned(),
                "pass stream=",
            ),
            None if !writable => refuse(
                "the tensor is read-only, and results stay in place".to_owned(),
                "set a fused destination, or pass a writable tensor",
            ),
            _ => Ok(()),
        }
    }

    /// The reduction of a tensor, as the library's reducer makes it.
    fn call(
        &self,
        name: &str,
        (at, count): (usize, usize),
        (dtype, op): (DType, ReduceOp),
    ) -> Result<RawCall, Error> {
        let Some((first, _)) = self.tensors.get(name).filter(|known| known.1 == count) else {
            let cause = format!("no tensor `{name}` of {count} elements is registered");
            let remedy = "register every tensor before it is reduced, with its length";
            return Err(Error::new(Kind::InvalidArgument, cause, remedy));
        };
        let fused = self.fused.as_ref().map(|f| f.at + first * dtype.size());
        Ok(RawCall {
            collective: Collective::AllReduce,
            dtype,
            op,
            count,
            input: at as *const u8,
            output: fused.unwrap_or(at) as *mut u8,
            blocks: None,
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
