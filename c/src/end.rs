//! What a program asks a communicator, and how it ends it. Knows no collective. Invariant: a communicator that was destroyed or aborted has
//! no handle any more, whatever else has failed.

use crate::{
    comm::{COMMS, Comm, Handle, on},
    fail::{Fail, Outcome, caught, guard, put},
    value::Code,
};
use std::{
    ffi::{c_int, c_void},
    sync::Arc,
};

/// Waits for all calls and takes leave.
///
/// # Safety
/// None needed: `comm` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommFinalize(comm: Handle) -> Code {
    on("hfrCommFinalize", comm, |comm| {
        comm.ready()?;
        if comm.blocking {
            comm.leave(0)?;
            return Ok(Code::Success);
        }
        if !comm.calls.begin_leaving() {
            // It is under way, or was: two that wait for each other's end would be for ever.
            return Ok(Code::InProgress);
        }
        let leaving = comm.clone();
        let spawned = std::thread::Builder::new()
            .name("hfr-finalize".into())
            .spawn(move || {
                let outcome = caught(|| leaving.leave(1));
                leaving.calls.end(outcome);
            });
        spawned.map(|_| Code::InProgress).map_err(|why| {
            let fail = Fail::new(
                Code::SystemError,
                format!("no thread to finalize on: {why}; raise the limit on threads"),
            );
            comm.calls.end(Ok(()));
            fail
        })
    })
}

/// The end of a communicator: its handle goes first.
fn end(what: &str, handle: Handle, f: impl FnOnce(&Arc<Comm>) -> Outcome<()>) -> Code {
    guard(what, || {
        if !handle.is_null() {
            let comm = COMMS.remove(handle)?;
            let rank = comm.place().map(|(rank, _)| rank);
            f(&comm).map_err(|fail| fail.within(what, rank))?;
        }
        Ok(Code::Success)
    })
}

/// Ends a communicator.
///
/// # Safety
/// None needed: `comm` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommDestroy(comm: Handle) -> Code {
    end("hfrCommDestroy", comm, |comm| comm.leave(0))
}

/// Ends the group.
///
/// # Safety
/// None needed: `comm` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommAbort(comm: Handle) -> Code {
    end("hfrCommAbort", comm, |comm| comm.abort())
}

/// How a communicator does.
///
/// # Safety
/// `asyncError` is NULL or good for a result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommGetAsyncError(comm: Handle, asyncError: *mut Code) -> Code {
    on("hfrCommGetAsyncError", comm, |comm| {
        if asyncError.is_null() {
            return Err(Fail::argument(
                "asyncError is NULL; pass where the result goes",
            ));
        }
        // SAFETY: the caller's promise.
        unsafe { put(asyncError, "asyncError", comm.condition()?) }?;
        Ok(Code::Success)
    })
}

/// # Safety
/// `at` is NULL or good for a number.
unsafe fn ask(
    what: &str,
    comm: Handle,
    at: *mut c_int,
    name: &str,
    of: fn((usize, usize)) -> c_int,
) -> Code {
    on(what, comm, |comm| {
        let Some(place) = comm.place() else {
            comm.ready()?;
            return Err(Fail::usage("the communicator is not ready"));
        };
        // SAFETY: the caller's promise.
        unsafe { put(at, name, of(place)) }?;
        Ok(Code::Success)
    })
}

/// Ranks are far fewer than a C int holds.
fn int(number: usize) -> c_int {
    c_int::try_from(number).unwrap_or(c_int::MAX)
}

/// Number of ranks.
///
/// # Safety
/// `count` is NULL or good for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommCount(comm: Handle, count: *mut c_int) -> Code {
    // SAFETY: the caller's promise.
    unsafe { ask("hfrCommCount", comm, count, "count", |(_, size)| int(size)) }
}

/// This rank.
///
/// # Safety
/// `rank` is NULL or good for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommUserRank(comm: Handle, rank: *mut c_int) -> Code {
    // SAFETY: the caller's promise.
    unsafe { ask("hfrCommUserRank", comm, rank, "rank", |(rank, _)| int(rank)) }
}

/// The device, or -1 for the host.
///
/// # Safety
/// `device` is NULL or good for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommCuDevice(comm: Handle, device: *mut c_int) -> Code {
    on("hfrCommCuDevice", comm, |comm| {
        if comm.place().is_none() {
            comm.ready()?;
        }
        // SAFETY: the caller's promise.
        unsafe { put(device, "device", comm.device()) }?;
        Ok(Code::Success)
    })
}

/// Accepts any memory: what can be shared is so from the start.
///
/// # Safety
/// `handle` is NULL or good for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommRegister(
    comm: Handle,
    buff: *mut c_void,
    size: usize,
    handle: *mut *mut c_void,
) -> Code {
    on("hfrCommRegister", comm, |comm| {
        comm.ready()?;
        if buff.is_null() || size == 0 {
            return Err(Fail::argument(format!(
                "a buffer at {buff:p} of {size} bytes; register one that is there"
            )));
        }
        let number = crate::table::fresh();
        // SAFETY: the caller's promise.
        unsafe { put(handle, "handle", std::ptr::without_provenance_mut(number)) }?;
        crate::comm::lock(&comm.registered).insert(number);
        Ok(Code::Success)
    })
}

/// Forgets what `hfrCommRegister` gave.
///
/// # Safety
/// None needed: `handle` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrCommDeregister(comm: Handle, handle: *mut c_void) -> Code {
    on("hfrCommDeregister", comm, |comm| {
        if crate::comm::lock(&comm.registered).remove(&handle.addr()) {
            return Ok(Code::Success);
        }
        Err(Fail::argument(format!(
            "{handle:p} is no registration of this communicator; pass what hfrCommRegister gave, once"
        )))
    })
}
