//! What lies on a device, and the streams it is ordered on: `__cuda_array_interface__` (CuPy, Numba, JAX), stream handles in the shapes that
//! libraries have for them, and host memory that the driver has pinned. Knows no collective, and imports none of those libraries.
//! Invariant: the driver is asked only where it is in the process already.

use crate::{
    buffer::{Maker, Place, UNKNOWN, View, named},
    dtype::Type,
    error::{invalid, raise},
};
use hfreduce::device::{Memory, Stream, memory_of};
use pyo3::{
    exceptions::PyTypeError,
    intern,
    prelude::*,
    types::{PyDict, PyTuple},
};

/// Where the elements of an object with `__cuda_array_interface__` are.
///
/// # Errors
/// An interface that is wrong, elements that do not lie in one piece, a call without a stream.
pub fn view(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<View> {
    let py = object.py();
    if place.maker == Maker::Host {
        return Err(place.refuse(
            py,
            "is in device memory; pass the stream that its contents are ordered on (stream=)",
        ));
    }
    let about = object.getattr(intern!(py, "__cuda_array_interface__"))?;
    let wrong = |what: &str| {
        place.refuse_type(&format!(
            "has a __cuda_array_interface__ whose {what}; look at the library that made it"
        ))
    };
    let about = about
        .cast::<PyDict>()
        .map_err(|_| wrong("value is no dict"))?;
    let field = |name: &str| about.get_item(name).map(|v| v.filter(|v| !v.is_none()));
    let shape: Vec<usize> = field("shape")?
        .and_then(|shape| shape.extract().ok())
        .ok_or_else(|| wrong("shape is no tuple of whole numbers"))?;
    let (at, read_only): (usize, bool) = field("data")?
        .and_then(|data| data.extract().ok())
        .ok_or_else(|| wrong("data is no pair of an address and a truth value"))?;
    let text: String = field("typestr")?
        .and_then(|text| text.extract().ok())
        .ok_or_else(|| wrong("typestr is no string"))?;
    let (kind, size) = split(&text).ok_or_else(|| wrong("typestr is not understood"))?;
    if text.starts_with('>') && size > 1 {
        return Err(place.refuse(py, "is not in this machine's byte order; convert it first"));
    }
    if field("mask")?.is_some() {
        return Err(place.refuse(py, "has a mask; pass its values alone"));
    }
    let of = match Type::from_kind(kind, size) {
        Some(of) => of,
        None => named(object, kind, size, place)?,
    };
    if let Some(strides) = field("strides")? {
        let strides: Vec<isize> = strides
            .extract()
            .map_err(|_| wrong("strides are no tuple of whole numbers"))?;
        if !contiguous(&shape, &strides, size) {
            return Err(place.refuse(
                py,
                "is not contiguous in C order; pass a contiguous copy, and copy the result back",
            ));
        }
    }
    let count = shape.iter().product();
    if at == 0 && count > 0 {
        return Err(place.refuse(py, "has no memory"));
    }
    Ok(View {
        at: at as *mut u8,
        count,
        of,
        writable: !read_only,
        device: Some(UNKNOWN),
    })
}

/// Kind and size of a type string such as `<f4`.
fn split(text: &str) -> Option<(u8, usize)> {
    let mut rest = text.bytes();
    matches!(rest.next()?, b'<' | b'>' | b'|' | b'=').then_some(())?;
    let kind = rest.next()?;
    let size = text.get(2..)?.parse().ok()?;
    Some((kind, size))
}

fn contiguous(shape: &[usize], strides: &[isize], size: usize) -> bool {
    if shape.len() != strides.len() {
        return false;
    }
    let mut step = size;
    let all = shape.iter().zip(strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == step as isize;
        step *= n;
        fits
    });
    all || shape.contains(&0)
}

/// Refuses host memory that a copy engine could only read with the host's help.
pub fn demand_pinned(py: Python<'_>, view: &View, place: Place<'_>) -> PyResult<()> {
    if view.count == 0 {
        return Ok(());
    }
    match memory_of(view.at).map_err(|error| raise(py, &error))? {
        Memory::Host => Err(place.refuse(
            py,
            "lies in ordinary host memory, and the call is on a stream; pin the memory, or leave the stream out",
        )),
        Memory::Pinned | Memory::Device => Ok(()),
    }
}

/// The stream that an argument means: a handle as a whole number (0 is the legacy default stream), an object that follows CUDA's protocol for
/// streams, or torch's.
pub fn stream(
    rank: usize,
    operation: &str,
    given: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<Stream>> {
    let Some(given) = given else {
        return Ok(None);
    };
    let py = given.py();
    let protocol = intern!(py, "__cuda_stream__");
    let torch = intern!(py, "cuda_stream");
    let handle = if given.hasattr(protocol)? {
        let about = given.call_method0(protocol)?;
        about.cast::<PyTuple>()?.get_item(1)?.extract::<usize>()
    } else if let Some(handle) = given.getattr_opt(torch)? {
        handle.extract()
    } else {
        given.extract()
    };
    match handle {
        Ok(handle) => Ok(Some(Stream::new(handle as *mut _))),
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(py) => {
            let why = format!("stream {given}; a stream's handle is a whole number from 0 on");
            Err(invalid(py, rank, operation, &why))
        }
        Err(_) => Err(PyTypeError::new_err(format!(
            "rank {rank}: {operation}: the stream is of type {}; pass its handle as a whole number, or a torch.cuda.Stream",
            given.get_type().name()?
        ))),
    }
}
