//! What many calls cost: one rank of a job (`hfr run`). A thousand buffers of 4 KiB and 46 of 4 MiB, each started before the first has ended, one call
//! after the other, and as one buffer; and eight communicators of the same ranks, each with a call of 1 MiB, from a thread of its own or all started by
//! one thread, beside the same calls on one communicator. Rounds take turns; medians count, of the slowest rank; sums are checked.
//!
//! `hfr run --nodes 1 --ranks-per-node 2 -- target/release/examples/many`

use hfreduce::{Communicator, Error, ReduceOp};
use std::{sync::Barrier, time::Instant};

const ROUNDS: usize = 9;
const GROUPS: usize = 8;
const MIB: usize = 1 << 20;

/// Seconds of `work`, on the slowest rank.
fn timed(group: &Communicator, work: impl FnOnce() -> Result<(), Error>) -> f64 {
    group.barrier().expect("a barrier");
    let began = Instant::now();
    work().unwrap_or_else(|e| panic!("{e}"));
    let mut seconds = [began.elapsed().as_secs_f64()];
    group
        .all_reduce(&mut seconds, ReduceOp::Max)
        .expect("a maximum");
    seconds[0]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn fill(buffer: &mut [f32]) {
    for (i, x) in buffer.iter_mut().enumerate() {
        *x = (i % 8) as f32;
    }
}

fn check(group: &Communicator, buffer: &[f32]) {
    let all = group.size() as f32;
    let right = |(i, x): (usize, &f32)| *x == (i % 8) as f32 * all;
    assert!(buffer.iter().enumerate().all(right), "a wrong sum");
}

/// `count` buffers of `bytes` bytes, in the three ways: milliseconds.
fn buffers(group: &Communicator, count: usize, bytes: usize) -> [f64; 3] {
    let each = bytes / 4;
    let mut all = vec![0.0f32; count * each];
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (way, times) in times.iter_mut().enumerate() {
            fill(&mut all);
            times.push(timed(group, || match way {
                0 => group.scope(|scope| {
                    let mut parts = all.chunks_exact_mut(each);
                    parts.try_for_each(|one| scope.all_reduce(one, ReduceOp::Sum).map(drop))
                }),
                1 => {
                    let mut parts = all.chunks_exact_mut(each);
                    parts.try_for_each(|one| group.all_reduce(one, ReduceOp::Sum))
                }
                _ => group.all_reduce(&mut all, ReduceOp::Sum),
            }));
            check(group, &all);
        }
    }
    times.map(|t| median(t) * 1e3)
}

/// A call of 1 MiB on each of eight groups, from eight threads and started by one, and eight calls on one of them: milliseconds.
fn groups(group: &Communicator) -> [f64; 3] {
    let split = || group.split(Some(0), 0).map(|g| g.expect("a part in it"));
    let all: Result<Vec<Communicator>, Error> = (0..GROUPS).map(|_| split()).collect();
    let all = all.unwrap_or_else(|e| panic!("{e}"));
    let mut data = vec![vec![0.0f32; MIB / 4]; GROUPS];
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (way, times) in times.iter_mut().enumerate() {
            data.iter_mut().for_each(|data| fill(data));
            let mut pairs = all.iter().zip(&mut data);
            times.push(match way {
                0 => from_threads(group, pairs),
                1 => timed(group, || start(pairs)),
                _ => timed(group, || {
                    pairs.try_for_each(|(_, data)| all[0].all_reduce(data, ReduceOp::Sum))
                }),
            });
            data.iter().for_each(|data| check(group, data));
        }
    }
    times.map(|t| median(t) * 1e3)
}

/// The threads wait at a gate, so that starting them does not count.
fn from_threads<'a>(
    group: &Communicator,
    pairs: impl Iterator<Item = (&'a Communicator, &'a mut Vec<f32>)>,
) -> f64 {
    let gate = Barrier::new(GROUPS + 1);
    std::thread::scope(|threads| {
        let gate = &gate;
        let call = |(group, data): (&'a Communicator, &'a mut Vec<f32>)| {
            threads.spawn(move || {
                gate.wait();
                group.all_reduce(data, ReduceOp::Sum)
            })
        };
        let calls: Vec<_> = pairs.map(call).collect();
        timed(group, || {
            gate.wait();
            let mut ended = calls.into_iter().map(|t| t.join().expect("no panic"));
            ended.try_for_each(|end| end)
        })
    })
}

/// Starts a call on each group, one scope inside the other; each scope waits for its call as it ends.
fn start<'a>(
    mut pairs: impl Iterator<Item = (&'a Communicator, &'a mut Vec<f32>)>,
) -> Result<(), Error> {
    match pairs.next() {
        None => Ok(()),
        Some((group, data)) => group.scope(|scope| {
            drop(scope.all_reduce(data, ReduceOp::Sum)?);
            start(pairs)
        }),
    }
}

fn main() {
    let group = Communicator::from_env().unwrap_or_else(|e| panic!("{e}"));
    let say = |text: String| {
        if group.rank() == 0 {
            println!("{text}");
        }
    };
    for (count, bytes) in [(1000, 4 << 10), (46, 4 * MIB)] {
        let [started, after, one] = buffers(&group, count, bytes);
        say(format!(
            "{count} x {bytes} bytes: all started at once {started:.3} ms, one after the other {after:.3} ms, as one buffer {one:.3} ms"
        ));
    }
    let [threads, started, after] = groups(&group);
    say(format!(
        "{GROUPS} x 1 MiB: on {GROUPS} communicators from {GROUPS} threads {threads:.3} ms, started by one thread {started:.3} ms, on one communicator after the other {after:.3} ms"
    ));
}
