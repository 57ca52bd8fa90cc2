//! The segment: one block of memory that all ranks of a node map. It hands out addresses and nothing else; what lies
//! where is the caller's layout. Invariant: `base` stays mapped, at one address in this process, as long as the `Segment` lives.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// One node's block of shared memory. Offsets are bytes from its start and are the same in every process.
pub struct Segment {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the segment only hands out raw addresses; whoever dereferences them answers for the ordering.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A segment on this process's heap, `len` bytes, zeroed: for the simulator and for tests under an interpreter.
    pub fn heap(len: usize) -> Segment {
        let layout = Layout::from_size_align(len.max(1), 4096).expect("segment length");
        // SAFETY: the layout has a non-zero size.
        let raw = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout));
        Segment { base, len }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the segment holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of `offset`.
    ///
    /// # Panics
    /// When `offset..offset + bytes` does not lie inside the segment.
    pub fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(
            offset <= self.len && bytes <= self.len - offset,
            "{bytes} bytes at offset {offset} do not lie inside a segment of {} bytes",
            self.len
        );
        // SAFETY: the sum lies inside the allocation, as just checked.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let layout = Layout::from_size_align(self.len.max(1), 4096).expect("segment length");
        // SAFETY: allocated in `heap` with this very layout, freed once.
        unsafe { dealloc(self.base.as_ptr(), layout) }
    }
}
