//! Registered buffers: memory in the node's segment that other local ranks can read and write, so that calls on it copy nothing in or out.
//! Each rank has a stretch of the segment of its own and hands it out first-fit in pages, what fills a huge page from the start of one on; pages are reserved before they are handed
//! out, so a lack of memory is an error here, and given back on drop.

use super::fork::Generation;
use crate::{
    dtype::Element,
    error::{Error, Kind},
};
use hfr_transport::shm::{HUGE, Segment};
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex},
};

/// Buffers start on pages of this size, which is also the unit of reserving.
const PAGE: usize = 4096;

/// One rank's stretch of the segment.
pub struct Heap {
    segment: Arc<Segment>,
    born: Generation,
    /// Free stretches by offset, never touching each other.
    free: Mutex<Vec<(usize, usize)>>,
}

impl Heap {
    /// The `bytes` bytes from `at` on.
    pub fn new(segment: Arc<Segment>, at: usize, bytes: usize) -> Heap {
        Heap {
            segment,
            born: Generation::default(),
            free: Mutex::new(vec![(at, bytes)]),
        }
    }

    /// Part of the first stretch that has room, from where huge pages can start if they can anywhere.
    fn take(&self, bytes: usize) -> Option<usize> {
        let mut free = self.free.lock().ok()?;
        let room = |step: usize| {
            let fits = |&(at, len): &(usize, usize)| at.next_multiple_of(step) + bytes <= at + len;
            Some((step, free.iter().position(fits)?))
        };
        let aligned = if bytes < HUGE { None } else { room(HUGE) };
        let (step, i) = aligned.or_else(|| room(PAGE))?;
        let (at, len) = free.remove(i);
        let taken = at.next_multiple_of(step);
        let (before, behind) = ((at, taken - at), (taken + bytes, at + len - taken - bytes));
        for stretch in [behind, before] {
            if stretch.1 > 0 {
                free.insert(i, stretch);
            }
        }
        Some(taken)
    }

    fn put_back(&self, at: usize, bytes: usize) {
        let Ok(mut free) = self.free.lock() else {
            return;
        };
        let i = free.partition_point(|(a, _)| *a < at);
        free.insert(i, (at, bytes));
        if i + 1 < free.len() && at + bytes == free[i + 1].0 {
            free[i].1 += free[i + 1].1;
            free.remove(i + 1);
        }
        if i > 0 && free[i - 1].0 + free[i - 1].1 == at {
            free[i - 1].1 += free[i].1;
            free.remove(i);
        }
    }

    /// `count` elements, all zero bits.
    pub fn alloc<T: Element>(self: &Arc<Heap>, count: usize) -> Result<Registered<T>, Error> {
        let wanted = count
            .checked_mul(size_of::<T>())
            .and_then(|b| b.max(1).checked_next_multiple_of(PAGE));
        let none = || {
            Error::new(
                Kind::Memory,
                format!(
                    "no room for {count} elements of {} bytes in this rank's registered memory",
                    size_of::<T>()
                ),
                "free other registered buffers first",
            )
        };
        let bytes = wanted.ok_or_else(none)?;
        let at = self.take(bytes).ok_or_else(none)?;
        if let Err(error) = self.segment.reserve(at, bytes) {
            // A part may have been reserved.
            let _ = self.segment.release(at, bytes);
            self.put_back(at, bytes);
            return Err(Error::new(Kind::Memory, error.cause, error.remedy));
        }
        Ok(Registered {
            heap: self.clone(),
            at,
            bytes,
            count,
            of: std::marker::PhantomData,
        })
    }
}

/// A buffer in the node's segment; use it like a slice. Calls on it copy nothing in or out.
///
/// After a call has failed its contents are unspecified, and so they are while one runs on it: other ranks of the node work on it.
pub struct Registered<T: Element> {
    heap: Arc<Heap>,
    at: usize,
    bytes: usize,
    count: usize,
    of: std::marker::PhantomData<T>,
}

impl<T: Element> Deref for Registered<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let at = self.heap.segment.at(self.at, self.bytes);
        // SAFETY: page-aligned, inside the segment, ours until dropped; any bits are a `T` (`Element` is plain data).
        unsafe { std::slice::from_raw_parts(at.cast(), self.count) }
    }
}

impl<T: Element> DerefMut for Registered<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let at = self.heap.segment.at(self.at, self.bytes);
        // SAFETY: as in `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(at.cast(), self.count) }
    }
}

impl<T: Element> Drop for Registered<T> {
    fn drop(&mut self) {
        if self.heap.born.is_past() {
            // The pages are the parent's, who goes on using them.
            std::mem::forget(self.heap.clone());
            return;
        }
        // Pages that cannot be given back now are given back with the segment.
        let _ = self.heap.segment.release(self.at, self.bytes);
        self.heap.put_back(self.at, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fills_a_huge_page_starts_on_one_and_all_comes_back() {
        let room = 8 * HUGE;
        let heap = Heap::new(Arc::new(Segment::heap(0)), PAGE, room);
        let small = heap.take(PAGE).unwrap();
        let large = heap.take(HUGE + PAGE).unwrap();
        let next = heap.take(3 * PAGE).unwrap();
        let exact = heap.take(2 * HUGE).unwrap();
        assert_eq!(
            (small, large, next, exact),
            (PAGE, HUGE, 2 * PAGE, 3 * HUGE)
        );
        // Where no huge page can start with enough room behind, any page will do.
        assert_eq!(heap.take(4 * HUGE), None);
        let last = heap.take(3 * HUGE + PAGE).unwrap();
        assert_eq!(last, 5 * HUGE);
        assert_eq!(heap.take(2 * HUGE), None);
        heap.put_back(exact, 2 * HUGE);
        heap.put_back(large, HUGE + PAGE);
        assert_eq!(heap.take(4 * HUGE + PAGE), Some(5 * PAGE));
        heap.put_back(5 * PAGE, 4 * HUGE + PAGE);
        let large = heap.take(HUGE + PAGE).unwrap();
        let exact = heap.take(2 * HUGE).unwrap();
        for (at, bytes) in [
            (large, HUGE + PAGE),
            (small, PAGE),
            (last, 3 * HUGE + PAGE),
            (exact, 2 * HUGE),
            (next, 3 * PAGE),
        ] {
            heap.put_back(at, bytes);
        }
        assert_eq!(*heap.free.lock().unwrap(), [(PAGE, room)]);
    }
}
