//! What is asked of a device beside calls: which one is current, a copy within it for a message to the own rank, a number that it has. Knows no call
//! of a group. Invariant: what is read has been written by all that its stream was given before.

use super::{
    driver::{Context, Entered, check, loaded, start},
    memory::ask,
    stream::Stream,
};
use crate::error::{Error, Kind};
use cudarc::driver::sys;

/// Number of the device that is current on this thread; none where the driver is not in this process.
pub fn current() -> Option<i32> {
    if !loaded() {
        return None;
    }
    let context = Context::current().ok().flatten();
    context.map(|context| context.device)
}

/// Makes current the context of whichever of the buffers has one.
fn enter(buffers: &[*const u8]) -> Result<Entered, Error> {
    start()?;
    for at in buffers {
        if let Some(context) = ask(*at)?.1 {
            return context.enter();
        }
    }
    let context = Context::current()?.ok_or_else(|| {
        Error::new(
            Kind::Device,
            "no device is current on this thread, and no buffer says which it is",
            "choose one first (cudaSetDevice)",
        )
    })?;
    context.enter()
}

/// Puts a copy of `bytes` bytes on a stream, between memory of its device or pinned memory.
///
/// # Errors
/// The driver's.
///
/// # Safety
/// Both sides are good for `bytes` bytes when the stream comes to the copy, and left alone until it has done it.
pub unsafe fn copy(
    from: *const u8,
    into: *mut u8,
    bytes: usize,
    stream: Stream,
) -> Result<(), Error> {
    let _entered = enter(&[into, from])?;
    check(
        // SAFETY: the caller's promise.
        unsafe {
            sys::cuMemcpyAsync(
                into as sys::CUdeviceptr,
                from as sys::CUdeviceptr,
                bytes,
                stream.raw(),
            )
        },
        "copying on a stream",
    )
}

/// Reads what lies at `from` once `stream` has done all that it was given; the host waits for that.
///
/// # Errors
/// A stream that is recording a graph; the driver's.
///
/// # Safety
/// `from` is good for as many bytes as `into` has.
pub unsafe fn read(from: *const u8, into: &mut [u8], stream: Stream) -> Result<(), Error> {
    let _entered = enter(&[from])?;
    stream.refuse_capture()?;
    let what = "waiting for the work in front of a number's reading";
    // SAFETY: a stream of the caller's.
    check(unsafe { sys::cuStreamSynchronize(stream.raw()) }, what)?;
    check(
        // SAFETY: the caller's promise, and `into` is ours to write.
        unsafe {
            sys::cuMemcpyDtoH_v2(
                into.as_mut_ptr().cast(),
                from as sys::CUdeviceptr,
                into.len(),
            )
        },
        "reading a number of the device's",
    )
}
