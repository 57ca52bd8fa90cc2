//! Memory that the bench measures with: on the device, and pinned on the host. It knows bytes and streams, and no call. Invariant: what is
//! in device memory is read and written in the order of one stream, so nothing here is early.

use anyhow::{Result, ensure};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, PinnedHostSlice};
use std::sync::Arc;

/// What fresh pinned memory holds: no zeros, which some layer might treat as something special.
const FRESH: u8 = 0x5A;

/// Bytes on a device.
pub struct DeviceMemory {
    slice: CudaSlice<u8>,
    stream: Arc<CudaStream>,
}

impl DeviceMemory {
    /// So many bytes, all zero, or one if it is to be none.
    pub(super) fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<DeviceMemory> {
        let slice = stream.alloc_zeros(bytes.max(1))?;
        Ok(DeviceMemory {
            slice,
            stream: stream.clone(),
        })
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.slice.len()
    }

    /// The first byte's address on the device.
    pub fn at(&self) -> *mut u8 {
        let (at, _recorded) = self.slice.device_ptr(&self.stream);
        at as usize as *mut u8
    }

    /// Writes from the first byte on.
    ///
    /// # Errors
    /// More bytes than there are; a failure of the device.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        ensure!(
            bytes.len() <= self.len(),
            "{} bytes do not fit into {} on the device",
            bytes.len(),
            self.len()
        );
        if !bytes.is_empty() {
            let mut part = self.slice.slice_mut(..bytes.len());
            self.stream.memcpy_htod(bytes, &mut part)?;
        }
        Ok(())
    }

    /// Reads the first bytes.
    ///
    /// # Errors
    /// More bytes than there are; a failure of the device.
    pub fn get(&self, bytes: usize) -> Result<Vec<u8>> {
        ensure!(
            bytes <= self.len(),
            "there are no {bytes} bytes on the device"
        );
        if bytes == 0 {
            return Ok(Vec::new());
        }
        Ok(self.stream.clone_dtoh(&self.slice.slice(..bytes))?)
    }
}

/// Pinned bytes on the host, for copies at full speed.
pub struct HostMemory(PinnedHostSlice<u8>);

impl HostMemory {
    pub(super) fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<HostMemory> {
        // Not write-combined, as in the library: the CPU reads what lands.
        // SAFETY: every byte is written below before anybody reads one.
        let mut slice = unsafe { context.alloc_pinned_with_flags(bytes.max(1), 0)? };
        slice.as_mut_slice()?.fill(FRESH);
        Ok(HostMemory(slice))
    }

    /// Copies all of it to the device, as far as that has room; returns before that is done.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn copy_to(&self, device: &mut DeviceMemory, stream: &Arc<CudaStream>) -> Result<()> {
        Ok(stream.memcpy_htod(&self.0, &mut device.slice)?)
    }

    /// Copies from the device; returns before that is done.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn copy_from(&mut self, device: &DeviceMemory, stream: &Arc<CudaStream>) -> Result<()> {
        Ok(stream.memcpy_dtoh(&device.slice, &mut self.0)?)
    }
}
