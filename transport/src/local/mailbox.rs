//! One ring of notices from one sender to one receiver, in the receiver's segment. It knows no bytes and no doorbell. Invariant:
//! one producer, one consumer; `tail` and `head` only grow, `tail - head <= NOTICES`, and a slot is written only outside of that span.

use crate::shm::{Segment, sync};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Notices that one ring holds; more wait with the sender.
pub const NOTICES: u64 = 64;
/// A line for the producer (tail, and whether it waits for room), one for the consumer (head), then the slots.
pub const RING_BYTES: usize = 128 + 4 * NOTICES as usize;

const TAIL: usize = 0;
const HUNGRY: usize = 8;
const HEAD: usize = 64;
const SLOTS: usize = 128;

/// The ring's place; both ends hold one.
#[derive(Debug)]
struct Ring {
    segment: Arc<Segment>,
    offset: usize,
}

impl Ring {
    fn word64(&self, at: usize) -> &AtomicU64 {
        // SAFETY: the ring begins at a cache line inside the segment, which lives as long as `self`; all who touch its words do
        // so as these atomics.
        unsafe { AtomicU64::from_ptr(self.segment.at(self.offset + at, 8).cast()) }
    }

    fn word32(&self, at: usize) -> &AtomicU32 {
        // SAFETY: as in `word64`.
        unsafe { AtomicU32::from_ptr(self.segment.at(self.offset + at, 4).cast()) }
    }

    fn slot(&self, number: u64) -> &AtomicU32 {
        self.word32(SLOTS + 4 * (number % NOTICES) as usize)
    }
}

/// The sender's end.
#[derive(Debug)]
pub struct Producer {
    ring: Ring,
    tail: u64,
}

impl Producer {
    /// The ring at byte `offset` (a multiple of 64) of `segment`, where `RING_BYTES` begin that were zero at first.
    pub fn new(segment: Arc<Segment>, offset: usize) -> Producer {
        let ring = Ring { segment, offset };
        let tail = ring.word64(TAIL).load(Ordering::Relaxed);
        Producer { ring, tail }
    }

    /// Appends a notice; `false` when the ring is full, in which case the consumer will say `true` in `Consumer::drain` for the
    /// sake of a producer who sleeps.
    pub fn push(&mut self, notice: u32) -> bool {
        if self.try_push(notice) {
            return true;
        }
        // The consumer may have made room between the look and the announcement.
        let hungry = self.ring.word32(HUNGRY);
        sync::announce(hungry, 1);
        let pushed = self.try_push(notice);
        if pushed {
            sync::withdraw(self.ring.word32(HUNGRY));
        }
        pushed
    }

    fn try_push(&mut self, notice: u32) -> bool {
        if self.tail - sync::observe(self.ring.word64(HEAD)) >= NOTICES {
            return false;
        }
        self.ring.slot(self.tail).store(notice, Ordering::Relaxed);
        self.tail += 1;
        // Publishes the notice, and the bytes of its put that were copied before.
        sync::publish(self.ring.word64(TAIL), self.tail);
        true
    }
}

/// The receiver's end.
#[derive(Debug)]
pub struct Consumer {
    ring: Ring,
    head: u64,
}

impl Consumer {
    /// The ring at byte `offset` (a multiple of 64) of `segment`, where `RING_BYTES` begin that were zero at first.
    pub fn new(segment: Arc<Segment>, offset: usize) -> Consumer {
        let ring = Ring { segment, offset };
        let head = ring.word64(HEAD).load(Ordering::Relaxed);
        Consumer { ring, head }
    }

    /// Takes all notices that are there, in order. Returns whether the producer waits for room and has to be woken.
    pub fn drain(&mut self, mut take: impl FnMut(u32)) -> bool {
        let tail = sync::observe(self.ring.word64(TAIL));
        if self.head == tail {
            return false;
        }
        while self.head != tail {
            take(self.ring.slot(self.head).load(Ordering::Relaxed));
            self.head += 1;
        }
        sync::publish(self.ring.word64(HEAD), self.head);
        sync::published();
        sync::take_announcement(self.ring.word32(HUNGRY)) != sync::AWAKE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_refuses_and_tells_the_consumer_to_wake() {
        let segment = Arc::new(Segment::heap(RING_BYTES));
        let (mut producer, mut consumer) =
            (Producer::new(segment.clone(), 0), Consumer::new(segment, 0));
        let mut next = 7_u32;
        for round in 0..50 {
            let room = 1 + (round * 13) % NOTICES;
            let first = next;
            for _ in 0..room {
                assert!(producer.push(next));
                next += 1;
            }
            let mut got = Vec::new();
            assert!(
                !consumer.drain(|notice| got.push(notice)),
                "nobody waited for room"
            );
            assert_eq!(got, (first..next).collect::<Vec<_>>());
        }
        for i in 0..NOTICES {
            assert!(producer.push(i as u32));
        }
        assert!(!producer.push(1000) && !producer.push(1000));
        let mut last = None;
        assert!(consumer.drain(|notice| last = Some(notice)));
        assert_eq!(last, Some(NOTICES as u32 - 1));
        assert!(!consumer.drain(|_| panic!("the ring is empty")));
        assert!(producer.push(1000));
        assert!(!consumer.drain(|notice| assert_eq!(notice, 1000)));
    }
}
