//! What the engine may do to keep bytes from moving, beyond what the plan says: read a buffer where it lies, write a result where it is wanted,
//! write where it has read. Facts found at the end of the proof, and proved by it; it knows no memory.

use super::{
    Act, CellId, Piece,
    check::{Checker, Direct, TakeAlias},
    flow::Flow,
};

impl Checker<'_> {
    /// Which copies the engine may leave out. In place, a rank's output piece lies on its input piece. That is never torn: what is given
    /// to a rank there contains its own input (`give` proved it), so every path from taking that input to giving the output goes
    /// through the input's one reader.
    pub(super) fn aliases(&mut self, flow: &Flow) {
        for (&(rank, _), &take) in &self.taken {
            let cell = self.plan.stages[take].to.expect("a take writes a cell");
            let alias = match self.facts.readers[cell.index()][..] {
                [one] => self.of_one_reader(flow, rank, one),
                _ => TakeAlias::Copy,
            };
            let alias = match alias {
                TakeAlias::Copy if self.rests_where_it_is(rank, cell) => TakeAlias::Sent,
                TakeAlias::Copy if self.is_given(flow, rank, cell) => TakeAlias::Shared,
                alias => alias,
            };
            self.facts.alias.insert(take, alias);
        }
        for (i, stage) in self.plan.stages.iter().enumerate() {
            let (Act::Reduce { terms }, Some(to)) = (&stage.act, stage.to) else {
                continue;
            };
            let direct = self.facts.readers[to.index()]
                .iter()
                .filter_map(|&give| self.direct(stage.worker, terms, give))
                .collect();
            self.facts.direct.insert(i, direct);
            let own = (0..terms.len()).filter(|&t| self.stays(stage.worker, terms[t], to));
            self.facts.own.insert(i, own.collect());
            self.sent_from_output(i, to);
        }
    }

    /// What may be left out where what `rank` takes has one reader.
    fn of_one_reader(&self, flow: &Flow, rank: u32, reader: usize) -> TakeAlias {
        let stage = &self.plan.stages[reader];
        let own = stage.worker == rank;
        match stage.act {
            Act::Reduce { .. } | Act::Give { .. } if own => TakeAlias::Own,
            Act::Reduce { .. } | Act::Give { .. } if flow.reaches(reader, rank) => {
                TakeAlias::Shared
            }
            Act::Put { .. } if own && flow.reaches(reader, rank) => TakeAlias::Sent,
            _ => TakeAlias::Copy,
        }
    }

    /// Whether a taken cell is put and given by its own rank alone, and nothing but the same bytes is ever written over it.
    fn rests_where_it_is(&self, rank: u32, cell: CellId) -> bool {
        let readers = &self.facts.readers[cell.index()];
        let writer = self.facts.writer[cell.index()].expect("a taken cell");
        let Act::Take { piece } = self.plan.stages[writer].act else {
            return false;
        };
        let over = self.plan.output_over(rank, piece.block);
        readers.iter().all(|&reader| {
            let reader = &self.plan.stages[reader];
            reader.worker == rank && matches!(reader.act, Act::Put { .. } | Act::Give { .. })
        }) && over.is_none_or(|block| {
            let give = self.given.get(&(rank, Piece { block, ..piece }));
            give.is_none_or(|give| readers.contains(give))
        })
    }

    /// Whether a taken cell is only given, and its rank is not done before all who are given it have it. In place nothing else is ever written over it:
    /// of inputs that are only moved, each lies under itself.
    fn is_given(&self, flow: &Flow, rank: u32, cell: CellId) -> bool {
        self.facts.readers[cell.index()].iter().all(|&reader| {
            let give = matches!(self.plan.stages[reader].act, Act::Give { .. });
            give && flow.reaches(reader, rank)
        })
    }

    /// A result that its rank is given lies in its output from then on: there the rank's puts find it too.
    fn sent_from_output(&mut self, reduce: usize, result: CellId) {
        let stages = &self.plan.stages;
        let own = self.facts.direct[&reduce].iter().find(|d| d.term.is_none());
        let Some(Act::Give { piece, .. }) = own.map(|own| &stages[own.give].act) else {
            return;
        };
        for &put in &self.facts.readers[result.index()] {
            let is_put = matches!(stages[put].act, Act::Put { .. });
            if is_put && stages[put].worker == stages[reduce].worker {
                self.facts.sent.insert(put, *piece);
            }
        }
    }

    /// Whether a term is the worker's own input and stays what it is until the result is there: what lies over it in place is written with
    /// that result alone.
    fn stays(&self, worker: u32, term: CellId, result: CellId) -> bool {
        let stages = &self.plan.stages;
        let writer = self.facts.writer[term.index()].expect("checked before");
        let Act::Take { piece } = stages[writer].act else {
            return false;
        };
        let over = self.plan.output_over(worker, piece.block);
        stages[writer].worker == worker
            && over.is_none_or(|block| {
                let give = self.given.get(&(worker, Piece { block, ..piece }));
                give.is_some_and(|give| self.facts.readers[result.index()].contains(give))
            })
    }

    /// What comes from another node for its home alone, to be given and perhaps put on, may be received where it is given. In place the rank's own
    /// input may lie there. Of a sum it is a part: it went through a reader that is done with it, and where it has other readers they read a
    /// copy (`stays` wants a reader that is given the sum itself). What is only moved is given to the rank that brought it or lies over no
    /// input that anybody is given.
    pub(super) fn landings(&mut self) {
        let stages = &self.plan.stages;
        for stage in stages {
            let (Act::Put { .. }, Some(to)) = (&stage.act, stage.to) else {
                continue;
            };
            let home = self.plan.cells[to.index()].home;
            let readers = self.facts.readers[to.index()].iter().map(|r| &stages[*r]);
            let gives = readers.clone().filter_map(|reader| match reader.act {
                Act::Give { piece, .. } => Some(piece),
                _ => None,
            });
            let alone = readers.clone().all(|reader| {
                let moves = matches!(reader.act, Act::Give { .. } | Act::Put { .. });
                moves && reader.worker == home
            });
            if let ([piece], true) = (&gives.collect::<Vec<_>>()[..], alone) {
                self.facts.lands.insert(to, *piece);
            }
        }
    }

    /// Where two ranks of a node show each other what they have, each may write next where it has read: both cells' readers must be done when
    /// either rank comes to write again.
    pub(super) fn partners(&mut self, flow: &Flow) {
        let shape = &self.plan.shape;
        let pairs = (0..shape.nodes()).filter(|&node| shape.on(node) == 2);
        for node in pairs {
            let (first, second) = (shape.first(node), shape.first(node) + 1);
            let (ours, theirs) = (self.shown_by(first, second), self.shown_by(second, first));
            for (one, other) in ours.into_iter().zip(theirs) {
                if self.rests(flow, one, other) && self.rests(flow, other, one) {
                    self.facts.partner.insert(one, other);
                    self.facts.partner.insert(other, one);
                }
            }
        }
    }

    /// What a rank takes and another reads, in the plan's order, where nothing comes back in it.
    fn shown_by(&self, rank: usize, to: usize) -> Vec<CellId> {
        let stages = &self.plan.stages;
        let directs = self.facts.direct.iter();
        let backs: Vec<CellId> = directs
            .flat_map(|(&reduce, directs)| {
                let Act::Reduce { terms } = &stages[reduce].act else {
                    unreachable!("only reductions write outputs")
                };
                let backs = directs.iter().filter(|d| d.back);
                backs.filter_map(|d| d.term).map(|t| terms[t])
            })
            .collect();
        let takes = stages.iter().enumerate().filter(|(i, stage)| {
            stage.worker as usize == rank
                && self
                    .facts
                    .alias
                    .get(i)
                    .is_some_and(|a| *a != TakeAlias::Own)
        });
        takes
            .filter_map(|(_, stage)| stage.to)
            .filter(|cell| {
                let mut readers = self.facts.readers[cell.index()].iter();
                readers.any(|&r| stages[r].worker as usize == to) && !backs.contains(cell)
            })
            .collect()
    }

    /// Whether all readers of a cell stay on the node and are done with it when the writer of another one writes again.
    fn rests(&self, flow: &Flow, cell: CellId, other: CellId) -> bool {
        let writer = self.facts.writer[other.index()].expect("a taken cell");
        self.facts.readers[cell.index()].iter().all(|&reader| {
            !matches!(self.plan.stages[reader].act, Act::Put { .. })
                && flow.returns(self.plan, reader, writer)
        })
    }

    fn direct(&self, worker: u32, terms: &[CellId], give: usize) -> Option<Direct> {
        let stage = &self.plan.stages[give];
        let Act::Give { piece, .. } = stage.act else {
            return None;
        };
        if stage.worker == worker {
            return Some(Direct {
                give,
                term: None,
                back: false,
            });
        }
        let block = self.plan.input_under(stage.worker, piece.block)?;
        let under = Piece {
            block,
            part: piece.part,
        };
        let take = *self.taken.get(&(stage.worker, under))?;
        let own = self.plan.stages[take].to?;
        let term = terms.iter().position(|&t| t == own)?;
        Some(Direct {
            give,
            term: Some(term),
            back: self.facts.readers[own.index()].len() == 1,
        })
    }
}
