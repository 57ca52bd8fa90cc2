//! Every misuse that the stand-in knows ends the process with the line that names it. Each test does one thing that no program may do.

mod support;

use cudarc::driver::sys;
use std::{ffi::c_void, ptr::null_mut};
use support::*;

/// One test per misuse: its name, what the line on stderr says, and what is done.
macro_rules! misuses {
    ($($name:ident: $said:expr, $body:block)*) => {
        $(
            #[test]
            fn $name() {
                on_standin(stringify!($name), &[], || $body).for_misuse($said);
            }
        )*
    };
}

fn freed(len: usize) -> sys::CUdeviceptr {
    let at = device(len);
    cu!(cuMemFree_v2(at));
    at
}

fn raw_stream() -> sys::CUstream {
    let mut stream = null_mut();
    cu!(cuStreamCreate(&mut stream, 1));
    stream
}

fn event() -> sys::CUevent {
    let mut event = null_mut();
    cu!(cuEventCreate(&mut event, 0));
    event
}

/// A context of its own, current; the one before is beneath it.
fn second_context() -> sys::CUcontext {
    let mut context = null_mut();
    cu!(cuCtxCreate_v2(&mut context, 0, 0));
    context
}

/// Pinned memory of a mapping of its own.
fn mapping() -> *mut c_void {
    let mut at = null_mut();
    cu!(cuMemHostAlloc(&mut at, 8192, 0));
    at
}

extern "C" fn calls_the_driver(_: *mut c_void) {
    let mut context = null_mut();
    cu!(cuCtxGetCurrent(&mut context));
}

