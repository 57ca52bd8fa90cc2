//! Jobs with a culprit, and without: figures are made, with some spread, so that nothing here depends on a machine.

use super::*;

/// All pairs of `ranks` ranks on nodes of `each`, same local rank only, with figures from `change`.
fn job(nodes: usize, each: usize, change: impl Fn(&mut Pair)) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (a, b) in (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))) {
        for local in 0..each {
            let ranks = [a * each + local, b * each + local];
            // A spread of up to 20 %, other for every pair.
            let spread = 1.0 + 0.05 * ((a * 7 + b * 3 + local) % 5) as f64;
            let mut pair = Pair {
                ranks,
                latency_us: 40.0 * spread,
                gb_s: [10.0 / spread, 10.0 / spread],
            };
            change(&mut pair);
            pairs.push(pair);
        }
    }
    pairs
}

/// Check, subject and outcome of everything but the summary.
fn named(pairs: &[Pair]) -> Vec<(String, String, Outcome)> {
    let found = judge(pairs, &|rank| format!("r{rank}"));
    assert_eq!((&*found[0].check, found[0].outcome), ("pairs", Outcome::Ok));
    found
        .into_iter()
        .skip(1)
        .map(|check| (check.check, check.subject, check.outcome))
        .collect()
}

fn one(check: &str, subject: &str, outcome: Outcome) -> Vec<(String, String, Outcome)> {
    vec![(check.to_owned(), subject.to_owned(), outcome)]
}

#[test]
fn a_healthy_job_has_no_culprit() {
    for (nodes, each) in [(2, 1), (2, 4), (3, 1), (5, 2), (16, 8)] {
        assert_eq!(named(&job(nodes, each, |_| ())), [], "{nodes} x {each}");
    }
}

#[test]
fn a_job_that_is_slow_as_a_whole_has_no_culprit() {
    let slow = |pair: &mut Pair| {
        pair.latency_us *= 100.0;
        pair.gb_s = pair.gb_s.map(|rate| rate / 50.0);
    };
    assert_eq!(named(&job(4, 2, slow)), []);
}

#[test]
fn a_rank_that_is_late_with_everybody_is_named() {
    for nodes in [3, 4, 7] {
        for rank in 0..nodes {
            let late = |pair: &mut Pair| {
                if pair.ranks.contains(&rank) {
                    pair.latency_us += 500.0;
                }
            };
            assert_eq!(
                named(&job(nodes, 1, late)),
                one("slow-rank", &format!("r{rank}"), Outcome::Fail)
            );
        }
    }
}

#[test]
fn a_rank_that_sends_slowly_is_named_and_those_who_receive_from_it_are_not() {
    for rank in 0..6 {
        let slow = |pair: &mut Pair| {
            for end in 0..2 {
                if pair.ranks[end] == rank {
                    pair.gb_s[end] /= 1.7;
                }
            }
        };
        let pairs = job(3, 2, slow);
        assert_eq!(
            named(&pairs),
            one("slow-rank", &format!("r{rank}"), Outcome::Warn)
        );
        let found = judge(&pairs, &|rank| format!("r{rank}"));
        assert!(
            found[1].finding.starts_with("sending ") && !found[1].finding.contains("latency"),
            "{found:?}"
        );
    }
}

#[test]
fn a_link_between_two_sound_ranks_is_named() {
    let slow = |pair: &mut Pair| {
        if pair.ranks == [1, 3] {
            pair.gb_s[1] /= 4.0;
        }
    };
    assert_eq!(
        named(&job(5, 1, slow)),
        one("slow-link", "r1 - r3", Outcome::Fail)
    );
    // Of two nodes nobody can say which end it is.
    assert_eq!(
        named(&job(2, 3, |pair| if pair.ranks == [1, 4] {
            pair.latency_us *= 9.0
        })),
        one("slow-link", "r1 - r4", Outcome::Fail)
    );
}

#[test]
fn the_only_pair_is_compared_with_itself() {
    assert_eq!(
        named(&job(2, 1, |pair| pair.gb_s[1] /= 3.0)),
        one("slow-link", "r1 - r0", Outcome::Warn)
    );
}

#[test]
fn the_worst_comes_first() {
    let slow = |pair: &mut Pair| match pair.ranks {
        [_, 4] => pair.latency_us *= 50.0,
        [1, _] | [_, 1] => pair.latency_us *= 5.0,
        _ => (),
    };
    let found = named(&job(5, 1, slow));
    let names: Vec<&str> = found.iter().map(|(_, subject, _)| &**subject).collect();
    assert_eq!(names, ["r4", "r1"], "{found:?}");
}

#[test]
fn differences_below_what_a_clock_can_tell_are_none() {
    let late = |pair: &mut Pair| {
        pair.latency_us = if pair.ranks.contains(&2) { 9.0 } else { 2.0 };
    };
    assert_eq!(named(&job(4, 1, late)), []);
}

#[test]
fn suspects_are_the_pairs_of_who_would_be_named() {
    assert_eq!(suspects(&job(4, 2, |_| ())), [[0; 2]; 0]);
    let late = |pair: &mut Pair| {
        if pair.ranks.contains(&3) {
            pair.latency_us *= 10.0;
        }
    };
    assert_eq!(suspects(&job(4, 2, late)), [[1, 3], [3, 5], [3, 7]]);
    let slow = |pair: &mut Pair| {
        if pair.ranks == [1, 3] {
            pair.gb_s[0] /= 4.0;
        }
    };
    assert_eq!(suspects(&job(5, 1, slow)), [[1, 3]]);
}

#[test]
fn noise_that_does_not_come_again_is_forgiven_and_a_fault_is_not() {
    let disturbed = |which: [usize; 2]| {
        move |pair: &mut Pair| {
            if pair.ranks == which {
                pair.gb_s[1] /= 4.0;
                pair.latency_us *= 10.0;
            }
        }
    };
    let mut first = job(4, 1, disturbed([0, 2]));
    assert_eq!(named(&first).len(), 1);
    let improve = |first: &mut [Pair], again: Vec<Pair>| {
        first
            .iter_mut()
            .zip(&again)
            .for_each(|(pair, again)| pair.improve(again))
    };
    improve(&mut first, job(4, 1, disturbed([1, 2])));
    assert_eq!(named(&first), []);
    let mut first = job(4, 1, disturbed([0, 2]));
    improve(&mut first, job(4, 1, disturbed([0, 2])));
    assert_eq!(named(&first), one("slow-link", "r0 - r2", Outcome::Fail));
}
