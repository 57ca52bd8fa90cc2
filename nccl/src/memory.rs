//! Device memory, and what NCCL registers. Knows no call. Invariants: memory that was given out is the driver's, as programs written for NCCL use it; a
//! registration changes nothing here, and lives until it is taken back.

use crate::calls::forward;
use hfr::{Error, device};
use interface::forward::*;
use std::{
    collections::HashMap,
    ffi::{c_int, c_void},
    ptr::{null_mut, without_provenance_mut},
    sync::{Mutex, MutexGuard, PoisonError},
};

forward! {
    /// Accepts any memory: registering it changes nothing.
    ncclCommRegister => hfrCommRegister(comm: Handle, buff: *mut c_void, size: usize, handle: *mut *mut c_void);
    /// Forgets a registration.
    ncclCommDeregister => hfrCommDeregister(comm: Handle, handle: *mut c_void);
}

fn failure(error: Error) -> (Code, String) {
    (Code::of(error.kind), error.to_string())
}

/// Gives memory of the current device.
///
/// # Safety
/// `ptr` is NULL or good for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclMemAlloc(ptr: *mut *mut c_void, size: usize) -> Code {
    run("ncclMemAlloc", || {
        if ptr.is_null() {
            let text = "ptr is NULL; pass where the result goes";
            return Err((Code::InvalidArgument, text.to_owned()));
        }
        // SAFETY: not NULL, and then good for a pointer, as the caller promises.
        unsafe { ptr.write(null_mut()) };
        let at = device::allocate(size).map_err(failure)?;
        // SAFETY: as above.
        unsafe { ptr.write(at.cast()) };
        Ok(())
    })
}

/// Takes memory back.
///
/// # Safety
/// Nothing uses the memory any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclMemFree(ptr: *mut c_void) -> Code {
    run("ncclMemFree", || {
        if ptr.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { device::free(ptr.cast()) }.map_err(failure)
    })
}

/// Where windows begin, by communicator and handle.
static WINDOWS: Mutex<Option<HashMap<(usize, usize), usize>>> = Mutex::new(None);

fn windows() -> MutexGuard<'static, Option<HashMap<(usize, usize), usize>>> {
    WINDOWS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accepts a window for collectives; its handle is for `ncclWinGetUserPtr` and its end.
///
/// # Safety
/// `win` is NULL or good for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommWindowRegister(
    comm: Handle,
    buff: *mut c_void,
    size: usize,
    win: *mut *mut c_void,
    _winFlags: c_int,
) -> Code {
    // SAFETY: the caller's promise.
    let code = unsafe { hfrCommRegister(comm, buff, size, win) };
    if code == Code::Success {
        // SAFETY: the handle has just been written there.
        let handle = unsafe { *win };
        let key = (comm.addr(), handle.addr());
        windows().get_or_insert_default().insert(key, buff.addr());
    }
    code
}

/// Forgets a window.
///
/// # Safety
/// None needed: `win` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommWindowDeregister(comm: Handle, win: *mut c_void) -> Code {
    if let Some(all) = windows().as_mut() {
        all.remove(&(comm.addr(), win.addr()));
    }
    // SAFETY: both are looked up.
    unsafe { hfrCommDeregister(comm, win) }
}

/// Where a window begins.
///
/// # Safety
/// `outUserPtr` is NULL or good for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclWinGetUserPtr(
    comm: Handle,
    win: *mut c_void,
    outUserPtr: *mut *mut c_void,
) -> Code {
    run_on("ncclWinGetUserPtr", comm, || {
        let all = windows();
        let at = all
            .as_ref()
            .and_then(|all| all.get(&(comm.addr(), win.addr())));
        let (Some(at), false) = (at, outUserPtr.is_null()) else {
            let text = format!(
                "the window {win:p} for {outUserPtr:p}; pass one that ncclCommWindowRegister gave, and where the result goes"
            );
            return Err((Code::InvalidArgument, text));
        };
        // SAFETY: not NULL, and then good for a pointer, as the caller promises.
        unsafe { outUserPtr.write(without_provenance_mut(*at)) };
        Ok(())
    })
}

/// Lets device memory of the communicator go: there is none.
///
/// # Safety
/// None needed: `comm` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommSuspend(comm: Handle, _flags: c_int) -> Code {
    run_on("ncclCommSuspend", comm, || Ok(()))
}

/// Takes it back.
///
/// # Safety
/// None needed: `comm` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommResume(comm: Handle) -> Code {
    run_on("ncclCommResume", comm, || Ok(()))
}

/// Bytes of device memory that the communicator has: none, whatever is asked.
///
/// # Safety
/// `value` is NULL or good for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommMemStats(comm: Handle, _stat: c_int, value: *mut u64) -> Code {
    run_on("ncclCommMemStats", comm, || {
        if value.is_null() {
            let text = "value is NULL; pass where the result goes";
            return Err((Code::InvalidArgument, text.to_owned()));
        }
        // SAFETY: not NULL, and then good for a number, as the caller promises.
        unsafe { value.write(0) };
        Ok(())
    })
}
