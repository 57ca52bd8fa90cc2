//! A stand-in for cuBLAS beside the stand-in for the CUDA driver, for tests without a GPU: a bf16 matrix product keeps its stream busy for a while
//! (`STANDIN_PRODUCT_US`, 500 microseconds unless it is set) and computes nothing. It knows the four functions that a product needs. Invariant: what cuBLAS
//! would refuse or read wrongly (no stream, no matrix, another type, rows that do not fit) gets an error code, so a test of a caller can fail.

#![allow(non_snake_case)]

mod folder;

pub use folder::add_to;

use std::{
    ffi::{CStr, c_int, c_void},
    ptr,
    time::Duration,
};

/// `cublasStatus_t`.
type Status = c_int;
const SUCCESS: Status = 0;
const NOT_INITIALIZED: Status = 1;
const INVALID_VALUE: Status = 7;
const EXECUTION_FAILED: Status = 13;
const NOT_SUPPORTED: Status = 15;

/// `CUDA_R_16BF`.
const BF16: c_int = 14;
/// `CUBLAS_COMPUTE_32F`.
const COMPUTE_F32: c_int = 68;

const LIBRARY: &CStr = c"libcuda.so.1";
const LAUNCH: &CStr = c"cuLaunchHostFunc";

/// What a handle points to.
struct Handle {
    stream: *mut c_void,
    /// Whether a stream was set: null is a stream too.
    set: bool,
}

type HostFunction = unsafe extern "C" fn(*mut c_void);
type LaunchHostFunction = unsafe extern "C" fn(*mut c_void, HostFunction, *mut c_void) -> c_int;

/// The driver's call that puts a function of the host on a stream.
fn launcher() -> Option<LaunchHostFunction> {
    // SAFETY: both names are C strings; the driver is in this process already and stays.
    unsafe {
        let driver = libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW);
        let function = (!driver.is_null()).then(|| libc::dlsym(driver, LAUNCH.as_ptr()))?;
        (!function.is_null())
            .then(|| std::mem::transmute::<*mut c_void, LaunchHostFunction>(function))
    }
}

/// The product's work.
unsafe extern "C" fn take_time(microseconds: *mut c_void) {
    std::thread::sleep(Duration::from_micros(microseconds as u64));
}

fn microseconds() -> usize {
    let text = std::env::var("STANDIN_PRODUCT_US").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(500)
}

/// A new handle.
///
/// # Safety
/// `out` is null or a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasCreate_v2(out: *mut *mut c_void) -> Status {
    if out.is_null() {
        return INVALID_VALUE;
    }
    let handle = Box::new(Handle {
        stream: ptr::null_mut(),
        set: false,
    });
    // SAFETY: the caller's promise.
    unsafe { out.write(Box::into_raw(handle).cast()) };
    SUCCESS
}

/// Ends a handle.
///
/// # Safety
/// `handle` is null, or from [`cublasCreate_v2`] and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasDestroy_v2(handle: *mut c_void) -> Status {
    if handle.is_null() {
        return NOT_INITIALIZED;
    }
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(handle.cast::<Handle>()) });
    SUCCESS
}

/// Where products go from now on.
///
/// # Safety
/// `handle` is null, or from [`cublasCreate_v2`] and used by nobody else now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasSetStream_v2(handle: *mut c_void, stream: *mut c_void) -> Status {
    // SAFETY: the caller's promise.
    let Some(handle) = (unsafe { handle.cast::<Handle>().as_mut() }) else {
        return NOT_INITIALIZED;
    };
    (handle.stream, handle.set) = (stream, true);
    SUCCESS
}

/// A product of bf16 matrices.
///
/// # Safety
/// `handle` is null, or from [`cublasCreate_v2`]. Matrices are not looked into.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "cuBLAS has them")]
pub unsafe extern "C" fn cublasGemmEx(
    handle: *mut c_void,
    _transpose_a: c_int,
    _transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    a_type: c_int,
    a_rows: c_int,
    b: *const c_void,
    b_type: c_int,
    b_rows: c_int,
    beta: *const c_void,
    c: *mut c_void,
    c_type: c_int,
    c_rows: c_int,
    compute: c_int,
    _algorithm: c_int,
) -> Status {
    // SAFETY: the caller's promise.
    let Some(handle) = (unsafe { handle.cast::<Handle>().as_ref() }) else {
        return NOT_INITIALIZED;
    };
    if [a_type, b_type, c_type] != [BF16; 3] || compute != COMPUTE_F32 {
        return NOT_SUPPORTED;
    }
    let places = [alpha, a, b, beta, c.cast_const()];
    let fits = m > 0 && n > 0 && k > 0 && a_rows >= m && b_rows >= k && c_rows >= m;
    if places.contains(&ptr::null()) || !fits || !handle.set {
        return INVALID_VALUE;
    }
    let Some(launch) = launcher() else {
        return NOT_INITIALIZED;
    };
    let time = ptr::without_provenance_mut(microseconds());
    // SAFETY: the driver's own function; what it is given is a number in a pointer's place.
    match unsafe { launch(handle.stream, take_time, time) } {
        0 => SUCCESS,
        _ => EXECUTION_FAILED,
    }
}
