//! From a Python object to address, count and type of its elements: numpy arrays by the array interface's structure, all else with an
//! array in it by the buffer protocol; `device` and `tensor` have the other ways. Knows no collective and copies no element.
//! Invariants: what a view points at stays where it is as long as the object lives, and what was put into `keep`; a call on a stream gets
//! no ordinary host memory, and one without a stream nothing that lies on a device.

use crate::{
    device,
    dtype::Type,
    error::invalid,
    protocol::{Buffer, CONTIGUOUS, get_buffer, release_buffer},
    tensor,
};
use hfreduce::device::Stream;
use pyo3::{
    exceptions::PyTypeError,
    ffi, intern,
    prelude::*,
    types::{PyMemoryView, PyString, PyType},
};
use std::{
    ffi::{c_char, c_int, c_void},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The elements of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub at: *mut u8,
    pub count: usize,
    pub of: Type,
    pub writable: bool,
    /// Number of the device it lies on, or [`UNKNOWN`] where the object does not tell; `None` for host memory.
    pub device: Option<i32>,
}

/// A device of which an object does not tell the number.
pub const UNKNOWN: i32 = -1;

impl View {
    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.count * self.of.size()
    }
}

/// References that must live as long as the memory is used: list elements and exports, as their owners may let go of them meanwhile.
pub type Keep = Vec<Py<PyAny>>;

/// Who makes a call, which says what memory it can use.
#[derive(Clone, Copy, PartialEq)]
pub enum Maker {
    /// The host: all memory that the host reads.
    Host,
    /// A stream: memory on a device, and host memory that is pinned.
    Stream,
    /// Not known yet.
    Either,
}

impl Maker {
    /// Of a call on this stream, or on none.
    pub fn of(stream: Option<Stream>) -> Maker {
        stream.map_or(Maker::Host, |_| Maker::Stream)
    }
}

/// Where an argument stands, for the text of errors.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub rank: usize,
    pub operation: &'a str,
    /// `input`, `output`, `buffer`.
    pub role: &'a str,
    /// Number in a list.
    pub index: Option<usize>,
    /// What memory the call can use.
    pub maker: Maker,
}

impl Place<'_> {
    fn name(&self) -> String {
        match self.index {
            Some(i) => format!("{}[{i}]", self.role),
            None => format!("the {}", self.role),
        }
    }

    /// A value that is refused.
    pub fn refuse(&self, py: Python<'_>, why: &str) -> PyErr {
        invalid(
            py,
            self.rank,
            self.operation,
            &format!("{} {why}", self.name()),
        )
    }

    /// A type that is refused.
    pub fn refuse_type(&self, why: &str) -> PyErr {
        PyTypeError::new_err(format!(
            "rank {}: {}: {} {why}",
            self.rank,
            self.operation,
            self.name()
        ))
    }
}

/// How the objects of a type tell where their memory is.
#[derive(Clone, Copy, PartialEq)]
enum Sort {
    /// `numpy.ndarray` and its subclasses.
    Array,
    /// Others with `__array_struct__`; their memory may belong to the capsule.
    ArrayLike,
    /// `torch.Tensor` and its subclasses.
    Tensor,
    /// Others with `__cuda_array_interface__`.
    Device,
    Protocol,
}

/// What was found out about objects that come again and again, told apart by their identity. Their number is bounded: types and data
/// types beyond it are looked at anew each time.
pub struct Known<T>(Mutex<Vec<(Py<PyAny>, T)>>);

const MOST: usize = 64;

impl<T: Copy> Known<T> {
    const fn new() -> Known<T> {
        Known(Mutex::new(Vec::new()))
    }

    /// Held only for moments, by attached threads, and never while Python code runs.
    fn lock(&self) -> MutexGuard<'_, Vec<(Py<PyAny>, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, of: *mut ffi::PyObject) -> Option<T> {
        let known = self.lock();
        known
            .iter()
            .find(|(object, _)| object.as_ptr() == of)
            .map(|(_, found)| *found)
    }

    pub fn put(&self, of: &Bound<'_, PyAny>, found: T) {
        let mut known = self.lock();
        if known.len() < MOST {
            known.push((of.clone().unbind(), found));
        }
    }
}

