//! The bytes themselves: copies in pieces, fills, and words that streams wait for or write. It knows no queue and no rule but that host memory must still be
//! mapped. Invariants: the destination's bytes are of no use until the copy has ended, in whatever order its pieces go.

use crate::{
    act::{Copy, Side, Way},
    driver::{driver, state},
    misuse::{misuse, range},
    random::Random,
};
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// What destinations of copies hold until the copy has ended: huge or not a number as floating point, large as an integer, so that no sum hides it.
const SPOILT: u8 = 0x7f;

/// Copies up to this length go in one piece, and no piece is shorter where there are several.
const LEAST_PIECE: usize = 16 << 10;
const MOST_PIECE: usize = 512 << 10;

const PAGE: usize = 4096;

/// Whether all pages of a range are mapped, as far as one can know.
pub fn is_mapped(start: usize, len: usize) -> bool {
    let mut present = [0u8; 1024];
    let end = start.saturating_add(len);
    let mut at = start & !(PAGE - 1);
    while at < end {
        let some = (end - at).min(present.len() * PAGE);
        // SAFETY: mincore reads no memory of ours but the page table, and writes one byte per page of `some`, for which there is room.
        let answer = unsafe { libc::mincore(at as *mut libc::c_void, some, present.as_mut_ptr()) };
        if answer != 0 {
            return false;
        }
        at += some;
    }
    true
}

fn demand_mapped(start: usize, len: usize) {
    if !is_mapped(start, len) {
        misuse(format!(
            "host memory {} is no longer mapped while a queued operation uses it",
            range(start, len)
        ));
    }
}

/// Where bytes lie for us: device memory has an address that can be accessed, and host memory must be there.
fn access(side: Side, len: usize) -> usize {
    match side {
        Side::Device(at) => state().memory.access(at, len),
        Side::Pinned(at) | Side::Pageable(at) => {
            demand_mapped(at, len);
            at
        }
    }
}

/// Makes the old bytes of a copy's destination unreadable, if that is still to be done.
pub fn spoil(copy: &Copy) {
    if copy.spoil {
        let to = access(copy.to, copy.len);
        // SAFETY: `access` has checked the range, which the copy is about to write in any case.
        unsafe { std::ptr::write_bytes(to as *mut u8, SPOILT, copy.len) };
    }
}

/// When the engine of each direction is free again, where copies are paced.
static FREE_AT: Mutex<[Option<Instant>; 2]> = Mutex::new([None; 2]);

/// Takes its time of the direction's engine for so many bytes.
fn pace(way: Way, bytes: usize) {
    let (Some(rate), Way::DeviceToHost | Way::HostToDevice) =
        (driver().settings.bytes_per_second, way)
    else {
        return;
    };
    let now = Instant::now();
    let end = {
        let mut free = FREE_AT.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut free[usize::from(way == Way::HostToDevice)];
        let begin = slot.map_or(now, |at| at.max(now));
        *slot.insert(begin + Duration::from_secs_f64(bytes as f64 / rate))
    };
    std::thread::sleep(end.saturating_duration_since(now));
}

/// Cuts a length at random.
fn pieces(len: usize, random: &mut Random) -> Vec<(usize, usize)> {
    let (mut all, mut at) = (Vec::new(), 0);
    while at < len {
        let some = LEAST_PIECE + random.up_to((MOST_PIECE - LEAST_PIECE) as u64) as usize;
        let some = if len - at < 2 * LEAST_PIECE {
            len - at
        } else {
            some.min(len - at)
        };
        all.push((at, some));
        at += some;
    }
    if random.up_to(1) == 1 {
        all.reverse();
    }
    all
}

/// Carries a copy out.
pub fn copy(copy: &Copy, random: &mut Random) {
    let from = access(copy.from, copy.len);
    let to = access(copy.to, copy.len);
    state().counts.begin(copy.way);
    for (at, len) in pieces(copy.len, random) {
        for side in [copy.from, copy.to] {
            if !side.is_device() {
                demand_mapped(side.address() + at, len);
            }
        }
        // SAFETY: both ranges have been checked, and who changes them meanwhile races with the device as well. They may overlap.
        unsafe { std::ptr::copy((from + at) as *const u8, (to + at) as *mut u8, len) };
        pace(copy.way, len);
        std::thread::yield_now();
    }
}

/// Fills device memory with a pattern.
pub fn fill(to: usize, pattern: [u8; 4], len: usize) {
    let at = state().memory.access(to, len);
    // SAFETY: `access` has checked the range, and device memory is accessed by operations of streams alone.
    let bytes = unsafe { std::slice::from_raw_parts_mut(at as *mut u8, len) };
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = pattern[n % 4];
    }
}

/// Reads a word of host memory that somebody may be writing.
pub fn load(at: usize, wide: bool) -> u64 {
    demand_mapped(at, if wide { 8 } else { 4 });
    if wide {
        // SAFETY: the word is mapped and aligned: the call that queued the operation has refused others.
        unsafe { AtomicU64::from_ptr(at as *mut u64) }.load(Ordering::Acquire)
    } else {
        // SAFETY: as above.
        u64::from(unsafe { AtomicU32::from_ptr(at as *mut u32) }.load(Ordering::Acquire))
    }
}

/// Writes a word of host memory that somebody may be reading.
pub fn store(at: usize, value: u64, wide: bool) {
    demand_mapped(at, if wide { 8 } else { 4 });
    if wide {
        // SAFETY: as in `load`.
        unsafe { AtomicU64::from_ptr(at as *mut u64) }.store(value, Ordering::Release);
    } else {
        // SAFETY: as in `load`.
        unsafe { AtomicU32::from_ptr(at as *mut u32) }.store(value as u32, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_length_once() {
        let mut random = Random::new(7, 7);
        let (mut several, mut backwards) = (false, false);
        for len in [1, 100, LEAST_PIECE, 3 * LEAST_PIECE, 5 << 20, (5 << 20) + 1] {
            let mut all = pieces(len, &mut random);
            several |= all.len() > 2;
            backwards |= all[0].0 > 0;
            all.sort_unstable();
            let mut at = 0;
            for (start, some) in all {
                assert_eq!(start, at);
                at += some;
            }
            assert_eq!(at, len);
        }
        assert!(several && backwards);
    }

    #[test]
    fn what_is_mapped_is_told_from_what_is_not() {
        let bytes = vec![1u8; 3 * PAGE];
        assert!(is_mapped(bytes.as_ptr() as usize, bytes.len()));
        assert!(!is_mapped(PAGE, 1));
    }
}
