//! What the processors of a host do together: a loop that needs nothing but the core, and reading and writing more memory than caches hold.
//! One thread on each processor. It knows no job. Invariant: a figure is the best of several rounds, so that other programs count for little,
//! and each thread's memory is its own and was first touched by it, so that it lies on its NUMA node.

use super::{
    check::Check,
    memory::meminfo,
    root::{Root, list},
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::{
    hint::black_box,
    sync::Barrier,
    time::{Duration, Instant},
};

/// Processors that a mask of [`MASK`] bytes can name.
const MOST: usize = CpuSet::MAX_CPU;
/// Bytes of a set of processors on its way between ranks.
pub const MASK: usize = MOST / 8;
/// Turns of the loop: about 10 ms.
const TURNS: u64 = 8_000_000;

/// The processors that this process may use, one bit each.
pub fn own() -> [u8; MASK] {
    let mut mask = [0; MASK];
    if let Ok(set) = sched_getaffinity(None) {
        (0..MOST)
            .filter(|cpu| set.is_set(*cpu))
            .for_each(|cpu| mask[cpu / 8] |= 1 << (cpu % 8));
    }
    mask
}

/// The processors of all `masks`.
pub fn union<'a>(masks: impl Iterator<Item = &'a [u8]>) -> Vec<usize> {
    let masks: Vec<&[u8]> = masks.collect();
    let has = |cpu: &usize| masks.iter().any(|mask| mask[cpu / 8] >> (cpu % 8) & 1 == 1);
    (0..MOST).filter(has).collect()
}

/// What a thread does in its rounds.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Spin,
    Write,
    Read,
}

/// Begin and end of each round.
type Rounds = Vec<(Instant, Instant)>;

/// One thread's rounds, by act.
struct Thread {
    cpu: usize,
    rounds: [Rounds; 3],
}

const ACTS: [Act; 3] = [Act::Spin, Act::Write, Act::Read];

/// Measures on `cpus`.
pub fn measure(root: &Root, cpus: &[usize], quick: bool) -> Vec<Check> {
    let (rounds, most) = if quick { (3, 16 << 20) } else { (10, 64 << 20) };
    let bytes = size(root, cpus, most);
    let barrier = Barrier::new(cpus.len());
    let threads: Vec<Thread> = std::thread::scope(|scope| {
        let start = |cpu: &usize| {
            let (cpu, barrier) = (*cpu, &barrier);
            scope.spawn(move || work(cpu, bytes, rounds, barrier))
        };
        let started: Vec<_> = cpus.iter().map(start).collect();
        started
            .into_iter()
            .filter_map(|thread| thread.join().ok().flatten())
            .collect()
    });
    if threads.is_empty() {
        let remedy = "see the check cpuset: the processors of this job's ranks cannot be used";
        return vec![Check::warn(
            ("memory-bandwidth", ""),
            "not measured: no thread could be placed",
            remedy,
        )];
    }
    let mut found = vec![speed(&threads)];
    found.extend(bandwidth(root, &threads, bytes));
    found
}

/// Bytes for each thread: `most`, or four times its share of the last cache where that is more, within what the host has.
fn size(root: &Root, cpus: &[usize], most: usize) -> usize {
    let first = cpus.first().copied().unwrap_or(0);
    let file = |name: &str| {
        root.text(&format!(
            "sys/devices/system/cpu/cpu{first}/cache/index3/{name}"
        ))
        .unwrap_or_default()
    };
    let kib: usize = file("size").trim_end_matches('K').parse().unwrap_or(0);
    let sharing = list(&file("shared_cpu_list"));
    let sharing = sharing.iter().filter(|cpu| cpus.contains(cpu)).count();
    let available = meminfo(root, "MemAvailable").unwrap_or(1 << 30) as usize;
    let wanted = most.max(4 * (kib << 10) / sharing.max(1));
    wanted.min(available / 4 / cpus.len().max(1)).max(1 << 20)
}

