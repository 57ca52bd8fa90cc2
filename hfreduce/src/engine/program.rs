//! What one rank does of a plan, with counters and offsets in place of cells: what the engine runs. It comes from a checked plan (`compile`).

use crate::{
    layout::Slots,
    plan::{Piece, TakeAlias},
};

/// What a plan was given on every node: where its slots begin in the node's segment and where its counters begin on the node's board.
#[derive(Clone, Debug)]
pub struct Place {
    /// By node: byte offset of its first slot.
    pub slots: Vec<usize>,
    /// By node: number of its first counter.
    pub counters: Vec<usize>,
}

/// A counter a step waits for.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Number on this node's board.
    pub counter: usize,
    /// The cell's slots, where its stamp tells as well.
    pub slot: Option<Slots>,
    /// The rank that raises it, for reports.
    pub writer: u32,
    /// The value seen last; saves reading a busy line again.
    pub seen: u64,
}

/// Who wrote a slot.
#[derive(Clone, Copy, Debug)]
pub struct Author {
    /// The rank.
    pub rank: u32,
    /// Its number on its node.
    pub local: usize,
    /// Whether it is on another node: where bytes lie on that node, and who was given them there, means nothing here.
    pub away: bool,
}

/// What a step reads: a term of a reduction, or what is given.
#[derive(Clone, Copy, Debug)]
pub enum Term {
    /// In these slots, or where the slot's header says; written by this rank.
    Slot(Slots, Author),
    /// The rank's own input: in place where the CPU can read it, otherwise in these slots.
    Own(Piece, Slots),
}

/// Where what is put lies, behind the slot's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the slot.
    Slot,
    /// In the rank's own input, where the CPU can read it; otherwise in the slot.
    Input(Piece),
    /// In the rank's own output, as above.
    Output(Piece),
    /// In the rank's own output, if the put that raised this counter has landed there; otherwise in the slot.
    Landed(Piece, usize),
}

/// An output that a reduction may write itself.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// The rank's own output piece.
    Own(Piece),
    /// That of the rank whose taken piece is a term.
    Of {
        /// Which term.
        term: usize,
        /// Bit of its local rank.
        bit: u64,
        /// Whether the result may go back to that term's slot, where the output is out of reach.
        back: bool,
    },
}

/// What a step does, with offsets.
#[derive(Clone, Debug)]
pub enum Op {
    /// Copy or announce a piece of the own input.
    Take {
        /// Which.
        piece: Piece,
        /// Where.
        slot: Slots,
        /// Whether it may stay where it is.
        alias: TakeAlias,
        /// The piece of the own output that lies over it when in place.
        over: Option<Piece>,
        /// Whether few bytes may stand in the slot's header: only ranks of the node read it.
        within: bool,
    },
    /// Add.
    Reduce {
        /// In the plan's order.
        terms: Vec<Term>,
        /// The piece they are of.
        part: Piece,
        /// Leading raw inputs.
        raw: usize,
        /// Whether the result is complete.
        last: bool,
        /// Where.
        slot: Slots,
        /// Outputs to write directly.
        targets: Vec<Target>,
        /// Whether someone reads the slot who is not among the targets.
        shared: bool,
        /// Whether this rank puts what it has written into its own output.
        sent: bool,
    },
    /// Send a slot.
    Put {
        /// Receiving rank.
        peer: usize,
        /// The piece it carries.
        part: Piece,
        /// Slots here.
        from: Slots,
        /// What follows their header.
        source: Source,
        /// Slots there.
        to: Slots,
        /// The counter there.
        counter: usize,
    },
    /// Copy into the own output.
    Give {
        /// What.
        from: Term,
        /// Which piece.
        piece: Piece,
        /// Slots of the own input that the result is of, in which it may have come back.
        back: Option<Slots>,
        /// The counter of the put that it comes with, where that may have landed in the output.
        lands: Option<usize>,
    },
    /// Tell another node.
    SignalAway {
        /// Receiving rank.
        peer: usize,
        /// The counter there.
        counter: usize,
    },
    /// Only raise, or only wait.
    Nothing,
}

/// A counter of this node to raise when a step is done, and whom to wake.
#[derive(Clone, Debug)]
pub struct Raise {
    /// Number on this node's board.
    pub counter: usize,
    /// The cell's slots, where it is to be stamped.
    pub slot: Option<Slots>,
    /// Local ranks that wait for it, except this one.
    pub ring: Vec<usize>,
}

/// One stage of this rank.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its number in the plan, for reports.
    pub stage: usize,
    /// What it waits for.
    pub gates: Vec<Gate>,
    /// What it does.
    pub op: Op,
    /// What it raises on this node.
    pub raise: Option<Raise>,
}

/// A put of another node that may land in the own output.
#[derive(Clone, Copy, Debug)]
pub struct Lands {
    /// The counter that it raises.
    pub counter: usize,
    /// The piece of the output.
    pub piece: Piece,
}

/// What one rank does of a plan.
#[derive(Clone, Debug)]
pub struct Program {
    /// The rank's stages, those first that come earliest in the chunk, otherwise in plan order.
    pub steps: Vec<Step>,
    /// Counters of this node that peers' puts and signals to this rank raise.
    pub arrivals: Vec<Raise>,
    /// Those of them whose bytes may be received where they are given.
    pub lands: Vec<Lands>,
    /// Ranks of other nodes that this rank sends to or receives from.
    pub peers: Vec<usize>,
}
