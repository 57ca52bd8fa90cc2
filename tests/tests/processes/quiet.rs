//! What a job costs and leaves behind: descriptors, files in /dev/shm, processor time while it waits, and what SIGUSR1 prints.

use super::*;
use hfr_tests::job::left_over;
use rustix::process::Signal;
use std::time::Instant;

#[test]
fn fifty_jobs_leave_nothing_open() {
    let before = left_over();
    let mut job = start(&Plan::new(&[1], "auto", "5"), &["cycles"]);
    job.succeeds(LONG);
    let said = job.said(0);
    let counts: Vec<Vec<usize>> = said
        .iter()
        .filter_map(|l| l.strip_prefix("descriptors "))
        .map(|l| l.split(' ').map(|n| n.parse().expect("a number")).collect())
        .collect();
    assert_eq!(counts.len(), 3, "{said:?}");
    for count in counts {
        assert!(count[1] <= count[0], "open before and after: {count:?}");
    }
    assert_eq!(left_over(), before);
}

#[test]
fn sigusr1_prints_the_last_calls() {
    let steps = [
        "loop:777:3",
        "call:broadcast:55:f64:sum:1",
        "ready",
        "@0=wait",
        "barrier",
    ];
    let mut job = start(&Plan::new(&[2, 2], "tcp", "20"), &steps);
    job.hears(&[0, 1, 2, 3], "ready");
    std::thread::sleep(Duration::from_millis(400));
    job.signal(2, Signal::USR1);
    let until = Instant::now() + Duration::from_secs(5);
    let whole = |text: &str| {
        [
            "rank 2 (node 1)",
            "all_reduce #3 of 777 float sum",
            "broadcast #4 of 55",
            "barrier #5",
            "running for",
        ]
        .iter()
        .all(|w| text.contains(w))
    };
    while !whole(&job.complained(2)) {
        assert!(Instant::now() < until, "{}", job.story());
        std::thread::sleep(Duration::from_millis(10));
    }
    job.go(0);
    job.succeeds(LONG);
}

#[test]
fn a_group_outlives_the_one_it_was_split_from() {
    each(&JOBS, |&(nodes, wire)| {
        let steps = [
            "loop:1000:3",
            "turn",
            "@0=sleep:300",
            "loop:1000:30",
            "barrier",
            "loop:100000:30",
        ];
        start(&Plan::new(nodes, wire, "20"), &steps).succeeds(LONG);
    });
}

/// Processor time that a process has used, in hundredths of a second.
fn used(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let behind = stat.rsplit_once(") ").expect("a name in brackets").1;
    let fields: Vec<u64> = behind
        .split(' ')
        .skip(11)
        .take(2)
        .map(|n| n.parse().expect("ticks"))
        .collect();
    fields.iter().sum()
}

#[test]
fn ranks_that_wait_use_no_processor() {
    each(&JOBS, |&(nodes, wire)| {
        let steps = ["loop:1000:3", "barrier", "ready", "@0=wait", "barrier"];
        let mut job = start(&Plan::new(nodes, wire, "20"), &steps);
        job.hears(&[0, 1, 2, 3], "ready");
        std::thread::sleep(Duration::from_millis(200));
        let before: Vec<u64> = (1..4).map(|r| used(job.pid(r))).collect();
        std::thread::sleep(Duration::from_secs(2));
        for r in 1..4 {
            let ticks = used(job.pid(r)) - before[r - 1];
            assert!(
                ticks <= 10,
                "rank {r} over {wire}: {ticks} ticks of 10 ms in 2 s of waiting"
            );
        }
        job.go(0);
        job.succeeds(LONG);
    });
}
