//! The proof of a plan, by abstract interpretation over one chunk: instead of bytes a cell holds the set of ranks whose input is in it.
//! Only a plan that passes becomes a [`Checked`] plan, and only those run: that witness is what the `unsafe` code of the engine stands on.
//! It knows nothing of memory; what it proves beside correctness are the facts the engine may use to avoid copies.

use super::{Act, CellId, Collective, Flaw, Piece, Plan, RankSet, Stage, flow::Flow};
use std::collections::HashMap;

/// Whether a taken piece must be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeAlias {
    /// It is copied into the slot.
    Copy,
    /// Its one reader is the same rank, which may read its own buffer in place.
    Own,
    /// This rank alone reads it, and puts it elsewhere: a wire that gathers sends it from the buffer. It stays what it is until it has been sent.
    Sent,
    /// Ranks of the node read it, and this rank waits for what comes of it: a buffer need not be copied if they can read it where it lies, in
    /// shared memory or in this rank's own.
    Shared,
}

/// A `Give` that its `Reduce` may do on its own, by writing straight into the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct {
    /// The stage of the `Give`.
    pub give: usize,
    /// Which term of the `Reduce` is the receiver's own input, whose header says where its output lies. `None`: the receiver is the
    /// worker itself.
    pub term: Option<usize>,
    /// Nobody else reads that term, so that the result may go back to its slot: the receiver writes it again only when it has been given
    /// the result.
    pub back: bool,
}

/// What the checker learned about a plan, by stage and by cell.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// For each `Take`: whether it must copy.
    pub alias: HashMap<usize, TakeAlias>,
    /// For each `Reduce`: the outputs it may write.
    pub direct: HashMap<usize, Vec<Direct>>,
    /// For each `Reduce`: the terms that are the worker's own input and may be read in its buffer, though others read them in their cells.
    pub own: HashMap<usize, Vec<usize>>,
    /// For some `Put`s: where the worker's own output holds the same, once it was reduced, and stays so.
    pub sent: HashMap<usize, Piece>,
    /// For some cells that another node puts: the piece of their home's output in which the bytes may be received at once.
    pub lands: HashMap<CellId, Piece>,
    /// For each `Reduce`: how many leading terms are raw inputs.
    pub raw: HashMap<usize, usize>,
    /// For each `Reduce`: whether its result is complete (an average divides there).
    pub last: HashMap<usize, bool>,
    /// For each cell: the stage that writes it.
    pub writer: Vec<Option<usize>>,
    /// For each cell: the stages that read its bytes.
    pub readers: Vec<Vec<usize>>,
    /// For each cell with bytes: which piece of the input it holds (or holds the sum of).
    pub piece: Vec<Option<Piece>>,
    /// For each cell: the stages that wait for it without reading bytes.
    pub waiters: Vec<Vec<usize>>,
    /// For some cells: the one they may change slots with, each time that all slots have been used.
    pub partner: HashMap<CellId, CellId>,
}

/// A plan that was proved right. There is no other way to get one than [`Plan::check`].
#[derive(Clone, Debug)]
pub struct Checked {
    plan: Plan,
    facts: Facts,
}

impl Checked {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the proof found out.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// What a cell with bytes holds.
#[derive(Clone)]
struct Value {
    piece: Piece,
    ranks: RankSet,
    raw: bool,
    /// How it was added: a raw input's rank, or behind those the number of a list of such forms.
    form: u32,
}

impl Plan {
    /// Proves the plan, or says what is wrong with it.
    pub fn check(self) -> Result<Checked, Flaw> {
        let facts = Checker::new(&self).run()?;
        Ok(Checked { plan: self, facts })
    }
}

pub(super) struct Checker<'a> {
    pub(super) plan: &'a Plan,
    ranks: usize,
    pub(super) facts: Facts,
    values: Vec<Option<Value>>,
    pub(super) taken: HashMap<(u32, Piece), usize>,
    pub(super) given: HashMap<(u32, Piece), usize>,
    /// The orders of addition met so far, each with its number.
    forms: HashMap<Vec<u32>, u32>,
    /// By block of the input: the form in which it was given first. The same for all its parts, since where one part ends and the next
    /// begins depends on the size of pieces, and results must not.
    result: HashMap<u32, u32>,
}

impl<'a> Checker<'a> {
    fn new(plan: &'a Plan) -> Self {
        let cells = plan.cells.len();
        Checker {
            plan,
            ranks: plan.shape.ranks(),
            facts: Facts {
                writer: vec![None; cells],
                readers: vec![Vec::new(); cells],
                waiters: vec![Vec::new(); cells],
                ..Facts::default()
            },
            values: vec![None; cells],
            taken: HashMap::new(),
            given: HashMap::new(),
            forms: HashMap::new(),
            result: HashMap::new(),
        }
    }

