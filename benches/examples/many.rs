//! What many calls cost: one rank of a job (`hfr run`). A thousand buffers of 4 KiB and 46 of 4 MiB, each started before the first has ended, one call
//! after the other, and as one buffer; eight communicators of the same ranks, each with a call of 1 MiB from a thread of its own, and the same calls
//! on one communicator; and how much memory there is by then, the process's and the node's segments'. Rounds take turns; medians count, of the slowest rank.
//!
//! `hfr run --nodes 1 --ranks-per-node 2 -- target/release/examples/many`

use hfreduce::{Communicator, Error, ReduceOp};
use std::{os::unix::fs::MetadataExt, time::Instant};

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

/// `count` buffers of `bytes` bytes, in the three ways: milliseconds.
fn buffers(group: &Communicator, count: usize, bytes: usize) -> [f64; 3] {
    let mut all = vec![0.5f32; count * bytes / 4];
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        times[0].push(timed(group, || {
            group.scope(|scope| -> Result<(), Error> {
                for one in all.chunks_exact_mut(bytes / 4) {
                    drop(scope.all_reduce(one, ReduceOp::Avg)?);
                }
                Ok(())
            })
        }));
        times[1].push(timed(group, || {
            let mut each = all.chunks_exact_mut(bytes / 4);
            each.try_for_each(|one| group.all_reduce(one, ReduceOp::Avg))
        }));
        times[2].push(timed(group, || group.all_reduce(&mut all, ReduceOp::Avg)));
    }
    times.map(|t| median(t) * 1e3)
}

/// A call of 1 MiB on each of eight groups at once, and eight on the first: milliseconds.
fn groups(group: &Communicator) -> [f64; 2] {
    let split = || group.split(Some(0), 0).map(|g| g.expect("a part in it"));
    let all: Result<Vec<Communicator>, Error> = (0..GROUPS).map(|_| split()).collect();
    let all = all.unwrap_or_else(|e| panic!("{e}"));
    let mut data = vec![vec![0.5f32; MIB / 4]; GROUPS];
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        times[0].push(timed(group, || {
            std::thread::scope(|threads| {
                let one = |(group, data): (&'_ Communicator, &'_ mut Vec<f32>)| {
                    group.all_reduce(data, ReduceOp::Avg)
                };
                let calls: Vec<_> = all
                    .iter()
                    .zip(&mut data)
                    .map(|pair| threads.spawn(move || one(pair)))
                    .collect();
                let mut ended = calls.into_iter().map(|t| t.join().expect("no panic"));
                ended.try_for_each(|end| end)
            })
        }));
        times[1].push(timed(group, || {
            let mut each = data.iter_mut();
            each.try_for_each(|data| all[0].all_reduce(data, ReduceOp::Avg))
        }));
    }
    times.map(|t| median(t) * 1e3)
}

/// MiB: of this process, with its part of what it shares and has touched; of pages reserved in the segments that it shares with its node.
fn memory() -> [f64; 2] {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let segments = open.flatten().map(|fd| fd.path()).filter(|path| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("hfreduce"))
    });
    let blocks: u64 = segments
        .filter_map(|path| std::fs::metadata(path).ok())
        .map(|file| file.blocks())
        .sum();
    [
        kib.unwrap_or(f64::NAN) / 1024.0,
        (blocks * 512) as f64 / MIB as f64,
    ]
}

fn main() {
    let group = Communicator::from_env().unwrap_or_else(|e| panic!("{e}"));
    let say = |text: String| {
        if group.rank() == 0 {
            println!("{text}");
        }
    };
    let share = |what: &str| {
        let [own, reserved] = memory();
        say(format!(
            "memory, {what}: rank 0 {own:.1} MiB, reserved in its node's segments {reserved:.1} MiB"
        ));
    };
    share("connected");
    for (count, bytes) in [(1000, 4 << 10), (46, 4 * MIB)] {
        let [started, after, one] = buffers(&group, count, bytes);
        say(format!(
            "{count} x {bytes} bytes: all started at once {started:.3} ms, one after the other {after:.3} ms, as one buffer {one:.3} ms"
        ));
        share("then");
    }
    let [at_once, after] = groups(&group);
    say(format!(
        "{GROUPS} x 1 MiB: on {GROUPS} communicators at once {at_once:.3} ms, on one after the other {after:.3} ms"
    ));
    share("with all groups");
}
