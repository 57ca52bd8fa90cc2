//! Huge pages for a segment. What is copied, added and sent lies in few, long stretches, and with pages of 4 KiB the processor looks up
//! an address every 64 lines. The kernel gives shared memory huge pages of its own accord only where an administrator has asked for them, and by
//! `MADV_COLLAPSE` (from 6.1 on) where the administrator has not refused them (`deny` in `shmem_enabled`). Where it does not, pages
//! stay small: that costs time and no correctness, and is told to the log.

use std::{ffi::c_int, io, ops::Range};

/// Bytes of a huge page with pages of 4 KiB, on x86-64 and on Arm alike. A mapping that starts on a multiple of it can have them.
pub const HUGE: usize = 2 << 20;

/// Bytes of a small page.
pub(super) const SMALL: usize = 4096;
/// `MADV_COLLAPSE`, which the headers of some C libraries do not have.
const COLLAPSE: c_int = 25;

/// Of a range of bytes, the part that consists of whole huge pages.
pub(super) fn within(range: Range<usize>) -> Range<usize> {
    let start = range.start.next_multiple_of(HUGE);
    start..(range.end / HUGE * HUGE).max(start)
}

/// Which small page of the huge page at this offset is to be there first: the huge page lies on the same NUMA node. Small pages are spread over nodes by
/// their numbers; this one's number leaves the same rest as the huge page's, for any count of nodes that divides 360.
pub(super) fn first_page(at: usize) -> usize {
    // A huge page has 512 small ones: 512 + 209 = 1 + 2 * 360.
    at + at / HUGE * 209 % 360 * SMALL
}

/// Puts what lies in the mapped range into huge pages, of which each must have at least one small page in it. The bytes stay as they are.
///
/// # Safety
/// The range is mapped, and starts and ends on multiples of `HUGE`.
pub(super) unsafe fn collapse(at: *mut u8, bytes: usize) -> io::Result<()> {
    // SAFETY: moves bytes to other pages at the same addresses, also while others use them.
    match unsafe { libc::madvise(at.cast(), bytes, COLLAPSE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_spread_over_nodes_as_small_ones_are() {
        for nodes in [1, 2, 3, 4, 5, 6, 8, 9, 10, 12] {
            for page in 0..1000 {
                let first = first_page(page * HUGE);
                assert_eq!(first / HUGE, page);
                assert!(first.is_multiple_of(SMALL));
                assert_eq!(first / SMALL % nodes, page % nodes, "{page} of {nodes}");
            }
        }
    }

    #[test]
    fn only_whole_huge_pages_are_within() {
        assert_eq!(within(0..HUGE), 0..HUGE);
        assert_eq!(within(1..3 * HUGE - 1), HUGE..2 * HUGE);
        assert_eq!(within(HUGE..5 * HUGE), HUGE..5 * HUGE);
        assert!(within(1..2 * HUGE - 1).is_empty());
        assert!(within(5..6).is_empty());
    }
}