static SORTS: Known<Sort> = Known::new();
pub static DTYPES: Known<Type> = Known::new();

fn sort(object: &Bound<'_, PyAny>) -> PyResult<Sort> {
    let of = object.get_type_ptr();
    if let Some(found) = SORTS.get(of.cast()) {
        return Ok(found);
    }
    let found = classify(&object.get_type())?;
    SORTS.put(object.get_type().as_any(), found);
    Ok(found)
}

fn classify(of: &Bound<'_, PyType>) -> PyResult<Sort> {
    for base in of.mro() {
        let base = base.cast::<PyType>()?;
        let (module, name) = (base.module()?, base.qualname()?);
        match (module.to_cow()?.as_ref(), name.to_cow()?.as_ref()) {
            ("numpy", "ndarray") => return Ok(Sort::Array),
            ("torch", "Tensor") => return Ok(Sort::Tensor),
            _ => {}
        }
    }
    let has = |name| of.hasattr(name);
    Ok(if has(intern!(of.py(), "__cuda_array_interface__"))? {
        Sort::Device
    } else if has(intern!(of.py(), "__array_struct__"))? {
        Sort::ArrayLike
    } else {
        Sort::Protocol
    })
}

/// Finds out where the object's elements are.
///
/// # Errors
/// An object without memory, or whose memory does not lie in one piece in native byte order where the call can use it: a `TypeError` or
/// `InvalidArgument` that says what to do.
pub fn resolve(object: &Bound<'_, PyAny>, place: Place<'_>, keep: &mut Keep) -> PyResult<View> {
    let view = match sort(object)? {
        Sort::Array => array(object, place, None),
        Sort::ArrayLike => array(object, place, Some(keep)),
        Sort::Tensor => tensor::view(object, place),
        Sort::Device => device::view(object, place),
        Sort::Protocol => protocol(object, place, keep),
    }?;
    if place.maker == Maker::Stream && view.device.is_none() {
        device::demand_pinned(object.py(), &view, place)?;
    }
    Ok(view)
}

/// `PyArrayInterface`, what `__array_struct__` points at.
#[repr(C)]
struct ArrayStruct {
    two: c_int,
    dimensions: c_int,
    kind: c_char,
    item_size: c_int,
    flags: c_int,
    shape: *mut isize,
    strides: *mut isize,
    at: *mut c_void,
    descr: *mut ffi::PyObject,
}

const C_CONTIGUOUS: c_int = 0x1;
const NOT_SWAPPED: c_int = 0x200;
const WRITABLE: c_int = 0x400;

