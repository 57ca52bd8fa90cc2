//! Where a group meets, as bytes that the program hands from one rank to the others by its own means. Knows no communicator.
//! Invariant: whoever holds the bytes may join, so they are never printed.

use crate::error::raise;
use hfreduce::{Error, Kind};
use pyo3::{prelude::*, types::PyBytes};

/// Where a group meets, and its secret: made by one rank, known to all.
#[pyclass(frozen, module = "hfreduce")]
pub struct UniqueId(hfreduce::UniqueId);

/// The id that these bytes are.
pub fn parse(py: Python<'_>, bytes: &[u8]) -> PyResult<hfreduce::UniqueId> {
    let parsed = match bytes.try_into() {
        Ok(bytes) => hfreduce::UniqueId::from_bytes(bytes),
        Err(_) => Err(Error::new(
            Kind::InvalidArgument,
            format!("a unique id of {} bytes", bytes.len()),
            "it has 128: pass what UniqueId.to_bytes() gave",
        )),
    };
    parsed.map_err(|error| raise(py, &error))
}

#[pymethods]
impl UniqueId {
    /// Starts a meeting place in this process, which becomes rank 0: on the route to the host `near`, if one is given.
    #[staticmethod]
    #[pyo3(signature = (near=None))]
    fn create(py: Python<'_>, near: Option<String>) -> PyResult<UniqueId> {
        let made = py.detach(|| match &near {
            Some(host) => hfreduce::UniqueId::create_near(host),
            None => hfreduce::UniqueId::create(),
        });
        made.map(UniqueId).map_err(|error| raise(py, &error))
    }

    /// The id that `to_bytes` gave in another process.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, b: &[u8]) -> PyResult<UniqueId> {
        parse(py, b).map(UniqueId)
    }

    /// 128 bytes. Whoever has them may join.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }
}
