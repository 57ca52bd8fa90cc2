//! The only arithmetic on bytes: where a cell keeps chunk c in its node's segment, and which elements of a user's buffer a piece of chunk c
//! is. It knows no rank's pointers and no data type but its size. Invariants: slots of different cells never overlap; the pieces
//! of all chunks of a buffer cover each element exactly once; a piece never exceeds its slot.

use crate::plan::{Act, CellId, Cost, Model, Piece, Plan, Wanted, choose};

/// Bytes of the header in front of the data of every slot: one cache line.
pub const HEADER: usize = 64;

/// Where in that line a slot's stamp is: which chunk it holds, plus 1, once a rank of the node has written it. Readers of the node wait
/// for it, and so get the header with what they wait for; from a wire it means nothing.
pub const STAMP: usize = 56;

/// Plans whose slots would take more bytes of a node use smaller pieces: those in which every rank has a cell for every other grow with the
/// square of the ranks.
pub const MOST_SLOTS: usize = 256 << 20;

/// The largest piece that `plan` gets by a model, and how many chunks are in flight then: its slots are made for them.
pub fn largest(model: &Model, plan: &Plan, cost: &Cost) -> (usize, usize) {
    let large = Wanted { bytes: 1 << 30 };
    let mut piece = choose(model, &plan.shape, std::slice::from_ref(cost), large).piece;
    // Nobody sends a large buffer by a one-shot plan: its slots need only hold what it is chosen for.
    if plan.name == "one_shot" {
        piece = piece.min(64 << 10);
    }
    loop {
        let window = model.window(&plan.shape, cost, piece);
        let layout = Layout::new(plan, piece, window);
        let most = (0..plan.shape.nodes()).map(|n| layout.bytes(n)).max();
        if most <= Some(MOST_SLOTS) || piece <= model.piece.0 {
            return (piece, window);
        }
        piece /= 2;
    }
}

/// Where a cell's slots begin. Two cells may change places each time that all slots have been used, so that a rank writes where it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    even: usize,
    odd: usize,
}

impl Slots {
    /// Those that begin at `even`, and at `odd` when they have changed places.
    pub fn new(even: usize, odd: usize) -> Slots {
        Slots { even, odd }
    }

    /// The one that is used in a turn.
    #[inline]
    pub fn at(self, turn: Turn) -> usize {
        turn.offset + if turn.odd { self.odd } else { self.even }
    }
}

/// Which slot of every cell a chunk uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Bytes from a cell's first slot.
    offset: usize,
    /// Whether cells that change places have changed.
    odd: bool,
}

impl Turn {
    /// The turn of `chunk`, counted from when the plan was installed, where every cell has so many slots of so many bytes.
    #[inline]
    pub fn of(chunk: u64, slots: u64, slot_bytes: usize) -> Turn {
        Turn {
            offset: (chunk % slots) as usize * slot_bytes,
            odd: chunk / slots % 2 == 1,
        }
    }

    /// The turn of the next chunk.
    #[inline]
    pub fn next(self, slots: u64, slot_bytes: usize) -> Turn {
        let offset = self.offset + slot_bytes;
        if offset < slots as usize * slot_bytes {
            return Turn { offset, ..self };
        }
        Turn {
            offset: 0,
            odd: !self.odd,
        }
    }
}

/// Where one plan's cells lie. The same on every rank; offsets are relative to what the plan was given on each node.
#[derive(Clone, Debug)]
pub struct Layout {
    slots: u64,
    slot_bytes: usize,
    /// By cell: its number among its node's cells (its counter).
    counter: Vec<u32>,
    /// By cell: its number among those of its node's cells that hold bytes.
    data: Vec<u32>,
    counters: Vec<usize>,
    bytes: Vec<usize>,
    /// By node: bytes of the cells that ranks take their input into, which come first.
    taken: Vec<usize>,
}

impl Layout {
    /// Lays out `plan` for pieces of at most `piece` bytes and `window` chunks in flight.
    pub fn new(plan: &Plan, piece: usize, window: usize) -> Layout {
        let nodes = plan.shape.nodes();
        let slots = u64::from(plan.turns) * window as u64;
        // One more line per slot keeps the slots of different cells from falling into the same cache sets at powers of two.
        // Where processors fetch lines in pairs, the header brings the first line of data along.
        let slot_bytes = (HEADER + piece + HEADER).next_multiple_of(2 * HEADER);
        let mut counters = vec![0; nodes];
        let mut filled = vec![0; nodes];
        let mut counter = Vec::new();
        for cell in &plan.cells {
            let node = cell.node as usize;
            counter.push(counters[node] as u32);
            counters[node] += 1;
        }
        let mut lands = vec![false; plan.cells.len()];
        let takes = plan
            .stages
            .iter()
            .filter(|s| matches!(s.act, Act::Take { .. }));
        for cell in takes.filter_map(|stage| stage.to) {
            lands[cell.index()] = true;
        }
        let mut data = vec![0; plan.cells.len()];
        let mut fill = |first: bool| {
            for (i, cell) in plan
                .cells
                .iter()
                .enumerate()
                .filter(|(i, _)| lands[*i] == first)
            {
                let node = cell.node as usize;
                data[i] = filled[node] as u32;
                filled[node] += usize::from(cell.bytes);
            }
            let bytes = filled.iter().map(|n| n * slots as usize * slot_bytes);
            bytes.collect()
        };
        let taken = fill(true);
        let bytes = fill(false);
        Layout {
            slots,
            slot_bytes,
            counter,
            data,
            counters,
            bytes,
            taken,
        }
    }

