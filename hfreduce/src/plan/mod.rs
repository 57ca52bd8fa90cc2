//! A plan: what every rank of a group does for ONE chunk, as stages in dataflow order over cells. Plans hold no bytes, no
//! offsets, no data types and no clock; `Layout` gives them memory and `Engine` runs them. Invariant: a plan that was not
//! checked cannot run (see [`Checked`]); builders append stages only after the cells they read exist, so there are no cycles.

mod all_reduce;
mod check;
mod choose;
mod cost;
mod family;
mod fit;
mod flaw;
mod flow;
mod meaning;
mod near;
mod others;
mod set;
mod shape;
mod shares;
mod show;

pub use check::{Checked, Direct, Facts, TakeAlias};
pub use choose::{Choice, Model, Wanted, choose};
pub use cost::{Cost, RankCost};
pub use family::{candidates, checked};
pub use fit::{Sample, fit, misfit};
pub use flaw::Flaw;
pub use set::RankSet;
pub use shape::Shape;

/// Which collective a plan performs; decides what every output must hold in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Collective {
    /// Every rank gets the reduction over all ranks.
    AllReduce,
    /// The input is one block per rank; rank r gets the reduction of block r.
    ReduceScatter,
    /// Every rank gets every rank's input, one block per rank.
    AllGather,
    /// Every rank gets the root's input.
    Broadcast {
        /// Global rank whose input is sent.
        root: u32,
    },
    /// The root gets the reduction over all ranks; the others get nothing.
    Reduce {
        /// Global rank that gets the result.
        root: u32,
    },
    /// Nobody leaves before everybody has entered; no bytes.
    Barrier,
    /// The input is one block per rank; rank r gets every rank's block r, in rank order.
    AllToAll,
    /// As all_to_all, with blocks of any length: every pair of ranks has its own.
    AllToAllV,
    /// The root gets every rank's input, one block per rank.
    Gather {
        /// Global rank that gets them.
        root: u32,
    },
    /// The root's input is one block per rank; rank r gets block r.
    Scatter {
        /// Global rank whose input is shared out.
        root: u32,
    },
    /// In a group of two, rank 1 gets rank 0's input: a channel.
    SendRecv,
}

impl Collective {
    /// Every collective of a group, those with a root with this one. (A channel of two ranks is not among them.)
    pub fn all(root: u32) -> [Collective; 10] {
        [
            Collective::AllReduce,
            Collective::ReduceScatter,
            Collective::AllGather,
            Collective::Broadcast { root },
            Collective::Reduce { root },
            Collective::Barrier,
            Collective::AllToAll,
            Collective::AllToAllV,
            Collective::Gather { root },
            Collective::Scatter { root },
        ]
    }

    /// The name users know, as `hfr bench` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Collective::AllReduce => "all_reduce",
            Collective::ReduceScatter => "reduce_scatter",
            Collective::AllGather => "all_gather",
            Collective::Broadcast { .. } => "broadcast",
            Collective::Reduce { .. } => "reduce",
            Collective::Barrier => "barrier",
            Collective::AllToAll => "all_to_all",
            Collective::AllToAllV => "all_to_all_v",
            Collective::Gather { .. } => "gather",
            Collective::Scatter { .. } => "scatter",
            Collective::SendRecv => "send_recv",
        }
    }

    /// Whether values are added (or multiplied, ...) on the way.
    pub fn reduces(self) -> bool {
        matches!(
            self,
            Collective::AllReduce | Collective::ReduceScatter | Collective::Reduce { .. }
        )
    }

    /// The root, where the collective has one.
    pub fn root(self) -> Option<u32> {
        match self {
            Collective::Broadcast { root }
            | Collective::Reduce { root }
            | Collective::Gather { root }
            | Collective::Scatter { root } => Some(root),
            _ => None,
        }
    }

    /// Into how many blocks of its own length the input of some rank falls in a group of `ranks`, and the output: one per rank, where a
    /// buffer is made of the ranks' shares. `None`: the plan divides one buffer as it likes.
    pub fn shares(self, ranks: usize) -> Option<(usize, usize)> {
        match self {
            Collective::ReduceScatter | Collective::Scatter { .. } => Some((ranks, 1)),
            Collective::AllGather | Collective::Gather { .. } => Some((1, ranks)),
            Collective::AllToAll | Collective::AllToAllV => Some((ranks, ranks)),
            Collective::Barrier => Some((0, 0)),
            Collective::AllReduce
            | Collective::Broadcast { .. }
            | Collective::Reduce { .. }
            | Collective::SendRecv => None,
        }
    }
}

/// A part of a block of a buffer: what one shard carries. All pieces of one part number line up: piece (b, p) of the input and piece
/// (b', p) of the output have the same length in every chunk, wherever a plan moves the one to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Piece {
    /// Block of the buffer.
    pub block: u32,
    /// Part of the block's share of the chunk.
    pub part: u32,
}

/// Index of a cell in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellId(pub u32);

impl CellId {
    /// The index as a `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A named place that holds one shard of one chunk, or no bytes at all (a token that only counts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The node whose segment holds it.
    pub node: u32,
    /// The rank that writes it, or that receives it when it is written from another node.
    pub home: u32,
    /// Whether it holds bytes; a token does not.
    pub bytes: bool,
}

