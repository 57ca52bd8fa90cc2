//! Devices, ranks and drivers that fail: every rank ends with an error that says so, and no stream waits for ever.

use super::{PROGRAM, Stage};
use hfr_tests::job::Plan;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_killed_rank_releases_the_streams_of_the_others() {
    for (nodes, wire) in [(&[4][..], "auto"), (&[2, 2], "tcp")] {
        for dead in [0, 3] {
            let stage = Stage::new(nodes, wire);
            let mut job = stage.start(&["loop:200000"]);
            job.hears(&[0, 1, 2, 3], "looping");
            job.kill(dead);
            let others: Vec<usize> = (0..4).filter(|r| *r != dead).collect();
            let error = job.fails_alike(&others, SOON);
            assert!(
                error.starts_with("PeerLost|") && error.contains(&format!("rank {dead} ")),
                "{error}"
            );
        }
    }
}

#[test]
fn a_stopped_rank_is_a_timeout_and_releases_the_streams() {
    let stage = Stage::new(&[3], "auto").with("HFR_TIMEOUT", "2");
    let mut job = stage.start(&["loop:200000"]);
    job.hears(&[0, 1, 2], "looping");
    job.signal(1, rustix::process::Signal::STOP);
    let error = job.fails_alike(&[0, 2], SOON);
    assert!(error.contains("rank 1"), "{error}");
}

#[test]
fn a_stream_that_does_not_come_to_its_call_is_named() {
    let stage = Stage::new(&[3], "auto").with("HFR_TIMEOUT", "1");
    let mut job = stage.start(&["stuck:1:4000"]);
    let error = job.fails_alike(&[0, 1, 2], SOON);
    assert!(
        error.starts_with("Timeout|") && error.contains("rank 1 has not entered this call"),
        "{error}"
    );
}

#[test]
fn a_copy_that_fails_is_every_ranks_error() {
    // The copy of a call that runs, or what the next call's stream is asked: whichever is looked at first.
    for copy in ["copy:40", "copy:41", "copy:42", "copy:43"] {
        let mut stage = Stage::new(&[3], "auto");
        stage.plan = stage.plan.only(2, "STANDIN_FAIL", copy);
        let mut job = stage.start(&["loop:200000"]);
        let error = job.fails_alike(&[0, 1, 2], SOON);
        assert!(
            error.starts_with("Device|")
                && error.contains("rank 2")
                && error.contains("ILLEGAL_ADDRESS"),
            "{copy}: {error}"
        );
    }
}

#[test]
fn a_copy_that_never_ends_is_a_timeout() {
    let mut stage = Stage::new(&[2], "auto").with("HFR_TIMEOUT", "2");
    stage.plan = stage.plan.only(1, "STANDIN_FAIL", "hang:40");
    let mut job = stage.start(&["loop:200000"]);
    let error = job.fails_alike(&[0, 1], SOON);
    assert!(
        error.starts_with("Timeout|") && error.contains("copy between device and host memory"),
        "{error}"
    );
}

#[test]
fn memory_that_cannot_be_pinned_is_every_ranks_error() {
    let mut stage = Stage::new(&[2], "auto");
    stage.plan = stage.plan.only(1, "STANDIN_FAIL", "register:2");
    let mut job = stage.start(&["loop:1000"]);
    let error = job.fails_alike(&[0, 1], SOON);
    assert!(
        error.starts_with("Device|") && error.contains("rank 1") && error.contains("pinning"),
        "{error}"
    );
}

#[test]
fn without_a_driver_the_error_says_what_to_install() {
    let plan = Plan::new(&[1], "auto", "20").with("LD_LIBRARY_PATH", "/nowhere");
    let mut job = plan.start(PROGRAM, &["matrix:10"], &[]);
    // The test's program itself starts the driver, and panics with the library's words.
    let codes = job.ends(&[0], SOON);
    if codes == [Some(0)] {
        // A machine with a real driver.
        return;
    }
    let said = job.complained(0);
    assert!(
        said.contains("libcuda.so.1") && said.contains("install"),
        "{said}"
    );
}