fn array(object: &Bound<'_, PyAny>, place: Place<'_>, keep: Option<&mut Keep>) -> PyResult<View> {
    let py = object.py();
    let capsule = object.getattr(intern!(py, "__array_struct__"))?;
    // SAFETY: any object may be asked; what is no capsule without a name gives null and an exception.
    let found = unsafe { ffi::PyCapsule_GetPointer(capsule.as_ptr(), std::ptr::null()) };
    if found.is_null() {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: the array interface's promise: an unnamed capsule in this attribute holds this structure, as long as it lives.
    let about = unsafe { &*found.cast::<ArrayStruct>() };
    if about.two != 2 {
        return Err(place.refuse_type("has an array interface of an unknown version"));
    }
    let flags = match about.flags {
        // Of records numpy clears all flags (all but one that it has not set).
        0 => flags(object)?,
        flags => flags,
    };
    if flags & C_CONTIGUOUS == 0 {
        return Err(place.refuse(
            py,
            "is not contiguous in C order; pass numpy.ascontiguousarray(x), and copy the result back",
        ));
    }
    if flags & NOT_SWAPPED == 0 {
        return Err(place.refuse(
            py,
            "is not in this machine's byte order; pass x.astype(x.dtype.newbyteorder('='))",
        ));
    }
    let size = about.item_size as usize;
    let of = match Type::from_kind(about.kind as u8, size) {
        Some(of) => of,
        None => named(object, about.kind as u8, size, place)?,
    };
    let count = (0..about.dimensions as usize)
        // SAFETY: the structure's shape has as many entries as it has dimensions.
        .map(|d| unsafe { *about.shape.add(d) } as usize)
        .product();
    let view = View {
        at: about.at.cast(),
        count,
        of,
        // What the capsule owns may be a copy that is thrown away, as it is with numpy's scalars.
        writable: flags & WRITABLE != 0 && keep.is_none(),
        device: None,
    };
    if let Some(keep) = keep {
        keep.push(capsule.unbind());
    }
    Ok(view)
}

/// The flags as attributes tell them.
fn flags(object: &Bound<'_, PyAny>) -> PyResult<c_int> {
    let py = object.py();
    let flags = object.getattr(intern!(py, "flags"))?;
    let native = object
        .getattr(intern!(py, "dtype"))?
        .getattr(intern!(py, "isnative"))?;
    let bits = [
        (flags.getattr(intern!(py, "c_contiguous"))?, C_CONTIGUOUS),
        (flags.getattr(intern!(py, "writeable"))?, WRITABLE),
        (native, NOT_SWAPPED),
    ];
    bits.into_iter().try_fold(0, |all, (is, bit)| {
        Ok(all | if is.is_truthy()? { bit } else { 0 })
    })
}

/// Types that the kind does not tell: those of `ml_dtypes` by name, and records, which are moved as they are unless they hold references.
pub fn named(object: &Bound<'_, PyAny>, kind: u8, size: usize, place: Place<'_>) -> PyResult<Type> {
    let py = object.py();
    let dtype = object.getattr(intern!(py, "dtype"))?;
    if let Some(found) = DTYPES.get(dtype.as_ptr()) {
        return Ok(found);
    }
    let name = dtype.getattr(intern!(py, "name"))?;
    let name = name.cast::<PyString>()?.to_cow()?.into_owned();
    if let Some(found) = Type::from_name(&name).filter(|found| found.size() == size) {
        DTYPES.put(&dtype, found);
        return Ok(found);
    }
    let references = kind == b'O' || dtype.getattr(intern!(py, "hasobject"))?.is_truthy()?;
    if references || size == 0 {
        return Err(place.refuse_type(&format!(
            "has elements of type {name}, which cannot be sent to other processes; convert them to numbers first"
        )));
    }
    Ok(Type::Other(size, "record"))
}

fn protocol(object: &Bound<'_, PyAny>, place: Place<'_>, keep: &mut Keep) -> PyResult<View> {
    let py = object.py();
    // The memoryview holds the export, so that a bytearray, for one, cannot be resized while it is in use.
    let Ok(export) = PyMemoryView::from(object) else {
        return Err(place.refuse_type(&format!(
            "is of type {}; pass a numpy array, a torch tensor, or an object with the buffer protocol",
            object.get_type().name()?
        )));
    };
    let mut view = Buffer::empty();
    // SAFETY: a live object and a view to fill in.
    if unsafe { get_buffer(export.as_ptr(), &mut view, CONTIGUOUS) } != 0 {
        let why = PyErr::fetch(py);
        return Err(place.refuse(py, &format!("is not contiguous ({})", why.value(py))));
    }
    let format: &[u8] = if view.format.is_null() {
        b"B"
    } else {
        // SAFETY: a C string as long as the view is held.
        unsafe { std::ffi::CStr::from_ptr(view.format) }.to_bytes()
    };
    let size = view.item_size as usize;
    let of = match format {
        [code] | [b'@' | b'=', code] => Type::from_format(*code, size),
        [b'<', code] if cfg!(target_endian = "little") => Type::from_format(*code, size),
        _ => None,
    };
    let found = of.map(|of| View {
        at: view.at.cast(),
        count: view.bytes as usize / size.max(1),
        of,
        writable: view.read_only == 0,
        device: None,
    });
    let format = String::from_utf8_lossy(format).into_owned();
    // SAFETY: filled in above; the export held by the memoryview keeps the memory where it is.
    unsafe { release_buffer(&mut view) };
    let Some(found) = found else {
        return Err(place.refuse_type(&format!(
            "has elements of format {format:?}, which this library does not know; convert them to numbers first"
        )));
    };
    keep.push(export.into_any().unbind());
    Ok(found)
}