/// What a stage does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// The worker's own input piece becomes a cell of its node.
    Take {
        /// Which part of the input.
        piece: Piece,
    },
    /// All terms, in this order, in one pass, into a cell of the same node.
    Reduce {
        /// Cells of the worker's node.
        terms: Vec<CellId>,
    },
    /// A cell of the worker's node into a cell of another node, with notice.
    Put {
        /// The source.
        from: CellId,
    },
    /// A cell of the worker's node into the worker's own output piece. May write a token.
    Give {
        /// The source.
        from: CellId,
        /// Which part of the output.
        piece: Piece,
    },
    /// A token goes up, on this node or on another one.
    Signal,
    /// Nothing but waiting.
    Wait,
}

/// One act of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Global rank that does it.
    pub worker: u32,
    /// What it does.
    pub act: Act,
    /// Cells of the worker's node it waits for besides those whose bytes it reads.
    pub after: Vec<CellId>,
    /// The cell it writes.
    pub to: Option<CellId>,
}

impl Stage {
    /// The cells whose bytes this stage reads.
    pub fn reads(&self) -> &[CellId] {
        match &self.act {
            Act::Reduce { terms } => terms,
            Act::Put { from } | Act::Give { from, .. } => std::slice::from_ref(from),
            Act::Take { .. } | Act::Signal | Act::Wait => &[],
        }
    }

    /// All cells this stage waits for.
    pub fn waits(&self) -> impl Iterator<Item = CellId> + '_ {
        self.reads().iter().chain(&self.after).copied()
    }
}

/// What every rank does for one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Name of the algorithm, for people.
    pub name: &'static str,
    /// The nodes and their ranks.
    pub shape: Shape,
    /// What it performs.
    pub collective: Collective,
    /// Into how many blocks the plan divides a buffer by position (all_reduce, broadcast, reduce, send_recv); 1 for the others, whose blocks
    /// are the ranks' shares.
    pub blocks: u32,
    /// Parts per block.
    pub parts: u32,
    /// A slot is used again after this many windows (1 or 2).
    pub turns: u32,
    /// All cells.
    pub cells: Vec<Cell>,
    /// All stages, in dataflow order.
    pub stages: Vec<Stage>,
}

impl Plan {
    /// An empty plan, to be filled by the verbs below.
    pub fn new(name: &'static str, shape: &Shape, collective: Collective) -> Plan {
        Plan {
            name,
            shape: shape.clone(),
            collective,
            blocks: 1,
            parts: 1,
            turns: 1,
            cells: Vec::new(),
            stages: Vec::new(),
        }
    }

    /// Blocks of the input buffer.
    pub fn input_blocks(&self) -> u32 {
        let shares = self.collective.shares(self.shape.ranks());
        shares.map_or(self.blocks, |(input, _)| input as u32)
    }

    /// Blocks of the output buffer.
    pub fn output_blocks(&self) -> u32 {
        let shares = self.collective.shares(self.shape.ranks());
        shares.map_or(self.blocks, |(_, output)| output as u32)
    }

    /// The rank of `node` that owns `piece`.
    pub fn owner(&self, node: usize, piece: Piece) -> usize {
        let shard = (piece.part * self.blocks + piece.block) as usize;
        self.shape.first(node) + shard % self.shape.on(node)
    }

    fn cell(&mut self, home: usize, bytes: bool) -> CellId {
        let node = self.shape.node_of(home) as u32;
        self.cells.push(Cell {
            node,
            home: home as u32,
            bytes,
        });
        CellId(self.cells.len() as u32 - 1)
    }

    fn push(&mut self, worker: usize, act: Act, after: Vec<CellId>, to: Option<CellId>) {
        self.stages.push(Stage {
            worker: worker as u32,
            act,
            after,
            to,
        });
    }

    /// `worker` takes a piece of its own input.
    pub fn take(&mut self, worker: usize, piece: Piece) -> CellId {
        let to = self.cell(worker, true);
        self.push(worker, Act::Take { piece }, Vec::new(), Some(to));
        to
    }

    /// `worker` reduces cells of its node, in this order, in one pass.
    pub fn reduce(&mut self, worker: usize, terms: Vec<CellId>) -> CellId {
        let to = self.cell(worker, true);
        self.push(worker, Act::Reduce { terms }, Vec::new(), Some(to));
        to
    }

    /// The home of `from` puts it where `receiver` can read it; on `receiver`'s own node that is where it is already.
    pub fn send(&mut self, from: CellId, receiver: usize) -> CellId {
        let source = self.cells[from.index()];
        if source.node as usize == self.shape.node_of(receiver) {
            return from;
        }
        let to = self.cell(receiver, true);
        self.push(
            source.home as usize,
            Act::Put { from },
            Vec::new(),
            Some(to),
        );
        to
    }

    /// `worker` gets a piece of its own output.
    pub fn give(&mut self, worker: usize, from: CellId, piece: Piece) {
        self.push(worker, Act::Give { from, piece }, Vec::new(), None);
    }

    /// As `give`, and a token says that it is done.
    pub fn give_and_tell(&mut self, worker: usize, from: CellId, piece: Piece) -> CellId {
        let to = self.cell(worker, false);
        self.push(worker, Act::Give { from, piece }, Vec::new(), Some(to));
        to
    }

    /// `worker` tells `receiver` (of any node) that all of `after` are there.
    pub fn signal(&mut self, worker: usize, receiver: usize, after: Vec<CellId>) -> CellId {
        let home = if self.shape.node_of(worker) == self.shape.node_of(receiver) {
            worker
        } else {
            receiver
        };
        let to = self.cell(home, false);
        self.push(worker, Act::Signal, after, Some(to));
        to
    }

    /// `worker` is not done before all of `after` are there.
    pub fn wait(&mut self, worker: usize, after: Vec<CellId>) {
        self.push(worker, Act::Wait, after, None);
    }
}
