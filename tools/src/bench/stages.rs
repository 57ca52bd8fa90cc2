//! How fast each stage of an all_reduce on devices has to be for the time that was measured, beside what the machine can do: copies to the host,
//! additions, the network, copies back. Everything is the sum over all ranks. It measures nothing. Invariant: a stage's bytes follow from the call alone,
//! so a figure says what the stage kept up with, not how long it ran.

use super::{ceilings::Ceilings, table::Way};
use serde::Serialize;

/// Rates in GB/s, of all ranks together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stages {
    /// From devices to the host.
    pub d2h: f64,
    /// Read and written by additions.
    pub add: f64,
    /// Sent from node to node.
    pub network: f64,
    /// From the host to devices.
    pub h2d: f64,
    /// Which part of the time the copy engines would need alone, both ways, all ranks at once: 1 is as fast as copies can be.
    pub of_copy_ceiling: f64,
}

/// The stages of an all_reduce of `bytes` bytes that took the time of `way`.
pub fn stages(bytes: usize, ranks: usize, nodes: usize, way: &Way, ceilings: &Ceilings) -> Stages {
    let (ranks, nodes) = (ranks as f64, nodes as f64);
    let rate = |times: f64| times * bytes as f64 / (way.time * 1e3);
    let copies = ranks * bytes as f64 / 1e3;
    let alone = (copies / ceilings.together.both_d2h).max(copies / ceilings.together.both_h2d);
    Stages {
        d2h: rate(ranks),
        // Each input is read and each node's sum written; for each further node one sum is added to another: two reads, one write.
        add: rate(ranks + nodes + 3.0 * (nodes - 1.0)),
        network: rate(2.0 * (nodes - 1.0)),
        h2d: rate(ranks),
        of_copy_ceiling: alone / way.time,
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
pub const TITLES: &str = "\
# What each stage kept up with, all ranks together (GB/s), and the part of the copy ceiling (all ranks, both ways)
#                              out-of-place                                    in-place
#       size      D2H     add network     H2D   copy%      D2H     add network     H2D   copy%";

/// A line of the breakdown.
pub fn line(bytes: usize, ways: &[Stages]) -> String {
    let mut text = format!("{bytes:>12}");
    for way in ways {
        text += &format!(
            "  {:>7.2} {:>7.2} {:>7.2} {:>7.2}  {:>5.1}%",
            way.d2h,
            way.add,
            way.network,
            way.h2d,
            100.0 * way.of_copy_ceiling
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ceilings::Copies;

    fn way(time: f64) -> Way {
        Way {
            time,
            algorithm: 0.0,
            bus: 0.0,
            wrong: Some(0),
        }
    }

    #[test]
    fn bytes_are_counted_as_the_path_moves_them() {
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
        // 4 ranks of 2 nodes, 1 GB in 0.2 s: 4 GB each way, (4 + 2 + 3) GB added, 2 GB sent. Copies alone take 4 / 40 s, half of the time.
        let found = stages(1_000_000_000, 4, 2, &way(200_000.0), &ceilings);
        let wanted = Stages {
            d2h: 20.0,
            add: 45.0,
            network: 10.0,
            h2d: 20.0,
            of_copy_ceiling: 0.5,
        };
        assert_eq!(found, wanted);
        let text = line(1_000_000_000, &[found, found]);
        let titles = TITLES.lines().last().expect("titles");
        assert_eq!(text.len(), titles.len(), "figures end where titles end");
        assert!(text.contains(" 50.0%"), "{text}");
        assert_eq!(stages(8, 3, 1, &way(1.0), &ceilings).network, 0.0);
    }
}
