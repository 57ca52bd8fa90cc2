//! The CUDA driver: loaded when it is first needed, its errors in words, its contexts. It makes no context of its own: the user's are joined. It
//! knows no stream and no copy. Invariant: nothing here is called before the driver was found, so that a machine without one gets an
//! error and not a panic.

use crate::error::{Error, Kind};
use cudarc::driver::sys;
use std::{
    cell::Cell,
    ffi::CStr,
    ptr,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// An error of the driver, in words.
pub(super) fn check(result: sys::CUresult, what: &str) -> Result<(), Error> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let text = |get: unsafe fn(sys::CUresult, *mut *const std::ffi::c_char) -> sys::CUresult| {
        let mut text = ptr::null();
        // SAFETY: the driver writes a pointer to a string of its own, which lives as long as it does.
        unsafe { get(result, &raw mut text) };
        if text.is_null() {
            return format!("{}", result as u32);
        }
        // SAFETY: as above.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    };
    let name = text(sys::cuGetErrorName);
    let remedy = match result {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            "free device or pinned memory, or raise the limit on locked memory (ulimit -l)"
        }
        sys::CUresult::CUDA_ERROR_STUB_LIBRARY => "take CUDA's stubs folder out of LD_LIBRARY_PATH",
        sys::CUresult::CUDA_ERROR_DEINITIALIZED => "close communicators before the process ends",
        _ => "look at the device's state (nvidia-smi), and at what else the process does on it",
    };
    Err(Error::new(
        Kind::Device,
        format!("{what}: {} ({name})", text(sys::cuGetErrorString)),
        remedy,
    ))
}

/// Whether the driver is in this process already. Loads nothing.
pub(super) fn loaded() -> bool {
    static LOADED: AtomicBool = AtomicBool::new(false);
    if LOADED.load(Ordering::Relaxed) {
        return true;
    }
    // SAFETY: asks for what is there and runs nobody's code; the handle is kept, so that it stays there.
    let handle = unsafe {
        libc::dlopen(
            c"libcuda.so.1".as_ptr(),
            libc::RTLD_LAZY | libc::RTLD_NOLOAD,
        )
    };
    LOADED.store(!handle.is_null(), Ordering::Relaxed);
    !handle.is_null()
}

/// Finds and starts the driver.
///
/// # Errors
/// There is none, or it does not work here.
pub fn start() -> Result<(), Error> {
    static STARTED: OnceLock<Result<(), Error>> = OnceLock::new();
    let start = || {
        // SAFETY: looks for the library, whose own start is all that runs.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::new(
                Kind::Device,
                "the CUDA driver (libcuda.so.1) cannot be loaded",
                "install NVIDIA's driver, or start the container with its GPUs (docker run --gpus all)",
            ));
        }
        // SAFETY: the library is there; starting it twice is allowed.
        check(unsafe { sys::cuInit(0) }, "starting the CUDA driver")
    };
    STARTED.get_or_init(start).clone()
}

/// Whether this process uses CUDA: the driver is loaded, and a context is current on this thread or the primary one of a device is active. Loads
/// and creates nothing.
pub fn in_use() -> bool {
    if !loaded() {
        return false;
    }
    let mut current = ptr::null_mut();
    // SAFETY: the library is there; before its start it says so.
    if unsafe { sys::cuCtxGetCurrent(&raw mut current) } != sys::CUresult::CUDA_SUCCESS {
        return false;
    }
    if !current.is_null() {
        return true;
    }
    let mut devices = 0;
    // SAFETY: as above.
    if unsafe { sys::cuDeviceGetCount(&raw mut devices) } != sys::CUresult::CUDA_SUCCESS {
        return false;
    }
    (0..devices).any(is_active)
}

/// The PCI address of the device that is current on this thread, in the driver's words. Loads and creates nothing.
pub fn current_address() -> Option<String> {
    if !loaded() {
        return None;
    }
    let context = Context::current().ok()??;
    let mut text = [0; 32];
    check(
        // SAFETY: the driver is there, and writes no more than there is room for, its end included.
        unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as i32, context.device) },
        "asking for a device's address",
    )
    .ok()?;
    // SAFETY: the driver has ended the text.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) };
    Some(text.to_string_lossy().into_owned())
}

/// Whether a device's primary context is active.
fn is_active(device: i32) -> bool {
    let (mut flags, mut active) = (0, 0);
    // SAFETY: the library is there and started.
    let asked = unsafe { sys::cuDevicePrimaryCtxGetState(device, &raw mut flags, &raw mut active) };
    asked == sys::CUresult::CUDA_SUCCESS && active != 0
}

/// Primary contexts that this process keeps, as far as nobody has reset their devices.
fn kept() -> MutexGuard<'static, Vec<Context>> {
    static KEPT: Mutex<Vec<Context>> = Mutex::new(Vec::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.retain(|context| is_active(context.device));
    kept
}

