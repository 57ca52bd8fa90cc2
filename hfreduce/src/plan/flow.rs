//! Who hears from whom inside one chunk, and what follows for the reuse of slots. Sets of ranks flow along cells: `before` gathers the ranks
//! a stage has (indirectly) waited for, `after` the ranks that (indirectly) wait for it. Together with the window rule they prove
//! that no slot is written before its last reader is done.

use super::{Facts, Flaw, Plan, RankSet};

/// The flow of one chunk, by stage.
pub struct Flow {
    before: Vec<RankSet>,
    after: Vec<RankSet>,
    /// By rank: everyone that some stage of it reaches.
    reach: Vec<RankSet>,
}

impl Flow {
    /// Follows every cell from its writer to its readers, and back.
    pub fn new(plan: &Plan, facts: &Facts) -> Flow {
        let ranks = plan.shape.ranks();
        let mut before: Vec<RankSet> = Vec::with_capacity(plan.stages.len());
        for stage in &plan.stages {
            let mut set = RankSet::empty();
            for cell in stage.waits() {
                let writer = facts.writer[cell.index()].expect("checked before");
                set.add(&before[writer], ranks);
            }
            set.add(&RankSet::One(stage.worker), ranks);
            before.push(set);
        }
        let mut after = vec![RankSet::empty(); plan.stages.len()];
        for (i, stage) in plan.stages.iter().enumerate().rev() {
            let mut set = RankSet::empty();
            if let Some(to) = stage.to {
                let next = &facts.readers[to.index()];
                for &j in next.iter().chain(&facts.waiters[to.index()]) {
                    set.add(&after[j], ranks);
                }
            }
            set.add(&RankSet::One(stage.worker), ranks);
            after[i] = set;
        }
        let mut reach = vec![RankSet::empty(); ranks];
        if plan.turns > 1 {
            for (i, stage) in plan.stages.iter().enumerate() {
                reach[stage.worker as usize].add(&after[i], ranks);
            }
        }
        Flow {
            before,
            after,
            reach,
        }
    }

    /// Whether `rank` waits, directly or not, for `stage`.
    pub fn reaches(&self, stage: usize, rank: u32) -> bool {
        self.after[stage].contains(rank)
    }

    /// Everyone that `rank` has heard from when all its stages are done.
    pub fn heard_by(&self, plan: &Plan, rank: usize) -> RankSet {
        let mut set = RankSet::empty();
        for (i, stage) in plan.stages.iter().enumerate() {
            if stage.worker as usize == rank {
                set.add(&self.before[i], plan.shape.ranks());
            }
        }
        set
    }

    /// For every cell: when its writer comes to chunk c + turns * window, all readers of chunk c are done.
    ///
    /// A reader R of chunk c is done when some rank `a` that waits for it has finished chunk c. By the window rule `a` begins nothing of chunk
    /// c + window earlier, so whoever hears from `a` in that chunk is later than R. With one turn the writer itself must be among
    /// those; with two turns there is one more such step in between.
    pub fn no_slot_overwritten(&self, plan: &Plan, facts: &Facts) -> Result<(), Flaw> {
        for (cell, readers) in facts.readers.iter().enumerate() {
            let Some(writer) = facts.writer[cell] else {
                continue;
            };
            for &reader in readers {
                if !self.returns(plan, reader, writer) {
                    return Err(Flaw::Overwritten {
                        cell: cell as u32,
                        reader,
                    });
                }
            }
        }
        Ok(())
    }

    /// Whatever comes from another node is taken off the wire by its home rank, which does so only while it is in a call: that rank must wait
    /// for it, directly or through others, in the same chunk.
    pub fn every_message_taken(&self, plan: &Plan, facts: &Facts) -> Result<(), Flaw> {
        for (i, cell) in plan.cells.iter().enumerate() {
            let Some(writer) = facts.writer[i] else {
                continue;
            };
            let from = plan.shape.node_of(plan.stages[writer].worker as usize);
            if from != cell.node as usize && !self.reaches(writer, cell.home) {
                return Err(Flaw::Unattended {
                    cell: i as u32,
                    rank: cell.home,
                });
            }
        }
        Ok(())
    }

    /// Whether `reader` is done with chunk c when `writer` comes to chunk c + turns * window.
    pub fn returns(&self, plan: &Plan, reader: usize, writer: usize) -> bool {
        let (late, early) = (&self.after[reader], &self.before[writer]);
        late.common(early).is_some()
            || plan.turns > 1
                && (0..plan.shape.ranks() as u32)
                    .filter(|&a| late.contains(a))
                    .any(|a| self.reach[a as usize].common(early).is_some())
    }
}
