//! What happens when: streams, events, waits and host functions of the stand-in. Gates hold streams where a test looks at what has not happened yet, so that
//! nothing here depends on how long things take.

mod support;

use cudarc::driver::sys;
use std::{
    ffi::c_void,
    ptr::null_mut,
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread::ThreadId,
    time::Duration,
};
use support::*;

const DONE: sys::CUresult = sys::CUresult::CUDA_SUCCESS;
const NOT_READY: sys::CUresult = sys::CUresult::CUDA_ERROR_NOT_READY;

fn raw_stream(flags: u32) -> sys::CUstream {
    let mut stream = null_mut();
    cu!(cuStreamCreate(&mut stream, flags));
    stream
}

fn raw_event(flags: u32) -> sys::CUevent {
    let mut event = null_mut();
    cu!(cuEventCreate(&mut event, flags));
    event
}

#[test]
fn a_stream_keeps_its_order_and_others_do_not_wait_for_it() {
    let name = "a_stream_keeps_its_order_and_others_do_not_wait_for_it";
    let ended = on_standin(name, &[("STANDIN_DELAY_US", "500")], || {
        let context = context();
        let (first, second, gate) = (stream(&context), stream(&context), Gate::new());
        let (bytes, len) = (pattern(100_000, 6), 100_000);
        let (source, middle, last) = (upload(&bytes), device(len), Pinned::new(len));
        gate.close(&first);
        cu!(cuMemsetD8Async(source, 0x11, 50_000, first.cu_stream()));
        cu!(cuMemcpyDtoDAsync_v2(middle, source, len, first.cu_stream()));
        cu!(cuMemsetD32Async(
            middle + 40_000,
            0x0403_0201,
            250,
            first.cu_stream()
        ));
        cu!(cuMemcpyAsync(
            last.on_device(),
            middle,
            len,
            first.cu_stream()
        ));
        let own = Pinned::new(len);
        cu!(cuMemcpyDtoHAsync_v2(
            own.at(),
            source,
            len,
            second.cu_stream()
        ));
        second.synchronize().expect("done");
        assert_eq!(own.read(), bytes);
        assert!(!idle(first.cu_stream()));
        gate.open();
        first.synchronize().expect("done");
        let mut expected = bytes;
        expected[..50_000].fill(0x11);
        for (n, byte) in expected[40_000..41_000].iter_mut().enumerate() {
            *byte = (n % 4 + 1) as u8;
        }
        assert_eq!(last.read(), expected);
    });
    ended.well();
}

#[test]
fn events_stand_for_the_record_at_the_time_of_the_call() {
    let name = "events_stand_for_the_record_at_the_time_of_the_call";
    let ended = on_standin(name, &[], || {
        let context = context();
        let (recording, waiting) = (stream(&context), stream(&context));
        let (early, late, event) = (Gate::new(), Gate::new(), raw_event(2));
        assert_eq!(code!(cuEventQuery(event)), DONE, "never recorded");
        // A wait for an event that was never recorded is none.
        cu!(cuStreamWaitEvent(waiting.cu_stream(), event, 0));
        cu!(cuStreamSynchronize(waiting.cu_stream()));
        early.close(&recording);
        cu!(cuEventRecord(event, recording.cu_stream()));
        assert_eq!(code!(cuEventQuery(event)), NOT_READY);
        cu!(cuStreamWaitEvent(waiting.cu_stream(), event, 0));
        late.close(&recording);
        cu!(cuEventRecord(event, recording.cu_stream()));
        assert!(!idle(waiting.cu_stream()));
        early.open();
        // The wait was for the first record; the event stands for the second.
        cu!(cuStreamSynchronize(waiting.cu_stream()));
        assert_eq!(code!(cuEventQuery(event)), NOT_READY);
        late.open();
        cu!(cuEventSynchronize(event));
        assert_eq!(code!(cuEventQuery(event)), DONE);
        cu!(cuEventDestroy_v2(event));
    });
    ended.well();
}