/// Counts one more user of a device's primary context, which is active, until the process ends.
fn retain(device: i32) -> Result<Context, Error> {
    let mut kept = kept();
    if let Some(context) = kept.iter().find(|c| c.device == device) {
        return Ok(*context);
    }
    let mut raw = ptr::null_mut();
    check(
        // SAFETY: the driver is there; the context is active.
        unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut raw, device) },
        "joining a device's primary context",
    )?;
    let context = Context { raw, device };
    kept.push(context);
    Ok(context)
}

/// A context of the user's, and the device it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    raw: sys::CUcontext,
    /// Its device's number.
    pub device: i32,
}

// SAFETY: a handle, which the driver lets any thread use.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// The one that is current on this thread, if one is.
    pub(super) fn current() -> Result<Option<Context>, Error> {
        let mut raw = ptr::null_mut();
        check(
            // SAFETY: the driver is there.
            unsafe { sys::cuCtxGetCurrent(&raw mut raw) },
            "asking for the current context",
        )?;
        if raw.is_null() {
            return Ok(None);
        }
        Context::of(raw).map(Some)
    }

    /// The one with this handle. A device's primary context is kept for the life of the process; others must outlive the communicators that
    /// work in them.
    pub(super) fn of(raw: sys::CUcontext) -> Result<Context, Error> {
        if let Some(context) = kept().iter().find(|c| c.raw == raw) {
            return Ok(*context);
        }
        let mut context = Context { raw, device: -1 };
        let _entered = context.enter()?;
        let mut device = -1;
        check(
            // SAFETY: the context is current.
            unsafe { sys::cuCtxGetDevice(&raw mut device) },
            "asking for a context's device",
        )?;
        context.device = device;
        if is_active(device) {
            retain(device)?;
        }
        Ok(context)
    }

    /// The context in which users of a device's pools meet: the current one if it is of the device, else the primary one, which must be active:
    /// it is joined and not made.
    pub(super) fn on(device: i32) -> Result<Context, Error> {
        if let Some(current) = Context::current()?.filter(|c| c.device == device) {
            return Ok(current);
        }
        if let Some(context) = kept().iter().find(|c| c.device == device) {
            return Ok(*context);
        }
        if !is_active(device) {
            return Err(Error::new(
                Kind::Device,
                format!("device {device} has no active context"),
                "use the device (as cudaSetDevice or a first allocation does) before the group does",
            ));
        }
        retain(device)
    }

    /// Makes it current on this thread until the result is dropped.
    pub(super) fn enter(self) -> Result<Entered, Error> {
        let mut current = ptr::null_mut();
        check(
            // SAFETY: the driver is there.
            unsafe { sys::cuCtxGetCurrent(&raw mut current) },
            "asking for the current context",
        )?;
        if current == self.raw {
            return Ok(Entered {
                pushed: false,
                mode: relax()?,
            });
        }
        check(
            // SAFETY: the context was the user's or a primary one, which live as long as their buffers.
            unsafe { sys::cuCtxPushCurrent_v2(self.raw) },
            "entering a context",
        )?;
        Ok(Entered {
            pushed: true,
            mode: relax()?,
        })
    }

    /// Makes it this thread's own, a thread that belongs to the library.
    pub fn adopt(self) -> Result<(), Error> {
        thread_local! {
            static ADOPTED: Cell<sys::CUcontext> = const { Cell::new(ptr::null_mut()) };
        }
        if ADOPTED.get() == self.raw {
            return Ok(());
        }
        check(
            // SAFETY: as in `enter`.
            unsafe { sys::cuCtxSetCurrent(self.raw) },
            "entering a context",
        )?;
        relax()?;
        ADOPTED.set(self.raw);
        Ok(())
    }

    /// What the device says of itself.
    pub(super) fn attribute(self, attribute: sys::CUdevice_attribute) -> Result<i32, Error> {
        let mut value = 0;
        check(
            // SAFETY: the driver is there, and writes a number.
            unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, self.device) },
            "asking for a device's attribute",
        )?;
        Ok(value)
    }
}

/// From now on this thread's calls do not disturb the recording of a graph by another thread. Returns how it was before.
fn relax() -> Result<sys::CUstreamCaptureMode, Error> {
    let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    check(
        // SAFETY: concerns this thread alone.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) },
        "setting a thread's capture mode",
    )?;
    Ok(mode)
}

/// A context is current, and the thread's calls disturb nobody's recording.
pub(super) struct Entered {
    pushed: bool,
    mode: sys::CUstreamCaptureMode,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: concerns this thread alone; as it was before.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut self.mode) };
        if self.pushed {
            let mut popped = ptr::null_mut();
            // SAFETY: it was pushed on this thread, and whatever came on top of it is gone.
            unsafe { sys::cuCtxPopCurrent_v2(&raw mut popped) };
        }
    }
}
