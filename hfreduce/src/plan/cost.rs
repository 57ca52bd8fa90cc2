//! What a plan costs, counted from its stages: steps on the longest path, and per rank the pieces copied, added, sent and received per chunk.
//! Counts, not seconds: `choose` turns them into time with a model of the machine.

use super::{Act, Cell, CellId, Checked, Plan, TakeAlias};

/// What one rank does per chunk, in pieces (a piece is the buffer's chunk divided by [`Cost::pieces`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RankCost {
    /// Pieces copied between the rank's buffers and slots.
    pub copied: usize,
    /// Terms read by additions.
    pub added: usize,
    /// Additions: each writes one piece, however many terms it has.
    pub reduced: usize,
    /// Pieces that change ranks inside the node: read that another has written, and written that another reads.
    pub crossed: usize,
    /// Pieces put to other nodes.
    pub sent: usize,
    /// Pieces received from other nodes.
    pub received: usize,
    /// Stages, those without bytes too.
    pub stages: usize,
    /// Messages to other nodes, tokens too.
    pub messages: usize,
}

/// The cost of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Stages on the longest path through one chunk.
    pub steps: usize,
    /// Messages between nodes on the path that has most of them.
    pub hops: usize,
    /// Cells with bytes of the node that has most.
    pub cells: usize,
    /// Pieces that make up the larger of the input's and the output's chunk.
    pub pieces: usize,
    /// Pieces read or written in memory on the longest path through one chunk, where every rank does one thing after the other.
    pub path: usize,
    /// The same, of pieces that change ranks inside the node.
    pub path_crossed: usize,
    /// By rank.
    pub ranks: Vec<RankCost>,
}

impl Plan {
    /// Counts the plan's cost where every rank's input is copied.
    pub fn cost(&self) -> Cost {
        self.count(&|_| true)
    }

    /// Counts the cost where only those takes copy of which `copies` says so, by their stage.
    fn count(&self, copies: &dyn Fn(usize) -> bool) -> Cost {
        let mut ranks = vec![RankCost::default(); self.shape.ranks()];
        let mut at = vec![0usize; self.cells.len()];
        let levels = self.levels();
        let mut hops = 0;
        let crossed = self.crossed(copies);
        for (i, stage) in self.stages.iter().enumerate() {
            let node = self.shape.node_of(stage.worker as usize) as u32;
            let mine = &mut ranks[stage.worker as usize];
            mine.stages += 1;
            mine.crossed += crossed[i];
            match &stage.act {
                Act::Take { .. } => mine.copied += usize::from(copies(i)),
                Act::Give { .. } => mine.copied += 1,
                Act::Reduce { terms } => {
                    mine.added += terms.len();
                    mine.reduced += 1;
                }
                Act::Put { .. } => mine.sent += 1,
                Act::Signal | Act::Wait => {}
            }
            let away = stage.to.filter(|c| self.cells[c.index()].node != node);
            let mut hop = stage.waits().map(|c| at[c.index()]).max().unwrap_or(0);
            hop += usize::from(away.is_some());
            hops = hops.max(hop);
            if let Some(to) = stage.to {
                at[to.index()] = hop;
            }
            if let Some(to) = away {
                ranks[stage.worker as usize].messages += 1;
                if matches!(stage.act, Act::Put { .. }) {
                    ranks[self.cells[to.index()].home as usize].received += 1;
                }
            }
        }
        let of_node = |node: usize| {
            let here = |cell: &&Cell| cell.bytes && cell.node as usize == node;
            self.cells.iter().filter(here).count()
        };
        Cost {
            cells: (0..self.shape.nodes()).map(of_node).max().unwrap_or(0),
            steps: levels.iter().copied().max().unwrap_or(0),
            hops,
            path: self.path(&levels, |i| match &self.stages[i].act {
                Act::Take { .. } => 2 * usize::from(copies(i)),
                Act::Give { .. } => 2,
                Act::Reduce { terms } => terms.len() + 1,
                Act::Put { .. } | Act::Signal | Act::Wait => 0,
            }),
            path_crossed: self.path(&levels, |i| crossed[i]),
            pieces: (self.input_blocks().max(self.output_blocks()) * self.parts).max(1) as usize,
            ranks,
        }
    }

