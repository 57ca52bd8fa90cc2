//! Ranks of a node that read each other's memory, where the system lets them: what they read is right, and killing the rank that is read, or
//! the one that reads, is told as ever.

use super::*;

/// Whether siblings may read each other's memory; `None` where it depends on more than one can see.
fn allowed() -> Option<bool> {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    let free = scope.map_or(true, |scope| scope.trim() == "0");
    free.then_some(true)
}

/// Two ranks that have a core each, as far as they know: they read each other's memory most.
fn two() -> Plan {
    Plan::new(&[2], "auto", "20").with("HFR_CORES", "2")
}

#[test]
fn what_was_read_is_right_and_can_be_switched_off() {
    for (setting, expected) in [("on", allowed()), ("off", Some(false))] {
        for plan in [two(), Plan::new(&[3], "auto", "20")] {
            let world = plan.world();
            let plan = plan.with("HFR_SINGLE_COPY", setting);
            let mut job = start(&plan, &["move:40000:12", "move:9001:12", "move:77:3"]);
            job.succeeds(LONG);
            for rank in 0..world {
                let said = job.said(rank);
                assert!(
                    !said.iter().any(|line| line.starts_with("wrong")),
                    "{said:?}"
                );
                if let Some(expected) = expected {
                    let line = format!("single copy: {expected}");
                    assert!(said.contains(&line), "{said:?}");
                }
            }
        }
    }
}

#[test]
fn one_rank_that_does_not_show_its_memory_is_enough() {
    let plan = two().only(1, "HFR_SINGLE_COPY", "off");
    let mut job = start(&plan, &["move:40000:2"]);
    job.succeeds(LONG);
    let line = "single copy: false".to_owned();
    assert!(
        (0..2).all(|rank| job.said(rank).contains(&line)),
        "{}",
        job.story()
    );
}

#[test]
fn killed_while_memory_is_read() {
    for dead in [0, 1] {
        let mut job = start(&two(), &["move:60000:1000000"]);
        job.hears(&[0, 1], "looping");
        job.kill(dead);
        let error = job.fails_alike(&others(2, dead), SOON);
        kill::names_the_dead(&error, dead);
        let said = job.said(1 - dead);
        assert!(
            !said.iter().any(|line| line.starts_with("wrong")),
            "{said:?}"
        );
    }
}