misuses! {
    no_call_comes_before_init: "called before cuInit (cuDeviceGetCount)", {
        let mut count = 5;
        cu!(cuDeviceGetCount(&mut count));
    }
    no_memory_without_a_context: "no context is current (cuMemAlloc_v2)", {
        cu!(cuInit(0));
        device(64);
    }
    no_copy_from_freed_memory: "is freed (cuMemcpyDtoHAsync_v2)", {
        let context = context();
        let (stream, here) = (stream(&context), Pinned::new(64));
        cu!(cuMemcpyDtoHAsync_v2(here.at(), freed(64), 64, stream.cu_stream()));
    }
    no_copy_to_what_is_no_device_memory: "is not device memory (cuMemcpyHtoDAsync_v2)", {
        let context = context();
        let (stream, here) = (stream(&context), Pinned::new(64));
        cu!(cuMemcpyHtoDAsync_v2(here.on_device(), here.at(), 64, stream.cu_stream()));
    }
    no_device_memory_as_host_memory: "is device memory where host memory belongs (cuMemcpyHtoD_v2)", {
        let _context = context();
        cu!(cuMemcpyHtoD_v2(device(64), device(64) as *const c_void, 64));
    }
    no_copy_past_the_end: "goes past the end of the allocation", {
        let context = context();
        let (stream, here) = (stream(&context), Pinned::new(104));
        cu!(cuMemcpyHtoDAsync_v2(device(100) + 1, here.at(), 100, stream.cu_stream()));
    }
    no_fill_past_the_end: "goes past the end of the allocation", {
        let _context = context();
        cu!(cuMemsetD32_v2(device(100), 3, 26));
    }
    no_double_free: "is freed twice (cuMemFree_v2)", {
        let _context = context();
        let at = freed(64);
        cu!(cuMemFree_v2(at));
    }
    no_double_free_in_order: "is freed twice (cuMemFreeAsync)", {
        let context = context();
        let (stream, gate, at) = (stream(&context), Gate::new(), device(64));
        gate.close(&stream);
        cu!(cuMemFreeAsync(at, stream.cu_stream()));
        cu!(cuMemFreeAsync(at, stream.cu_stream()));
    }
    no_free_within_an_allocation: "is freed and is not the start of device memory", {
        let _context = context();
        cu!(cuMemFree_v2(device(64) + 8));
    }
    no_use_after_a_free_in_order: "is used after cuMemFreeAsync (cuMemsetD8Async)", {
        let context = context();
        let (stream, gate, at) = (stream(&context), Gate::new(), device(64));
        gate.close(&stream);
        cu!(cuMemFreeAsync(at, stream.cu_stream()));
        cu!(cuMemsetD8Async(at, 5, 64, stream.cu_stream()));
    }
    no_free_in_order_beside_a_copy: "is freed while a stream still uses it: cuMemcpyDtoHAsync_v2 (cuMemFreeAsync)", {
        let context = context();
        let (gated, other) = (stream(&context), stream(&context));
        let (gate, at, here) = (Gate::new(), device(64), Pinned::new(64));
        gate.close(&gated);
        cu!(cuMemcpyDtoHAsync_v2(here.at(), at, 64, gated.cu_stream()));
        cu!(cuMemFreeAsync(at, other.cu_stream()));
        other.synchronize().expect("never");
    }
    no_unpinning_beside_a_copy: "is unregistered while a stream still uses it: cuMemcpyHtoDAsync_v2 (cuMemHostUnregister)", {
        let context = context();
        let (stream, gate, here) = (stream(&context), Gate::new(), Pinned::new(64));
        gate.close(&stream);
        cu!(cuMemcpyHtoDAsync_v2(device(64), here.at(), 64, stream.cu_stream()));
        drop(here);
    }
    no_unpinning_of_a_word_that_a_stream_waits_for: "is unregistered while a stream still uses it: cuStreamWaitValue64_v2 (cuMemHostUnregister)", {
        let context = context();
        let (stream, gate) = (stream(&context), Gate::new());
        gate.close(&stream);
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(gate);
    }
    no_freeing_of_pinned_memory_beside_a_copy: "is freed while a stream still uses it: cuMemcpyDtoHAsync_v2 (cuMemFreeHost)", {
        let context = context();
        let (stream, gate, here) = (stream(&context), Gate::new(), mapping());
        gate.close(&stream);
        cu!(cuMemcpyDtoHAsync_v2(here, device(64), 64, stream.cu_stream()));
        cu!(cuMemFreeHost(here));
    }
    no_double_free_of_pinned_memory: "is not memory of cuMemHostAlloc, or was freed before", {
        let _context = context();
        let here = mapping();
        cu!(cuMemFreeHost(here));
        cu!(cuMemFreeHost(here));
    }
    no_unmapping_beside_a_copy: "is no longer mapped while a queued operation uses it (cuMemcpyHtoDAsync_v2)", {
        let context = context();
        let (stream, gate, here) = (stream(&context), Gate::new(), mapping());
        gate.close(&stream);
        cu!(cuMemcpyHtoDAsync_v2(device(64), here.wrapping_byte_add(4096), 64, stream.cu_stream()));
        // SAFETY: the mapping is this test's, and that a copy still needs its second page is the point.
        assert_eq!(unsafe { libc::munmap(here.wrapping_byte_add(4096), 4096) }, 0);
        gate.open();
        stream.synchronize().expect("never");
    }
    no_destroyed_stream: "is destroyed, or never was one (cuStreamSynchronize)", {
        let _context = context();
        let stream = raw_stream();
        cu!(cuStreamDestroy_v2(stream));
        cu!(cuStreamSynchronize(stream));
    }
    no_destroyed_event: "is destroyed, or never was one (cuEventQuery)", {
        let _context = context();
        let event = event();
        cu!(cuEventDestroy_v2(event));
        cu!(cuEventQuery(event));
    }
    no_work_while_another_context_is_current: "while context 0x41000100 is current (cuMemsetD8Async)", {
        let _context = context();
        let (stream, at) = (raw_stream(), device(64));
        second_context();
        cu!(cuMemsetD8Async(at, 5, 64, stream));
    }
    no_record_of_an_event_of_another_context: "is recorded in a stream of context 0x41000100 (cuEventRecord)", {
        let _context = context();
        let event = event();
        second_context();
        cu!(cuEventRecord(event, raw_stream()));
    }
    no_call_from_a_host_function: "a host function calls the driver (cuCtxGetCurrent)", {
        let context = context();
        let stream = stream(&context);
        cu!(cuLaunchHostFunc(stream.cu_stream(), Some(calls_the_driver), null_mut()));
        stream.synchronize().expect("never");
    }
    no_kernel: "a kernel was launched or loaded; the copy engines alone may be used (cuLaunchKernel)", {
        let _context = context();
        cu!(cuLaunchKernel(null_mut(), 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut(), null_mut()));
    }
    no_module: "a kernel was launched or loaded; the copy engines alone may be used (cuModuleLoadData)", {
        let _context = context();
        let mut module = null_mut();
        cu!(cuModuleLoadData(&mut module, c"code".as_ptr().cast()));
    }
    no_release_of_what_was_not_retained: "is released more often than it was retained", {
        cu!(cuInit(0));
        cu!(cuDevicePrimaryCtxRelease_v2(0));
    }
    no_destruction_of_a_primary_context: "is a primary one", {
        let context = context();
        cu!(cuCtxDestroy_v2(context.cu_ctx()));
    }
}