/// All rounds of one thread. One that cannot go to its processor keeps the others company at the barrier and counts for nothing.
fn work(cpu: usize, bytes: usize, rounds: usize, barrier: &Barrier) -> Option<Thread> {
    let mut set = CpuSet::new();
    set.set(cpu);
    let placed = sched_setaffinity(None, &set).is_ok();
    let mut memory = if placed {
        vec![1u64; bytes / 8]
    } else {
        Vec::new()
    };
    let mut round = |act: Act, number: usize| {
        barrier.wait();
        let begin = Instant::now();
        match act {
            _ if !placed => {}
            Act::Spin => drop(black_box(spin(number as u64))),
            Act::Write => {
                memory.fill(number as u64 + 1);
                black_box(&mut memory);
            }
            Act::Read => drop(black_box(sum(black_box(&memory)))),
        }
        (begin, Instant::now())
    };
    let done = ACTS.map(|act| (0..rounds).map(|number| round(act, number)).collect());
    placed.then_some(Thread { cpu, rounds: done })
}

/// A chain of operations each of which waits for the one before.
fn spin(seed: u64) -> u64 {
    (0..TURNS).fold(seed | 1, |x, _| {
        x.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
    })
}

fn sum(memory: &[u64]) -> u64 {
    let mut sums = [0u64; 8];
    for part in memory.chunks_exact(8) {
        sums.iter_mut()
            .zip(part)
            .for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// The shortest time from the first begin to the last end of a round, among these threads.
fn best<'a>(threads: impl Iterator<Item = &'a Thread> + Clone, act: usize) -> Duration {
    let rounds = threads
        .clone()
        .map(|thread| thread.rounds[act].len())
        .min()
        .unwrap_or(0);
    let time = |number: usize| {
        let begin = threads
            .clone()
            .map(|thread| thread.rounds[act][number].0)
            .min();
        let end = threads
            .clone()
            .map(|thread| thread.rounds[act][number].1)
            .max();
        end.zip(begin)
            .map_or(Duration::MAX, |(end, begin)| end - begin)
    };
    (0..rounds).map(time).min().unwrap_or(Duration::MAX)
}

fn speed(threads: &[Thread]) -> Check {
    let times = threads
        .iter()
        .map(|thread| (thread.cpu, best(std::iter::once(thread), 0).as_secs_f64()));
    judge_speed(&times.collect::<Vec<_>>())
}

/// Names the processor that took longest, where it is out of line.
fn judge_speed(times: &[(usize, f64)]) -> Check {
    let mut sorted: Vec<f64> = times.iter().map(|(_, time)| *time).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted[(sorted.len() - 1) / 2];
    let (cpu, slowest) = times
        .iter()
        .copied()
        .fold((0, 0.0), |a, b| if b.1 > a.1 { b } else { a });
    let percent = 100.0 * (slowest / middle - 1.0);
    let what = ("cores", "");
    let check = if slowest > middle * 1.5 {
        Check::warn(
            what,
            format!(
                "processor {cpu} takes {percent:.0} % longer than the middle one for the same work"
            ),
            "it is throttled or shared: look at throttling, governor, quota and other programs, and measure again",
        )
    } else {
        Check::ok(
            what,
            format!(
                "{} processors, the slowest takes {percent:.0} % longer than the middle one",
                times.len()
            ),
        )
    };
    check
        .figure("slowest_ms", slowest * 1e3)
        .figure("middle_ms", middle * 1e3)
}

fn bandwidth(root: &Root, threads: &[Thread], bytes: usize) -> Vec<Check> {
    let rate = |threads: &[&Thread], act: usize| {
        (bytes * threads.len()) as f64 / best(threads.iter().copied(), act).as_secs_f64() / 1e9
    };
    let all: Vec<&Thread> = threads.iter().collect();
    let (write, read) = (rate(&all, 1), rate(&all, 2));
    let what = ("memory-bandwidth", "");
    let check = Check::ok(
        what,
        format!(
            "reads {read:.1} GB/s, writes {write:.1} GB/s, {} processors",
            all.len()
        ),
    );
    let mut found = vec![
        check
            .figure("read_gb_s", read)
            .figure("write_gb_s", write)
            .figure("processors_count", all.len() as f64),
    ];
    let mut nodes = Vec::new();
    for (number, folder) in root.numbered("sys/devices/system/node", "node") {
        let cpus = list(&root.text(&format!("{folder}/cpulist")).unwrap_or_default());
        let on: Vec<&Thread> = threads
            .iter()
            .filter(|thread| cpus.contains(&thread.cpu))
            .collect();
        if !on.is_empty() {
            nodes.push((number, on.len(), rate(&on, 2)));
        }
    }
    found.extend(judge_nodes(&nodes));
    found
}

/// Names NUMA nodes whose processors read less than those of the best one; `nodes`: number, processors, GB/s of all of them.
fn judge_nodes(nodes: &[(usize, usize, f64)]) -> Vec<Check> {
    let each = |node: &(usize, usize, f64)| node.2 / node.1 as f64;
    let best = nodes.iter().map(each).fold(0.0, f64::max);
    let judge = |node: &(usize, usize, f64)| {
        let subject = format!("NUMA node {}", node.0);
        let what = ("memory-bandwidth", &*subject);
        let said = format!("reads {:.1} GB/s, {:.2} per processor", node.2, each(node));
        let check = if each(node) < 0.7 * best {
            let finding = format!("{said}; another node has {best:.2} per processor");
            Check::warn(
                what,
                finding,
                "look for a missing or slow memory module of that processor (the board's event log)",
            )
        } else {
            Check::ok(what, said)
        };
        check.figure("read_gb_s", node.2)
    };
    if nodes.len() < 2 {
        Vec::new()
    } else {
        nodes.iter().map(judge).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Outcome;

    #[test]
    fn every_processor_is_measured_on_itself() {
        let root = Root::new(std::path::Path::new("/"));
        let cpus = union([&own()[..]].into_iter());
        let found = measure(&root, &cpus[..1], true);
        let names: Vec<&str> = found.iter().map(|check| &*check.check).collect();
        assert_eq!(names[..2], ["cores", "memory-bandwidth"]);
        let figures = &found[1].figures;
        assert!(
            figures["read_gb_s"] > 0.01 && figures["read_gb_s"] < 1e4,
            "{figures:?}"
        );
        assert_eq!(figures["processors_count"], 1.0);
        let nowhere = measure(&root, &[MOST - 1], true);
        assert_eq!(nowhere[0].outcome, Outcome::Warn, "{nowhere:?}");
    }

    #[test]
    fn masks_are_joined() {
        let (mut a, mut b) = ([0; MASK], [0; MASK]);
        (a[0], b[0], b[2]) = (0b1001, 0b0001, 0b10);
        assert_eq!(union([&a[..], &b[..]].into_iter()), [0, 3, 17]);
    }

    #[test]
    fn a_slow_core_and_a_slow_node_are_named() {
        let check = judge_speed(&[(0, 1.0), (1, 1.1), (2, 1.8), (3, 1.0)]);
        assert_eq!(check.outcome, Outcome::Warn);
        assert!(
            check.finding.starts_with("processor 2 takes 80 %"),
            "{}",
            check.finding
        );
        assert_eq!(judge_speed(&[(0, 1.0), (1, 1.2)]).outcome, Outcome::Ok);

        let found = judge_nodes(&[(0, 32, 150.0), (1, 32, 80.0)]);
        assert_eq!(
            found.iter().map(|check| check.outcome).collect::<Vec<_>>(),
            [Outcome::Ok, Outcome::Warn]
        );
        assert_eq!(found[1].subject, "NUMA node 1");
        assert!(judge_nodes(&[(0, 32, 150.0)]).is_empty());
    }
}
