//! Which rank or link is slow, from figures of pairs. Pure. The idea: a rank is as good as its best pair, since a sound rank has a sound peer
//! somewhere; a rank whose best pair is slow is slow itself, and a slow pair of two sound ranks is a slow link. Invariant: what is judged
//! is compared with the middle of all ranks, so that a job that is slow as a whole, as on a small machine, has no culprit.

use super::check::{Check, Outcome};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Two ranks and what was measured between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// The two ranks.
    pub ranks: [usize; 2],
    /// Half the time of a message there and back, in microseconds.
    pub latency_us: f64,
    /// Bytes per second from each rank to the other, in GB/s.
    pub gb_s: [f64; 2],
}

impl Pair {
    /// Takes what is better of the same pair's figures: a fault is there every time, noise is not.
    pub fn improve(&mut self, again: &Pair) {
        self.latency_us = self.latency_us.min(again.latency_us);
        for (rate, again) in self.gb_s.iter_mut().zip(again.gb_s) {
            *rate = rate.max(again);
        }
    }
}

/// What is measured of a rank, larger being worse: microseconds, and nanoseconds per byte.
const KINDS: [Kind; 3] = [
    Kind {
        name: "latency",
        warn: 1.5,
        fail: 3.0,
        floor: 20.0,
    },
    Kind {
        name: "sending",
        warn: 1.5,
        fail: 2.0,
        floor: 0.0,
    },
    Kind {
        name: "receiving",
        warn: 1.5,
        fail: 2.0,
        floor: 0.0,
    },
];

struct Kind {
    name: &'static str,
    /// How many times the middle is worth a look. Streams that share a port share it unevenly, and that is no fault.
    warn: f64,
    /// And how many times is broken.
    fail: f64,
    /// Smaller differences are noise.
    floor: f64,
}

impl Kind {
    fn judge(&self, value: f64, middle: f64) -> Outcome {
        let times = value / middle;
        if value - middle < self.floor || times < self.warn {
            Outcome::Ok
        } else if times < self.fail {
            Outcome::Warn
        } else {
            Outcome::Fail
        }
    }

    fn say(&self, value: f64, middle: f64) -> String {
        match self.name {
            "latency" => format!("latency {value:.1} us (middle {middle:.1})"),
            name => format!(
                "{name} {:.3} GB/s (middle {:.3})",
                1.0 / value,
                1.0 / middle
            ),
        }
    }
}

/// Costs of a pair as its rank at `end` sees them, by kind.
fn costs(pair: &Pair, end: usize) -> [f64; 3] {
    [
        pair.latency_us,
        1.0 / pair.gb_s[end],
        1.0 / pair.gb_s[1 - end],
    ]
}

/// A rank's best cost of each kind and in how many pairs it was.
#[derive(Clone, Copy)]
struct Score {
    rank: usize,
    pairs: usize,
    best: [f64; 3],
}

fn scores(pairs: &[Pair]) -> Vec<Score> {
    let mut scores: BTreeMap<usize, Score> = BTreeMap::new();
    for (pair, end) in pairs.iter().flat_map(|pair| [(pair, 0), (pair, 1)]) {
        let rank = pair.ranks[end];
        let score = scores.entry(rank).or_insert(Score {
            rank,
            pairs: 0,
            best: [f64::INFINITY; 3],
        });
        score.pairs += 1;
        for (best, new) in score.best.iter_mut().zip(costs(pair, end)) {
            *best = best.min(new);
        }
    }
    scores.into_values().collect()
}

/// The middle; of two the better, because where half are slow the other half shows what is possible.
fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
        .get(values.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(0.0)
}

/// The worst that is to be said of some costs.
fn outcome(costs: [f64; 3], middles: [f64; 3]) -> Outcome {
    let all = KINDS.iter().zip(costs).zip(middles);
    let judged = all.map(|((kind, cost), middle)| kind.judge(cost, middle));
    judged.max().unwrap_or(Outcome::Ok)
}

/// What all are compared with, and the ranks that fall behind it.
fn behind(pairs: &[Pair]) -> ([f64; 3], Vec<Score>) {
    let scores = scores(pairs);
    let middles = std::array::from_fn(|kind| middle(scores.iter().map(|score| score.best[kind])));
    // Whoever has but one partner cannot be told from the link between them.
    let slow = |score: &Score| score.pairs > 1 && outcome(score.best, middles) > Outcome::Ok;
    (middles, scores.into_iter().filter(slow).collect())
}

/// The ranks of pairs that should be measured again before anybody is blamed, since noise is as likely a cause as a fault.
pub fn suspects(pairs: &[Pair]) -> Vec<[usize; 2]> {
    let (middles, slow) = behind(pairs);
    let slow: BTreeSet<usize> = slow.iter().map(|score| score.rank).collect();
    let suspect = |pair: &&Pair| {
        pair.ranks.iter().any(|rank| slow.contains(rank))
            || outcome(costs(pair, 0), middles) > Outcome::Ok
    };
    pairs
        .iter()
        .filter(suspect)
        .map(|pair| pair.ranks)
        .collect()
}

