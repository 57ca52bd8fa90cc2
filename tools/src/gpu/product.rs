//! A load for the GPU's compute units: products of two square bf16 matrices by cuBLAS, on a stream of their own. It knows nothing of what runs
//! beside it. Invariant: `Running` tells the device's own time from the first product's begin to the last one's end.

use super::Gpu;
use anyhow::{Context, Result, ensure};
use cudarc::{
    cublas::{CudaBlas, Gemm, GemmConfig, sys},
    driver::{CudaEvent, CudaSlice, CudaStream, sys::CUevent_flags},
};
use half::bf16;
use std::sync::Arc;

/// # Errors
/// cuBLAS is not on this machine.
pub fn ensure_cublas() -> Result<()> {
    // SAFETY: it looks for the library and runs nothing but the library's own start.
    let there = unsafe { sys::is_culib_present() };
    ensure!(
        there,
        "cuBLAS is not on this machine (libcublas.so.12 or another version is not found), which --overlap needs for its matrix product: \
install it, or put its folder into LD_LIBRARY_PATH (torch brings it in site-packages/nvidia/cublas/lib)"
    );
    Ok(())
}

/// Two matrices, and where their product goes.
pub struct Product {
    blas: CudaBlas,
    stream: Arc<CudaStream>,
    left: CudaSlice<bf16>,
    right: CudaSlice<bf16>,
    result: CudaSlice<bf16>,
    side: usize,
}

/// Products that the device has been given.
pub struct Running {
    start: CudaEvent,
    end: CudaEvent,
}

impl Running {
    /// Whether they are done.
    pub fn is_done(&self) -> bool {
        self.end.is_complete()
    }

    /// Waits for them; seconds they took on the device.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn wait(&self) -> Result<f64> {
        self.end.synchronize()?;
        Ok(f64::from(self.start.elapsed_ms(&self.end)?) / 1e3)
    }
}

impl Product {
    /// Matrices of `side` by `side`.
    ///
    /// # Errors
    /// No cuBLAS, or too little memory on the device.
    pub fn new(gpu: &Gpu, side: usize) -> Result<Product> {
        ensure_cublas()?;
        let stream = gpu.new_stream()?;
        let blas = CudaBlas::new(stream.clone()).context("cuBLAS does not start")?;
        let named = || {
            format!("no room for three matrices of {side} x {side} bf16: take a smaller --matrix")
        };
        // Small values of both signs: sums stay in range, and the units have bits to toggle, as in a real product.
        let values = |seed: usize| -> Vec<bf16> {
            let value = |i: usize| bf16::from_f32(((i * seed) % 61) as f32 / 64.0 - 0.45);
            (0..side * side).map(value).collect()
        };
        Ok(Product {
            left: stream.clone_htod(&values(7)).with_context(named)?,
            right: stream.clone_htod(&values(11)).with_context(named)?,
            result: stream.alloc_zeros(side * side).with_context(named)?,
            blas,
            stream,
            side,
        })
    }

    /// Additions and multiplications of one product of matrices of `side` by `side`.
    pub fn operations(side: usize) -> f64 {
        2.0 * (side as f64).powi(3)
    }

    /// Gives the device so many products and returns.
    ///
    /// # Errors
    /// A failure of the device or of cuBLAS.
    pub fn start(&mut self, times: usize) -> Result<Running> {
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let side = self.side as i32;
        let start = self.stream.record_event(timed)?;
        for _ in 0..times {
            let what = GemmConfig {
                transa: sys::cublasOperation_t::CUBLAS_OP_N,
                transb: sys::cublasOperation_t::CUBLAS_OP_N,
                m: side,
                n: side,
                k: side,
                alpha: bf16::from_f32(1.0),
                lda: side,
                ldb: side,
                beta: bf16::from_f32(0.0),
                ldc: side,
            };
            // SAFETY: all three are matrices of side x side, and used on this stream alone.
            unsafe {
                self.blas
                    .gemm(what, &self.left, &self.right, &mut self.result)
            }
            .context("cuBLAS refuses the matrix product")?;
        }
        let end = self.stream.record_event(timed)?;
        Ok(Running { start, end })
    }
}
