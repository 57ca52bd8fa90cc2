//! A plan as text and as a graph for `dot`: for people who want to see what will run, and for error messages that name stages and cells.

use super::{Act, CellId, Plan};
use std::fmt::{self, Write};

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

fn list(cells: &[CellId]) -> String {
    let names: Vec<_> = cells.iter().map(ToString::to_string).collect();
    names.join(" ")
}

impl Plan {
    /// One stage as a sentence, for example `rank 3: c7 = reduce c1 c2 c5`.
    pub fn describe(&self, stage: usize) -> String {
        let s = &self.stages[stage];
        let act = match &s.act {
            Act::Take { piece } => format!("take block {} part {}", piece.block, piece.part),
            Act::Reduce { terms } => format!("reduce {}", list(terms)),
            Act::Put { from } => format!("put {from}"),
            Act::Give { from, piece } => {
                format!("give {from} to block {} part {}", piece.block, piece.part)
            }
            Act::Signal => "signal".to_string(),
            Act::Wait => "wait".to_string(),
        };
        let mut text = format!("rank {}: ", s.worker);
        if let Some(to) = s.to {
            let cell = self.cells[to.index()];
            let node = self.shape.node_of(s.worker as usize) as u32;
            let _ = write!(text, "{to}");
            if cell.node != node {
                let _ = write!(text, " at rank {}", cell.home);
            }
            text += " = ";
        }
        text += &act;
        if !s.after.is_empty() {
            let _ = write!(text, " after {}", list(&s.after));
        }
        text
    }

    /// The whole plan as text, one stage per line.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} by {} on {} ({} ranks): {} blocks x {} parts, {} cells, {} stages, turns {}\n{}\n",
            self.collective.name(),
            self.name,
            self.shape,
            self.shape.ranks(),
            self.blocks,
            self.parts,
            self.cells.len(),
            self.stages.len(),
            self.turns,
            self.cost(),
        );
        for i in 0..self.stages.len() {
            let _ = writeln!(text, "{i:5}  {}", self.describe(i));
        }
        text
    }

    /// The plan as a graph in the language of `dot`: a box per node, an edge per cell.
    pub fn dot(&self) -> String {
        let mut text =
            String::from("digraph plan {\n  rankdir=LR; node [shape=box, fontsize=10];\n");
        for node in 0..self.shape.nodes() {
            let _ = writeln!(text, "  subgraph cluster_{node} {{ label=\"node {node}\";");
            for (i, s) in self.stages.iter().enumerate() {
                if self.shape.node_of(s.worker as usize) == node {
                    let label = self.describe(i);
                    let _ = writeln!(text, "    s{i} [label=\"{label}\"];");
                }
            }
            text += "  }\n";
        }
        let mut writer = vec![None; self.cells.len()];
        for (i, s) in self.stages.iter().enumerate() {
            for cell in s.waits() {
                if let Some(from) = writer[cell.index()] {
                    let _ = writeln!(text, "  s{from} -> s{i} [label=\"{cell}\"];");
                }
            }
            if let Some(to) = s.to {
                writer[to.index()] = Some(i);
            }
        }
        text + "}\n"
    }
}
