//! hfrMemAlloc: memory that calls need not copy, found again by its address. Knows no call. Invariant: what was given out stays good until
//! it is given back, whatever has become of the communicator whose memory it is.

use crate::{
    comm::{COMMS, lock},
    fail::{Fail, Outcome, guard, put},
    value::Code,
};
use hfr::Registered;
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    collections::HashMap,
    ffi::c_void,
    sync::Mutex,
};

/// Memory starts on a boundary of this many bytes, a page's.
const PAGE: usize = 4096;

/// What keeps memory that was given out.
enum Kept {
    /// In a segment; freed with it.
    Shared {
        _buffer: Registered<u8>,
    },
    Ordinary(Layout),
}

/// All that was given out, by address.
static GIVEN: Mutex<Option<HashMap<usize, Kept>>> = Mutex::new(None);

/// Memory of `size` bytes, in the segment of the oldest communicator that has one.
fn allocate(size: usize) -> Outcome<(*mut u8, Kept)> {
    let none = || {
        Fail::new(
            Code::SystemError,
            format!("no memory of {size} bytes; free other memory first"),
        )
    };
    let oldest = COMMS.oldest(|comm| comm.made().filter(|made| made.size() > 1));
    if let Some(oldest) = oldest {
        let mut buffer = oldest.alloc::<u8>(size)?;
        return Ok((buffer.as_mut_ptr(), Kept::Shared { _buffer: buffer }));
    }
    let layout = Layout::from_size_align(size, PAGE).map_err(|_| none())?;
    // SAFETY: the size is not 0.
    let at = unsafe { alloc_zeroed(layout) };
    if at.is_null() {
        return Err(none());
    }
    Ok((at, Kept::Ordinary(layout)))
}

/// Gives memory.
///
/// # Safety
/// `ptr` is NULL or good for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrMemAlloc(ptr: *mut *mut c_void, size: usize) -> Code {
    guard("hfrMemAlloc", || {
        // SAFETY: the caller's promise.
        unsafe { put(ptr, "ptr", std::ptr::null_mut()) }?;
        if size > 0 {
            let (at, kept) = allocate(size)?;
            lock(&GIVEN).get_or_insert_default().insert(at.addr(), kept);
            // SAFETY: the caller's promise.
            unsafe { put(ptr, "ptr", at.cast()) }?;
        }
        Ok(Code::Success)
    })
}

/// Takes memory back.
///
/// # Safety
/// Nobody uses the memory any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrMemFree(ptr: *mut c_void) -> Code {
    guard("hfrMemFree", || {
        if ptr.is_null() {
            return Ok(Code::Success);
        }
        let kept = lock(&GIVEN)
            .as_mut()
            .and_then(|given| given.remove(&ptr.addr()));
        match kept {
            None => Err(Fail::argument(format!(
                "{ptr:p} was not given by hfrMemAlloc, or was freed before"
            ))),
            Some(Kept::Shared { .. }) => Ok(Code::Success),
            Some(Kept::Ordinary(layout)) => {
                // SAFETY: from `alloc_zeroed` with this layout, and only once: it has left the table.
                unsafe { dealloc(ptr.cast(), layout) };
                Ok(Code::Success)
            }
        }
    })
}
