//! The communicator as Python sees it: methods that take buffers, and the native form `run` and `start` that all of them come down to.
//! Knows no array library and holds no memory. Invariant: arguments are understood here, and everything is done by `inner`.

use crate::{
    call::Order,
    device,
    error::{invalid, raise},
    inner::{Inner, Object, interruptible},
    join,
    keep::{in_callback, sweep},
    memory,
    names::{Name, name, operation},
    pending::Pending,
};
use pyo3::{prelude::*, types::PyString};
use std::sync::Arc;

type Text<'a, 'py> = Option<&'a Bound<'py, PyString>>;

/// Operation and factor of a call that reduces nothing.
const PLAIN: (Text<'static, 'static>, Option<f64>) = (None, None);

/// A group of ranks that call collectives together, all the same ones in the same order.
#[pyclass(frozen, module = "hfreduce")]
pub struct Communicator {
    pub inner: Arc<Inner>,
}

impl Communicator {
    pub fn new(comm: hfreduce::Communicator) -> Communicator {
        Communicator {
            inner: Inner::new(comm),
        }
    }

    fn order(
        &self,
        name: Name,
        (op, factor): (Text<'_, '_>, Option<f64>),
        root: i64,
        stream: Object<'_, '_>,
    ) -> PyResult<Order> {
        let Inner { rank, size, .. } = *self.inner;
        Ok(Order {
            rank,
            size,
            name,
            op: operation(rank, name, op, factor)?,
            root,
            stream: device::stream(rank, name.text(), stream)?,
        })
    }

    fn collective(
        &self,
        py: Python<'_>,
        (name, root): (Name, i64),
        (input, output): (Object<'_, '_>, Object<'_, '_>),
        op: (Text<'_, '_>, Option<f64>),
        (async_op, stream): (bool, Object<'_, '_>),
    ) -> PyResult<Option<Pending>> {
        let order = self.order(name, op, root, stream)?;
        if async_op {
            self.inner.start(py, order, input, output).map(Some)
        } else {
            self.inner.run(py, order, input, output).map(|()| None)
        }
    }

    fn message(
        &self,
        py: Python<'_>,
        buffer: &Bound<'_, PyAny>,
        sends: bool,
        (other, tag): (i64, i64),
        (async_op, stream): (bool, Object<'_, '_>),
    ) -> PyResult<Option<Pending>> {
        let operation = if sends { "send" } else { "recv" };
        let stream = device::stream(self.inner.rank, operation, stream)?;
        let pending = self
            .inner
            .pair(py, buffer, operation, (other, tag), stream, sends)?;
        match stream {
            _ if async_op => return Ok(Some(pending)),
            Some(stream) => pending.block_on(py, stream)?,
            None => pending.wait_until(py, None).map(|_| ())?,
        }
        Ok(None)
    }
}

#[pymethods]
impl Communicator {
    /// Joins the job that the environment describes (torchrun, MPI launchers, Slurm, hfr run); alone where there is none.
    #[staticmethod]
    #[pyo3(signature = (*, timeout=None, connect_timeout=None, gpu=None))]
    fn from_env(
        py: Python<'_>,
        timeout: Option<f64>,
        connect_timeout: Option<f64>,
        gpu: Option<bool>,
    ) -> PyResult<Communicator> {
        join::from_env(py, (timeout, connect_timeout), gpu).map(Communicator::new)
    }

    /// Joins the group that meets at a UniqueId, whose bytes all ranks have.
    #[staticmethod]
    #[pyo3(signature = (id, rank, world, *, timeout=None, connect_timeout=None, gpu=None))]
    fn join(
        py: Python<'_>,
        id: &[u8],
        rank: i64,
        world: i64,
        timeout: Option<f64>,
        connect_timeout: Option<f64>,
        gpu: Option<bool>,
    ) -> PyResult<Communicator> {
        join::at(py, id, (rank, world), (timeout, connect_timeout), gpu).map(Communicator::new)
    }

    /// This process's rank.
    #[getter]
    fn rank(&self) -> usize {
        self.inner.rank
    }

    /// Number of ranks.
    #[getter]
    fn size(&self) -> usize {
        self.inner.size
    }

