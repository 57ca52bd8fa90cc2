//! Memory in the node's segment for Python: an object with the buffer protocol, and numpy arrays and torch tensors on it. Knows no
//! collective. Invariant: the memory lives as long as any object on it; a forked child gives nothing back, since it is its parent's.

use crate::{
    communicator::Communicator,
    error::{invalid, raise},
    protocol::{Buffer, GET_BUFFER_SLOT, fill_info},
};
use hfreduce::Registered;
use pyo3::{
    ffi, intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyType},
};
use std::{ffi::c_int, mem::ManuallyDrop};

/// What `SharedMemory` adds the buffer protocol to.
#[pyclass(frozen, subclass, name = "_Memory", module = "hfreduce._native")]
pub struct Memory {
    memory: ManuallyDrop<Registered<u8>>,
    at: usize,
    process: u32,
}

impl Drop for Memory {
    fn drop(&mut self) {
        if std::process::id() == self.process {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

#[pymethods]
impl Memory {
    #[new]
    fn new(comm: &Bound<'_, Communicator>, nbytes: usize) -> PyResult<Memory> {
        let py = comm.py();
        let comm = comm.get().inner.get(py)?;
        let mut memory = py
            .detach(|| comm.alloc::<u8>(nbytes))
            .map_err(|error| raise(py, &error))?;
        Ok(Memory {
            at: memory.as_mut_ptr().addr(),
            memory: ManuallyDrop::new(memory),
            process: std::process::id(),
        })
    }

    /// Address of the first byte.
    #[getter]
    fn ptr(&self) -> usize {
        self.at
    }

    /// Number of bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.memory.len()
    }

    fn __len__(&self) -> usize {
        self.memory.len()
    }

    fn __repr__(&self) -> String {
        format!("<hfreduce.SharedMemory: {} bytes>", self.memory.len())
    }
}

/// The class's `bf_getbuffer`.
unsafe extern "C" fn get_buffer(
    object: *mut ffi::PyObject,
    view: *mut Buffer,
    flags: c_int,
) -> c_int {
    // SAFETY: Python calls this attached, with an object of the class that has it in its slot.
    let object = unsafe { Borrowed::from_ptr(Python::assume_attached(), object) };
    match object.cast::<Memory>() {
        Ok(memory) => {
            let memory = memory.get();
            let (at, bytes) = (memory.at as *mut _, memory.memory.len() as isize);
            // SAFETY: memory that lives as long as the object, to which the view takes a reference.
            unsafe { fill_info(view, object.as_ptr(), at, bytes, 0, flags) }
        }
        Err(other) => {
            PyErr::from(other).restore(object.py());
            -1
        }
    }
}

/// `SharedMemory`: a subclass made by hand, because the stable ABI lets a class have that slot only from Python 3.11 on, while
/// the interpreter has taken it since 3.9.
fn class(py: Python<'_>) -> PyResult<&'static Py<PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.get_or_try_init(py, || {
        let mut slots = [
            ffi::PyType_Slot {
                slot: GET_BUFFER_SLOT,
                pfunc: get_buffer as *mut _,
            },
            ffi::PyType_Slot {
                slot: ffi::Py_tp_doc,
                pfunc: c"Memory that all ranks of the node see. It has the buffer protocol."
                    .as_ptr() as *mut _,
            },
            ffi::PyType_Slot {
                slot: 0,
                pfunc: std::ptr::null_mut(),
            },
        ];
        let mut spec = ffi::PyType_Spec {
            name: c"hfreduce.SharedMemory".as_ptr(),
            basicsize: 0,
            itemsize: 0,
            flags: ffi::Py_TPFLAGS_DEFAULT as _,
            slots: slots.as_mut_ptr(),
        };
        let bases = (py.get_type::<Memory>(),).into_pyobject(py)?;
        // SAFETY: a spec with static name and terminated slots, read during this call; size 0 is the base's.
        let made = unsafe {
            let made = ffi::PyType_FromSpecWithBases(&mut spec, bases.as_ptr());
            Bound::from_owned_ptr_or_err(py, made)?
        };
        Ok(made.cast_into::<PyType>()?.unbind())
    })
}

/// Adds the class to the module.
pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("SharedMemory", class(module.py())?)
}

/// `nbytes` bytes of it.
pub fn shared<'py>(comm: &Bound<'py, Communicator>, nbytes: usize) -> PyResult<Bound<'py, PyAny>> {
    class(comm.py())?.bind(comm.py()).call1((comm, nbytes))
}

fn elements(comm: &Bound<'_, Communicator>, shape: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    shape
        .extract::<usize>()
        .map(|count| vec![count])
        .or_else(|_| shape.extract::<Vec<usize>>())
        .map_err(|_| {
            let why = "the shape is a whole number, or a sequence of them";
            invalid(comm.py(), comm.get().inner.rank, "empty", why)
        })
}

fn bytes(comm: &Bound<'_, Communicator>, shape: &[usize], size: usize) -> PyResult<usize> {
    let bytes = shape
        .iter()
        .try_fold(size, |bytes, n| bytes.checked_mul(*n));
    bytes.ok_or_else(|| {
        let why = "the shape has more elements than memory has";
        invalid(comm.py(), comm.get().inner.rank, "empty", why)
    })
}

/// A numpy array on such memory.
pub fn array<'py>(
    comm: &Bound<'py, Communicator>,
    shape: &Bound<'py, PyAny>,
    dtype: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = comm.py();
    let numpy = py.import(intern!(py, "numpy"))?;
    let dtype = match dtype {
        Some(dtype) => numpy.call_method1(intern!(py, "dtype"), (dtype,))?,
        None => numpy.call_method1(intern!(py, "dtype"), ("float32",))?,
    };
    if dtype.getattr(intern!(py, "hasobject"))?.is_truthy()? {
        let why = "an array of objects cannot lie in shared memory";
        return Err(invalid(py, comm.get().inner.rank, "empty", why));
    }
    let shape = elements(comm, shape)?;
    let size = dtype.getattr(intern!(py, "itemsize"))?.extract()?;
    let memory = shared(comm, bytes(comm, &shape, size)?.max(1))?;
    let about = PyDict::new(py);
    about.set_item("buffer", memory)?;
    numpy.call_method(intern!(py, "ndarray"), (shape, dtype), Some(&about))
}

/// A torch tensor on such memory.
pub fn tensor<'py>(
    comm: &Bound<'py, Communicator>,
    shape: &Bound<'py, PyAny>,
    dtype: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = comm.py();
    let torch = py.import(intern!(py, "torch"))?;
    let dtype = match dtype {
        Some(dtype) => dtype.clone(),
        None => torch.call_method0(intern!(py, "get_default_dtype"))?,
    };
    let shape = elements(comm, shape)?;
    let size = dtype.getattr(intern!(py, "itemsize"))?.extract()?;
    let about = PyDict::new(py);
    about.set_item("dtype", dtype)?;
    let bytes = bytes(comm, &shape, size)?;
    if bytes == 0 {
        return torch.call_method(intern!(py, "empty"), (shape,), Some(&about));
    }
    let memory = shared(comm, bytes)?;
    let flat = torch.call_method(intern!(py, "frombuffer"), (memory,), Some(&about))?;
    flat.call_method1(intern!(py, "view"), (shape,))
}
