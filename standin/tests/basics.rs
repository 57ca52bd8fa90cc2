//! Devices, contexts, memory and reports of the stand-in, seen through cudarc as a program sees the driver.

mod support;

use support::*;

#[test]
fn a_program_moves_bytes_through_it() {
    let ended = on_standin("a_program_moves_bytes_through_it", &[], || {
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
