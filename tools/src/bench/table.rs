//! The bench's output as text: rows and headers as nccl-tests prints them, and JSON lines. It measures nothing.

use super::stages::{Metered, Stages};
use hfreduce::plan::Collective;
use serde::Serialize;

/// What one way (out of place or in place) of one row found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// Microseconds per call.
    pub time: f64,
    /// Bytes of the larger buffer per second, in GB/s.
    pub algorithm: f64,
    /// `algorithm` times the collective's factor.
    pub bus: f64,
    /// Wrong elements on all ranks; `None` when nothing was compared.
    pub wrong: Option<u64>,
    /// What its stages did, for buffers on devices.
    pub metered: Option<Metered>,
}

/// One line of JSON.
#[derive(Serialize)]
pub struct Line {
    /// The collective's name.
    pub collective: &'static str,
    /// The element type's name.
    pub dtype: &'static str,
    /// The operation, or `none`.
    pub op: String,
    /// Bytes of the larger buffer.
    pub bytes: usize,
    /// Ranks.
    pub ranks: usize,
    /// Nodes.
    pub nodes: usize,
    /// Microseconds per call.
    pub time_us: f64,
    /// GB/s by bytes of the larger buffer.
    pub algbw: f64,
    /// GB/s by bytes that must cross the bus.
    pub busbw: f64,
    /// Wrong elements, `null` when nothing was compared.
    pub wrong: Option<u64>,
    /// Whether input and output were the same memory.
    pub in_place: bool,
    /// Where buffers were: `cpu` or `cuda`.
    pub device: &'static str,
    /// Tensors that were in flight at once, which `bytes` counts together.
    pub tensors: usize,
    /// How fast each stage was, for buffers on devices.
    pub stages: Option<Stages>,
}

/// What nccl-tests multiplies the algorithm's bandwidth with.
pub fn bus_factor(collective: Collective, ranks: usize) -> f64 {
    let n = ranks as f64;
    match collective {
        Collective::AllReduce => 2.0 * (n - 1.0) / n,
        Collective::ReduceScatter
        | Collective::AllGather
        | Collective::AllToAll
        | Collective::AllToAllV
        | Collective::Gather { .. }
        | Collective::Scatter { .. } => (n - 1.0) / n,
        Collective::Broadcast { .. } | Collective::Reduce { .. } | Collective::SendRecv => 1.0,
        Collective::Barrier => 0.0,
    }
}

/// What a row says before its figures.
pub struct Row<'a> {
    /// Bytes of the larger buffer.
    pub bytes: usize,
    /// Elements, per rank where buffers are shares.
    pub count: usize,
    /// Element type.
    pub dtype: &'a str,
    /// Operation, or `none`.
    pub op: &'a str,
    /// Root, or -1.
    pub root: i64,
}

/// Fewer decimals for larger numbers, so that the column holds them: `getFloatStr` of nccl-tests.
fn number(value: f64, width: usize) -> String {
    let (mut digits, mut limit) = (0, 1.0);
    while value >= limit {
        digits += 1;
        limit *= 10.0;
    }
    let decimals = if digits < width - 2 {
        2
    } else {
        usize::from(digits < width - 1)
    };
    format!("{value:width$.decimals$}")
}

/// A row of the table.
pub fn row(row: &Row, ways: &[Way]) -> String {
    let mut text = format!(
        "{:>12}  {:>12}  {:>8}  {:>6}  {:>6}",
        row.bytes, row.count, row.dtype, row.op, row.root
    );
    for way in ways {
        let wrong = way
            .wrong
            .map_or("N/A".to_owned(), |wrong| wrong.to_string());
        text += &format!(
            "  {}  {}  {} {wrong:>6}",
            number(way.time, 7),
            number(way.algorithm, 6),
            number(way.bus, 6)
        );
    }
    text
}

/// The table's three header lines.
pub const HEADER: &str = "\
#                                                              out-of-place                       in-place          
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)       ";

#[cfg(test)]
mod tests {
    use super::*;

    /// A row that nccl-tests printed.
    const LITERAL: &str = "     1048576        262144     float     sum      -1    44.17   23.74   41.54      0    43.96   23.85   41.74      0";

    #[test]
    fn a_row_is_nccl_tests_own() {
        let what = Row {
            bytes: 1 << 20,
            count: 1 << 18,
            dtype: "float",
            op: "sum",
            root: -1,
        };
        let way = |time, algorithm, bus| Way {
            time,
            algorithm,
            bus,
            wrong: Some(0),
            metered: None,
        };
        let text = row(&what, &[way(44.17, 23.74, 41.54), way(43.96, 23.85, 41.74)]);
        assert_eq!(text, LITERAL);
        let title = HEADER.lines().nth(1).expect("the line of titles");
        assert_eq!(title.len(), LITERAL.len(), "titles end where figures end");
    }

    #[test]
    fn large_numbers_lose_decimals() {
        assert_eq!(number(24.538, 7), "  24.54");
        assert_eq!(number(0.0, 6), "  0.00");
        assert_eq!(number(1234.56, 7), "1234.56");
        assert_eq!(number(12345.67, 7), "12345.7");
        assert_eq!(number(123456.7, 7), " 123457");
        assert_eq!(number(1234567.8, 7), "1234568");
        assert_eq!(number(123.45, 6), "123.45");
        assert_eq!(number(1234.56, 6), "1234.6");
    }

    #[test]
    fn bus_factors_are_nccl_tests_own() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} and not {b}");
        near(bus_factor(Collective::AllReduce, 8), 1.75);
        near(bus_factor(Collective::AllReduce, 1), 0.0);
        near(bus_factor(Collective::ReduceScatter, 4), 0.75);
        near(bus_factor(Collective::AllGather, 2), 0.5);
        near(bus_factor(Collective::Broadcast { root: 1 }, 8), 1.0);
        near(bus_factor(Collective::Reduce { root: 1 }, 8), 1.0);
        near(bus_factor(Collective::AllToAll, 4), 0.75);
    }
}
