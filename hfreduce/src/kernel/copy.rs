//! Plain copies, with ordinary or non-temporal stores, and the fence that ends non-temporal ones. Knows nothing of elements.
//! Invariant: when a streaming copy returns, its stores are ordered before any later store of this thread.

use super::Store;

/// Copies `bytes` bytes from `src` to `dst`; any alignment.
///
/// # Safety
///
/// `src` must be readable and `dst` writable for `bytes` bytes, they must not overlap, and nobody may write the one or touch
/// the other meanwhile.
pub unsafe fn copy(src: *const u8, dst: *mut u8, bytes: usize, store: Store) {
    // SAFETY: the caller's promise is the same.
    unsafe {
        match store {
            Store::Cached => std::ptr::copy_nonoverlapping(src, dst, bytes),
            Store::Streaming => stream(src, dst, bytes),
        }
    }
}

/// Orders the non-temporal stores of this thread before its later stores: without it another rank could see a counter rise
/// before the data it announces.
#[inline]
pub(super) fn fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: sfence belongs to the x86-64 baseline and touches no memory of ours.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// SSE2 is in the x86-64 baseline, and 16-byte non-temporal stores fill whole lines in the write-combining buffers just as
/// wider ones do, so there is no need to ask for more.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn stream(src: *const u8, dst: *mut u8, bytes: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    const LINE: usize = 64;
    let head = (dst.addr().wrapping_neg() % LINE).min(bytes);
    let mut at = head;
    // SAFETY: all offsets stay below `bytes`; `dst + at` is a multiple of 64 in the loop.
    unsafe {
        std::ptr::copy_nonoverlapping(src, dst, head);
        while at + LINE <= bytes {
            let (from, to) = (src.add(at).cast::<__m128i>(), dst.add(at).cast::<__m128i>());
            let line = [
                _mm_loadu_si128(from),
                _mm_loadu_si128(from.add(1)),
                _mm_loadu_si128(from.add(2)),
                _mm_loadu_si128(from.add(3)),
            ];
            _mm_stream_si128(to, line[0]);
            _mm_stream_si128(to.add(1), line[1]);
            _mm_stream_si128(to.add(2), line[2]);
            _mm_stream_si128(to.add(3), line[3]);
            at += LINE;
        }
        std::ptr::copy_nonoverlapping(src.add(at), dst.add(at), bytes - at);
    }
    fence();
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
unsafe fn stream(src: *const u8, dst: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise is the same.
    unsafe { std::ptr::copy_nonoverlapping(src, dst, bytes) }
}