#[test]
fn events_know_the_time_between_them() {
    let ended = on_standin("events_know_the_time_between_them", &[], || {
        let context = context();
        let (stream, gate) = (stream(&context), Gate::new());
        let (start, end, untimed) = (raw_event(0), raw_event(0), raw_event(2));
        let mut time = 0.0;
        let invalid = sys::CUresult::CUDA_ERROR_INVALID_HANDLE;
        assert_eq!(code!(cuEventElapsedTime(&mut time, start, end)), invalid);
        cu!(cuEventRecord(start, stream.cu_stream()));
        cu!(cuEventRecord(untimed, stream.cu_stream()));
        cu!(cuEventSynchronize(start));
        gate.close(&stream);
        cu!(cuEventRecord(end, stream.cu_stream()));
        assert_eq!(code!(cuEventElapsedTime(&mut time, start, end)), NOT_READY);
        std::thread::sleep(Duration::from_millis(20));
        gate.open();
        cu!(cuEventSynchronize(end));
        cu!(cuEventElapsedTime(&mut time, start, end));
        assert!((20.0..20_000.0).contains(&time), "{time} ms");
        assert_eq!(code!(cuEventElapsedTime(&mut time, untimed, end)), invalid);
    });
    ended.well();
}

#[test]
fn the_null_stream_waits_for_blocking_streams_and_they_for_it() {
    let name = "the_null_stream_waits_for_blocking_streams_and_they_for_it";
    let ended = on_standin(name, &[], || {
        let _context = context();
        let (blocking, free) = (raw_stream(0), raw_stream(1));
        let [null, legacy, thread] = [0, 1, 2].map(|n: usize| n as sys::CUstream);
        let (gate, there) = (Gate::new(), device(64));
        gate.close_raw(blocking);
        cu!(cuMemsetD8Async(there, 5, 64, null));
        cu!(cuMemsetD8Async(there, 6, 64, free));
        cu!(cuStreamSynchronize(free));
        std::thread::sleep(Duration::from_millis(3));
        assert!(!idle(null) && !idle(legacy));
        gate.open();
        cu!(cuStreamSynchronize(null));
        assert!(idle(blocking));
        let gate = Gate::new();
        gate.close_raw(legacy);
        cu!(cuMemsetD8Async(there, 7, 64, blocking));
        cu!(cuMemsetD8Async(there, 8, 64, thread));
        cu!(cuMemsetD8Async(there, 9, 64, free));
        cu!(cuStreamSynchronize(free));
        std::thread::sleep(Duration::from_millis(3));
        assert!(!idle(blocking) && !idle(thread));
        gate.open();
        cu!(cuCtxSynchronize());
        assert!(idle(blocking) && idle(thread) && idle(null));
        cu!(cuStreamDestroy_v2(blocking));
        cu!(cuStreamDestroy_v2(free));
    });
    assert_eq!(ended.well().live_streams, 0);
}

