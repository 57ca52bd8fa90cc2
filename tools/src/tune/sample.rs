//! Times of many ways to do a call, taken in turns, so that what changes on the machine meanwhile meets all of them alike. It knows nothing of plans.
//! Invariants: a sample is the slowest rank's time; all ranks stop before the same sample.

use anyhow::Result;
use hfreduce::{Communicator, ReduceOp};
use std::time::Instant;

/// A sample with short calls has as many of them as take about so long, within [`MOST_CALLS`].
const LONG_ENOUGH: f64 = 0.5e-3;
const MOST_CALLS: f64 = 32.0;
/// Samples of each way, at most.
const MOST: usize = 31;
/// A way that is so many times slower than the fastest of its size is left alone after two samples.
const HOPELESS: f64 = 3.0;

/// An all_reduce of one size on a group, and how long it took.
pub struct Way<'a> {
    group: &'a Communicator,
    bytes: usize,
    calls: usize,
    samples: Vec<f64>,
}

impl<'a> Way<'a> {
    /// A way that is expected to take so long.
    pub fn new(group: &'a Communicator, bytes: usize, expected: f64) -> Way<'a> {
        Way {
            group,
            bytes,
            calls: (LONG_ENOUGH / expected).clamp(1.0, MOST_CALLS) as usize,
            samples: Vec::new(),
        }
    }

    /// The median, where there is one. The first sample has met cold memory and counts only where it is alone.
    pub fn seconds(&self) -> Option<f64> {
        let mut warm = self.samples[usize::from(self.samples.len() > 1)..].to_vec();
        warm.sort_by(f64::total_cmp);
        warm.get(warm.len() / 2).copied()
    }

    fn fastest(&self) -> f64 {
        self.samples.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// Takes samples of all ways in turns until the time has come, or there are enough. All ranks call it with the same ways.
///
/// # Errors
/// A failure of a group.
pub fn sample(all: &Communicator, ways: &mut [Way], until: Instant) -> Result<()> {
    let longest = ways.iter().map(|way| way.bytes).max().unwrap_or(0);
    // Zeros, so that sums of sums stay what they are.
    let mut buffer = vec![0f32; longest / size_of::<f32>()];
    loop {
        let open = open(ways);
        let mut own = Vec::new();
        for &at in &open {
            let way = &ways[at];
            let buffer = &mut buffer[..way.bytes / size_of::<f32>()];
            if way.calls > 1 || way.samples.is_empty() {
                way.group.all_reduce(buffer, ReduceOp::Sum)?;
            }
            // One rank's clock that says so ends it for all; and nobody starts before all are here.
            let mut over = [u8::from(Instant::now() >= until)];
            all.all_reduce(&mut over, ReduceOp::Max)?;
            if over[0] > 0 {
                break;
            }
            let started = Instant::now();
            for _ in 0..way.calls {
                way.group.all_reduce(buffer, ReduceOp::Sum)?;
            }
            own.push(started.elapsed().as_secs_f64() / way.calls as f64);
        }
        let done = own.len();
        all.all_reduce(&mut own, ReduceOp::Max)?;
        for (at, slowest) in open.iter().zip(own) {
            ways[*at].samples.push(slowest);
        }
        if done < open.len() || open.is_empty() {
            return Ok(());
        }
    }
}

/// The ways of which one more sample is worth its time.
fn open(ways: &[Way]) -> Vec<usize> {
    let worth = |way: &Way| {
        let fastest = ways.iter().filter(|other| other.bytes == way.bytes);
        let fastest = fastest.map(Way::fastest).fold(f64::INFINITY, f64::min);
        way.samples.len() < 2 || (way.samples.len() < MOST && way.fastest() <= HOPELESS * fastest)
    };
    (0..ways.len()).filter(|at| worth(&ways[*at])).collect()
}
