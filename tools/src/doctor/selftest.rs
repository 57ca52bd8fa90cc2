//! Whether this job adds correctly: all_reduce of every element type on data whose result is known bit by bit, at several sizes, so that every
//! plan that the library would choose has its turn. It measures no time. Invariant: a wrong element on any rank is found on rank 0, with the
//! rank that has it.

use super::check::Check;
use crate::{
    bench::values::{PERIOD, Template, checkable},
    job::{Call, Job},
};
use anyhow::Result;
use hfreduce::{dtype::DType, op::ReduceOp, plan::Collective};

/// Elements: one, a few, a short and a long pipeline; none a multiple of anything.
const COUNTS: [usize; 4] = [1, 1009, 100_003, 2_000_003];
const OPERATIONS: [ReduceOp; 4] = [ReduceOp::Sum, ReduceOp::Avg, ReduceOp::Max, ReduceOp::Prod];

/// What is tried.
fn calls(ranks: usize, quick: bool) -> Vec<Call> {
    let (counts, operations) = if quick {
        (&COUNTS[..3], &OPERATIONS[..1])
    } else {
        (&COUNTS[..], &OPERATIONS[..])
    };
    let mut calls = Vec::new();
    for &dtype in &DType::ALL {
        for &op in operations {
            // With so many ranks its exact result cannot be written in this type.
            if checkable(dtype, op, ranks).is_err() {
                continue;
            }
            let call = |&count: &usize| Call {
                collective: Collective::AllReduce,
                dtype,
                op,
                count,
                tensors: 1,
            };
            calls.extend(counts.iter().map(call));
        }
    }
    calls
}

/// Runs the test; all ranks call it.
///
/// # Errors
/// A failure of the group.
pub fn run(job: &Job, quick: bool) -> Result<Check> {
    let group = job.group();
    let (rank, ranks) = (group.rank(), group.size());
    let mut seed = [u64::from(std::process::id()) ^ elapsed()];
    group.broadcast(&mut seed, 0)?;
    let first = (seed[0] % PERIOD as u64) as usize;
    let calls = calls(ranks, quick);
    let longest = calls
        .iter()
        .map(|call| call.lengths(ranks).0)
        .max()
        .unwrap_or(0);
    let (mut input, mut output) = (job.buffer(longest, false)?, job.buffer(longest, false)?);
    // Wrong elements, and the first call that had some.
    let mut own = [0.0, -1.0];
    for (number, call) in calls.iter().enumerate() {
        let bytes = call.lengths(ranks).0;
        let own_input = Template::input(call.dtype, call.op, ranks, rank);
        input.fill(bytes, |all| own_input.fill(all, first))?;
        output.fill(bytes, |all| all.fill(0xA5))?;
        job.run(call, &mut input, &mut output)?;
        let right = Template::reduced(call.dtype, call.op, ranks);
        let wrong = right.wrong(&output.read(bytes)?, first);
        if wrong > 0 && own[1] < 0.0 {
            own[1] = number as f64;
        }
        own[0] += wrong as f64;
    }
    Ok(judge(&job.gather(&own)?, &calls, first))
}

fn elapsed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// What the ranks' counts say.
fn judge(all: &[Vec<f64>], calls: &[Call], first: usize) -> Check {
    let what = ("self-test", "");
    let wrong: f64 = all.iter().map(|own| own[0]).sum();
    let culprits: Vec<String> = all
        .iter()
        .enumerate()
        .filter(|(_, own)| own[0] > 0.0)
        .map(|(rank, own)| {
            let call = calls.get(own[1] as usize);
            let call = call.map_or(String::new(), |call| {
                format!(
                    " first in {} of {} {}",
                    call.op.name(),
                    call.count,
                    call.dtype
                )
            });
            format!("rank {rank} has {}{call}", own[0])
        })
        .collect();
    let check = if culprits.is_empty() {
        Check::ok(
            what,
            format!(
                "{} all_reduces of {} types, every element right on {} ranks",
                calls.len(),
                DType::ALL.len(),
                all.len()
            ),
        )
    } else {
        Check::fail(
            what,
            format!(
                "{wrong} wrong elements: {} (data from element {first})",
                culprits.join("; ")
            ),
            "a host computes or moves data wrongly: run it again without one host after the other, and test the memory of the one that spoils it",
        )
    };
    check
        .figure("wrong_count", wrong)
        .figure("calls_count", calls.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Outcome;

    #[test]
    fn every_type_has_its_turn() {
        for (ranks, quick) in [(2, true), (8, false), (1000, false)] {
            let calls = calls(ranks, quick);
            for dtype in DType::ALL {
                assert!(
                    calls.iter().any(|call| call.dtype == dtype),
                    "{dtype} with {ranks} ranks"
                );
            }
        }
        assert!(calls(8, true).len() < calls(8, false).len() / 4);
    }

    #[test]
    fn the_rank_with_wrong_elements_is_named() {
        let calls = calls(3, true);
        let well = judge(&[vec![0.0, -1.0], vec![0.0, -1.0]], &calls, 7);
        assert_eq!(
            (well.outcome, well.figures["wrong_count"]),
            (Outcome::Ok, 0.0)
        );
        let ill = judge(
            &[vec![0.0, -1.0], vec![5.0, 1.0], vec![0.0, -1.0]],
            &calls,
            7,
        );
        assert_eq!(ill.outcome, Outcome::Fail);
        assert!(
            ill.finding
                .contains("rank 1 has 5 first in sum of 1009 double"),
            "{}",
            ill.finding
        );
    }
}
