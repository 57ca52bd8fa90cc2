//! The native module of the Python package `hfreduce`: collectives on numpy arrays and torch tensors, by pointer. One file per class, and
//! one for each of the ways between Python's objects and the library's. Invariant: the interpreter's end closes every group and ends
//! all callbacks first, so that no thread of the library meets a Python that is gone.

mod buffer;
mod call;
mod communicator;
mod device;
mod dtype;
mod error;
mod inner;
mod join;
mod keep;
mod memory;
mod names;
mod pending;
mod protocol;
mod reducer;
mod tensor;
mod torch;
mod unique_id;
mod world;

use pyo3::prelude::*;

/// Run by `atexit`. A forked child has none of the library's threads, and its parent's groups are not its own.
#[pyfunction]
fn _end(py: Python<'_>, process: u32) {
    if std::process::id() == process {
        py.detach(world::farewell);
        inner::close_all();
        py.detach(world::leave);
        keep::end(py);
    }
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<communicator::Communicator>()?;
    module.add_class::<pending::Pending>()?;
    module.add_class::<unique_id::UniqueId>()?;
    module.add_class::<reducer::Reducer>()?;
    module.add_function(wrap_pyfunction!(torch::all_reduce, module)?)?;
    module.add_function(wrap_pyfunction!(torch::when_ended, module)?)?;
    memory::add_to(module)?;
    error::add_to(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    let end = wrap_pyfunction!(_end, module)?;
    let atexit = module.py().import("atexit")?;
    atexit.call_method1("register", (end, std::process::id()))?;
    Ok(())
}