/// Names slow ranks and links, worst first; `name` says who a rank is.
pub fn judge(pairs: &[Pair], name: &dyn Fn(usize) -> String) -> Vec<Check> {
    let (middles, slow) = behind(pairs);
    let mut found = vec![summary(pairs)];
    for score in &slow {
        found.extend(culprit(
            "slow-rank",
            || name(score.rank),
            score.best,
            middles,
        ));
    }
    let slow: BTreeSet<usize> = slow.iter().map(|score| score.rank).collect();
    for pair in pairs.iter().filter(|_| pairs.len() > 1) {
        if pair.ranks.iter().any(|rank| slow.contains(rank)) {
            continue;
        }
        let [a, b] = pair.ranks;
        let ends = || format!("{} - {}", name(a), name(b));
        found.extend(culprit("slow-link", ends, costs(pair, 0), middles));
    }
    if let [pair] = pairs {
        found.extend(lopsided(pair, name));
    }
    let worst = |check: &Check| {
        let times = check.figures.get("times_worse_ratio");
        times.copied().unwrap_or(f64::INFINITY)
    };
    found.sort_by(|a, b| worst(b).total_cmp(&worst(a)));
    found
}

fn culprit(
    check: &str,
    subject: impl Fn() -> String,
    costs: [f64; 3],
    middles: [f64; 3],
) -> Option<Check> {
    let worst = outcome(costs, middles);
    if worst == Outcome::Ok {
        return None;
    }
    let mut said = Vec::new();
    let mut times: f64 = 0.0;
    for ((kind, cost), middle) in KINDS.iter().zip(costs).zip(middles) {
        if kind.judge(cost, middle) > Outcome::Ok {
            said.push(kind.say(cost, middle));
            times = times.max(cost / middle);
        }
    }
    let remedy = if check == "slow-rank" {
        "slow with every peer: look at that host's cable, port, counters and load, and take it out of the job until then"
    } else {
        "each end is better with others: look at the way between them (switches, ports, routes)"
    };
    let subject = subject();
    let what = (check, &*subject);
    let found = if worst == Outcome::Warn {
        Check::warn(what, said.join(", "), remedy)
    } else {
        Check::fail(what, said.join(", "), remedy)
    };
    let figures = [
        ("latency_us", costs[0]),
        ("sending_gb_s", 1.0 / costs[1]),
        ("receiving_gb_s", 1.0 / costs[2]),
    ];
    let found = figures
        .into_iter()
        .fold(found, |found, (name, value)| found.figure(name, value));
    Some(found.figure("times_worse_ratio", times))
}

/// The only pair there is can only be compared with itself.
fn lopsided(pair: &Pair, name: &dyn Fn(usize) -> String) -> Option<Check> {
    let slower = usize::from(pair.gb_s[1] < pair.gb_s[0]);
    let times = pair.gb_s[1 - slower] / pair.gb_s[slower];
    if times < KINDS[1].fail {
        return None;
    }
    let [from, to] = [pair.ranks[slower], pair.ranks[1 - slower]].map(name);
    let check = Check::warn(
        ("slow-link", &format!("{from} - {to}")),
        format!(
            "{from} sends at {:.3} GB/s, and {to} at {:.3}",
            pair.gb_s[slower],
            pair.gb_s[1 - slower]
        ),
        "one direction is slow: look at cable, port and load of both; with a third node the culprit can be named",
    );
    Some(check.figure("times_worse_ratio", times))
}

fn summary(pairs: &[Pair]) -> Check {
    let latency = middle(pairs.iter().map(|pair| pair.latency_us));
    let longest = pairs.iter().map(|pair| pair.latency_us).fold(0.0, f64::max);
    let rate = 1.0
        / middle(
            pairs
                .iter()
                .flat_map(|pair| pair.gb_s.map(|rate| 1.0 / rate)),
        );
    let least = pairs
        .iter()
        .flat_map(|pair| pair.gb_s)
        .fold(f64::INFINITY, f64::min);
    let what = ("pairs", "");
    let check = Check::ok(
        what,
        format!(
            "{} pairs of ranks: latency {latency:.1} us in the middle, {longest:.1} at most; {rate:.3} GB/s each way in the middle, {least:.3} at least",
            pairs.len()
        ),
    );
    let check = check
        .figure("latency_us", latency)
        .figure("longest_us", longest);
    check.figure("rate_gb_s", rate).figure("least_gb_s", least)
}

#[cfg(test)]
#[path = "outliers_tests.rs"]
mod tests;