    /// This rank's node.
    #[getter]
    fn node(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.inner.get(py)?.node())
    }

    /// Number of the CUDA device that this rank's calls are on; None before the first one on a stream.
    #[getter]
    fn device(&self, py: Python<'_>) -> PyResult<Option<i32>> {
        Ok(self.inner.get(py)?.device())
    }

    /// Number of nodes.
    #[getter]
    fn nodes(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.inner.get(py)?.nodes())
    }

    /// This rank's number on its node.
    #[getter]
    fn local_rank(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.inner.get(py)?.local_rank())
    }

    /// Ranks on this node.
    #[getter]
    fn local_size(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.inner.get(py)?.local_size())
    }

    /// How nodes reach each other: local, tcp, or none with one node.
    #[getter]
    fn transport(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.inner.get(py)?.transport())
    }

    /// Runs the collective of this name on this thread.
    #[pyo3(signature = (name, input=None, output=None, op=None, factor=None, root=0, *, stream=None))]
    #[allow(clippy::too_many_arguments, reason = "the arguments of a collective")]
    fn run(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyString>,
        input: Object<'_, '_>,
        output: Object<'_, '_>,
        op: Text<'_, '_>,
        factor: Option<f64>,
        root: i64,
        stream: Object<'_, '_>,
    ) -> PyResult<()> {
        let name = self::name(self.inner.rank, name)?;
        let order = self.order(name, (op, factor), root, stream)?;
        self.inner.run(py, order, input, output)
    }

    /// Starts the collective of this name; returns at once. The buffers must be left alone until it has ended.
    #[pyo3(signature = (name, input=None, output=None, op=None, factor=None, root=0, *, stream=None))]
    #[allow(clippy::too_many_arguments, reason = "the arguments of a collective")]
    fn start(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyString>,
        input: Object<'_, '_>,
        output: Object<'_, '_>,
        op: Text<'_, '_>,
        factor: Option<f64>,
        root: i64,
        stream: Object<'_, '_>,
    ) -> PyResult<Pending> {
        let name = self::name(self.inner.rank, name)?;
        let order = self.order(name, (op, factor), root, stream)?;
        self.inner.start(py, order, input, output)
    }

    /// Starts to send the buffer to a rank.
    #[pyo3(signature = (buffer, to, tag=0, *, stream=None))]
    fn send_start(
        &self,
        py: Python<'_>,
        buffer: &Bound<'_, PyAny>,
        to: i64,
        tag: i64,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        self.message(py, buffer, true, (to, tag), (true, stream))
    }

    /// Starts to receive into the buffer from a rank.
    #[pyo3(signature = (buffer, source, tag=0, *, stream=None))]
    fn recv_start(
        &self,
        py: Python<'_>,
        buffer: &Bound<'_, PyAny>,
        source: i64,
        tag: i64,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        self.message(py, buffer, false, (source, tag), (true, stream))
    }

    /// Reduces x over all ranks, into out or in place; afterwards it is the same on all, bit for bit.
    #[pyo3(signature = (x, out=None, op=None, *, factor=None, async_op=false, stream=None))]
    #[allow(clippy::too_many_arguments, reason = "the arguments of a collective")]
    fn all_reduce(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        out: Object<'_, '_>,
        op: Text<'_, '_>,
        factor: Option<f64>,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        let (which, how) = ((Name::AllReduce, 0), (async_op, stream));
        self.collective(py, which, (Some(x), out), (op, factor), how)
    }

    /// Reduces one share per rank and leaves each rank its own, in out.
    #[pyo3(signature = (x, out=None, op=None, *, factor=None, async_op=false, stream=None))]
    #[allow(clippy::too_many_arguments, reason = "the arguments of a collective")]
    fn reduce_scatter(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        out: Object<'_, '_>,
        op: Text<'_, '_>,
        factor: Option<f64>,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        let (which, how) = ((Name::ReduceScatter, 0), (async_op, stream));
        self.collective(py, which, (Some(x), out), (op, factor), how)
    }

    /// Gives every rank every rank's x, in out; with x None this rank's own share of out is its input.
    #[pyo3(signature = (x, out, *, async_op=false, stream=None))]
    fn all_gather(
        &self,
        py: Python<'_>,
        x: Object<'_, '_>,
        out: &Bound<'_, PyAny>,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        let (which, how) = ((Name::AllGather, 0), (async_op, stream));
        self.collective(py, which, (x, Some(out)), PLAIN, how)
    }

    /// Gives every rank the root's x, in place.
    #[pyo3(signature = (x, root=0, *, async_op=false, stream=None))]
    fn broadcast(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        root: i64,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        let (which, how) = ((Name::Broadcast, root), (async_op, stream));
        self.collective(py, which, (Some(x), None), PLAIN, how)
    }

    /// Reduces x over all ranks; the root gets the result, in out or in place.
    #[pyo3(signature = (x, out=None, op=None, root=0, *, factor=None, async_op=false, stream=None))]
    #[allow(clippy::too_many_arguments, reason = "the arguments of a collective")]
    fn reduce(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        out: Object<'_, '_>,
        op: Text<'_, '_>,
        root: i64,
        factor: Option<f64>,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        let (which, how) = ((Name::Reduce, root), (async_op, stream));
        self.collective(py, which, (Some(x), out), (op, factor), how)
    }

    /// Share s of x goes to rank s, and share s of out comes from it.
    #[pyo3(signature = (x, out, *, async_op=false, stream=None))]
    fn all_to_all(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        let (which, how) = ((Name::AllToAll, 0), (async_op, stream));
        self.collective(py, which, (Some(x), Some(out)), PLAIN, how)
    }

    /// As all_to_all, with lists of buffers of any sizes.
    #[pyo3(signature = (x, out, *, async_op=false, stream=None))]
    fn all_to_all_v(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        let (which, how) = ((Name::AllToAllV, 0), (async_op, stream));
        self.collective(py, which, (Some(x), Some(out)), PLAIN, how)
    }

    /// Gives the root every rank's x, in out, which the others need not have.
    #[pyo3(signature = (x, out=None, root=0, *, async_op=false, stream=None))]
    fn gather(
        &self,
        py: Python<'_>,
        x: Object<'_, '_>,
        out: Object<'_, '_>,
        root: i64,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        let (which, how) = ((Name::Gather, root), (async_op, stream));
        self.collective(py, which, (x, out), PLAIN, how)
    }

    /// Gives every rank its share of the root's x, which the others need not have, in out.
    #[pyo3(signature = (x, out=None, root=0, *, async_op=false, stream=None))]
    fn scatter(
        &self,
        py: Python<'_>,
        x: Object<'_, '_>,
        out: Object<'_, '_>,
        root: i64,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        let (which, how) = ((Name::Scatter, root), (async_op, stream));
        self.collective(py, which, (x, out), PLAIN, how)
    }

    /// Returns when all ranks have come here.
    #[pyo3(signature = (*, async_op=false, stream=None))]
    fn barrier(
        &self,
        py: Python<'_>,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        let (which, how) = ((Name::Barrier, 0), (async_op, stream));
        self.collective(py, which, (None, None), PLAIN, how)
    }

    /// Sends x to a rank.
    #[pyo3(signature = (x, to, tag=0, *, async_op=false, stream=None))]
    fn send(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        to: i64,
        tag: i64,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        self.message(py, x, true, (to, tag), (async_op, stream))
    }

    /// Receives into x from a rank.
    #[pyo3(signature = (x, source, tag=0, *, async_op=false, stream=None))]
    fn recv(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        source: i64,
        tag: i64,
        async_op: bool,
        stream: Object<'_, '_>,
    ) -> PyResult<Option<Pending>> {
        self.message(py, x, false, (source, tag), (async_op, stream))
    }

    /// A communicator of the ranks with the same color, ordered by key; None for no part in any. All ranks call it.
    #[pyo3(signature = (color, key=0))]
    fn split(
        &self,
        py: Python<'_>,
        color: Option<u32>,
        key: i64,
    ) -> PyResult<Option<Communicator>> {
        let comm = self.inner.get(py)?;
        if in_callback() {
            let why =
                "called in a callback, on the thread that runs the calls, which would be for ever";
            return Err(invalid(py, self.inner.rank, "split", why));
        }
        let made = interruptible(py, move || comm.split(color, key))?;
        Ok(made.map(Communicator::new))
    }

    /// Ends the group: every call on every rank fails from now on, those that run included.
    fn abort(&self, py: Python<'_>, why: &str) -> PyResult<()> {
        let comm = self.inner.get(py)?;
        py.detach(|| comm.abort(why));
        Ok(())
    }

    /// Leaves the group. Later calls raise; closing twice is fine.
    fn close(&self, py: Python<'_>) {
        sweep(py);
        self.inner.close();
    }

    /// The error with which the group has failed, if it has.
    fn failure<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let failure = self.inner.get(py)?.failure();
        Ok(failure.map(|error| raise(py, &error).into_value(py).into_bound(py).into_any()))
    }

    /// The last 64 calls of this rank and whom it waits for.
    fn report(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.inner.get(py)?.report())
    }

    /// So many bytes of memory that all ranks of the node see: calls on it copy nothing in or out. Zeroed.
    fn alloc<'py>(slf: &Bound<'py, Self>, nbytes: usize) -> PyResult<Bound<'py, PyAny>> {
        memory::shared(slf, nbytes)
    }

    /// A numpy array in such memory.
    #[pyo3(signature = (shape, dtype=None))]
    fn empty<'py>(
        slf: &Bound<'py, Self>,
        shape: &Bound<'py, PyAny>,
        dtype: Object<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        memory::array(slf, shape, dtype)
    }

    /// A torch tensor in such memory.
    #[pyo3(signature = (shape, dtype=None))]
    fn torch_empty<'py>(
        slf: &Bound<'py, Self>,
        shape: &Bound<'py, PyAny>,
        dtype: Object<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        memory::tensor(slf, shape, dtype)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_raised))]
    fn __exit__(&self, py: Python<'_>, _raised: &Bound<'_, pyo3::types::PyTuple>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        let Inner { rank, size, .. } = *self.inner;
        format!("<hfreduce.Communicator: rank {rank} of {size}>")
    }
}
