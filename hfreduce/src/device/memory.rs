//! Whose memory an address is: the host's, pinned by the driver, or a device's. And device memory for those who have no other way to ask for it. It
//! knows no stream. Invariant: the driver is asked only where it is in the process already.

use super::driver::{Context, check, loaded, start};
use crate::error::{Error, Kind};
use cudarc::driver::sys;
use std::{ffi::c_void, ptr};

/// What the driver says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Ordinary host memory.
    Host,
    /// Host memory that the driver has pinned.
    Pinned,
    /// Device memory, or memory that the driver moves between host and device.
    Device,
}

/// What the driver says of an address. Where it is not in this process, all memory is the host's: it is never loaded for this.
///
/// # Errors
/// The driver fails.
pub fn memory_of(at: *const u8) -> Result<Memory, Error> {
    if at.is_null() || !loaded() {
        return Ok(Memory::Host);
    }
    Ok(ask(at)?.0)
}

/// The same, with the context the memory is of; `None` for host memory.
pub(super) fn ask(at: *const u8) -> Result<(Memory, Option<Context>), Error> {
    let mut kind: u32 = 0;
    let mut managed: u32 = 0;
    let mut raw: sys::CUcontext = ptr::null_mut();
    let mut device: i32 = -1;
    let mut attributes = [
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_IS_MANAGED,
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_CONTEXT,
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
    ];
    let mut data: [*mut c_void; 4] = [
        (&raw mut kind).cast(),
        (&raw mut managed).cast(),
        (&raw mut raw).cast(),
        (&raw mut device).cast(),
    ];
    // SAFETY: four attributes, and a place of the right size for each.
    let asked = unsafe {
        sys::cuPointerGetAttributes(
            4,
            attributes.as_mut_ptr(),
            data.as_mut_ptr(),
            at as sys::CUdeviceptr,
        )
    };
    // Before its start the driver has given memory to nobody.
    if asked == sys::CUresult::CUDA_ERROR_NOT_INITIALIZED {
        return Ok((Memory::Host, None));
    }
    check(asked, "asking whose memory a buffer is")?;
    let memory = match kind {
        _ if managed & 1 == 1 => Memory::Device,
        k if k == sys::CUmemorytype::CU_MEMORYTYPE_HOST as u32 => Memory::Pinned,
        k if k == sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32 => Memory::Device,
        _ => return Ok((Memory::Host, None)),
    };
    let context = if !raw.is_null() {
        Some(Context::of(raw)?)
    } else if memory == Memory::Device && device >= 0 {
        // Memory of a pool or of the virtual memory calls belongs to the device and to no context.
        Some(Context::on(device)?)
    } else {
        None
    };
    Ok((memory, context))
}

/// Memory of the current context's device.
///
/// # Errors
/// No driver, no current context, too little memory.
pub fn allocate(bytes: usize) -> Result<*mut u8, Error> {
    start()?;
    if Context::current()?.is_none() {
        return Err(Error::new(
            Kind::Device,
            "no device is current on this thread",
            "choose one first (cudaSetDevice)",
        ));
    }
    let mut at = 0;
    check(
        // SAFETY: a context is current; the driver writes an address.
        unsafe { sys::cuMemAlloc_v2(&raw mut at, bytes.max(1)) },
        "allocating device memory",
    )?;
    Ok(at as *mut u8)
}

/// Gives back what [`allocate`] gave.
///
/// # Errors
/// The driver's.
///
/// # Safety
/// Nothing uses the memory any more.
pub unsafe fn free(at: *mut u8) -> Result<(), Error> {
    let Some(context) = ask(at)?.1 else {
        return Err(Error::new(
            Kind::InvalidArgument,
            format!("{at:p} is no device memory"),
            "free what was allocated, once",
        ));
    };
    let _entered = context.enter()?;
    check(
        // SAFETY: the caller's promise.
        unsafe { sys::cuMemFree_v2(at as sys::CUdeviceptr) },
        "freeing device memory",
    )
}
