//! Latency and bandwidth between the nodes of a job, pair by pair, through the library's own wire: two ranks make a group of their own and
//! broadcast to each other. Ranks with the same local number meet, all of a node at once, because that is how an all_reduce uses the wire.
//! It judges nothing. Invariant: within a round nobody has two partners, and all pairs of a round begin together.

use super::{
    outliers::{Pair, suspects},
    rounds::rounds,
};
use anyhow::{Context, Result};
use hfreduce::Communicator;
use std::{collections::BTreeSet, time::Instant};

/// How long and how much.
struct Effort {
    /// Seconds for one figure.
    budget: f64,
    /// Bytes of a large message.
    bytes: usize,
    /// Rounds at most; each is a partner.
    rounds: usize,
}

const THOROUGH: Effort = Effort {
    budget: 0.3,
    bytes: 8 << 20,
    rounds: usize::MAX,
};
/// With three partners or more a slow rank can be told from a slow link.
const QUICK: Effort = Effort {
    budget: 0.05,
    bytes: 1 << 20,
    rounds: 4,
};
/// A latency is the middle of this many batches, since messages of other programs disturb some of them.
const BATCHES: usize = 9;
/// How often rounds with a suspect are measured again.
const AGAIN: usize = 2;
/// A bandwidth is the best of this many.
const TRIES: usize = 3;

/// Ranks by node.
pub fn by_node(group: &Communicator) -> Result<Vec<Vec<usize>>> {
    let mut places = vec![0i64; group.size()];
    group.all_gather(&[group.node() as i64], &mut places)?;
    let mut nodes = vec![Vec::new(); group.nodes()];
    for (rank, node) in places.iter().enumerate() {
        nodes[*node as usize].push(rank);
    }
    Ok(nodes)
}

/// Measures all pairs of nodes, or some of every node's when it must be quick. Rounds with a suspect are measured again as a whole, so that all
/// of their pairs have the same chance. All ranks get all figures.
///
/// # Errors
/// A failure of the group, or of two ranks on their own.
pub fn measure(group: &Communicator, quick: bool) -> Result<Vec<Pair>> {
    let effort = if quick { QUICK } else { THOROUGH };
    let nodes = by_node(group)?;
    let meet = |(a, b): (usize, usize)| nodes[a].iter().copied().zip(nodes[b].iter().copied());
    let mut found: Vec<Vec<Pair>> = Vec::new();
    for round in rounds(nodes.len()).into_iter().take(effort.rounds) {
        let meetings: Vec<(usize, usize)> = round.into_iter().flat_map(meet).collect();
        found.push(one_round(group, &meetings, &effort)?);
    }
    for _ in 0..AGAIN {
        // All ranks have the same figures, and so come to the same decision.
        let suspects: BTreeSet<[usize; 2]> = suspects(&found.concat()).into_iter().collect();
        let suspicious = |pair: &Pair| suspects.contains(&pair.ranks);
        for round in found
            .iter_mut()
            .filter(|round| round.iter().any(suspicious))
        {
            let meetings: Vec<(usize, usize)> =
                round.iter().map(|pair| pair.ranks.into()).collect();
            let again = one_round(group, &meetings, &effort)?;
            round
                .iter_mut()
                .zip(&again)
                .for_each(|(pair, again)| pair.improve(again));
        }
    }
    Ok(found.concat())
}

/// Measures pairs that have no rank in common, all at once, in their order.
fn one_round(
    group: &Communicator,
    meetings: &[(usize, usize)],
    effort: &Effort,
) -> Result<Vec<Pair>> {
    let rank = group.rank();
    let own = meetings.iter().position(|(a, b)| [*a, *b].contains(&rank));
    // Ranks are numbered node by node: the first of a pair is the first of its group, too.
    let two = group.split(own.map(|number| number as u32), rank as i64)?;
    // Groups take unequal time to make, and what others do on the wire is part of the figure.
    group.barrier()?;
    let figures = match &two {
        Some(two) => {
            let (a, b) = meetings[own.unwrap_or(0)];
            figures(two, effort).with_context(|| format!("between ranks {a} and {b}"))?
        }
        None => [0.0; 3],
    };
    let mut all = vec![0.0; 3 * group.size()];
    group.all_gather(&figures, &mut all)?;
    let pair = |&(a, b): &(usize, usize)| Pair {
        ranks: [a, b],
        latency_us: all[3 * a] * 1e6,
        gb_s: [all[3 * a + 1], all[3 * b + 2]].map(|rate| rate / 1e9),
    };
    Ok(meetings.iter().map(pair).collect())
}

/// Seconds of a small message, and bytes per second from the first to the second rank and back, as this rank has timed them.
fn figures(two: &Communicator, effort: &Effort) -> Result<[f64; 3]> {
    let mut message = [two.rank() as u8 + 1; 8];
    let turn = |message: &mut [u8]| -> Result<()> {
        two.broadcast(message, 0)?;
        Ok(two.broadcast(message, 1)?)
    };
    let each = once(two, || turn(&mut message))?;
    let turns = (effort.budget / each / BATCHES as f64).clamp(1.0, 50.0) as usize;
    let mut batches = Vec::new();
    for _ in 0..BATCHES {
        let started = Instant::now();
        for _ in 0..turns {
            turn(&mut message)?;
        }
        batches.push(started.elapsed().as_secs_f64() / (2 * turns) as f64);
    }
    batches.sort_by(f64::total_cmp);
    let there = rate(two, 0, effort)?;
    let back = rate(two, 1, effort)?;
    Ok([batches[BATCHES / 2], there, back])
}

/// Bytes per second from `root` to the other, from the first byte to the receiver's answer.
fn rate(two: &Communicator, root: usize, effort: &Effort) -> Result<f64> {
    let mut data: Vec<u8> = (0..effort.bytes).map(|i| (i % 251) as u8 + 1).collect();
    let mut answer = [1u8; 8];
    let mut send = |times: usize| -> Result<()> {
        for _ in 0..times {
            two.broadcast(&mut data, root)?;
        }
        Ok(two.broadcast(&mut answer, 1 - root)?)
    };
    let each = once(two, || send(1))?;
    let times = (effort.budget / each / TRIES as f64).clamp(1.0, 64.0) as usize;
    let mut best: f64 = 0.0;
    for _ in 0..TRIES {
        two.barrier()?;
        let started = Instant::now();
        send(times)?;
        best = best.max((times * effort.bytes) as f64 / started.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Seconds that something takes when it is done for the second time, the same number on both ranks.
fn once(two: &Communicator, mut act: impl FnMut() -> Result<()>) -> Result<f64> {
    act()?;
    let started = Instant::now();
    act()?;
    let own = started.elapsed().as_secs_f64();
    let mut both = [0.0; 2];
    two.all_gather(&[own], &mut both)?;
    Ok(both[0].max(both[1]).max(1e-7))
}
