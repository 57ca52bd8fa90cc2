//! The library's communicator behind the Python object: runs and starts calls, and lets go of it in good order. Knows no argument's
//! meaning. Invariants: whatever blocks is detached from the interpreter; after `close`, and in a forked child, nothing is touched.

use crate::{
    buffer::{self, Keep, Place, resolve},
    call::Order,
    error::{closed, invalid, raise, raise_in},
    keep::{in_callback, sweep},
    pending::{Pending, Started},
    reducer,
};
use hfreduce::{Enqueued, Error, device::Stream};
use pyo3::prelude::*;
use std::{
    sync::{Arc, Mutex, PoisonError, RwLock, Weak, mpsc},
    time::Duration,
};

/// An argument that may be left out.
pub type Object<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

/// The library's communicator, until it is closed.
pub struct Inner {
    open: RwLock<Option<Arc<hfreduce::Communicator>>>,
    /// Reducers hold it too, and let go of it when it is closed.
    reducers: Mutex<Vec<Weak<Mutex<Option<reducer::State>>>>>,
    pub rank: usize,
    pub size: usize,
    /// The process that made it; in a forked child there is nothing to say goodbye to.
    process: u32,
}

/// All that may still be open, for the interpreter's end.
static OPEN: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

impl Inner {
    pub fn new(comm: hfreduce::Communicator) -> Arc<Inner> {
        let inner = Arc::new(Inner {
            rank: comm.rank(),
            size: comm.size(),
            open: RwLock::new(Some(Arc::new(comm))),
            reducers: Mutex::default(),
            process: std::process::id(),
        });
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|weak| weak.strong_count() > 0);
        open.push(Arc::downgrade(&inner));
        inner
    }

    /// The lock is held for moments, by attached threads only.
    pub fn get(&self, py: Python<'_>) -> PyResult<Arc<hfreduce::Communicator>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.clone().ok_or_else(|| closed(py, self.rank))
    }

    /// Runs a call on this thread; one on a stream is put there, and what the stream is given later waits for it.
    pub fn run(
        self: &Arc<Inner>,
        py: Python<'_>,
        order: Order,
        input: Object<'_, '_>,
        output: Object<'_, '_>,
    ) -> PyResult<()> {
        if let Some(stream) = order.stream {
            return self.start(py, order, input, output)?.block_on(py, stream);
        }
        if in_callback() {
            let why = "called where it cannot wait, in a callback, on the thread that runs the calls; start it (async_op=True) instead";
            return Err(invalid(py, self.rank, order.name.text(), why));
        }
        let comm = self.get(py)?;
        let mut keep = Keep::new();
        let call = order.build(py, input, output, &mut keep)?;
        // SAFETY: `build` made the call fit, and the caller holds the arguments and we the rest until this returns.
        let result = py.detach(|| unsafe { comm.run(call) });
        sweep(py);
        result.map_err(|error| raise_in(py, order.name.text(), error))
    }

    /// Starts a call: behind what was started before, and behind what its stream has been given, where it has one.
    pub fn start(
        self: &Arc<Inner>,
        py: Python<'_>,
        order: Order,
        input: Object<'_, '_>,
        output: Object<'_, '_>,
    ) -> PyResult<Pending> {
        sweep(py);
        let comm = self.get(py)?;
        let mut keep = Keep::new();
        let call = order.build(py, input, output, &mut keep)?;
        keep.extend(
            [input, output]
                .into_iter()
                .flatten()
                .map(|o| o.clone().unbind()),
        );
        let operation = order.name.text();
        let started = match order.stream {
            // SAFETY: `build` made the call fit, and `Pending` keeps the references until it has ended.
            None => Started::Host(unsafe { comm.start(call) }),
            Some(stream) => Started::Stream(enqueue(py, operation, || {
                // SAFETY: as above.
                unsafe { comm.enqueue(call, stream) }
            })?),
        };
        Ok(Pending::new(started, self.clone(), operation, keep))
    }

    /// Starts to send to a rank, or to receive from it.
    pub fn pair(
        self: &Arc<Inner>,
        py: Python<'_>,
        buffer: &Bound<'_, PyAny>,
        operation: &'static str,
        (other, tag): (i64, i64),
        stream: Option<Stream>,
        sends: bool,
    ) -> PyResult<Pending> {
        sweep(py);
        let comm = self.get(py)?;
        let place = Place {
            rank: self.rank,
            operation,
            role: "buffer",
            index: None,
            maker: buffer::Maker::of(stream),
        };
        let mut keep = Keep::new();
        let view = resolve(buffer, place, &mut keep)?;
        let refuse = |why: String| Err(invalid(py, self.rank, operation, &why));
        let other = match usize::try_from(other) {
            Ok(other) if other < self.size => other,
            _ => return refuse(format!("rank {other} in a group of {} ranks", self.size)),
        };
        let Ok(tag) = u64::try_from(tag) else {
            return refuse(format!("tag {tag}; tags are whole numbers from 0 on"));
        };
        if !sends && !view.writable {
            return Err(place.refuse(py, "is read-only; pass a writable copy"));
        }
        keep.push(buffer.clone().unbind());
        let (dtype, scale) = view.of.moved();
        let count = view.count * scale;
        let at = view.at.addr();
        let started = match stream {
            None => Started::Host(
                // SAFETY: the view is good for its elements, and `Pending` keeps the references until the call has ended.
                unsafe {
                    if sends {
                        comm.start_send(dtype, count, at as *const u8, other, tag)
                    } else {
                        comm.start_recv(dtype, count, at as *mut u8, other, tag)
                    }
                },
            ),
            Some(stream) => Started::Stream(enqueue(py, operation, || {
                // SAFETY: as above.
                unsafe {
                    if sends {
                        comm.enqueue_send(dtype, count, at as *const u8, other, tag, stream)
                    } else {
                        comm.enqueue_recv(dtype, count, at as *mut u8, other, tag, stream)
                    }
                }
            })?),
        };
        Ok(Pending::new(started, self.clone(), operation, keep))
    }

    /// Makes a reducer known that uses the communicator.
    pub fn hold(&self, reducer: &reducer::Shared) {
        let mut reducers = self.reducers.lock().unwrap_or_else(PoisonError::into_inner);
        reducers.retain(|weak| weak.strong_count() > 0);
        reducers.push(Arc::downgrade(reducer));
    }

    /// Lets go of the communicator, which says goodbye when its last call has ended.
    pub fn close(&self) {
        let taken = self
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(comm) = taken else { return };
        if std::process::id() != self.process {
            std::mem::forget(comm);
            return;
        }
        let mut held = self.reducers.lock().unwrap_or_else(PoisonError::into_inner);
        let reducers = std::mem::take(&mut *held);
        drop(held);
        // Leaving may take a moment, in which other threads go on.
        let mut comm = Some(comm);
        let mut leave = || {
            if let Some(comm) = comm.take() {
                for reducer in reducers.iter().filter_map(Weak::upgrade) {
                    reducer::close(&reducer, &comm);
                }
            }
        };
        Python::try_attach(|py| py.detach(&mut leave));
        leave();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Puts a call on a stream, detached: the first one may pin much memory.
fn enqueue(
    py: Python<'_>,
    operation: &str,
    call: impl FnOnce() -> Result<Enqueued, Error> + Send,
) -> PyResult<Enqueued> {
    py.detach(call)
        .map_err(|error| raise_in(py, operation, error))
}

/// Closes every communicator: at the interpreter's end, so that the other ranks hear a goodbye and not a broken connection.
pub fn close_all() {
    let open = std::mem::take(&mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner));
    for inner in open.iter().filter_map(Weak::upgrade) {
        inner.close();
    }
}

/// Does what takes long on a thread of its own, so that signals are honoured meanwhile. After a signal the thread goes on by itself.
pub fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> PyResult<T> {
    let (tell, told) = mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name("hfr-join".into())
        .spawn(move || {
            // Nobody listens any more after a signal.
            let _ = tell.send(work());
        });
    spawned?;
    let told = Mutex::new(told);
    loop {
        let result = py.detach(|| {
            let told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.recv_timeout(Duration::from_millis(100))
        });
        match result {
            Ok(result) => return result.map_err(|error| raise(py, &error)),
            Err(mpsc::RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(pyo3::exceptions::PyRuntimeError::new_err(
                    "the library panicked while it connected; its message is on the standard error",
                ));
            }
        }
    }
}
