//! The GPUs of this machine, for the bench: finding one, a stream on it, and memory. It knows nothing of what is measured, and launches
//! no kernel; only the matrix product of `product` does. Invariant: without a driver or a device there is a sentence, never a panic.

mod memory;
mod product;

pub use memory::{DeviceMemory, HostMemory};
pub use product::{Product, ensure_cublas};

use anyhow::{Context, Result, ensure};
use cudarc::driver::{CudaContext, CudaStream, DriverError, sys};
use std::sync::Arc;

/// How many devices the driver has.
///
/// # Errors
/// There is no driver, or it finds no device.
pub fn count() -> Result<usize> {
    // SAFETY: it looks for the library and runs nothing but the library's own start.
    let driver = unsafe { sys::is_culib_present() };
    ensure!(
        driver,
        "no CUDA driver on this machine (libcuda.so.1 is not found): install NVIDIA's driver, start the container with --gpus all, \
or leave out --device cuda"
    );
    match CudaContext::device_count() {
        Ok(count) if count > 0 => Ok(count as usize),
        Ok(_) | Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Err(anyhow::anyhow!(
            "the CUDA driver finds no device: look at nvidia-smi and CUDA_VISIBLE_DEVICES, and start the container with --gpus all"
        )),
        Err(error) => Err(error).context("the CUDA driver does not start: look at nvidia-smi"),
    }
}

/// A device, and the stream of the rank that uses it.
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

impl Gpu {
    /// The device of this local rank: they take turns where there are more ranks than devices.
    ///
    /// # Errors
    /// No driver, no device, or one that cannot be used.
    pub fn open(local_rank: usize) -> Result<Gpu> {
        let ordinal = local_rank % count()?;
        let named = || format!("cannot use GPU {ordinal}");
        let context = CudaContext::new(ordinal).with_context(named)?;
        let stream = context.new_stream().with_context(named)?;
        Ok(Gpu { context, stream })
    }

    /// The driver's number of the device.
    pub fn ordinal(&self) -> usize {
        self.context.ordinal()
    }

    /// What NVIDIA calls it.
    ///
    /// # Errors
    /// The driver's.
    pub fn name(&self) -> Result<String> {
        Ok(self.context.name()?)
    }

    /// What no other device has, or slice of a device under MIG.
    ///
    /// # Errors
    /// The driver's.
    pub fn identity(&self) -> Result<[u8; 16]> {
        Ok(self.context.uuid()?.bytes.map(|byte| byte as u8))
    }

    /// Bytes that are free now, and all.
    ///
    /// # Errors
    /// The driver's.
    pub fn room(&self) -> Result<(usize, usize)> {
        Ok(self.context.mem_get_info()?)
    }

    /// The rank's stream, as the library takes it.
    pub fn stream(&self) -> hfreduce::device::Stream {
        hfreduce::device::Stream::new(self.stream.cu_stream().cast())
    }

    /// Waits until the rank's stream has nothing left to do.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn synchronize(&self) -> Result<()> {
        self.stream
            .synchronize()
            .context("the GPU failed while its stream was waited for")
    }

    /// Memory on the device. Everything that happens to it does so in the order of the rank's stream.
    ///
    /// # Errors
    /// Too little memory.
    pub fn memory(&self, bytes: usize) -> Result<DeviceMemory> {
        DeviceMemory::new(&self.stream, bytes)
            .with_context(|| format!("cannot have {bytes} bytes on GPU {}", self.ordinal()))
    }

    /// Pinned host memory.
    ///
    /// # Errors
    /// Too little memory that may be pinned.
    pub fn host_memory(&self, bytes: usize) -> Result<HostMemory> {
        HostMemory::new(&self.context, bytes).with_context(|| {
            format!("cannot pin {bytes} bytes of host memory: look at ulimit -l (memlock)")
        })
    }

    /// Another stream.
    ///
    /// # Errors
    /// The driver's.
    pub fn new_stream(&self) -> Result<Arc<CudaStream>> {
        Ok(self.context.new_stream()?)
    }
}
