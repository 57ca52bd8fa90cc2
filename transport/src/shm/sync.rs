//! The protocol of counters and doorbells, over atomics alone: it knows no segment, no futex and no clock, so that loom can
//! run the very same code (`tests/loom_doorbell.rs`). Invariant: a sleeper whose `recheck` said no is woken by every writer that
//! publishes later: one announces and then looks, the other publishes and then looks, so at least one sees the other.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Doorbell word: the rank is awake, ringing costs nothing.
pub const AWAKE: u32 = 0;
/// Doorbell word: the rank sleeps on the word itself, as a futex.
pub const ON_FUTEX: u32 = 1;
/// Doorbell word: the rank sleeps in poll, on its eventfd and the wire's sockets.
pub const IN_POLL: u32 = 2;

/// Raises a counter; what was written before is visible to whoever reads the new value with `observe`.
#[inline]
pub fn publish(counter: &AtomicU64, value: u64) {
    counter.store(value, Ordering::Release);
}

/// Reads a counter that another rank raises.
#[inline]
pub fn observe(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Acquire)
}

/// The ringing side, after any number of `publish`es and before `take_announcement`.
#[inline]
pub fn published() {
    // Pairs with the fence of `announce`. A store (of the counter) before a load (of the word) is the one order that neither
    // release nor acquire gives: without this fence both sides may read the old value, and the sleeper sleeps for good.
    fence(Ordering::SeqCst);
}

/// The ringing side, after `published`: takes the announcement of a sleeper away and returns it, so that the caller wakes it.
/// `AWAKE` means that nobody has to be woken. One of several ringers gets the announcement, and one wake is enough.
#[inline]
pub fn take_announcement(word: &AtomicU32) -> u32 {
    let mut seen = word.load(Ordering::Relaxed);
    while seen != AWAKE {
        // Not a swap: a ringer that comes too late to take anything must leave no store behind, and every store to the word is
        // then ordered with the next announcement by these acquire-release pairs (which is also all that loom can follow).
        match word.compare_exchange(seen, AWAKE, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(how) => return how,
            Err(now) => seen = now,
        }
    }
    AWAKE
}

/// The sleeping side, before it looks a last time whether there is anything to do.
#[inline]
pub fn announce(word: &AtomicU32, how: u32) {
    word.store(how, Ordering::Relaxed);
    // Pairs with the fence of `published`.
    fence(Ordering::SeqCst);
}

/// Takes the own announcement back. A ringer that came first may still wake us, or leave one wake behind for the next sleep:
/// harmless, every sleeper looks for itself.
#[inline]
pub fn withdraw(word: &AtomicU32) {
    word.swap(AWAKE, Ordering::AcqRel);
}

/// One sleep: announces, looks again, and sleeps only if there is still nothing. `sleep` must return at once when `word` no
/// longer holds `how`, or when a ringer wakes it. Returns what `recheck` said.
pub fn park(
    word: &AtomicU32,
    how: u32,
    mut recheck: impl FnMut() -> bool,
    sleep: impl FnOnce(),
) -> bool {
    announce(word, how);
    let ready = recheck();
    if !ready {
        sleep();
    }
    withdraw(word);
    ready
}
