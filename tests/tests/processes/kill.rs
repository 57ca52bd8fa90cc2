//! SIGKILL of a rank in each phase: every survivor ends by itself, soon, with one and the same error that names the dead.

use super::*;
use hfr_tests::job::left_over;

fn names_the_dead(error: &str, dead: usize) {
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
            job.kill(dead);
            let error = job.fails_alike(&others(4, dead), SOON);
            names_the_dead(&error, dead);
        }
    }
    assert_eq!(left_over(), before);
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
