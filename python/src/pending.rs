//! A call that runs while the caller goes on. Waiting releases the interpreter and lets signals through. Knows no collective.
//! Invariant: the buffers' references live until the call has ended, whoever drops what before.

use crate::{
    device,
    error::{invalid, raise_in},
    inner::Inner,
    keep::{Held, enter, in_callback, sweep},
};
use hfreduce::{Enqueued, device::Stream};
use pyo3::{prelude::*, types::PyAny};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The library's side of a call that was started.
pub enum Started {
    /// By the host.
    Host(hfreduce::Pending),
    /// Behind what a stream had been given.
    Stream(Enqueued),
}

/// A call that was started.
#[pyclass(frozen, module = "hfreduce")]
pub struct Pending {
    pub pending: hfreduce::Pending,
    on_stream: Option<Enqueued>,
    /// Nobody says goodbye while its call runs.
    group: Arc<Inner>,
    operation: &'static str,
    /// The buffers' references. Whoever comes first when the call has ended, its thread or one that has waited, lets go of them: a wait
    /// can return before the call's thread gets there.
    held: Arc<Held>,
}

/// Signals are looked for this often.
const SLICE: Duration = Duration::from_millis(100);

/// A number of seconds as the arguments of this package have it.
pub fn seconds(py: Python<'_>, rank: usize, what: &str, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        let why = format!("a timeout of {seconds} seconds; pass a number from 0 on");
        invalid(py, rank, what, &why)
    })
}

impl Pending {
    pub fn new(
        started: Started,
        group: Arc<Inner>,
        operation: &'static str,
        references: Vec<Py<PyAny>>,
    ) -> Pending {
        let (pending, on_stream) = match started {
            Started::Host(pending) => (pending, None),
            Started::Stream(enqueued) => (enqueued.pending().clone(), Some(enqueued)),
        };
        let held = Arc::new(Held::new(references));
        let left = held.clone();
        pending.then(move |_| left.leave());
        Pending {
            pending,
            on_stream,
            group,
            operation,
            held,
        }
    }

    /// Has a stream wait for the result.
    pub fn block_on(&self, py: Python<'_>, stream: Stream) -> PyResult<()> {
        sweep(py);
        let Some(enqueued) = &self.on_stream else {
            let why = "was not put on a stream, so none can wait for it; wait()";
            return Err(invalid(py, self.group.rank, self.operation, why));
        };
        if let Some(Err(error)) = self.pending.result() {
            return Err(raise_in(py, self.operation, error));
        }
        // It may have to wait on the host, for a thread that wants the interpreter.
        py.detach(|| enqueued.block(stream)).map_err(|mut error| {
            error.rank.get_or_insert(self.group.rank);
            raise_in(py, self.operation, error)
        })
    }

    /// Waits, detached, until the call has ended or the time is over (`false`).
    pub fn wait_until(&self, py: Python<'_>, until: Option<Instant>) -> PyResult<bool> {
        let mut result = self.pending.result();
        loop {
            if let Some(result) = result {
                drop(self.held.take(py));
                sweep(py);
                return result
                    .map(|()| true)
                    .map_err(|error| raise_in(py, self.operation, error));
            }
            let left = until.map_or(SLICE, |u| u.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(false);
            }
            if in_callback() {
                let why = "waited for in a callback, on the thread that runs the calls, which would be for ever";
                return Err(invalid(py, self.group.rank, self.operation, why));
            }
            result = py.detach(|| self.pending.wait_for(left.min(SLICE)));
            if result.is_none() {
                py.check_signals()?;
            }
        }
    }
}

#[pymethods]
impl Pending {
    /// Waits until the call has ended; False if `timeout` seconds pass before. The call goes on then.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let until = match timeout {
            None => None,
            Some(timeout) => {
                let limit = seconds(py, self.group.rank, "wait", timeout)?;
                Instant::now().checked_add(limit)
            }
        };
        self.wait_until(py, until)
    }

    /// Has what `stream` is given from now on wait for the result, and returns at once. For calls that were put on a stream. Raises when
    /// the call is known to have failed.
    fn block(&self, stream: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = stream.py();
        let stream = device::stream(self.group.rank, self.operation, Some(stream))?;
        stream.map_or(Ok(()), |stream| self.block_on(py, stream))
    }

    /// Whether the call was put on a stream.
    #[getter]
    fn on_stream(&self) -> bool {
        self.on_stream.is_some()
    }

    /// Whether the call has ended, well or not.
    fn done(&self) -> bool {
        self.pending.result().is_some()
    }

    /// The error of a call that has failed; None while it runs, or when it went well.
    fn error<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match self.pending.result() {
            Some(Err(error)) => Some(
                raise_in(py, self.operation, error)
                    .into_value(py)
                    .into_bound(py)
                    .into_any(),
            ),
            _ => None,
        }
    }

    /// Calls `callback(error)` when the call has ended, with None if it went well: on a thread of the library, or at once.
    fn then(&self, callback: Bound<'_, PyAny>) {
        let held = Held::new(vec![callback.unbind()]);
        let operation = self.operation;
        self.pending.then(move |result| {
            enter(|py| {
                let error = result
                    .err()
                    .map(|error| raise_in(py, operation, error).into_value(py));
                for callback in held.take(py) {
                    if let Err(failed) = callback.call1(py, (error.as_ref(),)) {
                        failed.write_unraisable(py, Some(callback.bind(py)));
                    }
                }
            });
        });
    }

    fn __repr__(&self) -> &'static str {
        match self.pending.result() {
            None => "<hfreduce.Pending: running>",
            Some(Ok(())) => "<hfreduce.Pending: done>",
            Some(Err(_)) => "<hfreduce.Pending: failed>",
        }
    }
}
