//! From a checked plan to one rank's steps: cells become counters and offsets, pieces stay pieces. Nothing here touches memory; the offsets
//! come from `Layout` and are proved to lie inside what the plan was given by `Place`.

use super::program::{Author, Gate, Lands, Op, Place, Program, Raise, Source, Step, Target, Term};
use crate::{
    layout::{Layout, Slots},
    plan::{Act, CellId, Checked, Direct, Piece, TakeAlias},
};

/// Ranks of a node up to which a result goes back to each in the slot that its input came in, in a copy for each: whoever writes a line last
/// then writes it next, and lines cross between cores half as often. With more ranks the copies cost more than that saves.
const MOST_BACK: usize = 4;

/// Compiles `rank`'s part of a plan, for a wire that `gathers` or does not.
pub fn compile(
    checked: &Checked,
    layout: &Layout,
    place: &Place,
    rank: usize,
    gathers: bool,
) -> Program {
    let compiler = Compiler {
        checked,
        layout,
        place,
        rank,
        gathers,
        node: checked.plan().shape.node_of(rank),
    };
    compiler.program()
}

struct Compiler<'a> {
    checked: &'a Checked,
    layout: &'a Layout,
    place: &'a Place,
    rank: usize,
    gathers: bool,
    node: usize,
}

impl Compiler<'_> {
    fn program(&self) -> Program {
        let plan = self.checked.plan();
        let (mut steps, mut arrivals, mut peers) = (Vec::new(), Vec::new(), Vec::new());
        let mut lands = Vec::new();
        let levels = plan.levels();
        for (i, stage) in plan.stages.iter().enumerate() {
            let to = stage.to.map(|c| (c, plan.cells[c.index()]));
            let away = to.filter(|(_, cell)| {
                cell.node as usize != plan.shape.node_of(stage.worker as usize)
            });
            if stage.worker as usize == self.rank {
                steps.push(self.step(i));
                peers.extend(away.map(|(_, cell)| cell.home as usize));
            } else if let Some((id, cell)) = away
                && cell.home as usize == self.rank
            {
                arrivals.push(self.raise(id));
                let piece = self.checked.facts().lands.get(&id);
                // What has landed is put on from there.
                lands.extend(piece.filter(|_| self.gathers).map(|&piece| Lands {
                    counter: self.counter(id),
                    piece,
                }));
                peers.push(stage.worker as usize);
            }
        }
        peers.sort_unstable();
        peers.dedup();
        // What comes early goes first: others wait for it.
        steps.sort_by_key(|step| levels[step.stage]);
        Program {
            steps,
            arrivals,
            lands,
            peers,
        }
    }

    fn step(&self, i: usize) -> Step {
        let plan = self.checked.plan();
        let stage = &plan.stages[i];
        let here = |c: &CellId| plan.cells[c.index()].node as usize == self.node;
        Step {
            stage: i,
            gates: stage
                .waits()
                .map(|c| Gate {
                    counter: self.counter(c),
                    slot: self
                        .stamped(c)
                        .filter(|_| self.writer(c) as usize != self.rank),
                    writer: self.writer(c),
                    seen: 0,
                })
                .collect(),
            op: self.op(i),
            raise: stage.to.filter(here).map(|c| self.raise(c)),
        }
    }

    /// The slots of a cell whose slots a rank of this node writes, with their headers.
    fn stamped(&self, cell: CellId) -> Option<Slots> {
        let facts = self.checked.facts();
        let writer = facts.writer[cell.index()]?;
        let stage = &self.checked.plan().stages[writer];
        let here = self.checked.plan().shape.node_of(stage.worker as usize) == self.node;
        let writes = match stage.act {
            Act::Take { .. } => self.alias(writer) != TakeAlias::Own,
            Act::Reduce { .. } => true,
            _ => false,
        };
        (here && writes).then(|| self.slot(cell))
    }

    /// How a `Take` may be done over this wire.
    fn alias(&self, take: usize) -> TakeAlias {
        match self.checked.facts().alias[&take] {
            TakeAlias::Sent if self.gathers => TakeAlias::Own,
            TakeAlias::Sent => TakeAlias::Copy,
            alias => alias,
        }
    }

    /// Where a `Put` may send from over this wire.
    fn source(&self, put: usize, from: CellId) -> Source {
        let facts = self.checked.facts();
        let writer = facts.writer[from.index()].expect("checked");
        match self.checked.plan().stages[writer].act {
            Act::Take { piece } if self.is_own_piece(from) => Source::Input(piece),
            // As `reduce` has it: who has no name in a header is given a copy.
            Act::Reduce { .. } if self.gathers && self.nameable(self.rank) => {
                let output = facts.sent.get(&put);
                output.map_or(Source::Slot, |piece| Source::Output(*piece))
            }
            Act::Put { .. } if self.gathers => {
                facts.lands.get(&from).map_or(Source::Slot, |piece| {
                    Source::Landed(*piece, self.counter(from))
                })
            }
            _ => Source::Slot,
        }
    }

    /// The word of bits in a header names 64 local ranks; those behind are given a copy as if they had ordinary memory.
    fn nameable(&self, rank: usize) -> bool {
        self.checked.plan().shape.local(rank) < 64
    }

    /// A cell that is read in place by the rank that takes it.
    fn is_own_piece(&self, cell: CellId) -> bool {
        let facts = self.checked.facts();
        facts.writer[cell.index()].is_some_and(|w| {
            matches!(self.checked.plan().stages[w].act, Act::Take { .. })
                && self.alias(w) == TakeAlias::Own
                && self.checked.plan().stages[w].worker as usize == self.rank
        })
    }

    fn op(&self, i: usize) -> Op {
        let plan = self.checked.plan();
        let stage = &plan.stages[i];
        let peer = |c: CellId| plan.cells[c.index()].home as usize;
        match &stage.act {
            Act::Take { piece } => {
                let to = stage.to.expect("a take writes a cell");
                let mut readers = self.checked.facts().readers[to.index()].iter();
                Op::Take {
                    piece: *piece,
                    slot: self.slot(to),
                    alias: self.alias(i),
                    over: plan
                        .output_over(stage.worker, piece.block)
                        .map(|block| Piece { block, ..*piece }),
                    within: readers.all(|r| !matches!(plan.stages[*r].act, Act::Put { .. })),
                }
            }
            Act::Reduce { terms } => self.reduce(i, terms, stage.to.expect("a reduce writes")),
            Act::Put { from } => {
                let to = stage.to.expect("a put writes a cell");
                Op::Put {
                    peer: peer(to),
                    part: self.piece(to),
                    from: self.slot(*from),
                    source: self.source(i, *from),
                    to: self.slot(to),
                    counter: self.counter(to),
                }
            }
            Act::Give { from, piece } => Op::Give {
                from: self.given(*from),
                piece: *piece,
                back: self.back(i, *from),
                lands: self
                    .checked
                    .facts()
                    .lands
                    .get(from)
                    .map(|_| self.counter(*from)),
            },
            Act::Signal => {
                let to = stage.to.expect("a signal writes a token");
                if plan.cells[to.index()].node as usize == self.node {
                    return Op::Nothing;
                }
                Op::SignalAway {
                    peer: peer(to),
                    counter: self.counter(to),
                }
            }
            Act::Wait => Op::Nothing,
        }
    }

    fn reduce(&self, i: usize, terms: &[CellId], to: CellId) -> Op {
        let plan = self.checked.plan();
        let facts = self.checked.facts();
        let direct = &facts.direct[&i];
        let nameable = |d: &&Direct| self.nameable(plan.stages[d.give].worker as usize);
        let named = direct.iter().filter(nameable).count();
        let readers = facts.readers[to.index()].iter();
        let from_output = readers.filter(|&&r| {
            matches!(plan.stages[r].act, Act::Put { .. }) && self.source(r, to) != Source::Slot
        });
        let from_output = from_output.count();
        let shared = facts.readers[to.index()].len() > named + from_output;
        let target = |d: &Direct| {
            let give = &plan.stages[d.give];
            match (d.term, &give.act) {
                (None, Act::Give { piece, .. }) => Target::Own(*piece),
                (Some(term), _) => {
                    let bit = 1 << plan.shape.local(give.worker as usize).min(63);
                    Target::Of {
                        term,
                        bit,
                        back: d.back && !shared && plan.shape.on(self.node) <= MOST_BACK,
                    }
                }
                _ => unreachable!("a direct output belongs to a give"),
            }
        };
        Op::Reduce {
            terms: (0..terms.len())
                .map(|t| match facts.own[&i].contains(&t) {
                    true => Term::Own(self.piece(terms[t]), self.slot(terms[t])),
                    false => self.term(terms[t]),
                })
                .collect(),
            part: self.piece(to),
            raw: facts.raw[&i],
            last: facts.last[&i],
            slot: self.slot(to),
            shared,
            sent: from_output > 0,
            targets: direct.iter().filter(nameable).map(target).collect(),
        }
    }

    /// The slot that a result may come back in, for the stage that gives it.
    fn back(&self, give: usize, result: CellId) -> Option<Slots> {
        let facts = self.checked.facts();
        let writer = facts.writer[result.index()].expect("checked");
        let Act::Reduce { terms } = &self.checked.plan().stages[writer].act else {
            return None;
        };
        let direct = facts.direct[&writer].iter();
        let own = direct.filter(|d| d.back).find(|d| d.give == give)?;
        Some(self.slot(terms[own.term?]))
    }

    /// What is given: this rank's own input where it lies, though others read it in its slot, whose lines they have then. In place it lies
    /// where it is wanted.
    fn given(&self, cell: CellId) -> Term {
        let writer = self.checked.facts().writer[cell.index()].expect("checked");
        let stage = &self.checked.plan().stages[writer];
        match stage.act {
            Act::Take { piece } if stage.worker as usize == self.rank => {
                Term::Own(piece, self.slot(cell))
            }
            _ => self.term(cell),
        }
    }

    fn term(&self, cell: CellId) -> Term {
        let writer = self.checked.facts().writer[cell.index()].expect("checked");
        match &self.checked.plan().stages[writer].act {
            Act::Take { piece } if self.is_own_piece(cell) => Term::Own(*piece, self.slot(cell)),
            _ => Term::Slot(self.slot(cell), self.author(cell)),
        }
    }

    fn piece(&self, cell: CellId) -> Piece {
        self.checked.facts().piece[cell.index()].expect("a cell with bytes")
    }

    fn slot(&self, cell: CellId) -> Slots {
        let node = self.checked.plan().cells[cell.index()].node as usize;
        let first = |cell| self.place.slots[node] + self.layout.cell(cell);
        let partner = self.checked.facts().partner.get(&cell).unwrap_or(&cell);
        Slots::new(first(cell), first(*partner))
    }

    fn counter(&self, cell: CellId) -> usize {
        let node = self.checked.plan().cells[cell.index()].node as usize;
        self.place.counters[node] + self.layout.counter(cell)
    }

    fn writer(&self, cell: CellId) -> u32 {
        let writer = self.checked.facts().writer[cell.index()].expect("checked");
        self.checked.plan().stages[writer].worker
    }

    fn author(&self, cell: CellId) -> Author {
        let rank = self.writer(cell);
        Author {
            rank,
            local: self.checked.plan().shape.local(rank as usize),
            away: self.checked.plan().shape.node_of(rank as usize) != self.node,
        }
    }

    fn raise(&self, cell: CellId) -> Raise {
        let plan = self.checked.plan();
        let facts = self.checked.facts();
        let mut ring: Vec<usize> = facts.readers[cell.index()]
            .iter()
            .chain(&facts.waiters[cell.index()])
            .map(|&s| plan.stages[s].worker as usize)
            .filter(|&w| w != self.rank)
            .map(|w| plan.shape.local(w))
            .collect();
        ring.sort_unstable();
        ring.dedup();
        Raise {
            counter: self.counter(cell),
            slot: self.stamped(cell),
            ring,
        }
    }
}