    /// By stage: how many steps lead to it from the beginning of a chunk, itself included. Waiting is none.
    pub fn levels(&self) -> Vec<usize> {
        let mut at = vec![0; self.cells.len()];
        let mut levels = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            let before = stage.waits().map(|cell| at[cell.index()]).max();
            let level = before.unwrap_or(0) + usize::from(stage.act != Act::Wait);
            if let Some(to) = stage.to {
                at[to.index()] = level;
            }
            levels.push(level);
        }
        levels
    }

    /// By stage: pieces that it reads and another rank of the node has written, and that it writes and another reads.
    fn crossed(&self, copies: &dyn Fn(usize) -> bool) -> Vec<usize> {
        let mut writer: Vec<Option<usize>> = vec![None; self.cells.len()];
        let mut shown = vec![false; self.stages.len()];
        let mut read = vec![0; self.stages.len()];
        for (i, stage) in self.stages.iter().enumerate() {
            let others = |cell: &CellId| {
                let writer = writer[cell.index()]?;
                let theirs = self.stages[writer].worker;
                let near = self.shape.node_of(theirs as usize)
                    == self.shape.node_of(stage.worker as usize);
                (near && theirs != stage.worker).then_some(writer)
            };
            for from in stage.reads().iter().filter_map(others) {
                shown[from] = true;
                read[i] += 1;
            }
            if let Some(to) = stage.to {
                writer[to.index()] = Some(i);
            }
        }
        let written =
            |i| shown[i] && (copies(i) || !matches!(self.stages[i].act, Act::Take { .. }));
        let reads = read.into_iter().enumerate();
        reads
            .map(|(i, read)| read + usize::from(written(i)))
            .collect()
    }

    /// The most that is done one after the other. A rank does what comes early in the chunk first (`levels`: a stage's steps from the
    /// beginning), and what it can do before it waits, as the engine does: not in the plan's order, in which one piece is finished before the
    /// next is begun.
    fn path(&self, levels: &[usize], work: impl Fn(usize) -> usize) -> usize {
        let mut order: Vec<usize> = (0..self.stages.len()).collect();
        order.sort_by_key(|&stage| (levels[stage], self.stages[stage].act == Act::Wait));
        let mut moved = vec![0usize; self.cells.len()];
        let mut worked = vec![0usize; self.shape.ranks()];
        for i in order {
            let stage = &self.stages[i];
            let ready = stage.waits().map(|cell| moved[cell.index()]).max();
            let worker = &mut worked[stage.worker as usize];
            *worker = (*worker).max(ready.unwrap_or(0)) + work(i);
            if let Some(to) = stage.to {
                moved[to.index()] = *worker;
            }
        }
        worked.into_iter().max().unwrap_or(0)
    }
}

impl Checked {
    /// The plan's cost; where ranks may read each other's memory (`reach`), what they only show is not copied.
    pub fn cost(&self, reach: bool) -> Cost {
        let alias = &self.facts().alias;
        let shown = |stage| alias.get(&stage) == Some(&TakeAlias::Shared);
        self.plan().count(&|stage| !(reach && shown(stage)))
    }
}

impl Cost {
    /// The largest value over all ranks, as a multiple of the buffer's bytes.
    pub fn most(&self, count: impl Fn(&RankCost) -> usize) -> f64 {
        self.ranks.iter().map(count).max().unwrap_or(0) as f64 / self.pieces as f64
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} steps, {} hops between nodes; per rank at most, in buffers: sent {:.3}, received {:.3}, added {:.3}, copied {:.3}; {} stages",
            self.steps,
            self.hops,
            self.most(|r| r.sent),
            self.most(|r| r.received),
            self.most(|r| r.added),
            self.most(|r| r.copied),
            self.ranks.iter().map(|r| r.stages).max().unwrap_or(0),
        )
    }
}
