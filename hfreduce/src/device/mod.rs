//! Memory that the CPU does not read: what the engine asks of whoever copies between it and the node's segment. It knows no plan and no
//! collective. Invariants: a copy is begun here and its end is told later, in the order in which copies of one direction were begun;
//! nobody waits inside.

use crate::error::Error;

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
}
