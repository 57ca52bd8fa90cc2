//! Measures one call, out of place or in place, and compares every element of its result. All ranks run it alike: what one decides
//! (how many iterations) follows from what all have gathered. Invariant: a count of wrong elements is that of all ranks together.

use super::{
    stages::metered,
    table::{Way, bus_factor},
    values::Template,
};
use crate::job::{Buffer, Call, Job};
use anyhow::Result;
use hfreduce::{dtype::DType, plan::Collective};
use std::time::Instant;

/// How to measure.
#[derive(Clone, Copy)]
pub struct How {
    /// Timed iterations; `None` fits them to [`BUDGET`].
    pub iterations: Option<usize>,
    /// Iterations before.
    pub warm_up: usize,
    /// Whether to compare.
    pub check: bool,
    /// 0 rank 0's time, 1 the mean, 2 the shortest, 3 the longest.
    pub combine: u8,
}

/// Seconds the timed iterations of one figure should take when their number is free.
const BUDGET: f64 = 0.25;
/// Their largest number then.
const MOST: f64 = 20.0;

/// Calls with the meter on at most.
const METERED: usize = 5;

/// Two buffers, each as long as the longest call's larger one.
pub struct Memory {
    /// Input, when out of place.
    pub input: Buffer,
    /// Output, and both when in place.
    pub output: Buffer,
}

/// Measures one way of a call.
///
/// # Errors
/// A failure of the group.
pub fn measure(
    job: &Job,
    call: &Call,
    memory: &mut Memory,
    in_place: bool,
    how: &How,
) -> Result<Way> {
    let (rank, ranks) = (job.group().rank(), job.group().size());
    let (i, o) = call.lengths(ranks);
    prepare(call, memory, in_place, rank, ranks)?;
    let run = |memory: &mut Memory| {
        if in_place {
            job.run_in_place(call, &mut memory.output)
        } else {
            job.run(call, &mut memory.input, &mut memory.output)
        }
    };
    let iterations = warm_up(job, how, || run(memory))?;
    if in_place {
        // Results were fed back, and may have left the range in which arithmetic is fast.
        prepare(call, memory, true, rank, ranks)?;
    }
    job.group().barrier()?;
    let started = Instant::now();
    for _ in 0..iterations {
        run(memory)?;
    }
    job.settle()?;
    let own = started.elapsed().as_secs_f64() / iterations as f64;
    let metered = match job.gpu() {
        Some(_) => Some(metered(job, iterations.min(METERED), || run(memory))?),
        None => None,
    };
    let mut wrong = 0;
    let compared = how.check && call.collective != Collective::Barrier;
    if compared {
        if in_place {
            prepare(call, memory, true, rank, ranks)?;
            run(memory)?;
            job.settle()?;
        }
        wrong = compare(call, memory, in_place, rank, ranks)?;
    }
    let all = job.gather(&[own, wrong as f64])?;
    let times: Vec<f64> = all.iter().map(|each| each[0]).collect();
    let seconds = combine(&times, how.combine);
    let algorithm = i.max(o) as f64 / seconds / 1e9;
    Ok(Way {
        time: seconds * 1e6,
        algorithm,
        bus: algorithm * bus_factor(call.collective, ranks),
        metered,
        wrong: compared.then(|| all.iter().map(|each| each[1]).sum::<f64>() as u64),
    })
}

/// One time of all ranks'.
fn combine(times: &[f64], how: u8) -> f64 {
    match how {
        0 => times[0],
        2 => times.iter().copied().fold(f64::INFINITY, f64::min),
        3 => times.iter().copied().fold(0.0, f64::max),
        _ => times.iter().sum::<f64>() / times.len() as f64,
    }
}

/// Runs the warm-up; returns the number of timed iterations, the same on all ranks.
fn warm_up(job: &Job, how: &How, mut run: impl FnMut() -> Result<()>) -> Result<usize> {
    if let Some(iterations) = how.iterations {
        for _ in 0..how.warm_up {
            run()?;
        }
        job.settle()?;
        return Ok(iterations);
    }
    run()?;
    job.settle()?;
    let started = Instant::now();
    run()?;
    job.settle()?;
    let all = job.gather(&[started.elapsed().as_secs_f64()])?;
    let longest = all.iter().map(|each| each[0]).fold(1e-9, f64::max);
    for _ in 2..how.warm_up.min((BUDGET / longest) as usize) {
        run()?;
    }
    job.settle()?;
    Ok((BUDGET / longest).clamp(2.0, MOST) as usize)
}

