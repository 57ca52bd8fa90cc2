//! The board: monotone counters in a segment, one cache line each. It does not know what they count. Invariant: each has one
//! writer and only grows, so a reader that is late sees at least what it waits for.

use super::{Segment, sync};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that one counter takes: a cache line, so that a writer disturbs only those who wait for this very counter.
pub const COUNTER_BYTES: usize = 64;

/// A row of counters at a place in a segment, as any rank that maps it holds it.
#[derive(Clone, Debug)]
pub struct Board {
    segment: Arc<Segment>,
    offset: usize,
    cells: usize,
}

impl Board {
    /// `cells` counters from byte `offset` of `segment` on, which were zero at first.
    ///
    /// # Panics
    /// When the place is not aligned to `COUNTER_BYTES` or does not lie inside the segment.
    pub fn new(segment: Arc<Segment>, offset: usize, cells: usize) -> Board {
        assert!(
            offset.is_multiple_of(COUNTER_BYTES),
            "a board at offset {offset} would share cache lines"
        );
        segment.at(offset, cells * COUNTER_BYTES);
        Board {
            segment,
            offset,
            cells,
        }
    }

    /// Bytes that `cells` counters take.
    pub const fn bytes(cells: usize) -> usize {
        cells * COUNTER_BYTES
    }

    /// Number of counters.
    pub fn cells(&self) -> usize {
        self.cells
    }

    #[inline]
    fn counter(&self, cell: usize) -> &AtomicU64 {
        assert!(
            cell < self.cells,
            "counter {cell} of a board of {}",
            self.cells
        );
        let at = self
            .segment
            .at(self.offset + cell * COUNTER_BYTES, COUNTER_BYTES);
        // SAFETY: aligned and inside the segment, as checked; the segment lives as long as `self`; all who touch these bytes do
        // so through this function.
        unsafe { AtomicU64::from_ptr(at.cast()) }
    }

    /// The counter's value; all that its writer wrote before is visible (`Acquire`).
    ///
    /// # Panics
    /// When there is no such cell.
    #[inline]
    pub fn load(&self, cell: usize) -> u64 {
        sync::observe(self.counter(cell))
    }

    /// Raises the counter to `value` (`Release`). Ring the readers' doorbells afterwards.
    ///
    /// # Panics
    /// When there is no such cell; in debug builds also when the counter would not grow.
    #[inline]
    pub fn store(&self, cell: usize, value: u64) {
        let counter = self.counter(cell);
        debug_assert!(
            counter.load(Ordering::Relaxed) < value,
            "counter {cell} would go from {} to {value}",
            counter.load(Ordering::Relaxed)
        );
        sync::publish(counter, value);
    }
}
