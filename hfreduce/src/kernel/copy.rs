//! Plain copies, with ordinary or non-temporal stores, and the fence that ends non-temporal ones. Knows nothing of elements.
//! Invariant: when a streaming copy returns, its stores are ordered before any later store of this thread.

use super::Store;

/// Copies of at most so many bytes ask for their lines first.
const SMALL: usize = 16 << 10;
/// Lines are asked for so many bytes at a time: about what a core can have under way.
const BLOCK: usize = 4 << 10;
const PART: usize = 1 << 10;

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

/// As [`copy`] with ordinary stores, to where another core has just read: all lines of a small copy are asked for at once, where the stores
/// alone would take them from that core one after the other (2 KiB over two ranks: 1.4 to 1.0 us). Larger copies go at the pace of the bytes either way.
///
/// # Safety
///
/// As [`copy`].
pub unsafe fn copy_shared(src: *const u8, dst: *mut u8, bytes: usize) {
    if bytes > SMALL {
        // SAFETY: the caller's promise is the same.
        unsafe { std::ptr::copy_nonoverlapping(src, dst, bytes) };
        return;
    }
    for block in (0..bytes).step_by(BLOCK) {
        let end = bytes.min(block + BLOCK);
        expect(dst.wrapping_add(block), end - block);
        // In parts for which the C library uses vector stores: its string instruction asks for lines by itself, and later.
        for at in (block..end).step_by(PART) {
            let part = PART.min(end - at);
            // SAFETY: a part of what the caller promises.
            unsafe { std::ptr::copy_nonoverlapping(src.add(at), dst.add(at), part) };
        }
    }
}

/// Asks for the cache lines of memory that this core writes soon. Changes nothing.
#[inline]
pub fn expect(at: *const u8, bytes: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for offset in (0..bytes).step_by(64) {
        // Not the intrinsic, which asks for reading only where the baseline lacks the instruction. Processors that lack it do nothing.
        // SAFETY: a prefetch of any address is harmless.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) at.wrapping_add(offset), options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (at, bytes);
}

/// Asks for the cache lines of memory that this core reads soon. Changes nothing.
#[inline(always)]
pub(super) fn need(at: *const u8, bytes: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for offset in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is harmless, and the instruction belongs to the x86-64 baseline.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(offset).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (at, bytes);
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
