//! Errors as Python exceptions: `hfreduce.Error` for what the library reports, and `hfreduce.InvalidArgument`, which is also a
//! `ValueError`, for calls of which nothing was started. Knows no communicator. Invariant: the text is the whole story; the attributes
//! kind, rank, peer and operation are for programs, and every instance has all of them.

use hfreduce::{Error, Kind};
use pyo3::{
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyTuple, PyType},
};

/// The exception classes, made once.
struct Classes {
    error: Py<PyType>,
    invalid: Py<PyType>,
}

fn class<'py>(
    py: Python<'py>,
    name: &str,
    bases: Vec<Bound<'py, PyAny>>,
    doc: &str,
) -> PyResult<Bound<'py, PyType>> {
    let body = PyDict::new(py);
    body.set_item("__module__", "hfreduce")?;
    body.set_item("__doc__", doc)?;
    for attribute in ["kind", "rank", "peer", "operation"] {
        body.set_item(attribute, py.None())?;
    }
    let bases = PyTuple::new(py, bases)?;
    let class = py.get_type::<PyType>().call1((name, bases, body))?;
    Ok(class.cast_into()?)
}

fn classes(py: Python<'_>) -> PyResult<&'static Classes> {
    static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();
    CLASSES.get_or_try_init(py, || {
        let builtins = py.import("builtins")?;
        let error = class(
            py,
            "Error",
            vec![builtins.getattr("RuntimeError")?],
            "A failure of the group or of its start. Its text says who, in what, why, and what to do.\n\n\
             Attributes: kind (a str such as 'timeout'), rank, peer and operation, each None where it is not known.",
        )?;
        let invalid = class(
            py,
            "InvalidArgument",
            vec![error.clone().into_any(), builtins.getattr("ValueError")?],
            "An argument that makes no sense. Nothing was started, and the communicator stays usable.",
        )?;
        Ok(Classes {
            error: error.unbind(),
            invalid: invalid.unbind(),
        })
    })
}

/// Adds the classes to the module.
pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let classes = classes(module.py())?;
    module.add("Error", &classes.error)?;
    module.add("InvalidArgument", &classes.invalid)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::InvalidArgument => "invalid_argument",
        Kind::Mismatch => "mismatch",
        Kind::Timeout => "timeout",
        Kind::PeerLost => "peer_lost",
        Kind::Wire => "wire",
        Kind::Memory => "memory",
        Kind::Device => "device",
        Kind::Start => "start",
        Kind::Aborted => "aborted",
    }
}

fn make(
    py: Python<'_>,
    invalid: bool,
    text: String,
    kind: &str,
    about: (Option<usize>, Option<usize>, Option<&str>),
) -> PyErr {
    let made = classes(py).and_then(|classes| {
        let class = if invalid {
            &classes.invalid
        } else {
            &classes.error
        };
        let exception = class.bind(py).call1((text,))?;
        exception.setattr(intern!(py, "kind"), kind)?;
        exception.setattr(intern!(py, "rank"), about.0)?;
        exception.setattr(intern!(py, "peer"), about.1)?;
        exception.setattr(intern!(py, "operation"), about.2)?;
        Ok(PyErr::from_value(exception))
    });
    made.unwrap_or_else(|failed| failed)
}

/// The library's error as an exception.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    make(
        py,
        error.kind == Kind::InvalidArgument,
        error.to_string(),
        kind_name(error.kind),
        (error.rank, error.peer, error.operation.as_deref()),
    )
}

/// As [`raise`]; what was wrong in this rank's call alone gets the call's name. A failure of the group reads the same on all ranks.
pub fn raise_in(py: Python<'_>, operation: &str, mut error: Error) -> PyErr {
    if error.kind == Kind::InvalidArgument {
        error.operation.get_or_insert_with(|| operation.to_owned());
    }
    raise(py, &error)
}

/// An argument that this package refuses, at this rank in this operation.
pub fn invalid(py: Python<'_>, rank: usize, operation: &str, why: &str) -> PyErr {
    let text = format!("rank {rank}: {operation}: {why}");
    make(
        py,
        true,
        text,
        kind_name(Kind::InvalidArgument),
        (Some(rank), None, Some(operation)),
    )
}

/// What every call on a closed communicator raises.
pub fn closed(py: Python<'_>, rank: usize) -> PyErr {
    let text = format!("rank {rank}: this communicator was closed; make a new one with init()");
    make(py, false, text, "closed", (Some(rank), None, None))
}
