//! The reducer of the library, for C: named tensors into one fused destination. Knows no collective. Invariant: the names that
//! hfrReducerSynchronize hands out stay where they are until the reducer is synchronized again or destroyed.

use crate::{
    comm::{Comm, Handle, lock, on},
    config::text,
    fail::{Fail, Outcome, caught, guard, put},
    redop::operation,
    stream::{Stream, Way, way},
    table::{Table, fresh},
    value::{self, Code},
};
use hfr::{Reducer, device};
use std::{
    ffi::{CString, c_char, c_int, c_void},
    sync::{Arc, Mutex},
};

/// All reducers that live.
static REDUCERS: Table<Mutex<Live>> = Table::new("reducer");

/// A reducer, and the names it handed out last.
struct Live {
    reducer: Reducer,
    comm: Arc<Comm>,
    rank: usize,
    /// Where results go, if not in their tensors' places.
    fused: usize,
    /// Tensors are on streams since the last synchronization.
    on_streams: bool,
    names: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers are to `names`, which goes with them; whoever reads them in C keeps to the header.
unsafe impl Send for Live {}

/// The body of an exported function on a reducer.
fn with(what: &str, handle: Handle, f: impl FnOnce(&mut Live) -> Outcome<()>) -> Code {
    guard(what, || {
        let live = REDUCERS.get(handle)?;
        let mut live = lock(&live);
        let rank = live.rank;
        caught(|| f(&mut live)).map_err(|fail| fail.within(what, Some(rank)))?;
        Ok(Code::Success)
    })
}

/// # Safety
/// `name` is NULL or a string that ends.
unsafe fn named(name: *const c_char) -> Outcome<String> {
    // SAFETY: the caller's promise.
    unsafe { text("name", name) }?
        .ok_or_else(|| Fail::argument("the name is NULL; pass the tensor's"))
}

/// Makes a reducer over a communicator.
///
/// # Safety
/// `reducer` is NULL or good for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrReducerCreate(
    reducer: *mut Handle,
    comm: Handle,
    datatype: c_int,
    op: c_int,
) -> Code {
    on("hfrReducerCreate", comm, |comm| {
        // SAFETY: the caller's promise.
        unsafe { put(reducer, "reducer", std::ptr::null_mut()) }?;
        let ready = comm.ready()?;
        let dtype = value::dtype(datatype)?;
        let op = operation(comm, op, dtype, std::ptr::null_mut())?;
        let live = Live {
            comm: comm.clone(),
            rank: ready.rank(),
            fused: 0,
            on_streams: false,
            reducer: Reducer::new(ready, dtype, op),
            names: Vec::new(),
            pointers: Vec::new(),
        };
        let handle = fresh();
        REDUCERS.add(handle, Arc::new(Mutex::new(live)));
        // SAFETY: the caller's promise.
        unsafe { put(reducer, "reducer", std::ptr::without_provenance_mut(handle)) }?;
        Ok(Code::Success)
    })
}

/// Adds a tensor.
///
/// # Safety
/// `name` is NULL or a string that ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrReducerRegister(
    reducer: Handle,
    name: *const c_char,
    count: usize,
) -> Code {
    with("hfrReducerRegister", reducer, |live| {
        // SAFETY: the caller's promise.
        let name = unsafe { named(name) }?;
        Ok(live.reducer.register(&name, count)?)
    })
}

/// Elements of all tensors.
///
/// # Safety
/// `total` is NULL or good for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrReducerTotal(reducer: Handle, total: *mut usize) -> Code {
    with("hfrReducerTotal", reducer, |live| {
        // SAFETY: the caller's promise.
        unsafe { put(total, "total", live.reducer.total()) }
    })
}

/// Where results go.
///
/// # Safety
/// `dest` is NULL or good for all tensors, as the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrReducerSetFusedDest(reducer: Handle, dest: *mut c_void) -> Code {
    with("hfrReducerSetFusedDest", reducer, |live| {
        // SAFETY: the caller's promise.
        unsafe { live.reducer.set_fused_destination(dest.cast()) };
        live.fused = dest.addr();
        Ok(())
    })
}

/// Starts reducing a tensor.
///
/// # Safety
/// `name` is NULL or a string that ends; `ptr` is good for the tensor, as the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrReducerAsyncReduce(
    reducer: Handle,
    stream: Stream,
    name: *const c_char,
    ptr: *mut c_void,
    count: usize,
) -> Code {
    with("hfrReducerAsyncReduce", reducer, |live| {
        // SAFETY: the caller's promise.
        let name = unsafe { named(name) }?;
        if ptr.is_null() && count > 0 {
            return Err(Fail::argument(format!(
                "tensor {name} is at NULL; pass where its {count} elements are"
            )));
        }
        let sides = if count == 0 {
            [std::ptr::null(); 2]
        } else {
            [ptr.cast_const().cast(), live.fused as *const u8]
        };
        match way(&live.comm, stream, sides)? {
            // SAFETY: the caller's promise.
            Way::Host => unsafe { live.reducer.reduce(&name, ptr.cast(), count) }?,
            Way::On(stream) => {
                // SAFETY: the caller's promise.
                unsafe { live.reducer.enqueue(&name, ptr.cast(), count, stream) }?;
                live.on_streams = true;
            }
        }
        Ok(())
    })
}

/// Waits for all tensors that were started.
///
/// # Safety
/// `names` and `count` are NULL or good for what they are told.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrReducerSynchronize(
    reducer: Handle,
    stream: Stream,
    names: *mut *const *const c_char,
    count: *mut usize,
) -> Code {
    with("hfrReducerSynchronize", reducer, |live| {
        let on_streams = std::mem::take(&mut live.on_streams);
        let done = if on_streams || (!stream.is_null() && device::in_use()) {
            live.reducer.synchronize_on(device::Stream::new(stream))?
        } else if stream.is_null() {
            live.reducer.synchronize()?
        } else {
            return Err(Fail::argument(
                "the stream is not NULL and this process does not use CUDA; pass NULL",
            ));
        };
        // A name came as a C string: it has no NUL.
        live.names = done
            .into_iter()
            .map(|name| CString::new(name).unwrap_or_default())
            .collect();
        live.pointers = live.names.iter().map(|name| name.as_ptr()).collect();
        if !names.is_null() {
            // SAFETY: the caller's promise.
            unsafe { put(names, "names", live.pointers.as_ptr()) }?;
        }
        if !count.is_null() {
            // SAFETY: the caller's promise.
            unsafe { put(count, "count", live.pointers.len()) }?;
        }
        Ok(())
    })
}

/// Ends a reducer.
///
/// # Safety
/// None needed: `reducer` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrReducerDestroy(reducer: Handle) -> Code {
    guard("hfrReducerDestroy", || {
        if !reducer.is_null() {
            // Whoever still uses it in another thread keeps it until then.
            drop(REDUCERS.remove(reducer)?);
        }
        Ok(Code::Success)
    })
}
