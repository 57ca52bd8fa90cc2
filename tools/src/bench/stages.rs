//! How fast each stage of a call on devices was, beside what the machine can do: copies to the host, additions, the network, copies back. Everything is the sum
//! over all ranks. It measures nothing itself: the library does. Invariant: a rate counts only the time in which its stage was under way, so stages that
//! overlap all show what they can do, and `busy` shows which of them the call waited for.

use super::{ceilings::Ceilings, table::Way};
use crate::job::Job;
use anyhow::Result;
use serde::Serialize;

/// The stages, in the order of every list here.
const NAMES: [&str; 4] = ["D2H", "add", "network", "H2D"];

/// What the library's meter found in one call, over all ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metered {
    /// Bytes per call, the sum.
    pub bytes: [f64; 4],
    /// GB/s while under way, the sum.
    pub rates: [f64; 4],
    /// Seconds per call in which it was under way, the mean.
    pub seconds: [f64; 4],
}

/// Runs a few calls with the meter on; the figures of the call itself are better taken without.
///
/// # Errors
/// A failure of the group.
pub fn metered(job: &Job, calls: usize, mut run: impl FnMut() -> Result<()>) -> Result<Metered> {
    job.group().barrier()?;
    job.group().measure(true);
    for _ in 0..calls {
        run()?;
    }
    job.settle()?;
    let found = job.group().stages().unwrap_or_default();
    job.group().measure(false);
    let stages = [found.copy_in, found.add, found.network, found.copy_out];
    let calls = calls as f64;
    let of = |value: &dyn Fn(usize) -> f64| -> Vec<f64> { (0..4).map(value).collect() };
    let own = [
        of(&|n| stages[n].bytes as f64 / calls),
        of(&|n| stages[n].rate()),
        of(&|n| stages[n].nanoseconds as f64 / 1e9 / calls),
    ];
    let all = job.gather(&own.concat())?;
    let sum = |at: usize| all.iter().map(|each| each[at]).sum::<f64>();
    let list = |first: usize| [0, 1, 2, 3].map(|n| sum(first + n));
    Ok(Metered {
        bytes: list(0),
        rates: list(4),
        seconds: list(8).map(|seconds| seconds / all.len() as f64),
    })
}

/// Four figures, one for each stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Four {
    /// From devices to the host.
    pub d2h: f64,
    /// Additions; bytes are those of all terms.
    pub add: f64,
    /// From node to node.
    pub network: f64,
    /// From the host to devices.
    pub h2d: f64,
}

impl Four {
    fn of([d2h, add, network, h2d]: [f64; 4]) -> Four {
        Four {
            d2h,
            add,
            network,
            h2d,
        }
    }
}

/// A line of the breakdown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stages {
    /// GB/s of all ranks together while the stage was under way.
    pub rates: Four,
    /// The part of the call's time in which it was; the mean of all ranks.
    pub busy: Four,
    /// Which part of the call's time the copy engines would need alone, both ways, all ranks at once: 1 is as fast as copies can be.
    pub of_copy_ceiling: f64,
}

/// The stages of a call that took the time of `way`.
pub fn stages(metered: &Metered, way: &Way, ceilings: &Ceilings) -> Stages {
    let seconds = way.time / 1e6;
    let [d2h, _, _, h2d] = metered.bytes.map(|bytes| bytes / 1e9);
    let together = &ceilings.together;
    let alone = (d2h / together.both_d2h).max(h2d / together.both_h2d);
    Stages {
        rates: Four::of(metered.rates),
        busy: Four::of(metered.seconds.map(|busy| busy / seconds)),
        of_copy_ceiling: alone / seconds,
    }
}

/// The lines above the breakdown.
pub fn header(ceilings: &Ceilings) -> Vec<String> {
    let mut lines = vec![format!(
        "# Measured ceilings of this machine (GB/s, copies of {} bytes, pinned host memory)",
        ceilings.copy_bytes
    )];
    let copies = |name: String, copies: &super::ceilings::Copies| {
        format!(
            "#  {name:<34} D2H {:>7.2}  H2D {:>7.2}  both ways: D2H {:>7.2}  H2D {:>7.2}",
            copies.d2h, copies.h2d, copies.both_d2h, copies.both_h2d
        )
    };
    for gpu in &ceilings.gpus {
        let name = format!("GPU of rank {} ({} ranks), alone", gpu.rank, gpu.ranks);
        lines.push(copies(name, &gpu.copies));
    }
    lines.push(copies("all ranks at once".to_owned(), &ceilings.together));
    lines.push(format!(
        "#  memory, read and written by all ranks at once {:.2}",
        ceilings.memory
    ));
    lines
}

/// The breakdown's titles.
pub fn titles() -> String {
    let way = NAMES.map(|name| format!("{name:>8}")).concat() + "   copy%";
    format!(
        "# Stages: GB/s of all ranks together while under way, and the part of the copy ceiling (all ranks at once, both ways)\n\
         # {:>55}{:>41}\n#{:>12}{way} {way}",
        "out-of-place", "in-place", "size"
    )
}

/// A line of the breakdown.
pub fn line(bytes: usize, ways: &[Stages]) -> String {
    let mut text = format!("{bytes:>13}");
    for way in ways {
        let rates = &way.rates;
        for rate in [rates.d2h, rates.add, rates.network, rates.h2d] {
            text += &format!("{rate:>8.2}");
        }
        text += &format!("{:>7.1}% ", 100.0 * way.of_copy_ceiling);
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ceilings::Copies;

    #[test]
    fn the_ceiling_is_that_of_the_slower_direction() {
        let together = Copies {
            d2h: 50.0,
            h2d: 55.0,
            both_d2h: 40.0,
            both_h2d: 50.0,
        };
        let ceilings = Ceilings {
            copy_bytes: 1 << 20,
            gpus: Vec::new(),
            together,
            memory: 100.0,
        };
        // 4 GB each way in 0.25 s, which copies alone do in 4 / 40 s.
        let metered = Metered {
            bytes: [4e9, 9e9, 2e9, 4e9],
            rates: [30.0, 60.0, 20.0, 33.0],
            seconds: [0.125, 0.0625, 0.03125, 0.1875],
        };
        let way = Way {
            time: 250_000.0,
            algorithm: 0.0,
            bus: 0.0,
            wrong: Some(0),
            metered: Some(metered),
        };
        let found = stages(&metered, &way, &ceilings);
        assert_eq!(found.rates, Four::of([30.0, 60.0, 20.0, 33.0]));
        assert_eq!(found.busy, Four::of([0.5, 0.25, 0.125, 0.75]));
        assert_eq!(found.of_copy_ceiling, 0.4);
        let text = line(1_000_000_000, &[found, found]);
        let titles = titles();
        let title = titles.lines().last().expect("titles");
        assert_eq!(
            text.len(),
            title.len(),
            "figures end where titles end:\n{title}\n{text}"
        );
        assert!(text.contains(" 40.0%"), "{text}");
    }
}
