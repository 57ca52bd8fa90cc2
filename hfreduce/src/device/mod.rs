//! Memory that the CPU does not read: what the engine asks of whoever copies between it and the node's segment. It knows no plan and no
//! collective. Invariants: a copy is begun here and its end is told later, in the order in which copies of one direction were begun;
//! nobody waits inside.

mod cuda;
mod direct;
mod driver;
mod memory;
mod stream;

pub use self::{
    cuda::Cuda,
    direct::{copy, current, read},
    driver::{Context, in_use, start},
    memory::{Memory, allocate, free, memory_of},
    stream::{Gate, Mark, Stream},
};

use crate::error::{Error, Kind};
use std::{sync::Arc, time::Duration};

/// Which of a call's buffers lie in a device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sides {
    /// The input.
    pub input: bool,
    /// The output.
    pub output: bool,
}

impl Sides {
    /// Whether any of them does.
    pub fn any(self) -> bool {
        self.input || self.output
    }
}

/// Copies between a device's memory and host memory, asynchronously.
pub trait Device: Send {
    /// Begins a copy of `bytes` bytes from the device to the host, told by `ticket`. None is allowed, and ends in its turn.
    ///
    /// # Errors
    /// The device refuses, or has failed before.
    ///
    /// # Safety
    /// Both sides must be good for `bytes` bytes, and left alone, until [`Device::poll`] has told the ticket.
    unsafe fn copy_in(
        &mut self,
        device: *const u8,
        host: *mut u8,
        bytes: usize,
        ticket: u64,
    ) -> Result<(), Error>;

    /// The other direction; as [`Device::copy_in`].
    ///
    /// # Errors
    /// As [`Device::copy_in`].
    ///
    /// # Safety
    /// As [`Device::copy_in`].
    unsafe fn copy_out(
        &mut self,
        host: *const u8,
        device: *mut u8,
        bytes: usize,
        ticket: u64,
    ) -> Result<(), Error>;

    /// Adds the tickets of copies that have ended.
    ///
    /// # Errors
    /// The device has failed: nothing more will be told.
    fn poll(&mut self, ended: &mut Vec<u64>) -> Result<(), Error>;

    /// Whether copies are under way.
    fn busy(&self) -> bool;

    /// Copies will have their host side in the `bytes` bytes from `at` on. What is covered grows from its beginning.
    ///
    /// # Errors
    /// The memory cannot be pinned.
    fn cover(&mut self, at: *mut u8, bytes: usize) -> Result<(), Error>;

    /// Copies will have their host side elsewhere. Only when none is under way.
    fn uncover(&mut self);

    /// Waits until no copy is under way, for at most `limit`; whether none is.
    fn drain(&mut self, limit: Duration) -> bool;
}

/// A call on a stream: which buffers are the device's, when they are ready, and who waits for the end.
pub struct OnDevice {
    /// Which sides.
    pub sides: Sides,
    /// Whose device.
    pub context: Context,
    /// Opens when the buffers are ready.
    pub gate: Gate,
    /// Released when this is dropped, at the latest.
    pub mark: Arc<Mark>,
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        self.mark.release();
    }
}

/// Looks where the buffers of a call are: which sides are to be copied by a device, and by which. The buffers of a side are alike.
///
/// # Errors
/// Ordinary host memory; no driver; buffers of two devices.
pub fn locate<'a>(
    input: impl Iterator<Item = &'a *const u8>,
    output: impl Iterator<Item = &'a *const u8>,
) -> Result<(Sides, Context), Error> {
    start()?;
    let mut context: Option<Context> = None;
    let mut side = |all: &mut dyn Iterator<Item = &'a *const u8>| {
        let mut any = false;
        for &at in all.filter(|at| !at.is_null()) {
            any = true;
            let (memory, of) = memory::ask(at)?;
            if memory == Memory::Host {
                return Err(Error::new(
                    Kind::InvalidArgument,
                    format!(
                        "the buffer at {at:p} is ordinary host memory, and the call is on a stream"
                    ),
                    "give device memory or pinned memory, or make the call without a stream",
                ));
            }
            match (context, of.filter(|_| memory == Memory::Device)) {
                (Some(first), Some(other)) if first != other => {
                    return Err(Error::new(
                        Kind::InvalidArgument,
                        format!(
                            "one buffer is on device {}, another on device {}",
                            first.device, other.device
                        ),
                        "keep all buffers of a rank on one device",
                    ));
                }
                (None, of) => context = of,
                _ => {}
            }
        }
        Ok(any)
    };
    let sides = Sides {
        input: side(&mut { input })?,
        output: side(&mut { output })?,
    };
    let context = match context {
        Some(context) => Some(context),
        None => Context::current()?,
    };
    let context = context.ok_or_else(|| {
        Error::new(
            Kind::Device,
            "no device is current on this thread, and no buffer says which it is",
            "choose one first (cudaSetDevice)",
        )
    })?;
    Ok((sides, context))
}
