//! One call as the engine sees it: pointers, extent, kernel. The pointers are promised by whoever submits the job to stay good until the
//! engine says that the job is finished or is never stepped again.

use crate::{
    call::Call,
    kernel::{Kernel, Store},
    layout::Extent,
    plan::Piece,
};

/// Which job of which installed plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobId {
    pub(super) run: usize,
    /// The plan's chunk number behind the job's last one.
    pub(super) end: u64,
}

/// One call's memory and meaning.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// What all ranks agree on.
    pub call: Call,
    /// Start of the input; not read where the rank has none.
    pub input: *const u8,
    /// Start of the output; not written where the rank gets none.
    pub output: *mut u8,
    /// How the buffers fall into pieces.
    pub extent: Extent,
    /// Bytes per element.
    pub size: usize,
    /// The addition, where there is one.
    pub kernel: Option<Kernel>,
    /// How results that nobody reads soon are written.
    pub store: Store,
}

// SAFETY: the pointers are only used by the engine that owns the job, on whatever one thread runs it at a time.
unsafe impl Send for Job {}

impl Job {
    /// Address of `piece` of chunk `chunk` (counted from the job's first) in the input, and its number of elements.
    pub(super) fn input(&self, piece: Piece, chunk: u64) -> (*const u8, usize) {
        let (first, count) = self.extent.span(piece, chunk);
        (self.input.wrapping_add(first * self.size), count)
    }

    /// The same in the output.
    pub(super) fn output(&self, piece: Piece, chunk: u64) -> (*mut u8, usize) {
        let (first, count) = self.extent.span(piece, chunk);
        (self.output.wrapping_add(first * self.size), count)
    }
}
