//! Counters and doorbells under loom: every order in which the threads' steps and their memory effects can interleave. Runs with
//! `RUSTFLAGS="--cfg loom" cargo test -p hfr-transport --release --test loom_doorbell` and a target folder of its own.
//! A lost wake-up is a deadlock here, which loom reports. The futex is modelled as what the kernel promises: it sleeps only if the
//! word still holds the value, and a wake between that look and the sleep is not lost.
#![cfg(loom)]

use hfr_transport::shm::sync;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

#[derive(Default)]
struct Kernel {
    wakes: Mutex<u64>,
    woken: Condvar,
}

impl Kernel {
    fn wait(&self, word: &AtomicU32, value: u32) {
        let mut wakes = self.wakes.lock().unwrap();
        let before = *wakes;
        if word.load(Ordering::Relaxed) != value {
            return;
        }
        while *wakes == before {
            wakes = self.woken.wait(wakes).unwrap();
        }
    }

    fn wake(&self) {
        *self.wakes.lock().unwrap() += 1;
        self.woken.notify_all();
    }
}

struct Node {
    word: AtomicU32,
    counters: [AtomicU64; 2],
    bytes: [UnsafeCell<u64>; 2],
    kernel: Kernel,
}

// SAFETY: `bytes` is handed over by the counters; loom itself checks that no access races.
unsafe impl Sync for Node {}
// SAFETY: as above.
unsafe impl Send for Node {}

fn node() -> Arc<Node> {
    Arc::new(Node {
        word: AtomicU32::new(sync::AWAKE),
        counters: [AtomicU64::new(0), AtomicU64::new(0)],
        bytes: [UnsafeCell::new(0), UnsafeCell::new(0)],
        kernel: Kernel::default(),
    })
}

impl Node {
    /// What a writer does: bytes, counter, doorbell.
    fn write(&self, cell: usize, value: u64, take: impl Fn(&AtomicU32) -> u32) {
        // SAFETY: the reader looks only after the counter says so; loom checks it.
        self.bytes[cell].with_mut(|at| unsafe { *at = 10 * value });
        sync::publish(&self.counters[cell], value);
        if take(&self.word) != sync::AWAKE {
            self.kernel.wake();
        }
    }

    /// What the reader does: sleeps until the counter is there, then reads the bytes.
    fn read(&self, cell: usize, value: u64) {
        let ready = || sync::observe(&self.counters[cell]) >= value;
        while !ready() {
            sync::park(&self.word, sync::ON_FUTEX, ready, || {
                self.kernel.wait(&self.word, sync::ON_FUTEX)
            });
        }
    }

    fn bytes(&self, cell: usize) -> u64 {
        // SAFETY: the counter was observed before; loom checks that this does not race with the writer.
        self.bytes[cell].with(|at| unsafe { *at })
    }
}

fn ring(word: &AtomicU32) -> u32 {
    sync::published();
    sync::take_announcement(word)
}

#[test]
fn one_writer_and_one_sleeper() {
    loom::model(|| {
        let node = node();
        let writer = thread::spawn({
            let node = node.clone();
            move || node.write(0, 1, ring)
        });
        node.read(0, 1);
        assert_eq!(node.bytes(0), 10);
        writer.join().unwrap();
    });
}

#[test]
fn two_writers_ring_one_sleeper() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let node = node();
        let writers = [0, 1].map(|cell| {
            let node = node.clone();
            thread::spawn(move || node.write(cell, 1, ring))
        });
        node.read(0, 1);
        node.read(1, 1);
        assert_eq!((node.bytes(0), node.bytes(1)), (10, 10));
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn a_ring_of_the_last_sleep_does_not_spoil_the_next() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let node = node();
        let writer = thread::spawn({
            let node = node.clone();
            move || {
                node.write(0, 1, ring);
                node.write(1, 1, ring);
            }
        });
        node.read(0, 1);
        node.read(1, 1);
        assert_eq!(node.bytes(1), 10);
        writer.join().unwrap();
    });
}

/// A writer may ring once for several counters.
#[test]
fn one_ring_for_two_counters() {
    loom::model(|| {
        let node = node();
        let writer = thread::spawn({
            let node = node.clone();
            move || {
                node.write(0, 1, |_| sync::AWAKE);
                node.write(1, 1, ring);
            }
        });
        node.read(0, 1);
        node.read(1, 1);
        assert_eq!((node.bytes(0), node.bytes(1)), (10, 10));
        writer.join().unwrap();
    });
}

/// The fence is not decoration: the same protocol without it is caught, so the tests above can fail.
#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_a_wake_up_is_lost() {
    loom::model(|| {
        let node = node();
        let writer = thread::spawn({
            let node = node.clone();
            let fenceless = |word: &AtomicU32| match word.load(Ordering::Relaxed) {
                sync::AWAKE => sync::AWAKE,
                _ => word.swap(sync::AWAKE, Ordering::Relaxed),
            };
            move || node.write(0, 1, fenceless)
        });
        node.read(0, 1);
        writer.join().unwrap();
    });
}