/// What `rank` puts in.
fn source(call: &Call, rank: usize, ranks: usize) -> Template {
    if call.collective.reduces() {
        Template::input(call.dtype, call.op, ranks, rank)
    } else {
        Template::raw(call.dtype, rank)
    }
}

/// A fault for tests: the rank, by number, whose input has a wrong bit, so that the bench must find wrong results.
const FAULT: &str = "HFR_BENCH_FAULT";

/// Fills the input, and the output with what is no result.
///
/// # Errors
/// A failure of the device.
pub fn prepare(
    call: &Call,
    memory: &mut Memory,
    in_place: bool,
    rank: usize,
    ranks: usize,
) -> Result<()> {
    let (i, o) = call.lengths(ranks);
    let source = source(call, rank, ranks);
    let spoilt = std::env::var(FAULT).is_ok_and(|text| text == rank.to_string());
    let fill = |input: &mut [u8]| {
        source.fill(input, 0);
        if let Some(byte) = input.last_mut().filter(|_| spoilt) {
            *byte ^= 0x40;
        }
    };
    if !in_place {
        memory.output.fill(o, |all| all.fill(0xA5))?;
        return memory.input.fill(i, fill);
    }
    let (from, _) = call.in_place(rank);
    memory.output.fill(i.max(o), |all| {
        all.fill(0xA5);
        fill(&mut all[from..from + i]);
    })
}

/// Wrong elements of this rank: of its output, and of its input where that had to stay as it was.
///
/// # Errors
/// A failure of the device.
pub fn compare(
    call: &Call,
    memory: &Memory,
    in_place: bool,
    rank: usize,
    ranks: usize,
) -> Result<u64> {
    let (i, o) = call.lengths(ranks);
    let mut wrong = 0;
    if !in_place {
        wrong += source(call, rank, ranks).wrong(&memory.input.read(i)?, 0);
    }
    let at = if in_place { call.in_place(rank).1 } else { 0 };
    let output = memory.output.read(at + o)?;
    let output = &output[at..];
    Ok(wrong
        + match call.collective {
            Collective::AllReduce => result(call, ranks).wrong(output, 0),
            Collective::Reduce { root } if rank == root as usize => {
                result(call, ranks).wrong(output, 0)
            }
            Collective::ReduceScatter => result(call, ranks).wrong(output, rank * call.count),
            Collective::Broadcast { root } => {
                Template::raw(call.dtype, root as usize).wrong(output, 0)
            }
            Collective::AllGather => gathered(call.dtype, output, ranks),
            // In place, who is not the root keeps its buffer; out of place its output is nobody's business.
            Collective::Reduce { .. } if in_place => source(call, rank, ranks).wrong(output, 0),
            Collective::Reduce { .. } | Collective::Barrier | Collective::SendRecv => 0,
            Collective::Gather { root } if rank == root as usize => {
                gathered(call.dtype, output, ranks)
            }
            Collective::Gather { .. } => 0,
            Collective::Scatter { root } => {
                Template::raw(call.dtype, root as usize).wrong(output, rank * call.count)
            }
            Collective::AllToAll | Collective::AllToAllV => {
                let share = output.len() / ranks;
                let block = |from: usize| {
                    Template::raw(call.dtype, from)
                        .wrong(&output[from * share..][..share], rank * call.count)
                };
                (0..ranks).map(block).sum()
            }
        })
}

fn result(call: &Call, ranks: usize) -> Template {
    Template::reduced(call.dtype, call.op, ranks)
}

fn gathered(dtype: DType, output: &[u8], ranks: usize) -> u64 {
    let share = output.len() / ranks;
    let wrong = |rank: usize| Template::raw(dtype, rank).wrong(&output[rank * share..][..share], 0);
    (0..ranks).map(wrong).sum()
}

#[cfg(test)]
mod tests {
    use super::combine;

    #[test]
    fn times_are_combined_as_asked() {
        let times = [2.0, 1.0, 6.0];
        assert_eq!(
            [0, 1, 2, 3].map(|how| combine(&times, how)),
            [2.0, 3.0, 1.0, 6.0]
        );
    }
}
