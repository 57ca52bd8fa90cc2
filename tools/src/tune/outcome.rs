//! What came of it: for each size what is chosen before and after, what that takes, and the fastest there is; and whether the file is worth having.
//! It measures nothing. Invariant: times that are compared were measured in turns.

use super::{
    grid::{Cell, Combination, Grid},
    sample::Way,
};
use hfreduce::{Communicator, plan::Model};
use std::fmt::Write;

/// Calls must take so much less, on the average over the sizes, for the file to be written: less than that may be chance.
const WORTH: f64 = 0.02;

/// One size.
pub struct Row {
    bytes: usize,
    before: Combination,
    after: Combination,
    best: usize,
    /// Index of the first of its ways.
    first: usize,
    /// Seconds before, after, and of the best.
    seconds: [f64; 3],
}

impl Row {
    /// A size whose ways begin at `first`: before, after unless the choice is the same, and the best.
    pub fn new(best: Cell, before: Combination, after: Combination, first: usize) -> Row {
        Row {
            bytes: best.bytes,
            before,
            after,
            best: best.combination,
            first,
            seconds: [0.0; 3],
        }
    }

    /// Takes in the times; whether all were measured.
    pub fn measured(&mut self, ways: &[Way]) -> bool {
        let changed = usize::from(self.before != self.after);
        let at = [0, changed, changed + 1].map(|at| ways[self.first + at].seconds());
        let [Some(before), Some(after), Some(best)] = at else {
            return false;
        };
        // A choice may turn out faster than what was fastest in the first turns.
        self.seconds = [before, after, best.min(before).min(after)];
        true
    }
}

/// All sizes.
pub struct Outcome<'a> {
    pub grid: &'a Grid,
    pub rows: Vec<Row>,
}

fn size(bytes: usize) -> String {
    if bytes >= 1 << 20 {
        format!("{}M", bytes >> 20)
    } else {
        format!("{}K", bytes >> 10)
    }
}

impl Outcome<'_> {
    /// The table, as text.
    pub fn table(&self, group: &Communicator) -> String {
        let (shape, model) = (group.shape(), group.model());
        let mut text = format!(
            "# all_reduce of floats: {} ranks on {} nodes, transport={}, {} cores for the ranks of a node{}\n",
            shape.ranks(),
            shape.nodes(),
            group.transport(),
            model.cores,
            if model.shares_cores(shape) {
                ", which share them"
            } else {
                ""
            },
        );
        let heads = ["before", "after", "best"];
        text += "#   size";
        for head in heads {
            let _ = write!(text, "  {head:<14} piece    time us");
        }
        text += "\n";
        for row in &self.rows {
            let best = self.grid.combinations[row.best];
            let _ = write!(text, "{:>8}", size(row.bytes));
            for (c, seconds) in [row.before, row.after, best].iter().zip(row.seconds) {
                let name = self.grid.plans[c.plan].name;
                let time = seconds * 1e6;
                let _ = write!(text, "  {name:<14} {:>5} {time:>10.1}", size(c.piece));
            }
            text += "\n";
        }
        let [before, after, best] = self.sums().map(|s| s * 1e6);
        let _ = writeln!(
            text,
            "# sum of times: before {before:.1} us, after {after:.1} us, best {best:.1} us; a call takes {:+.1} % on the average",
            (self.ratio() - 1.0) * 100.0
        );
        text
    }

    fn sums(&self) -> [f64; 3] {
        [0, 1, 2].map(|i| self.rows.iter().map(|row| row.seconds[i]).sum())
    }

    /// Time after over time before, on the geometric average over the sizes.
    fn ratio(&self) -> f64 {
        let logs = self.rows.iter().map(|r| (r.seconds[1] / r.seconds[0]).ln());
        (logs.sum::<f64>() / self.rows.len() as f64).exp()
    }

    /// Why the fit does not help, if it does not.
    pub fn no_use(&self) -> Option<&'static str> {
        let [before, after, _] = self.sums();
        if self.rows.iter().all(|row| row.before == row.after) {
            return Some("The measured model chooses what is chosen without it.");
        }
        (self.ratio() > 1.0 - WORTH || after > before * (1.0 + WORTH))
            .then_some("The measured model does not help.")
    }
}

/// What was fitted, and how far from what was measured the formula is before and after: each a model with its misfit.
pub fn figures((usual, before): (&Model, f64), (fitted, after): (&Model, f64)) -> String {
    let all = [
        ("step", usual.step, fitted.step),
        ("hand_over", usual.hand_over, fitted.hand_over),
        ("wake", usual.wake, fitted.wake),
        ("send", usual.send, fitted.send),
        ("hop", usual.hop, fitted.hop),
        ("byte", usual.byte * 1024.0, fitted.byte * 1024.0),
        ("cross", usual.cross * 1024.0, fitted.cross * 1024.0),
        ("wire", usual.wire * 1024.0, fitted.wire * 1024.0),
    ];
    let changed = all.iter().filter(|(_, usual, fitted)| usual != fitted);
    let each = changed.map(|(name, usual, fitted)| {
        format!("{name} {:.1} (usually {:.1})", fitted * 1e9, usual * 1e9)
    });
    let each: Vec<String> = each.collect();
    let off = |misfit: f64| misfit.sqrt().exp();
    format!(
        "# figures in ns, byte, cross and wire in ns per KiB: {}\n# with them the formula is off by a factor of {:.2}, with the usual ones {:.2}\n",
        each.join(", "),
        off(after),
        off(before),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use hfreduce::plan::Shape;

    fn rows(times: &[[f64; 2]], same: bool) -> Vec<Row> {
        let row = |[before, after]: &[f64; 2]| {
            let old = Combination {
                plan: 0,
                piece: 4096,
            };
            let new = Combination {
                plan: usize::from(!same),
                ..old
            };
            let best = Cell {
                combination: 0,
                bytes: 4096,
                seconds: *after,
            };
            Row {
                seconds: [*before, *after, *after],
                ..Row::new(best, old, new, 0)
            }
        };
        times.iter().map(row).collect()
    }

    #[test]
    fn only_what_helps_is_worth_a_file() {
        let usual = Model::usual(2, "local", false);
        let grid = Grid::new(&usual, &Shape::uniform(2, 2)).expect("plans");
        let of = |times: &[[f64; 2]], same| {
            let rows = rows(times, same);
            Outcome { grid: &grid, rows }.no_use()
        };
        assert_eq!(of(&[[2.0, 1.0], [9.0, 9.0]], false), None);
        assert!(of(&[[2.0, 2.0], [9.0, 8.9]], false).is_some(), "too little");
        assert!(
            of(&[[2.0, 1.0], [9.0, 12.0]], false).is_some(),
            "a bad bargain"
        );
        assert!(of(&[[2.0, 1.0]], true).is_some(), "nothing changes");
    }
}
