//! SIGKILL of a rank in each phase: every survivor ends by itself, soon, with one and the same error that names the dead.

use super::*;
use hfr_tests::job::left_over;
use std::time::Instant;

/// A process that ends is known at once, and its death everywhere 2 s later at most.
const TOLD: Duration = Duration::from_secs(2);

pub fn names_the_dead(error: &str, dead: usize) {
    assert!(error.starts_with("PeerLost|"), "{error}");
    assert!(
        error.contains(&format!("rank {dead} ")) && error.contains("killed"),
        "does not say that rank {dead} was killed: {error}"
    );
}

#[test]
fn in_the_middle_of_a_loop() {
    let before = left_over();
    for (nodes, wire) in JOBS {
        for dead in [0, 1, 3] {
            let mut job = start(&Plan::new(nodes, wire, "20"), &["loop:300000:1000000"]);
            job.hears(&[0, 1, 2, 3], "looping");
            let since = Instant::now();
            job.kill(dead);
            let error = job.fails_alike(&others(4, dead), SOON);
            names_the_dead(&error, dead);
            job.was_told(&others(4, dead), since, TOLD);
        }
    }
    assert_eq!(left_over(), before);
}

#[test]
fn while_calls_overlap() {
    for (nodes, wire) in JOBS {
        for dead in [0, 3] {
            let mut job = start(&Plan::new(nodes, wire, "20"), &["overlap:200000"]);
            job.hears(&[0, 1, 2, 3], "looping");
            let since = Instant::now();
            job.kill(dead);
            let error = job.fails_alike(&others(4, dead), SOON);
            names_the_dead(&error, dead);
            job.was_told(&others(4, dead), since, TOLD);
        }
    }
}

#[test]
fn two_at_once() {
    let before = left_over();
    for (nodes, wire) in JOBS {
        for dead in [[0, 1], [1, 3], [2, 3]] {
            let mut job = start(&Plan::new(nodes, wire, "20"), &["loop:300000:1000000"]);
            job.hears(&[0, 1, 2, 3], "looping");
            dead.iter().for_each(|r| job.kill(*r));
            let here: Vec<usize> = (0..4).filter(|r| !dead.contains(r)).collect();
            let error = job.fails_alike(&here, SOON);
            assert!(
                dead.iter().any(|r| error.contains(&format!("rank {r} ")))
                    && error.contains("killed"),
                "{error}"
            );
        }
    }
    assert_eq!(left_over(), before);
}

#[test]
fn all_at_once_leave_nothing() {
    let before = left_over();
    for (nodes, wire) in JOBS {
        let mut job = start(&Plan::new(nodes, wire, "20"), &["loop:300000:1000000"]);
        job.hears(&[0, 1, 2, 3], "looping");
        (0..4).for_each(|r| job.kill(r));
        assert_eq!(job.ends(&[0, 1, 2, 3], SOON), [None; 4]);
    }
    assert_eq!(left_over(), before);
}

#[test]
fn in_a_group_of_some_ranks() {
    for (nodes, wire) in JOBS {
        for dead in [2, 3] {
            let mut job = start(
                &Plan::new(nodes, wire, "20"),
                &["split:100000:100000", "barrier"],
            );
            job.hears(&[0, 1, 2, 3], "looping");
            let since = Instant::now();
            job.kill(dead);
            // Its half is told at once; the other half goes on, and so cannot be waited for.
            let fellow = dead - 2;
            let error = job.fails_alike(&[fellow], SOON);
            assert!(error.contains("killed"), "{error}");
            job.was_told(&[fellow], since, TOLD);
        }
    }
}

#[test]
fn idle_between_two_calls() {
    for (nodes, wire) in JOBS {
        for dead in [0, 2] {
            let steps = ["loop:1000:3", "ready", "wait", "loop:1000:100"];
            let mut job = start(&Plan::new(nodes, wire, "20"), &steps);
            job.hears(&[0, 1, 2, 3], "ready");
            job.kill(dead);
            for r in others(4, dead) {
                job.go(r);
            }
            let error = job.fails_alike(&others(4, dead), SOON);
            names_the_dead(&error, dead);
        }
    }
}

#[test]
fn at_the_nth_put() {
    for wire in ["local", "tcp"] {
        for (dead, put) in [(0, 1), (2, 7), (3, 40)] {
            let plan =
                Plan::new(&[2, 2], wire, "20").only(dead, "HFR_CHAOS", &format!("kill@{put}"));
            let mut job = start(&plan, &["loop:300000:1000000"]);
            let error = job.fails_alike(&others(4, dead), LONG);
            names_the_dead(&error, dead);
        }
    }
}

#[test]
fn after_the_last_call() {
    for (nodes, wire) in JOBS {
        let steps = ["loop:1000:3", "ready", "@1=wait"];
        let mut job = start(&Plan::new(nodes, wire, "20"), &steps);
        job.hears(&[0, 1, 2, 3], "ready");
        job.kill(1);
        let codes = job.ends(&[0, 2, 3], SOON);
        assert_eq!(codes, [Some(0); 3], "{}", job.story());
    }
}

#[test]
fn between_messages_both_neighbours_end() {
    let before = left_over();
    for (nodes, wire) in [(&[3][..], "auto"), (&[2, 1], "tcp")] {
        let mut job = start(&Plan::new(nodes, wire, "20"), &["ring:50000:1000000"]);
        job.hears(&[0, 1, 2], "looping");
        let since = Instant::now();
        job.kill(1);
        let errors = [0, 2].map(|rank| job.fails_alike(&[rank], SOON));
        // Who had nothing under way with the dead hears of the neighbour that gave up.
        let names = |e: &String| e.contains("rank 1 ") && e.contains("killed");
        assert!(errors.iter().any(names), "{errors:?}");
        for (error, other) in errors.iter().zip([2, 0]) {
            let left = format!("rank {other} has left the communicator");
            let closed = format!("peer rank {other}: connection closed");
            let gave_up = error.contains(&left) || error.contains(&closed);
            assert!(names(error) || gave_up, "{error}");
        }
        // The first to end waits for the others before it closes the rendezvous, and speaks behind that.
        job.was_told(&[0, 2], since, SOON);
    }
    assert_eq!(left_over(), before);
}