    fn run(mut self) -> Result<Facts, Flaw> {
        self.header()?;
        for (i, stage) in self.plan.stages.iter().enumerate() {
            self.reach(i, stage)?;
            self.meaning(i, stage)?;
            if let Some(to) = stage.to {
                self.facts.writer[to.index()] = Some(i);
            }
        }
        self.complete()?;
        let flow = Flow::new(self.plan, &self.facts);
        self.barrier(&flow)?;
        flow.no_slot_overwritten(self.plan, &self.facts)?;
        flow.every_message_taken(self.plan, &self.facts)?;
        self.aliases(&flow);
        self.partners(&flow);
        self.landings();
        self.facts.piece = self
            .values
            .iter()
            .map(|v| v.as_ref().map(|v| v.piece))
            .collect();
        Ok(self.facts)
    }

    fn header(&self) -> Result<(), Flaw> {
        let plan = self.plan;
        if !(1..=2).contains(&plan.turns) {
            return Err(Flaw::Turns(plan.turns));
        }
        if plan.blocks == 0 || plan.parts == 0 {
            return Err(Flaw::NoPieces);
        }
        for (i, cell) in plan.cells.iter().enumerate() {
            let home = cell.home as usize;
            if home >= self.ranks || plan.shape.node_of(home) != cell.node as usize {
                return Err(Flaw::HomeElsewhere {
                    cell: i as u32,
                    node: cell.node,
                    home: cell.home,
                });
            }
        }
        Ok(())
    }

    /// Every cell exists, lies where the stage can reach it, and is written once and before it is read.
    fn reach(&mut self, i: usize, stage: &Stage) -> Result<(), Flaw> {
        let cells = &self.plan.cells;
        if stage.worker as usize >= self.ranks {
            return Err(Flaw::NoSuchRank {
                stage: i,
                rank: stage.worker,
            });
        }
        let node = self.plan.shape.node_of(stage.worker as usize) as u32;
        for cell in stage.waits().chain(stage.to) {
            if cell.index() >= cells.len() {
                return Err(Flaw::NoSuchCell {
                    stage: i,
                    cell: cell.0,
                });
            }
        }
        for cell in stage.waits() {
            if cells[cell.index()].node != node {
                return Err(Flaw::OutOfReach {
                    stage: i,
                    cell: cell.0,
                });
            }
            if self.facts.writer[cell.index()].is_none() {
                return Err(Flaw::NotWritten {
                    stage: i,
                    cell: cell.0,
                });
            }
        }
        for &cell in stage.reads() {
            if !cells[cell.index()].bytes {
                return Err(Flaw::NoBytes {
                    stage: i,
                    cell: cell.0,
                });
            }
            self.facts.readers[cell.index()].push(i);
        }
        for &cell in &stage.after {
            self.facts.waiters[cell.index()].push(i);
        }
        self.target(i, stage, node)
    }

    /// The cell a stage writes suits its act.
    fn target(&self, i: usize, stage: &Stage, node: u32) -> Result<(), Flaw> {
        let Some(to) = stage.to else {
            return match stage.act {
                Act::Give { .. } | Act::Wait => Ok(()),
                _ => Err(Flaw::WrongTarget { stage: i }),
            };
        };
        let cell = self.plan.cells[to.index()];
        let (bytes, may_leave) = match stage.act {
            Act::Take { .. } | Act::Reduce { .. } => (true, false),
            Act::Put { .. } => (true, true),
            Act::Give { .. } => (false, false),
            Act::Signal => (false, true),
            Act::Wait => return Err(Flaw::WrongTarget { stage: i }),
        };
        if cell.bytes != bytes {
            return Err(Flaw::WrongTarget { stage: i });
        }
        if cell.node != node && !may_leave {
            return Err(Flaw::OutOfReach {
                stage: i,
                cell: to.0,
            });
        }
        if cell.node == node {
            if matches!(stage.act, Act::Put { .. }) {
                return Err(Flaw::PutAtHome {
                    stage: i,
                    cell: to.0,
                });
            }
            if cell.home != stage.worker {
                return Err(Flaw::NotOwnCell {
                    stage: i,
                    cell: to.0,
                });
            }
        }
        if self.facts.writer[to.index()].is_some() {
            return Err(Flaw::WrittenTwice {
                stage: i,
                cell: to.0,
            });
        }
        Ok(())
    }

    /// What the stage does to the sets of contributions.
    fn meaning(&mut self, i: usize, stage: &Stage) -> Result<(), Flaw> {
        let rank = stage.worker;
        let value = match &stage.act {
            Act::Take { piece } => {
                self.piece(i, *piece, self.plan.input_blocks())?;
                if self.taken.insert((rank, *piece), i).is_some() {
                    return Err(Flaw::TakenTwice { stage: i, rank });
                }
                Some(Value {
                    piece: *piece,
                    ranks: RankSet::One(rank),
                    raw: true,
                    form: rank,
                })
            }
            Act::Reduce { terms } => Some(self.sum(i, terms)?),
            Act::Put { from } => {
                self.known_length(i, rank, *from)?;
                self.values[from.index()].clone()
            }
            Act::Give { from, piece } => {
                self.give(i, rank, *from, *piece)?;
                None
            }
            Act::Signal | Act::Wait => None,
        };
        if let Some(to) = stage.to {
            self.values[to.index()] = value;
        }
        Ok(())
    }

