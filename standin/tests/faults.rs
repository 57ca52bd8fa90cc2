//! What goes wrong when a test asks for it by a setting: broken contexts, hanging copies, refused registrations, missing features.

mod support;

use cudarc::driver::{CudaContext, sys};
use std::{ffi::c_void, ptr::null_mut, sync::atomic::Ordering, time::Duration};
use support::*;

const BROKEN: sys::CUresult = sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;

extern "C" fn never(_: *mut c_void) {
    std::process::abort();
}

#[test]
fn a_failed_copy_breaks_its_context_and_its_streams_drain() {
    let name = "a_failed_copy_breaks_its_context_and_its_streams_drain";
    let ended = on_standin(name, &[("STANDIN_FAIL", "copy:2")], || {
        let context = context();
        let (first, second) = (stream(&context), stream(&context));
        let (bytes, there) = (pattern(4096, 1), device(4096));
        let (here, gate, word) = (Pinned::new(4096), Gate::new(), Pinned::new(8));
        here.write(&bytes);
        gate.close(&second);
        cu!(cuStreamWriteValue64_v2(
            second.cu_stream(),
            word.on_device(),
            55,
            0
        ));
        cu!(cuLaunchHostFunc(
            second.cu_stream(),
            Some(never),
            null_mut()
        ));
        cu!(cuMemcpyHtoDAsync_v2(
            there,
            here.at(),
            4096,
            first.cu_stream()
        ));
        cu!(cuMemcpyDtoHAsync_v2(
            here.at(),
            there,
            4096,
            first.cu_stream()
        ));
        // Both streams drain, the gated one too; its work has no effect.
        assert_eq!(code!(cuStreamSynchronize(first.cu_stream())), BROKEN);
        assert_eq!(code!(cuStreamSynchronize(second.cu_stream())), BROKEN);
        assert_eq!(word.word(0).load(Ordering::Acquire), 1);
        assert_ne!(
            here.read(),
            bytes,
            "what the failed copy would have brought"
        );
        assert_eq!(code!(cuStreamQuery(first.cu_stream())), BROKEN);
        let mut event = null_mut();
        assert_eq!(code!(cuEventCreate(&mut event, 0)), BROKEN);
        assert_eq!(code!(cuMemFree_v2(there)), BROKEN);
        let to = first.cu_stream();
        assert_eq!(code!(cuMemsetD8Async(there, 1, 64, to)), BROKEN);
        for own in [&here, &word] {
            assert_eq!(code!(cuMemHostUnregister(own.at())), BROKEN);
        }
        // Another context is whole.
        let mut own = null_mut();
        cu!(cuCtxCreate_v2(&mut own, 0, 0));
        assert_eq!(download(upload(&bytes), 4096), bytes);
        std::process::exit(0);
    });
    let report = ended.well();
    // What was unpinned or freed in a broken context is not left behind, though each call says that the context is broken.
    assert_eq!((report.live_registrations, report.live_allocations), (1, 1));
    assert_eq!(report.host_functions, 0);
}

#[test]
fn a_broken_context_waits_for_no_other() {
    let name = "a_broken_context_waits_for_no_other";
    let ended = on_standin(name, &[("STANDIN_FAIL", "copy:1")], || {
        let context = context();
        let (first, second) = (stream(&context), stream(&context));
        let (there, here, gate) = (device(64), Pinned::new(64), Gate::new());
        let (mut own, mut gated, mut event) = (null_mut(), null_mut(), null_mut());
        cu!(cuCtxCreate_v2(&mut own, 0, 0));
        cu!(cuStreamCreate(&mut gated, 1));
        cu!(cuEventCreate(&mut event, 2));
        gate.close_raw(gated);
        cu!(cuEventRecord(event, gated));
        cu!(cuCtxPopCurrent_v2(&mut own));
        cu!(cuStreamWaitEvent(first.cu_stream(), event, 0));
        let to = second.cu_stream();
        cu!(cuMemcpyHtoDAsync_v2(there, here.at(), 64, to));
        assert_eq!(code!(cuStreamSynchronize(first.cu_stream())), BROKEN);
        assert!(
            !idle(gated),
            "the other context is whole, and its stream still held"
        );
        gate.open();
        cu!(cuStreamSynchronize(gated));
        std::process::exit(0);
    });
    assert_eq!(ended.well().waits, 1);
}

