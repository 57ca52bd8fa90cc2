//! What foreign threads may do with Python: leave references behind that the next attached thread drops, and call back while the
//! interpreter is not ending. Knows no buffer and no call. Invariants: a reference given to `Grave` is dropped only by a thread that is
//! attached, and nothing here holds a lock, so that a fork at any moment leaves no lock held in the child; once `end` has
//! returned no foreign thread enters Python.

use pyo3::prelude::*;
use std::{
    cell::Cell,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// References of a call, on their way from an attached thread to the thread that ends the call, and back.
pub struct Grave {
    references: Vec<Py<PyAny>>,
    next: *mut Grave,
}

// SAFETY: `next` is only used by whoever owns the list; references may be moved between threads.
unsafe impl Send for Grave {}

/// Graves that nobody has emptied yet: a stack, pushed by any thread and taken as a whole by an attached one.
static FILLED: AtomicPtr<Grave> = AtomicPtr::new(ptr::null_mut());

/// Owns references on any thread until somebody takes them; what nobody has taken is left to the next attached thread that calls into the
/// module.
pub struct Held(AtomicPtr<Grave>);

impl Held {
    /// Made while attached, so that the foreign thread needs to allocate nothing.
    pub fn new(references: Vec<Py<PyAny>>) -> Held {
        Held(AtomicPtr::new(Box::into_raw(Box::new(Grave {
            references,
            next: ptr::null_mut(),
        }))))
    }

    /// The references, for an attached thread; none if they were taken or left before.
    pub fn take(&self, _attached: Python<'_>) -> Vec<Py<PyAny>> {
        let grave = self.0.swap(ptr::null_mut(), Ordering::Acquire);
        if grave.is_null() {
            return Vec::new();
        }
        // SAFETY: came from `Box::into_raw`, and the swap made it ours alone.
        unsafe { Box::from_raw(grave) }.references
    }

    /// Leaves the references, if nobody has taken them, to the next attached thread.
    pub fn leave(&self) {
        let grave = self.0.swap(ptr::null_mut(), Ordering::Acquire);
        if grave.is_null() {
            return;
        }
        let mut top = FILLED.load(Ordering::Relaxed);
        loop {
            // SAFETY: the swap made it ours until the exchange succeeds.
            unsafe { (*grave).next = top };
            match FILLED.compare_exchange_weak(top, grave, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Drops the references of calls that have ended.
#[inline]
pub fn sweep(_attached: Python<'_>) {
    if !FILLED.load(Ordering::Relaxed).is_null() {
        sweep_all();
    }
}

#[cold]
fn sweep_all() {
    let mut next = FILLED.swap(ptr::null_mut(), Ordering::Acquire);
    while !next.is_null() {
        // SAFETY: came from `Box::into_raw`, and the swap made it ours alone.
        let grave = unsafe { Box::from_raw(next) };
        next = grave.next;
        drop(grave.references);
    }
}

/// Set when the interpreter ends.
static ENDING: AtomicBool = AtomicBool::new(false);
/// Foreign threads that are in Python or on their way.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread is the library's and runs a callback, so that calls do not go on until it returns.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether waiting for a call would be for ever.
pub fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Runs `f` attached, on a thread that runs calls; not at all once the interpreter ends.
pub fn enter(f: impl FnOnce(Python<'_>)) {
    let before = IN_CALLBACK.replace(true);
    visit(f);
    IN_CALLBACK.set(before);
}

/// Runs `f` attached, on a thread that may wait for calls; not at all once the interpreter ends.
pub fn visit(f: impl FnOnce(Python<'_>)) {
    INSIDE.fetch_add(1, Ordering::SeqCst);
    if !ENDING.load(Ordering::SeqCst) {
        Python::try_attach(f);
    }
    INSIDE.fetch_sub(1, Ordering::SeqCst);
}

/// How long the interpreter's end waits for callbacks that run.
const PATIENCE: Duration = Duration::from_secs(5);

/// From here on no foreign thread enters Python; waits, detached, for those inside.
pub fn end(py: Python<'_>) {
    ENDING.store(true, Ordering::SeqCst);
    py.detach(|| {
        let until = Instant::now() + PATIENCE;
        while INSIDE.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}