#[test]
fn streams_wait_for_words_and_write_them() {
    let ended = on_standin("streams_wait_for_words_and_write_them", &[], || {
        let context = context();
        let (stream, words) = (stream(&context), Pinned::new(64));
        let (stream, at) = (stream.cu_stream(), |n: u64| words.on_device() + 8 * n);
        for n in 0..8 {
            words.word(n).store(1, Ordering::Release);
        }
        let set = |n: usize, value: u64| {
            std::thread::sleep(Duration::from_millis(2));
            assert!(!idle(stream), "word {n}");
            words.word(n).store(value, Ordering::Release);
            cu!(cuStreamSynchronize(stream));
        };
        cu!(cuStreamWaitValue64_v2(stream, at(0), 1 << 40, 0));
        set(0, (1 << 40) + 5);
        cu!(cuStreamWaitValue64_v2(stream, at(1), 77, 1));
        set(1, 77);
        cu!(cuStreamWaitValue64_v2(stream, at(2), 6, 2));
        set(2, 4);
        words.word(3).store(u64::MAX - 1, Ordering::Release);
        cu!(cuStreamWaitValue64_v2(stream, at(3), 1, 3));
        set(3, 2);
        cu!(cuStreamWaitValue32_v2(stream, at(4) + 4, 9, 0));
        set(4, 9 << 32);
        cu!(cuStreamWriteValue64_v2(stream, at(5), 0x1234_5678_9abc, 0));
        cu!(cuStreamWriteValue32_v2(stream, at(6) + 4, 8, 0));
        cu!(cuStreamSynchronize(stream));
        assert_eq!(words.word(5).load(Ordering::Acquire), 0x1234_5678_9abc);
        assert_eq!(words.word(6).load(Ordering::Acquire), (8 << 32) + 1);
        let invalid = sys::CUresult::CUDA_ERROR_INVALID_VALUE;
        let other = AtomicU64::new(5);
        assert_eq!(
            code!(cuStreamWaitValue64_v2(stream, other.as_ptr() as u64, 1, 0)),
            invalid
        );
        assert_eq!(
            code!(cuStreamWaitValue64_v2(stream, at(0) + 4, 1, 0)),
            invalid
        );
        assert_eq!(code!(cuStreamWaitValue64_v2(stream, at(0), 1, 4)), invalid);
        assert_eq!(
            code!(cuStreamWriteValue64_v2(stream, device(8), 1, 0)),
            invalid
        );
    });
    assert_eq!(ended.well().waits, 5);
}

static RAN: Mutex<Vec<(usize, ThreadId)>> = Mutex::new(Vec::new());

extern "C" fn note(argument: *mut c_void) {
    std::thread::sleep(Duration::from_micros(300));
    let own = (argument as usize, std::thread::current().id());
    RAN.lock().expect("no panic").push(own);
}

#[test]
fn host_functions_share_one_thread_and_hold_their_stream() {
    let name = "host_functions_share_one_thread_and_hold_their_stream";
    let ended = on_standin(name, &[], || {
        let context = context();
        let (first, second, gate) = (stream(&context), stream(&context), Gate::new());
        gate.close(&first);
        for n in 1..=5 {
            cu!(cuLaunchHostFunc(
                first.cu_stream(),
                Some(note),
                n as *mut c_void
            ));
        }
        for n in 6..=10 {
            cu!(cuLaunchHostFunc(
                second.cu_stream(),
                Some(note),
                n as *mut c_void
            ));
        }
        second.synchronize().expect("done");
        let ran = |range: std::ops::Range<usize>| -> Vec<usize> {
            RAN.lock().expect("no panic")[range]
                .iter()
                .map(|(n, _)| *n)
                .collect()
        };
        assert_eq!(
            ran(0..5),
            [6, 7, 8, 9, 10],
            "a function that is not ready holds up none that is"
        );
        gate.open();
        first.synchronize().expect("done");
        assert_eq!(ran(5..10), [1, 2, 3, 4, 5]);
        let all = RAN.lock().expect("no panic");
        assert!(all.iter().all(|(_, thread)| *thread == all[0].1));
        assert_ne!(all[0].1, std::thread::current().id());
    });
    assert_eq!(ended.well().host_functions, 10);
}

