//! What the torch backend needs beyond the classes: an all_reduce that reads torch's own arguments, since DDP makes one call for each bucket;
//! and callbacks that may wait for other calls. Completing one of torch's futures runs whatever
//! a user hung on it, and PowerSGD waits for the next all_reduce in there; so it is done neither on the thread that runs the calls nor on
//! one that another callback may hold. Knows torch's names and never imports it. Invariants: a job is never behind one that waits; the thread that runs
//! calls takes no interpreter lock; a forked child uses none of its parent's threads.

use crate::{
    call::Order,
    communicator::Communicator,
    keep::{Held, visit},
    names::Name,
    pending::Pending,
};
use hfreduce::ReduceOp;
use pyo3::{IntoPyObjectExt, intern, prelude::*, types::PyList};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Threads that run callbacks: as many as there are callbacks that wait at the same time, and one more.
struct Crew {
    process: u32,
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Held>,
    /// Threads that wait for the bell.
    idle: usize,
}

static CREW: OnceLock<Crew> = OnceLock::new();
/// A thread without work for so long ends.
const IDLE: Duration = Duration::from_secs(30);

/// Has the callback called soon, by a thread that nothing else keeps.
fn submit(callback: Held) {
    let process = std::process::id();
    let crew = CREW.get_or_init(|| Crew {
        process,
        state: Mutex::default(),
        bell: Condvar::new(),
    });
    if crew.process == process {
        crew.submit(callback);
    } else {
        // A forked child's copy: its lock may be held by a thread that is not there.
        std::thread::spawn(|| call(callback));
    }
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&'static self, callback: Held) {
        let mut state = self.lock();
        state.jobs.push_back(callback);
        if state.idle >= state.jobs.len() {
            self.bell.notify_one();
            return;
        }
        drop(state);
        let spawned = std::thread::Builder::new()
            .name("hfr-callback".into())
            .spawn(|| self.serve());
        if spawned.is_err() {
            // The next thread that has time takes it, or this one does: late is better than never.
            let job = self.lock().jobs.pop_back();
            job.into_iter().for_each(call);
        }
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                call(job);
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (woken, waited) = self
                .bell
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                return;
            }
        }
    }
}

fn call(held: Held) {
    visit(|py| {
        for callback in held.take(py) {
            call_now(py, &callback);
        }
    });
}

fn call_now(py: Python<'_>, callback: &Py<PyAny>) {
    if let Err(failed) = callback.call1(py, (py.None(),)) {
        failed.write_unraisable(py, Some(callback.bind(py)));
    }
}

/// Calls `callback(None)` when all of them have ended, well or not: at once where they have, else on a thread that may wait for others.
#[pyfunction]
pub fn when_ended(py: Python<'_>, pending: Vec<Py<Pending>>, callback: Py<PyAny>) {
    if pending.iter().all(|p| p.get().pending.result().is_some()) {
        call_now(py, &callback);
        return;
    }
    let left = Arc::new(AtomicUsize::new(pending.len()));
    let held = Arc::new(Mutex::new(Some(Held::new(vec![callback]))));
    for one in &pending {
        let (left, held) = (left.clone(), held.clone());
        one.get().pending.then(move |_| {
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                let last = held.lock().unwrap_or_else(PoisonError::into_inner).take();
                last.into_iter().for_each(submit);
            }
        });
    }
}

/// By torch's numbers, which its operations' hashes are. The one after these has a factor, which the general way reads.
const OPS: [ReduceOp; 8] = [
    ReduceOp::Sum,
    ReduceOp::Avg,
    ReduceOp::Prod,
    ReduceOp::Min,
    ReduceOp::Max,
    ReduceOp::BAnd,
    ReduceOp::BOr,
    ReduceOp::BXor,
];

/// An all_reduce with torch's arguments: None when it is done, a Pending where the caller does not wait, NotImplemented for what is unusual
/// (a factor, a timeout of its own, more than one tensor, a tensor that is not on the CPU).
#[pyfunction]
pub fn all_reduce<'py>(
    comm: &Bound<'py, Communicator>,
    tensors: &Bound<'py, PyList>,
    opts: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = comm.py();
    let op = opts.getattr(intern!(py, "reduceOp"))?.hash()?;
    let timeout = opts.getattr(intern!(py, "timeout"))?;
    // Unset is minus one millisecond, which is a day less and some.
    let unset = timeout.getattr(intern!(py, "days"))?.extract::<i64>()? < 0;
    let (Some(op), true, 1) = (OPS.get(op as usize), unset, tensors.len()) else {
        return Ok(py.NotImplemented().into_bound(py));
    };
    let inner = &comm.get().inner;
    let order = Order {
        rank: inner.rank,
        size: inner.size,
        name: Name::AllReduce,
        op: *op,
        root: 0,
        stream: None,
    };
    let tensor = tensors.get_item(0)?;
    if !tensor.getattr(intern!(py, "is_cpu"))?.is_truthy()? {
        return Ok(py.NotImplemented().into_bound(py));
    }
    // Torch before 2.7 does not say whether the caller waits.
    let starts = match opts.getattr_opt(intern!(py, "asyncOp"))? {
        Some(asynchronous) => asynchronous.is_truthy()?,
        None => true,
    };
    if starts {
        inner
            .start(py, order, Some(&tensor), Some(&tensor))?
            .into_bound_py_any(py)
    } else {
        inner.run(py, order, Some(&tensor), Some(&tensor))?;
        Ok(py.None().into_bound(py))
    }
}
