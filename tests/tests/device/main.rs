//! Buffers on GPUs, over the stand-in for the CUDA driver: jobs of processes whose buffers the CPU cannot read. The stand-in does everything
//! late and in unlucky orders, and ends a process that breaks the driver's rules; what it counted is checked behind every job.

mod failures;

use hfr_standin::{LibraryFolder, Report, library_folder};
use hfr_tests::job::{Job, Plan};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_on_device");
/// No step takes as long, however busy the machine is.
const LONG: Duration = Duration::from_secs(120);

/// A job over the stand-in, and where its processes leave their reports.
struct Stage {
    plan: Plan,
    folder: LibraryFolder,
}

impl Stage {
    fn new(nodes: &[usize], wire: &str) -> Stage {
        let folder = library_folder();
        let search = folder.search_path().into_string().expect("text");
        let report = folder.path().join("report-%p");
        let plan = Plan::new(nodes, wire, "20")
            .with("LD_LIBRARY_PATH", &search)
            .with("STANDIN_REPORT", &report.to_string_lossy())
            .with("STANDIN_SEED", &nodes.len().to_string());
        Stage { plan, folder }
    }

    fn with(mut self, key: &str, value: &str) -> Stage {
        self.plan = self.plan.with(key, value);
        self
    }

    fn start(&self, steps: &[&str]) -> Job {
        self.plan.start(PROGRAM, steps, &[])
    }

    /// All ranks do the steps well and leave nothing behind; what they counted.
    fn succeeds(&self, steps: &[&str]) -> Vec<Report> {
        let mut job = self.start(steps);
        let pids: Vec<u32> = (0..self.plan.world()).map(|r| job.pid(r)).collect();
        job.succeeds(LONG);
        let report = |pid: &u32| {
            let path = self.folder.path().join(format!("report-{pid}"));
            hfr_standin::report(&path)
        };
        let reports: Vec<Report> = pids.iter().map(report).collect();
        for report in &reports {
            assert_eq!(report.live_streams, 0, "{report:?}");
            assert_eq!(report.live_events, 0, "{report:?}");
            assert_eq!(report.live_allocations, 0, "{report:?}");
            // The page of words that streams wait for stays for the life of the process.
            assert!(report.live_registrations <= 1, "{report:?}");
            assert_eq!(report.pageable, 0, "{report:?}");
            // The test's own, which the library joins.
            let two = ("STANDIN_DEVICES".to_owned(), "2".to_owned());
            let own = 1 + u64::from(self.plan.variables.contains(&two));
            assert_eq!(report.contexts_created, own, "{report:?}");
        }
        reports
    }
}

#[test]
fn every_collective_gives_the_bytes_of_the_host_path() {
    for (nodes, wire) in [
        (&[1][..], "auto"),
        (&[2], "auto"),
        (&[4], "auto"),
        (&[2, 2], "local"),
        (&[2, 1], "tcp"),
    ] {
        let stage = Stage::new(nodes, wire).with("HFR_SINGLE_COPY", "off");
        stage.succeeds(&["matrix:100003"]);
    }
}

#[test]
fn what_a_rank_on_the_host_shows_in_its_memory() {
    for nodes in [2, 3] {
        let stage = Stage::new(&[nodes], "auto");
        // It is fetched to where it was not pinned, and right.
        stage.start(&["matrix:100003"]).succeeds(LONG);
    }
}

#[test]
fn every_type_and_operation() {
    Stage::new(&[2], "auto").succeeds(&["types"]);
    Stage::new(&[1, 1], "local").succeeds(&["types"]);
}

#[test]
fn streams_are_in_order_and_the_host_waits_for_nothing() {
    for seed in ["1", "2", "3"] {
        let stage = Stage::new(&[3], "auto").with("STANDIN_SEED", seed);
        let reports = stage.succeeds(&["stream:5000", "stream:200000"]);
        assert!(reports.iter().all(|r| r.waits > 0), "{reports:?}");
        // Where the device cannot wait for a word by itself.
        let stage = stage.with("STANDIN_NO_MEMOPS", "1");
        let reports = stage.succeeds(&["stream:5000"]);
        assert!(reports.iter().all(|r| r.waits == 0), "{reports:?}");
    }
}

#[test]
fn both_directions_run_at_once() {
    let stage = Stage::new(&[2], "auto").with("STANDIN_GBPS", "2");
    let reports = stage.succeeds(&["stream:4000000"]);
    assert!(reports.iter().all(|r| r.both_ways > 0), "{reports:?}");
}

#[test]
fn calls_on_host_and_device_share_a_pipeline() {
    for (nodes, wire) in [(&[2][..], "auto"), (&[4], "auto"), (&[2, 2], "tcp")] {
        Stage::new(nodes, wire).succeeds(&["queue:100", "queue:300000"]);
    }
}

#[test]
fn registered_memory_of_a_rank_on_the_host() {
    let stage = Stage::new(&[3], "auto");
    // What lies outside of the slots is not pinned: those copies are staged by the driver, and right.
    stage.start(&["registered:100000"]).succeeds(LONG);
}

#[test]
fn messages_and_the_reducer() {
    Stage::new(&[3], "auto").succeeds(&["ring:10", "ring:100000", "reducer"]);
    Stage::new(&[2, 2], "tcp").succeeds(&["ring:1000", "reducer"]);
}

#[test]
fn what_is_refused_starts_nothing() {
    Stage::new(&[2], "auto").succeeds(&["refused"]);
    Stage::new(&[2], "auto")
        .with("STANDIN_DEVICES", "2")
        .succeeds(&["refused"]);
}