#[test]
fn a_capturing_stream_says_so_and_does_nothing() {
    let ended = on_standin("a_capturing_stream_says_so_and_does_nothing", &[], || {
        let context = context();
        let (stream, joined) = (raw_stream(1), stream(&context));
        let (there, event) = (upload(&pattern(64, 11)), raw_event(2));
        let state = |stream: sys::CUstream| {
            let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED;
            cu!(cuStreamIsCapturing(stream, &mut status));
            status as u32
        };
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        assert_eq!(state(stream), 0);
        cu!(cuStreamBeginCapture_v2(stream, mode));
        cu!(cuMemsetD8Async(there, 1, 64, stream));
        cu!(cuEventRecord(event, stream));
        let captured = sys::CUresult::CUDA_ERROR_CAPTURED_EVENT;
        assert_eq!(code!(cuEventQuery(event)), captured);
        cu!(cuStreamWaitEvent(joined.cu_stream(), event, 0));
        assert_eq!((state(stream), state(joined.cu_stream())), (1, 1));
        let mut graph = 8 as sys::CUgraph;
        let code = code!(cuStreamEndCapture(joined.cu_stream(), &mut graph));
        assert_eq!(code, sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        cu!(cuStreamEndCapture(stream, &mut graph));
        assert!(graph.is_null());
        assert_eq!((state(stream), state(joined.cu_stream())), (0, 0));
        assert_eq!(
            download(there, 64),
            pattern(64, 11),
            "captured work has not run"
        );
        cu!(cuStreamBeginCapture_v2(stream, mode));
        let refused = sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        assert_eq!(code!(cuStreamSynchronize(stream)), refused);
        assert_eq!(state(stream), 2);
        let code = code!(cuStreamEndCapture(stream, &mut graph));
        assert_eq!(code, sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        let code = code!(cuStreamBeginCapture_v2(null_mut(), mode));
        assert_eq!(code, refused, "the NULL stream cannot be captured");
    });
    ended.well();
}

#[test]
fn a_destroyed_stream_finishes_its_work() {
    let ended = on_standin("a_destroyed_stream_finishes_its_work", &[], || {
        let _context = context();
        let (stream, gate, here) = (raw_stream(1), Gate::new(), Pinned::new(8));
        let event = raw_event(2);
        gate.close_raw(stream);
        cu!(cuStreamWriteValue64_v2(stream, here.on_device(), 99, 0));
        cu!(cuEventRecord(event, stream));
        cu!(cuStreamDestroy_v2(stream));
        assert_eq!(code!(cuEventQuery(event)), NOT_READY);
        gate.open();
        cu!(cuEventSynchronize(event));
        assert_eq!(here.word(0).load(Ordering::Acquire), 99);
        cu!(cuEventDestroy_v2(event));
    });
    let report = ended.well();
    assert_eq!((report.live_streams, report.live_events), (0, 0));
}

static COUNTED: AtomicU32 = AtomicU32::new(1);

extern "C" fn count(_: *mut c_void) {
    COUNTED.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn many_streams_and_threads_get_along() {
    let ended = on_standin("many_streams_and_threads_get_along", &[], || {
        let context = context();
        std::thread::scope(|scope| {
            for own in 0..4 {
                let context = &context;
                scope.spawn(move || {
                    context.bind_to_thread().expect("a context");
                    let (up, down) = (stream(context), stream(context));
                    let (len, there) = (80_000, device(80_000));
                    let (source, target) = (Pinned::new(len), Pinned::new(len));
                    for round in 0..20 {
                        let bytes = pattern(len, own * 100 + round);
                        source.write(&bytes);
                        cu!(cuMemcpyHtoDAsync_v2(
                            there,
                            source.at(),
                            len,
                            up.cu_stream()
                        ));
                        down.join(&up).expect("a wait");
                        cu!(cuMemcpyDtoHAsync_v2(
                            target.at(),
                            there,
                            len,
                            down.cu_stream()
                        ));
                        cu!(cuLaunchHostFunc(down.cu_stream(), Some(count), null_mut()));
                        down.synchronize().expect("done");
                        assert_eq!(target.read(), bytes);
                    }
                });
            }
        });
        assert_eq!(COUNTED.load(Ordering::Relaxed), 81);
    });
    let report = ended.well();
    assert_eq!((report.host_functions, report.waits), (80, 80));
    assert_eq!(
        (report.host_to_device.copies, report.device_to_host.copies),
        (80, 80)
    );
}