#[test]
fn a_hanging_copy_never_ends_and_holds_its_stream_alone() {
    let name = "a_hanging_copy_never_ends_and_holds_its_stream_alone";
    let ended = on_standin(name, &[("STANDIN_FAIL", "hang:2")], || {
        let context = context();
        let (first, second) = (stream(&context), stream(&context));
        let (there, here) = (device(64), Pinned::new(64));
        let event = context.new_event(None).expect("an event");
        cu!(cuMemcpyHtoDAsync_v2(
            there,
            here.at(),
            64,
            second.cu_stream()
        ));
        second
            .synchronize()
            .expect("the first copy is not the second");
        cu!(cuMemcpyHtoDAsync_v2(
            there,
            here.at(),
            64,
            first.cu_stream()
        ));
        event.record(&first).expect("a record");
        cu!(cuMemcpyHtoDAsync_v2(
            there,
            here.at(),
            64,
            second.cu_stream()
        ));
        second.synchronize().expect("another stream");
        std::thread::sleep(Duration::from_millis(20));
        assert!(!idle(first.cu_stream()) && !event.is_complete());
        std::process::exit(0);
    });
    assert_eq!(ended.well().host_to_device.copies, 2);
}

#[test]
fn a_registration_is_refused() {
    let ended = on_standin(
        "a_registration_is_refused",
        &[("STANDIN_FAIL", "register:2")],
        || {
            let _context = context();
            let first = Pinned::new(64);
            let bytes = [7u8; 64];
            let at = bytes.as_ptr() as *mut c_void;
            let code = code!(cuMemHostRegister_v2(at, 64, 0));
            assert_eq!(code, sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
            cu!(cuMemHostRegister_v2(at, 64, 0));
            cu!(cuMemHostUnregister(at));
            drop(first);
        },
    );
    ended.well();
}

#[test]
fn streams_may_be_unable_to_wait_for_words() {
    let name = "streams_may_be_unable_to_wait_for_words";
    let ended = on_standin(name, &[("STANDIN_NO_MEMOPS", "1")], || {
        let context = context();
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS;
        assert_eq!(context.attribute(attribute).expect("a number"), 0);
        let (stream, word) = (stream(&context), Pinned::new(8));
        let (stream, at) = (stream.cu_stream(), word.on_device());
        let codes = [
            code!(cuStreamWaitValue32_v2(stream, at, 1, 0)),
            code!(cuStreamWaitValue64_v2(stream, at, 1, 0)),
            code!(cuStreamWriteValue32_v2(stream, at, 1, 0)),
            code!(cuStreamWriteValue64_v2(stream, at, 1, 0)),
        ];
        assert_eq!(codes, [sys::CUresult::CUDA_ERROR_NOT_SUPPORTED; 4]);
    });
    ended.well();
}

#[test]
fn contexts_may_be_forbidden() {
    let settings = &[("STANDIN_CONTEXTS", "0")];
    let ended = on_standin("contexts_may_be_forbidden", settings, || {
        let context = CudaContext::new(0);
        println!("{context:?}");
    });
    ended.for_misuse("a context on device 0 is made, and STANDIN_CONTEXTS=0 says that nobody may (cuDevicePrimaryCtxRetain)");
}

#[test]
fn there_may_be_no_device() {
    let ended = on_standin(
        "there_may_be_no_device",
        &[("STANDIN_DEVICES", "0")],
        || {
            let code = CudaContext::new(0).expect_err("no device").0;
            assert_eq!(code, sys::CUresult::CUDA_ERROR_NO_DEVICE);
        },
    );
    ended.well();
}

#[test]
fn settings_that_mean_nothing_are_misuses() {
    let name = "settings_that_mean_nothing_are_misuses";
    let ended = on_standin(name, &[("STANDIN_FAIL", "sometimes")], || {
        cu!(cuInit(0));
    });
    ended.for_misuse("STANDIN_FAIL=sometimes is not copy:N, hang:N or register:N (cuInit)");
}

#[test]
fn a_forked_child_has_no_driver() {
    let ended = on_standin("a_forked_child_has_no_driver", &[], || {
        let _context = context();
        let mut count = 5;
        // SAFETY: the child calls the stand-in, which answers at once without a lock, and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let refused =
                code!(cuDeviceGetCount(&mut count)) == sys::CUresult::CUDA_ERROR_NOT_INITIALIZED;
            // SAFETY: leaving without the parent's handlers is what a forked child does.
            unsafe { libc::_exit(if refused { 42 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: the child is this process's own, and the place is a local one.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 42);
    });
    ended.well();
}
