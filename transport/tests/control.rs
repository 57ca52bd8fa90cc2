//! The control plane with ranks as threads of this process: first cause wins, orderly ends, joins that are refused.

mod ranks;

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use hfr_transport::control::{Control, RankState, Report};
use hfr_transport::store::{Error, StoreServer};
use ranks::{COOKIE, Log, deadline, join, judge_by};

fn server() -> (StoreServer, String) {
    let server = StoreServer::start("127.0.0.1:0", COOKIE).unwrap();
    let address = server.address().to_string();
    (server, address)
}

fn all(address: &str, group: &str, world: usize) -> Vec<(Control, Arc<Log>)> {
    (0..world)
        .map(|rank| join(address, group, rank, world))
        .collect()
}

#[test]
fn of_eight_failures_at_once_all_ranks_hear_the_same_one() {
    let (_server, address) = server();
    for round in 0..20 {
        let ranks = all(&address, &format!("round {round}"), 8);
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for (rank, (control, _)) in ranks.iter().enumerate() {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    control.report(Report::Failure(format!("rank {rank} failed").into_bytes()));
                });
            }
        });
        let first = ranks[0].1.wait();
        assert!(first.ends_with("failed"), "{first}");
        for (_, log) in &ranks {
            assert_eq!(log.wait(), first);
        }
        drop(ranks);
    }
}

#[test]
fn groups_do_not_hear_each_other() {
    let (_server, address) = server();
    let (one, two) = (all(&address, "one", 2), all(&address, "two", 3));
    one[1].0.report(Report::Failure(b"only one".to_vec()));
    assert_eq!(one[0].1.wait(), "only one");
    two[2].0.report(Report::Failure(b"only two".to_vec()));
    for (_, log) in &two {
        assert_eq!(log.wait(), "only two");
    }
    for (_, log) in one.iter().chain(&two) {
        assert_eq!(log.count(), 1);
    }
}

#[test]
fn an_orderly_end_is_no_failure_in_any_order() {
    for first in 0..3 {
        let (server, address) = server();
        let mut ranks = all(&address, "g", 3);
        let mut logs: Vec<_> = ranks.iter().map(|(_, log)| log.clone()).collect();
        ranks.rotate_left(first);
        let rest = ranks.split_off(1);
        let begun = Instant::now();
        drop(ranks);
        assert!(begun.elapsed() < Duration::from_secs(5));
        drop(server);
        std::thread::sleep(Duration::from_millis(100));
        drop(rest);
        for log in logs.drain(..) {
            assert_eq!(log.count(), 0);
        }
    }
}

#[test]
fn a_group_name_is_free_again_when_all_have_left() {
    let (_server, address) = server();
    for round in 0..3 {
        let ranks = all(&address, "again", 2);
        ranks[0]
            .0
            .report(Report::Failure(format!("round {round}").into_bytes()));
        assert_eq!(ranks[1].1.wait(), format!("round {round}"));
    }
}

#[test]
fn a_server_that_closes_in_order_leaves_everyone_in_peace() {
    let (server, address) = server();
    let ranks = all(&address, "g", 3);
    drop(server);
    std::thread::sleep(Duration::from_millis(100));
    for (_, log) in &ranks {
        assert_eq!(log.count(), 0);
    }
    ranks[2]
        .0
        .report(Report::Failure(b"nobody to agree with".to_vec()));
    assert_eq!(ranks[2].1.wait(), "nobody to agree with");
}

#[test]
fn a_timeout_is_judged_from_everyones_status() {
    let (_server, address) = server();
    let ranks = all(&address, "g", 3);
    ranks[1].0.report(Report::Check(b"hm".to_vec()));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(
        ranks[1].1.count(),
        0,
        "a check that finds nothing says nothing"
    );
    ranks[2].0.leave();
    ranks[1].0.report(Report::Timeout(b"too long".to_vec()));
    for (_, log) in &ranks[..2] {
        assert_eq!(
            log.wait(),
            "asked by [1]: answered status of 0, answered status of 1, left"
        );
    }
    assert_eq!(ranks[2].1.count(), 0);
}

#[test]
fn joins_that_contradict_are_refused() {
    let (_server, address) = server();
    let _ranks = all(&address, "g", 2);
    let attempt = |cookie: &[u8], rank, world| {
        let log = Arc::new(Log::new(rank));
        let joined = Control::join(&address, cookie, "g", rank, world, log, None, deadline());
        joined.map(drop).unwrap_err()
    };
    assert!(
        attempt(COOKIE, 1, 2)
            .to_string()
            .contains("rank 1 of group 'g' has joined already")
    );
    assert!(
        attempt(COOKIE, 1, 3)
            .to_string()
            .contains("world size 3, others with 2")
    );
    assert!(
        attempt(COOKIE, 2, 2)
            .to_string()
            .contains("rank 2 cannot join")
    );
    assert_eq!(
        attempt(b"other", 0, 2),
        Error::Refused {
            address: address.clone()
        }
    );
}

#[test]
fn the_judge_hears_of_ranks_that_never_came() {
    let (_server, address) = server();
    let log = Arc::new(Log::new(0));
    let judge = judge_by(|question, states| {
        assert!(question.must_answer());
        assert_eq!(states[1], RankState::Silent);
        Some(b"rank 1 never came".to_vec())
    });
    let control = Control::join(
        &address,
        COOKIE,
        "g",
        0,
        2,
        log.clone(),
        Some(judge),
        deadline(),
    )
    .unwrap();
    control.report(Report::Timeout(b"t".to_vec()));
    assert_eq!(log.wait(), "rank 1 never came");
}
