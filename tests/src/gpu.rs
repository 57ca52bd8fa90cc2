//! What a user of a GPU has, for tests: memory on a device, streams, and work that takes its time on them, by the driver's own calls. It
//! knows nothing of collectives. Invariant: every refusal of the driver is a panic, which is a failed test.

use cudarc::driver::sys::{self, CUresult};
use hfreduce::device::Stream;
use std::{ffi::c_void, ptr, time::Duration};

fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// Makes the device's primary context this thread's, and makes it first where there is none.
pub fn choose(device: i32) {
    hfreduce::device::start().expect("a driver");
    let mut context = ptr::null_mut();
    // SAFETY: the driver is there; the context is kept until the process ends.
    unsafe {
        ok(sys::cuDevicePrimaryCtxRetain(&raw mut context, device));
        ok(sys::cuCtxSetCurrent(context));
    }
}

/// Memory of the current device, freed on drop.
pub struct OnDevice {
    /// Its address, which the host cannot read.
    pub at: *mut u8,
    bytes: usize,
}

impl OnDevice {
    /// With these contents.
    pub fn of(bytes: &[u8]) -> OnDevice {
        let at = hfreduce::device::allocate(bytes.len()).expect("device memory");
        let memory = OnDevice {
            at,
            bytes: bytes.len(),
        };
        memory.put(bytes);
        memory
    }

    /// Gives it contents, at once.
    pub fn put(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            // SAFETY: as many bytes on both sides.
            ok(unsafe { sys::cuMemcpyHtoD_v2(self.at as u64, bytes.as_ptr().cast(), bytes.len()) });
        }
    }

    /// Its contents, now.
    pub fn get(&self) -> Vec<u8> {
        let mut bytes = vec![0u8; self.bytes];
        if self.bytes > 0 {
            // SAFETY: as many bytes on both sides.
            ok(unsafe {
                sys::cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), self.at as u64, self.bytes)
            });
        }
        bytes
    }
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        // SAFETY: nothing uses it any more.
        unsafe { hfreduce::device::free(self.at) }.expect("device memory is freed once");
    }
}

/// A stream of the user's, destroyed on drop.
pub struct UserStream(sys::CUstream);

impl Default for UserStream {
    fn default() -> UserStream {
        let mut stream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the driver writes a handle.
        ok(unsafe { sys::cuStreamCreate(&raw mut stream, flags) });
        UserStream(stream)
    }
}

impl UserStream {
    /// As the library takes it.
    pub fn handle(&self) -> Stream {
        Stream::new(self.0.cast())
    }

    /// Puts a copy from `from` to `to` on the stream.
    pub fn copy(&self, from: &OnDevice, to: &OnDevice) {
        assert_eq!(from.bytes, to.bytes);
        // SAFETY: both are good for as many bytes.
        ok(unsafe { sys::cuMemcpyDtoDAsync_v2(to.at as u64, from.at as u64, to.bytes, self.0) });
    }

    /// Puts a wait on the stream, such as a computation is.
    pub fn compute(&self, time: Duration) {
        unsafe extern "C" fn sleep(time: *mut c_void) {
            // SAFETY: made below, for this call alone.
            std::thread::sleep(*unsafe { Box::from_raw(time.cast::<Duration>()) });
        }
        let time = Box::into_raw(Box::new(time)).cast();
        // SAFETY: `sleep` takes the box.
        ok(unsafe { sys::cuLaunchHostFunc(self.0, Some(sleep), time) });
    }

    /// Waits until the stream has done everything.
    pub fn synchronize(&self) {
        // SAFETY: a living stream.
        ok(unsafe { sys::cuStreamSynchronize(self.0) });
    }

    /// Whether the stream has done everything.
    pub fn is_idle(&self) -> bool {
        // SAFETY: a living stream.
        let asked = unsafe { sys::cuStreamQuery(self.0) };
        assert!(matches!(
            asked,
            CUresult::CUDA_SUCCESS | CUresult::CUDA_ERROR_NOT_READY
        ));
        asked == CUresult::CUDA_SUCCESS
    }

    /// Begins to record a graph.
    pub fn capture(&self) {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        // SAFETY: a living stream.
        ok(unsafe { sys::cuStreamBeginCapture_v2(self.0, mode) });
    }

    /// Ends the recording.
    pub fn end_capture(&self) {
        let mut graph = ptr::null_mut();
        // SAFETY: a living stream; the driver writes a handle.
        ok(unsafe { sys::cuStreamEndCapture(self.0, &raw mut graph) });
    }
}

impl Drop for UserStream {
    fn drop(&mut self) {
        // SAFETY: ours; the driver lets it finish first.
        ok(unsafe { sys::cuStreamDestroy_v2(self.0) });
    }
}
