//! Devices, contexts, memory and reports of the stand-in, seen through cudarc as a program sees the driver.

mod support;

use cudarc::driver::{CudaContext, result, sys};
use std::{
    ffi::{CStr, c_void},
    os::unix::process::ExitStatusExt,
};
use support::*;

#[test]
fn a_program_moves_bytes_through_it() {
    let ended = on_standin("a_program_moves_bytes_through_it", &[], || {
        // SAFETY: loading the stand-in runs no code of its own. It must bear being loaded, dropped and loaded again.
        assert!(unsafe { sys::is_culib_present() });
        let context = context();
        assert_eq!(context.name().expect("a name"), "HFReduce stand-in 0");
        assert_eq!(context.compute_capability().expect("numbers"), (9, 0));
        let stream = stream(&context);
        let bytes = pattern(3 << 20, 1);
        let there = stream.clone_htod(&bytes).expect("a copy");
        let again = stream.clone_dtod(&there).expect("a copy");
        assert_eq!(stream.clone_dtoh(&again).expect("a copy"), bytes);
        let zeros = stream.alloc_zeros::<u8>(100_000).expect("memory");
        assert_eq!(stream.clone_dtoh(&zeros).expect("a copy"), vec![0; 100_000]);
    });
    let report = ended.well();
    assert_eq!(
        (report.host_to_device.copies, report.host_to_device.bytes),
        (1, 3 << 20)
    );
    assert_eq!(
        (
            report.device_to_device.copies,
            report.device_to_device.bytes
        ),
        (1, 3 << 20)
    );
    assert_eq!(
        (report.device_to_host.copies, report.device_to_host.bytes),
        (2, (3 << 20) + 100_000)
    );
    assert_eq!((report.pageable, report.contexts_created), (3, 1));
    assert_eq!(
        (
            report.live_streams,
            report.live_events,
            report.live_allocations,
            report.live_registrations
        ),
        (0, 0, 0, 0)
    );
}

#[test]
fn devices_are_the_same_in_every_process() {
    let name = "devices_are_the_same_in_every_process";
    let ended = on_standin(name, &[("STANDIN_DEVICES", "3")], || {
        let mut version = 0;
        cu!(cuDriverGetVersion(&mut version));
        assert_eq!(version, 12020);
        assert_eq!(CudaContext::device_count().expect("a number"), 3);
        let mut uuids = Vec::new();
        for ordinal in 0..3 {
            let mut device = -1;
            cu!(cuDeviceGet(&mut device, ordinal));
            let uuid = result::device::get_uuid(device).expect("a uuid");
            uuids.push(uuid.bytes.map(|b| b as u8));
            let mut id = [1; 20];
            cu!(cuDeviceGetPCIBusId(id.as_mut_ptr(), 20, device));
            let id: Vec<u8> = id.iter().map(|c| *c as u8).collect();
            let id = CStr::from_bytes_until_nul(&id).expect("a text");
            let expected = format!("0000:0{}:00.0", ordinal + 1);
            assert_eq!(id.to_str(), Ok(expected.as_str()));
            for (attribute, value) in [(33, ordinal + 1), (40, 2), (41, 1), (75, 9), (122, 1)] {
                assert_eq!(number_of(device, attribute), value, "{attribute}");
            }
        }
        assert_eq!(uuids[2], *b"hfr stand-in\0\0\0\x02");
        assert_ne!(uuids[0], uuids[1]);
        let mut device = 0;
        let code = code!(cuDeviceGet(&mut device, 3));
        assert_eq!(code, sys::CUresult::CUDA_ERROR_INVALID_DEVICE);
    });
    ended.well();
}

fn number_of(device: i32, attribute: u32) -> i32 {
    let mut value = -1;
    // SAFETY: the numbers in these tests are all attributes of the driver.
    let attribute = unsafe { std::mem::transmute::<u32, sys::CUdevice_attribute>(attribute) };
    cu!(cuDeviceGetAttribute(&mut value, attribute, device));
    value
}

