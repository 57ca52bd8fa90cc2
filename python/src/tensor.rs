//! Torch tensors, by their methods: torch is never imported here. Knows no collective. Invariant: a tensor's memory is used only where all
//! of its elements lie in it, one after the other and as they are.

use crate::{
    buffer::{DTYPES, Maker, Place, View},
    dtype::Type,
};
use pyo3::{intern, prelude::*};

/// Where a tensor's elements are.
///
/// # Errors
/// A tensor whose elements do not lie in one piece, or not where the call can use them.
pub fn view(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<View> {
    let py = object.py();
    let device = if object.getattr(intern!(py, "is_cpu"))?.is_truthy()? {
        None
    } else {
        Some(device(object, place)?)
    };
    let of = tensor_type(object, place)?;
    if !object
        .call_method0(intern!(py, "is_contiguous"))?
        .is_truthy()?
    {
        let layout = object.getattr(intern!(py, "layout"))?;
        return Err(place.refuse(
            py,
            &format!(
                "is not contiguous ({layout}); pass x.contiguous() (of a sparse tensor its values), and copy the result back"
            ),
        ));
    }
    if matches!(of, Type::Complex(_)) && object.call_method0(intern!(py, "is_conj"))?.is_truthy()? {
        return Err(place.refuse(
            py,
            "is a conjugate that is not in memory; pass x.resolve_conj()",
        ));
    }
    let count: usize = object.call_method0(intern!(py, "numel"))?.extract()?;
    let at: usize = object.call_method0(intern!(py, "data_ptr"))?.extract()?;
    if at == 0 && count > 0 {
        return Err(place.refuse(
            py,
            "has no memory of its own (freed storage, or a tensor that only describes one)",
        ));
    }
    Ok(View {
        at: at as *mut u8,
        count,
        of,
        writable: true,
        device,
    })
}

fn tensor_type(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Type> {
    let dtype = object.getattr(intern!(object.py(), "dtype"))?;
    if let Some(found) = DTYPES.get(dtype.as_ptr()) {
        return Ok(found);
    }
    let text = dtype.str()?;
    let text = text.to_cow()?;
    let name = text.strip_prefix("torch.").unwrap_or(&text);
    let Some(found) = Type::from_name(name) else {
        return Err(place.refuse_type(&format!(
            "has elements of type {text}, which this library does not know; convert it first"
        )));
    };
    DTYPES.put(&dtype, found);
    Ok(found)
}

/// The device of a tensor that is not on the CPU.
fn device(object: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<i32> {
    let py = object.py();
    let device = object.getattr(intern!(py, "device"))?;
    if !object.getattr(intern!(py, "is_cuda"))?.is_truthy()? {
        return Err(place.refuse(
            py,
            &format!("is on device {device}; this library takes CPU and CUDA memory: pass x.cpu()"),
        ));
    }
    if place.maker == Maker::Host {
        return Err(place.refuse(
            py,
            &format!(
                "is on device {device}; pass the stream that its contents are ordered on (stream=torch.cuda.current_stream())"
            ),
        ));
    }
    object.call_method0(intern!(py, "get_device"))?.extract()
}
