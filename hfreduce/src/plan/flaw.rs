//! What can be wrong with a plan, each with the words that `hfr plan check` prints. It knows no way to find out; `check` and `flow` do.
//! Invariant: every refusal names the stage, cell or rank at which it was seen.

use super::Piece;

/// A reason to refuse a plan. Stages and cells are named by index; `hfr plan show` prints them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's text says what it is")]
pub enum Flaw {
    #[error("turns is {0}; a slot is used again after 1 or 2 windows")]
    Turns(u32),
    #[error("a plan has at least one block and one part")]
    NoPieces,
    #[error("stage {stage} names rank {rank}, which the group does not have")]
    NoSuchRank { stage: usize, rank: u32 },
    #[error("stage {stage} names cell {cell}, which the plan does not have")]
    NoSuchCell { stage: usize, cell: u32 },
    #[error("cell {cell} lies on node {node} but is rank {home}'s, of another node")]
    HomeElsewhere { cell: u32, node: u32, home: u32 },
    #[error("stage {stage} has no such piece: block {}, part {}", piece.block, piece.part)]
    NoSuchPiece { stage: usize, piece: Piece },
    #[error("stage {stage} reaches cell {cell}, which lies on another node")]
    OutOfReach { stage: usize, cell: u32 },
    #[error("stage {stage} puts into cell {cell} of its own node")]
    PutAtHome { stage: usize, cell: u32 },
    #[error("stage {stage} writes cell {cell}, which is not its rank's own")]
    NotOwnCell { stage: usize, cell: u32 },
    #[error("stage {stage} writes no cell, or the wrong kind of cell")]
    WrongTarget { stage: usize },
    #[error("stage {stage} reads bytes of cell {cell}, which is a token")]
    NoBytes { stage: usize, cell: u32 },
    #[error("stage {stage} reads cell {cell} before any stage writes it")]
    NotWritten { stage: usize, cell: u32 },
    #[error("stage {stage} writes cell {cell}, which is written already")]
    WrittenTwice { stage: usize, cell: u32 },
    #[error("stage {stage} takes a piece that rank {rank} has taken already")]
    TakenTwice { stage: usize, rank: u32 },
    #[error("stage {stage} gives a piece that rank {rank} was given already")]
    GivenTwice { stage: usize, rank: u32 },
    #[error("stage {stage} reduces nothing")]
    NoTerms { stage: usize },
    #[error("stage {stage} reduces pieces that do not belong together")]
    Mixed { stage: usize },
    #[error("stage {stage} adds the input of rank {rank} twice")]
    AddedTwice { stage: usize, rank: u32 },
    #[error("stage {stage} has a raw input behind a sum; raw inputs come first")]
    RawAfterSum { stage: usize },
    #[error("stage {stage} reduces a result that is complete already")]
    FinishedTwice { stage: usize },
    #[error("stage {stage} gives rank {rank} a piece of the wrong block or part")]
    WrongPiece { stage: usize, rank: u32 },
    #[error("stage {stage} gives rank {rank} a result without the input of rank {missing}")]
    Incomplete {
        stage: usize,
        rank: u32,
        missing: u32,
    },
    #[error("stage {stage} gives rank {rank} a result that the collective does not give it")]
    Unwanted { stage: usize, rank: u32 },
    #[error("stage {stage} gives rank {rank} an input that nothing was done to")]
    NotReduced { stage: usize, rank: u32 },
    #[error(
        "stage {stage} puts a share that another rank than {rank} took, and only that one knows its length"
    )]
    LengthUnknown { stage: usize, rank: u32 },
    #[error("rank {rank} is never given block {}, part {}", piece.block, piece.part)]
    NeverGiven { rank: u32, piece: Piece },
    #[error("rank {rank} can leave the barrier before rank {missing} has entered")]
    Hole { rank: u32, missing: u32 },
    #[error(
        "cell {cell} may be overwritten while stage {reader} still reads it: nothing flows back from there to its writer"
    )]
    Overwritten { cell: u32, reader: usize },
    #[error(
        "rank {rank} can leave before cell {cell} has come to it from another node, and nobody else takes it off the wire"
    )]
    Unattended { cell: u32, rank: u32 },
    #[error(
        "stage {stage} gives rank {rank} a result that was added in another order than the others', so that floats may differ"
    )]
    OtherOrder { stage: usize, rank: u32 },
}
