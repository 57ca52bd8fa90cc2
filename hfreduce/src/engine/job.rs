//! One call as the engine sees it: pointers, extent, kernel. The pointers are promised by whoever submits the job to stay good until the
//! engine says that the job is finished or is never stepped again.

use crate::{
    call::Call,
    device::Sides,
    kernel::{Kernel, Store},
    layout::Extent,
    plan::Piece,
};
use std::sync::Arc;

/// Which job of which installed plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobId {
    /// Plans that were forgotten take all their jobs with them, which were done.
    pub(super) epoch: u64,
    pub(super) run: usize,
    /// The plan's chunk number behind the job's last one.
    pub(super) end: u64,
}

impl JobId {
    /// Number of the plan it runs on. Jobs on one plan end in the order in which they were submitted.
    pub fn run(self) -> usize {
        self.run
    }
}

/// A block of a buffer, wherever it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its first element. Not written where it is an input.
    pub at: *mut u8,
    /// Its elements.
    pub count: usize,
}

// SAFETY: a plain address; whoever makes the call promises the memory.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

/// Buffers that are in blocks, one for each block of the plan, each anywhere in memory and with a length of its own. An empty list: that side is
/// in one piece, at the call's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// Blocks of the input.
    pub input: Vec<Block>,
    /// Blocks of the output.
    pub output: Vec<Block>,
}

/// One call's memory and meaning.
#[derive(Clone, Debug)]
pub struct Job {
    /// What all ranks agree on.
    pub call: Call,
    /// Start of the input; not read where the rank has none.
    pub input: *const u8,
    /// Start of the output; not written where the rank gets none.
    pub output: *mut u8,
    /// Where the blocks lie, if not one behind the other.
    pub blocks: Option<Arc<Blocks>>,
    /// Which of the buffers the CPU cannot read: they are copied by the engine's device.
    pub sides: Sides,
    /// How the buffers fall into pieces.
    pub extent: Extent,
    /// Bytes per element.
    pub size: usize,
    /// The addition, where there is one.
    pub kernel: Option<Kernel>,
    /// How results that nobody reads soon are written.
    pub store: Store,
    /// Pieces of the input of at least so many bytes are read where they lie in this rank's memory, where the plan and the system allow it.
    pub shown_from: usize,
}

// SAFETY: the pointers are only used by the engine that owns the job, on whatever one thread runs it at a time.
unsafe impl Send for Job {}

impl Job {
    /// Address of `piece` of chunk `chunk` (counted from the job's first) in the input, and its number of elements.
    pub(super) fn input(&self, piece: Piece, chunk: u64) -> (*const u8, usize) {
        let blocks = self.blocks.as_ref().map_or(&[][..], |b| &b.input);
        let (at, count) = self.place(blocks, self.input.cast_mut(), piece, chunk);
        (at.cast_const(), count)
    }

    /// The same in the output.
    pub(super) fn output(&self, piece: Piece, chunk: u64) -> (*mut u8, usize) {
        let blocks = self.blocks.as_ref().map_or(&[][..], |b| &b.output);
        self.place(blocks, self.output, piece, chunk)
    }

    fn place(
        &self,
        blocks: &[Block],
        whole: *mut u8,
        piece: Piece,
        chunk: u64,
    ) -> (*mut u8, usize) {
        let (at, (first, count)) = match blocks.get(piece.block as usize) {
            Some(block) => (block.at, self.extent.within(piece.part, chunk, block.count)),
            None => (whole, self.extent.span(piece, chunk)),
        };
        (at.wrapping_add(first * self.size), count)
    }
}