#[test]
fn primary_contexts_live_from_the_first_retain_to_the_last_release() {
    let name = "primary_contexts_live_from_the_first_retain_to_the_last_release";
    let ended = on_standin(name, &[], || {
        cu!(cuInit(0));
        let active = || {
            let (mut flags, mut active) = (7, 7);
            cu!(cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
            (flags, active)
        };
        assert_eq!(active(), (0, 0));
        cu!(cuDevicePrimaryCtxSetFlags_v2(0, 4));
        let (mut first, mut second) = (std::ptr::null_mut(), std::ptr::null_mut());
        cu!(cuDevicePrimaryCtxRetain(&mut first, 0));
        cu!(cuDevicePrimaryCtxRetain(&mut second, 0));
        assert_eq!((first, active()), (second, (4, 1)));
        let mut current = first;
        cu!(cuCtxGetCurrent(&mut current));
        assert!(
            current.is_null(),
            "a retained context is not current by itself"
        );
        cu!(cuCtxPushCurrent_v2(first));
        let mut device = -1;
        cu!(cuCtxGetDevice(&mut device));
        assert_eq!(device, 0);
        cu!(cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(active().1, 1);
        cu!(cuCtxSynchronize());
        cu!(cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(active().1, 0);
        let code = code!(cuCtxSynchronize());
        assert_eq!(code, sys::CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        let mut popped = std::ptr::null_mut();
        cu!(cuCtxPopCurrent_v2(&mut popped));
        assert_eq!(popped, first);
        // A context of one's own becomes current, and is no longer when it is destroyed.
        let mut own = std::ptr::null_mut();
        cu!(cuCtxCreate_v2(&mut own, 0, 0));
        cu!(cuCtxGetCurrent(&mut current));
        assert_eq!(own, current);
        cu!(cuCtxDestroy_v2(own));
        cu!(cuCtxGetCurrent(&mut current));
        assert!(current.is_null());
    });
    assert_eq!(ended.well().contexts_created, 2);
}

#[test]
fn what_is_left_is_in_the_report_even_when_its_context_is_gone() {
    let name = "what_is_left_is_in_the_report_even_when_its_context_is_gone";
    let ended = on_standin(name, &[], || {
        let context = context();
        let words = vec![3u64; 1000];
        cu!(cuMemHostRegister_v2(words.as_ptr() as *mut c_void, 8000, 0));
        device(77);
        let (mut stream, mut event) = (std::ptr::null_mut(), std::ptr::null_mut());
        cu!(cuStreamCreate(&mut stream, 1));
        cu!(cuEventCreate(&mut event, 0));
        drop(context);
        let _second = CudaContext::new(0).expect("a context");
        cu!(cuEventCreate(&mut event, 0));
        std::mem::forget(words);
    });
    let report = ended.well();
    assert_eq!((report.live_streams, report.live_events), (1, 2));
    assert_eq!((report.live_allocations, report.live_registrations), (1, 1));
    assert_eq!(
        (report.live_registered_bytes, report.contexts_created),
        (8000, 2)
    );
}

#[test]
fn addresses_are_told_apart() {
    let ended = on_standin("addresses_are_told_apart", &[], || {
        let _context = context();
        let (there, pinned, other) = (device(5000), Pinned::new(800), [7u8; 8]);
        let kind = |at: sys::CUdeviceptr| {
            let mut kind = 9u32;
            let to = (&raw mut kind).cast();
            let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
            (code!(cuPointerGetAttribute(to, attribute, at)), kind)
        };
        let (known, unknown) = (
            sys::CUresult::CUDA_SUCCESS,
            sys::CUresult::CUDA_ERROR_INVALID_VALUE,
        );
        assert_eq!(kind(there + 4999), (known, 2));
        assert_eq!(kind(there + 5000), (unknown, 9));
        assert_eq!(kind(pinned.on_device() + 799), (known, 1));
        assert_eq!(kind(other.as_ptr() as u64), (unknown, 9));
        let (mut kind, mut ordinal, mut start) = (9u32, 9i32, 9u64);
        let mut several = |at: sys::CUdeviceptr| {
            let mut numbers = [
                sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
            ];
            let mut places = [
                (&raw mut kind).cast::<c_void>(),
                (&raw mut ordinal).cast(),
                (&raw mut start).cast(),
            ];
            cu!(cuPointerGetAttributes(
                3,
                numbers.as_mut_ptr(),
                places.as_mut_ptr(),
                at
            ));
            (kind, ordinal, start)
        };
        assert_eq!(several(there + 9), (2, 0, there));
        assert_eq!(several(other.as_ptr() as u64), (0, -2, 0));
        cu!(cuMemFree_v2(there));
        assert_eq!(several(there + 9), (0, -2, 0));
        let mut at = 0;
        cu!(cuMemHostGetDevicePointer_v2(&mut at, pinned.at(), 0));
        assert_eq!(at, pinned.on_device());
        let mut flags = 9;
        cu!(cuMemHostGetFlags(&mut flags, pinned.at()));
        assert_eq!(flags, sys::CU_MEMHOSTREGISTER_PORTABLE);
    });
    ended.well();
}

#[test]
fn registrations_do_not_overlap() {
    let ended = on_standin("registrations_do_not_overlap", &[], || {
        let _context = context();
        let bytes = vec![5u8; 1000];
        let at = |n: usize| bytes.as_ptr().wrapping_add(n) as *mut c_void;
        cu!(cuMemHostRegister_v2(at(100), 100, 0));
        let again = sys::CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
        for (start, len) in [(100, 100), (150, 10), (50, 51), (199, 5), (0, 1000)] {
            assert_eq!(
                code!(cuMemHostRegister_v2(at(start), len, 0)),
                again,
                "{start} {len}"
            );
        }
        cu!(cuMemHostRegister_v2(at(200), 100, 0));
        cu!(cuMemHostRegister_v2(at(0), 100, 0));
        for start in [0, 100, 200] {
            cu!(cuMemHostUnregister(at(start)));
        }
        let gone = sys::CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
        assert_eq!(code!(cuMemHostUnregister(at(100))), gone);
        let unmapped = code!(cuMemHostRegister_v2(4096 as *mut c_void, 100, 0));
        assert_eq!(unmapped, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
    });
    assert_eq!(ended.well().live_registrations, 0);
}

#[test]
fn the_host_cannot_read_device_memory() {
    let ended = on_standin("the_host_cannot_read_device_memory", &[], || {
        let _context = context();
        let there = upload(&pattern(4096, 2));
        // SAFETY: none: this is what must kill the process.
        let read = unsafe { (there as *const u8).read_volatile() };
        println!("{read}");
    });
    assert_eq!(ended.status.signal(), Some(11), "{}", ended.stderr);
}

#[test]
fn fresh_memory_is_not_zero() {
    let ended = on_standin("fresh_memory_is_not_zero", &[], || {
        let _context = context();
        assert_eq!(download(device(9), 9), vec![0x7e; 9]);
        let mut at = std::ptr::null_mut::<c_void>();
        cu!(cuMemHostAlloc(&mut at, 16, 0));
        // SAFETY: the stand-in has just allocated the 16 bytes.
        let bytes = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), 16) };
        assert_eq!(bytes, [0x7d; 16]);
        cu!(cuMemFreeHost(at));
    });
    ended.well();
}

#[test]
fn symbols_are_found_by_name_in_their_newest_version() {
    let ended = on_standin(
        "symbols_are_found_by_name_in_their_newest_version",
        &[],
        || {
            cu!(cuInit(0));
            let find = |name: &CStr| {
                let mut at = std::ptr::null_mut();
                let mut status =
                    sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
                let code = code!(cuGetProcAddress_v2(
                    name.as_ptr(),
                    &mut at,
                    12020,
                    0,
                    &mut status
                ));
                (code, at as usize, status as u32)
            };
            for name in [
                c"cuMemAlloc",
                c"cuStreamWaitValue64",
                c"cuInit",
                c"cuGetProcAddress",
                c"cuLaunchKernel",
            ] {
                let (code, at, status) = find(name);
                assert_eq!((code, status), (sys::CUresult::CUDA_SUCCESS, 0), "{name:?}");
                assert_ne!(at, 0);
            }
            assert_eq!(find(c"cuMemAlloc"), find(c"cuMemAlloc_v2"));
            assert_eq!(
                find(c"cuPleasant"),
                (sys::CUresult::CUDA_ERROR_NOT_FOUND, 0, 1)
            );
            let mut text = std::ptr::null();
            cu!(cuGetErrorName(
                sys::CUresult::CUDA_ERROR_NOT_READY,
                &mut text
            ));
            // SAFETY: the stand-in gives a string of its own.
            let text = unsafe { CStr::from_ptr(text) };
            assert_eq!(text, c"CUDA_ERROR_NOT_READY");
        },
    );
    ended.well();
}

#[test]
fn reports_can_be_named_after_their_process() {
    let name = "reports_can_be_named_after_their_process";
    let start = format!("hfr-standin-report-{}-", std::process::id());
    let pattern = std::env::temp_dir().join(format!("{start}%p"));
    let pattern = pattern.to_str().expect("a text");
    let ended = on_standin(name, &[("STANDIN_REPORT", pattern)], || drop(context()));
    assert!(ended.status.success() && ended.report.is_none());
    let found: Vec<_> = std::fs::read_dir(std::env::temp_dir())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().contains(&start))
        .collect();
    let [path] = &found[..] else {
        panic!("{found:?}")
    };
    let report = hfr_standin::report(path);
    std::fs::remove_file(path).expect("a file");
    assert_eq!(report.contexts_created, 1);
    let number = path
        .to_string_lossy()
        .rsplit('-')
        .next()
        .map(str::parse::<u32>);
    assert!(matches!(number, Some(Ok(2..))), "{number:?}");
}
