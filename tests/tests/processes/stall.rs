//! Ranks that are stopped, late, or leave early; connections that break or are slow: all others are told whom they wait for.

use super::*;
use rustix::process::Signal;

#[test]
fn a_stopped_rank_is_named_and_hears_it_too() {
    each(&JOBS, |&(nodes, wire)| {
        for stopped in [0, 2] {
            let mut job = start(&Plan::new(nodes, wire, "2"), &["loop:300000:1000000"]);
            job.hears(&[0, 1, 2, 3], "looping");
            job.signal(stopped, Signal::STOP);
            let error = job.fails_alike(&others(4, stopped), Duration::from_secs(6));
            assert!(error.starts_with("Timeout|"), "{error}");
            assert!(
                error.contains(&format!("rank {stopped} ")) && error.contains("does not answer"),
                "does not name rank {stopped}: {error}"
            );
            job.signal(stopped, Signal::CONT);
            let codes = job.ends(&[stopped], Duration::from_secs(6));
            assert_eq!(codes, [Some(3)], "{}", job.story());
            let own = job.error(stopped);
            // Rank 0 arbitrates: when it was away the others had to decide without it.
            if stopped != 0 {
                assert_eq!(own, error, "{}", job.story());
            }
        }
    });
}

/// The others ask it over the store whether all make the same call, four times a second.
#[test]
fn a_rank_that_is_stopped_for_a_while_before_the_first_call_is_waited_for() {
    each(&JOBS, |&(nodes, wire)| {
        let mut job = start(
            &Plan::new(nodes, wire, "20"),
            &["@0=sleep:700", "loop:1000:3"],
        );
        job.hears(&[0, 1, 2, 3], "connected");
        job.signal(0, Signal::STOP);
        std::thread::sleep(Duration::from_millis(1800));
        job.signal(0, Signal::CONT);
        job.succeeds(LONG);
    });
}

#[test]
fn a_late_rank_is_named() {
    each(&JOBS, |&(nodes, wire)| {
        for warm in ["loop:1000:3", "barrier"] {
            let steps = [warm, "@2=sleep:3500", "loop:1000:3"];
            let mut job = start(&Plan::new(nodes, wire, "1.5"), &steps);
            let error = job.fails_alike(&[0, 1, 2, 3], LONG);
            assert!(error.starts_with("Timeout|"), "{error}\n{}", job.story());
            assert!(
                error.contains("rank 2 has not entered"),
                "{error}\n{}",
                job.story()
            );
        }
    });
}

#[test]
fn a_rank_that_leaves_early_is_named() {
    each(&JOBS, |&(nodes, wire)| {
        for gone in [0, 3] {
            for warm in ["loop:1000:3", "barrier"] {
                let leaves = format!("@{gone}=drop");
                let stays: Vec<String> = others(4, gone).iter().map(usize::to_string).collect();
                let calls = format!("@{}=loop:1000:3", stays.join(","));
                let mut job = start(&Plan::new(nodes, wire, "4"), &[warm, &leaves, &calls]);
                let error = job.fails_alike(&others(4, gone), Duration::from_secs(9));
                assert!(
                    error.starts_with("PeerLost|")
                        && error.contains(&format!("rank {gone} has left")),
                    "{error}\n{}",
                    job.story()
                );
                assert_eq!(job.ends(&[gone], SOON), [Some(0)], "{}", job.story());
            }
        }
    });
}

#[test]
fn a_connection_that_breaks() {
    for wire in ["local", "tcp"] {
        for put in [1, 9, 30] {
            let plan = Plan::new(&[2, 2], wire, "20").only(1, "HFR_CHAOS", &format!("cut@{put}"));
            let mut job = start(&plan, &["loop:300000:1000000"]);
            let error = job.fails_alike(&[0, 1, 2, 3], LONG);
            assert!(error.starts_with("Wire|"), "{error}\n{}", job.story());
        }
    }
}

#[test]
fn slow_puts_change_nothing() {
    for wire in ["local", "tcp"] {
        let script = "delay=30ms@1,delay=5polls@2,delay=200ms@9,delay=1ms@10,delay=50polls@30,delay=700ms@31";
        let plan = Plan::new(&[2, 2], wire, "20")
            .only(1, "HFR_CHAOS", script)
            .only(2, "HFR_CHAOS", script);
        start(&plan, &["loop:300000:12"]).succeeds(LONG);
    }
}

#[test]
fn abort_ends_all() {
    each(&JOBS, |&(nodes, wire)| {
        for who in [0, 2] {
            let steps = [
                "loop:1000:3",
                &format!("@{who}=abort:enough of this"),
                "loop:1000:100000000",
            ];
            let mut job = start(&Plan::new(nodes, wire, "20"), &steps);
            let error = job.fails_alike(&[0, 1, 2, 3], LONG);
            assert!(
                error.starts_with("Aborted|") && error.contains("enough of this"),
                "{error}"
            );
        }
    });
}
