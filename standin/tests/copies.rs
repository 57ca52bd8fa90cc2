//! Copies of the stand-in: what a reader sees of them before they have ended, which of them run at once, and which end before their call does.
//! Gates hold streams where a test looks at what has not happened yet.

mod support;

use cudarc::driver::sys;
use std::time::Duration;
use support::*;

#[test]
fn a_copy_to_the_host_is_of_no_use_before_its_event() {
    let name = "a_copy_to_the_host_is_of_no_use_before_its_event";
    let ended = on_standin(name, &[("STANDIN_DELAY_US", "20000")], || {
        let context = context();
        let stream = stream(&context);
        let bytes = pattern(1 << 20, 3);
        let (there, here) = (upload(&bytes), Pinned::new(1 << 20));
        cu!(cuMemcpyDtoHAsync_v2(
            here.at(),
            there,
            1 << 20,
            stream.cu_stream()
        ));
        // The delay is at random up to 20 ms: what is read here is the old bytes' ruin, or, with bad luck, a part of the new.
        let early = here.read();
        let event = stream.record_event(None).expect("an event");
        event.synchronize().expect("done");
        assert_ne!(early, bytes);
        let spoilt_or_new = early.iter().zip(&bytes).all(|(e, b)| *e == 0x7f || e == b);
        assert!(spoilt_or_new, "old bytes are left");
        assert_eq!(here.read(), bytes);
    });
    ended.well();
}

#[test]
fn half_a_copy_can_be_seen() {
    let ended = on_standin(
        "half_a_copy_can_be_seen",
        &[("STANDIN_GBPS", "0.1")],
        || {
            let context = context();
            let stream = stream(&context);
            let (len, bytes) = (4_000_000, pattern(4_000_000, 13));
            let (there, here) = (upload(&bytes), Pinned::new(len));
            let mut halves = 0;
            // A copy takes 40 ms; a reader that is held up for so long tries again.
            for _ in 0..50 {
                cu!(cuMemcpyDtoHAsync_v2(
                    here.at(),
                    there,
                    len,
                    stream.cu_stream()
                ));
                while !idle(stream.cu_stream()) {
                    let right = here
                        .read()
                        .iter()
                        .zip(&bytes)
                        .filter(|(h, b)| h == b)
                        .count();
                    halves += usize::from((len / 8..len * 7 / 8).contains(&right));
                }
                assert_eq!(here.read(), bytes);
                if halves > 0 {
                    return;
                }
            }
            panic!("no reader saw a copy that had not ended");
        },
    );
    ended.well();
}

#[test]
fn a_gated_copy_leaves_its_destination_alone_until_it_may_begin() {
    let name = "a_gated_copy_leaves_its_destination_alone_until_it_may_begin";
    let ended = on_standin(name, &[], || {
        let context = context();
        let (gated, other) = (stream(&context), stream(&context));
        let (old, new) = (pattern(40_000, 4), pattern(40_000, 5));
        let (there, here) = (upload(&new), Pinned::new(40_000));
        // The stream has reached the gate when the copy is queued, or has not.
        for reached in [false, true] {
            let gate = Gate::new();
            here.write(&old);
            gate.close(&gated);
            std::thread::sleep(Duration::from_millis(if reached { 10 } else { 0 }));
            // By way of an event, as a pipeline would.
            let opened = gated.record_event(None).expect("an event");
            other.wait(&opened).expect("a wait");
            let stream = other.cu_stream();
            cu!(cuMemcpyDtoHAsync_v2(here.at(), there, 40_000, stream));
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(here.read(), old);
            assert!(!idle(stream));
            gate.open();
            other.synchronize().expect("done");
            assert_eq!(here.read(), new);
        }
    });
    assert_eq!(ended.well().waits, 4);
}

#[test]
fn copies_run_both_ways_at_once() {
    // Each takes 10 ms and both are held until they can begin; one that is held up for so long does not meet the other, but not ten times.
    let name = "copies_run_both_ways_at_once";
    let ended = on_standin(name, &[("STANDIN_GBPS", "0.1")], || {
        let context = context();
        let (down, up) = (stream(&context), stream(&context));
        let (len, bytes) = (1_000_000, pattern(1_000_000, 8));
        let (source, target) = (upload(&bytes), device(len));
        let (landing, leaving) = (Pinned::new(len), Pinned::new(len));
        leaving.write(&bytes);
        for _ in 0..10 {
            let gate = Gate::new();
            gate.close(&down);
            gate.close(&up);
            let (from, to) = (down.cu_stream(), up.cu_stream());
            cu!(cuMemcpyDtoHAsync_v2(landing.at(), source, len, from));
            cu!(cuMemcpyHtoDAsync_v2(target, leaving.at(), len, to));
            let begun = std::time::Instant::now();
            gate.open();
            cu!(cuCtxSynchronize());
            let took = begun.elapsed();
            assert!(
                took >= Duration::from_millis(9),
                "{took:?}: a megabyte at 0.1 GB/s"
            );
            assert_eq!(landing.read(), bytes);
        }
        assert_eq!(download(target, len), bytes);
    });
    let report = ended.well();
    assert!((1..=10).contains(&report.both_ways), "{report:?}");
    assert_eq!(report.pageable, 0);
}

#[test]
fn copies_with_pageable_memory_have_ended_when_the_call_returns() {
    let name = "copies_with_pageable_memory_have_ended_when_the_call_returns";
    let ended = on_standin(name, &[("STANDIN_DELAY_US", "3000")], || {
        let context = context();
        let stream = stream(&context);
        let (bytes, mut back) = (pattern(30_000, 9), vec![1u8; 30_000]);
        let there = device(30_000);
        cu!(cuMemcpyHtoDAsync_v2(
            there,
            bytes.as_ptr().cast(),
            30_000,
            stream.cu_stream()
        ));
        cu!(cuMemcpyDtoHAsync_v2(
            back.as_mut_ptr().cast(),
            there,
            30_000,
            stream.cu_stream()
        ));
        assert_eq!(back, bytes);
        // In part pinned is neither.
        cu!(cuMemHostRegister_v2(back.as_mut_ptr().cast(), 20_000, 0));
        let to = back.as_mut_ptr().cast();
        let code = code!(cuMemcpyDtoHAsync_v2(to, there, 30_000, stream.cu_stream()));
        assert_eq!(code, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
        cu!(cuMemHostUnregister(to));
    });
    let report = ended.well();
    assert_eq!((report.pageable, report.device_to_host.copies), (2, 1));
}

#[test]
fn freeing_waits_for_what_is_queued() {
    let ended = on_standin("freeing_waits_for_what_is_queued", &[], || {
        let context = context();
        let (stream, here) = (stream(&context), Pinned::new(400_000));
        let bytes = pattern(400_000, 10);
        let there = upload(&bytes);
        cu!(cuMemcpyDtoHAsync_v2(
            here.at(),
            there,
            400_000,
            stream.cu_stream()
        ));
        cu!(cuMemFree_v2(there));
        assert_eq!(here.read(), bytes);
        let mut there = 0;
        cu!(cuMemAllocAsync(&mut there, 400_000, stream.cu_stream()));
        here.write(&bytes);
        cu!(cuMemcpyHtoDAsync_v2(
            there,
            here.at(),
            400_000,
            stream.cu_stream()
        ));
        cu!(cuMemFreeAsync(there, stream.cu_stream()));
        stream.synchronize().expect("done");
    });
    assert_eq!(ended.well().live_allocations, 0);
}