    /// Where ranks may bring shares of different lengths, only the one that took a share knows how many bytes to put.
    fn known_length(&self, stage: usize, rank: u32, cell: CellId) -> Result<(), Flaw> {
        let own = matches!(
            self.plan.collective,
            Collective::AllGather | Collective::AllToAll | Collective::AllToAllV
        );
        let value = self.values[cell.index()].as_ref().expect("cell with bytes");
        if own && !matches!(value.ranks, RankSet::One(r) if r == rank) {
            return Err(Flaw::LengthUnknown { stage, rank });
        }
        Ok(())
    }

    fn piece(&self, stage: usize, piece: Piece, blocks: u32) -> Result<(), Flaw> {
        if piece.block < blocks && piece.part < self.plan.parts {
            Ok(())
        } else {
            Err(Flaw::NoSuchPiece { stage, piece })
        }
    }

    fn sum(&mut self, i: usize, terms: &[CellId]) -> Result<Value, Flaw> {
        let held = |c: &CellId| self.values[c.index()].as_ref().expect("cell with bytes");
        let Some(first) = terms.first().map(held) else {
            return Err(Flaw::NoTerms { stage: i });
        };
        let mut ranks = RankSet::empty();
        let (mut raw, mut raw_over) = (0, false);
        for value in terms.iter().map(held) {
            if value.piece != first.piece {
                return Err(Flaw::Mixed { stage: i });
            }
            if let Some(rank) = ranks.common(&value.ranks) {
                return Err(Flaw::AddedTwice { stage: i, rank });
            }
            ranks.add(&value.ranks, self.ranks);
            raw_over |= !value.raw;
            if value.raw && raw_over {
                return Err(Flaw::RawAfterSum { stage: i });
            }
            raw += usize::from(value.raw);
        }
        if !first.raw && first.ranks.len() == self.ranks {
            return Err(Flaw::FinishedTwice { stage: i });
        }
        let piece = first.piece;
        let order: Vec<u32> = terms.iter().map(|c| held(c).form).collect();
        let next = (self.ranks + self.forms.len()) as u32;
        let form = *self.forms.entry(order).or_insert(next);
        self.facts.raw.insert(i, raw);
        self.facts.last.insert(i, ranks.len() == self.ranks);
        Ok(Value {
            piece,
            ranks,
            raw: false,
            form,
        })
    }

    fn give(&mut self, i: usize, rank: u32, from: CellId, piece: Piece) -> Result<(), Flaw> {
        self.piece(i, piece, self.plan.output_blocks())?;
        if self.given.insert((rank, piece), i).is_some() {
            return Err(Flaw::GivenTwice { stage: i, rank });
        }
        let Some((block, whose)) = self.plan.wanted(rank, piece.block) else {
            return Err(Flaw::Unwanted { stage: i, rank });
        };
        let value = self.values[from.index()].as_ref().expect("cell with bytes");
        if value.piece.block != block || value.piece.part != piece.part {
            return Err(Flaw::WrongPiece { stage: i, rank });
        }
        match whose {
            None => {
                if let Some(missing) = value.ranks.first_missing(self.ranks) {
                    return Err(Flaw::Incomplete {
                        stage: i,
                        rank,
                        missing,
                    });
                }
                if value.raw {
                    return Err(Flaw::NotReduced { stage: i, rank });
                }
                if *self.result.entry(block).or_insert(value.form) != value.form {
                    return Err(Flaw::OtherOrder { stage: i, rank });
                }
            }
            Some(owner) => {
                if !value.ranks.contains(owner) || value.ranks.len() != 1 {
                    return Err(Flaw::Unwanted { stage: i, rank });
                }
            }
        }
        Ok(())
    }

    fn complete(&self) -> Result<(), Flaw> {
        for rank in 0..self.ranks as u32 {
            for block in 0..self.plan.output_blocks() {
                if self.plan.wanted(rank, block).is_none() {
                    continue;
                }
                for part in 0..self.plan.parts {
                    let piece = Piece { block, part };
                    if !self.given.contains_key(&(rank, piece)) {
                        return Err(Flaw::NeverGiven { rank, piece });
                    }
                }
            }
        }
        Ok(())
    }

    fn barrier(&self, flow: &Flow) -> Result<(), Flaw> {
        if self.plan.collective != Collective::Barrier {
            return Ok(());
        }
        for rank in 0..self.ranks {
            let heard = flow.heard_by(self.plan, rank);
            if let Some(missing) = heard.first_missing(self.ranks) {
                return Err(Flaw::Hole {
                    rank: rank as u32,
                    missing,
                });
            }
        }
        Ok(())
    }
}