    /// Slots per cell.
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// Bytes from one slot of a cell to its next.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Offsets of all stamps on `node`, relative to its slots.
    pub fn stamps(&self, node: usize) -> impl Iterator<Item = usize> {
        (0..self.bytes[node])
            .step_by(self.slot_bytes)
            .map(|slot| slot + STAMP)
    }

    /// Counters the plan needs on `node`.
    pub fn counters(&self, node: usize) -> usize {
        self.counters[node]
    }

    /// Bytes of slots the plan needs on `node`.
    pub fn bytes(&self, node: usize) -> usize {
        self.bytes[node]
    }

    /// Bytes of those slots that ranks take their input into; they come first.
    pub fn taken(&self, node: usize) -> usize {
        self.taken[node]
    }

    /// The cell's number among its node's counters.
    pub fn counter(&self, cell: CellId) -> usize {
        self.counter[cell.index()] as usize
    }

    /// Offset of the cell's first slot among its node's slots.
    pub fn cell(&self, cell: CellId) -> usize {
        self.data[cell.index()] as usize * self.slots as usize * self.slot_bytes
    }
}

/// How one call's buffers fall into blocks, chunks and pieces. Counts are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Elements in a block, the last (divided) ones may be shorter.
    stride: usize,
    /// Elements that the divided buffer has in all; for shares, elements of one share.
    count: usize,
    divided: bool,
    parts: usize,
    /// Elements per piece.
    piece: usize,
    chunks: u64,
}

/// Elements to which divided blocks are rounded, so that with an aligned buffer every block starts on a cache line.
const ROUND: usize = 64;

impl Extent {
    /// The extent of a call with `count` elements (of a share, where buffers are made of shares; the longest, where they differ), in pieces
    /// of at most `piece` bytes of elements of `size` bytes.
    pub fn new(plan: &Plan, count: usize, size: usize, piece: usize) -> Extent {
        let divided = plan.collective.shares(plan.shape.ranks()).is_none();
        let blocks = if divided { plan.blocks as usize } else { 1 };
        let stride = if blocks > 1 {
            count.div_ceil(blocks).next_multiple_of(ROUND)
        } else {
            count
        };
        let parts = plan.parts as usize;
        let most = (piece / size).max(1);
        if parts == 1 && stride <= most {
            // What follows comes to the same, with four divisions; calls this small notice them.
            let piece = stride.max(1).next_multiple_of(ROUND).min(most);
            return Extent {
                stride,
                count,
                divided,
                parts,
                piece,
                chunks: 1,
            };
        }
        let chunks = stride.div_ceil(parts * most).max(1);
        // Spread evenly over chunks and parts: the last chunk is not a crumb, and every rank has its share.
        let even = stride.div_ceil(parts * chunks).max(1);
        let piece = even.next_multiple_of(ROUND.min(most)).min(most);
        Extent {
            stride,
            count,
            divided,
            parts,
            piece,
            chunks: stride.div_ceil(parts * piece).max(1) as u64,
        }
    }

    /// Chunks of the call; at least one, so that a call without elements is still compared with the others'.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Elements of the largest piece.
    pub fn piece(&self) -> usize {
        self.piece
    }

    /// First element and number of elements of `piece` in the call's `chunk`, relative to a buffer of all its blocks.
    pub fn span(&self, piece: Piece, chunk: u64) -> (usize, usize) {
        let block = piece.block as usize * self.stride;
        let len = if self.divided {
            self.stride.min(self.count.saturating_sub(block))
        } else {
            self.stride
        };
        let (start, count) = self.within(piece.part, chunk, len);
        (block + start, count)
    }

    /// The same for a block that lies anywhere and has `len` elements, relative to the block.
    pub fn within(&self, part: u32, chunk: u64, len: usize) -> (usize, usize) {
        let start = (chunk as usize * self.parts + part as usize) * self.piece;
        let start = start.min(len);
        (start, self.piece.min(len - start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_each_other() {
        for slots in 1..6 {
            let mut turn = Turn::of(0, slots, 192);
            for chunk in 1..40 {
                turn = turn.next(slots, 192);
                assert_eq!(turn, Turn::of(chunk, slots, 192), "chunk {chunk}");
            }
        }
    }
}
