//! The calls of a communicator that are under way without a caller who waits, and what has come of them. Knows no call by what it does. Invariant: all
//! counts change together, so that nobody sees half an end.

use crate::{
    comm::lock,
    fail::{Fail, Outcome},
    value::Code,
};
use std::sync::{Condvar, Mutex, PoisonError};

/// Calls that are under way without a caller who waits, and what has come of them.
#[derive(Default)]
pub struct Calls {
    open: Mutex<Open>,
    changed: Condvar,
}

#[derive(Default)]
struct Open {
    running: usize,
    /// Those of them that streams wait for.
    on_streams: usize,
    leaving: bool,
    splits: usize,
    failed: Option<Fail>,
}

impl Calls {
    /// One more.
    pub fn begin(&self) {
        lock(&self.open).running += 1;
    }

    /// One less; the first failure stays to be told.
    pub fn end(&self, outcome: Outcome<()>) {
        self.end_of(|_| {}, outcome);
    }

    /// One less, and what else that changes: nobody sees the one without the other.
    fn end_of(&self, change: impl FnOnce(&mut Open), outcome: Outcome<()>) {
        let mut open = lock(&self.open);
        open.running -= 1;
        change(&mut open);
        if let Err(fail) = outcome {
            open.failed.get_or_insert(fail);
        }
        drop(open);
        self.changed.notify_all();
    }

    /// One more, on a stream.
    pub fn begin_on_stream(&self) {
        let mut open = lock(&self.open);
        open.running += 1;
        open.on_streams += 1;
    }

    /// One less on a stream.
    pub fn end_on_stream(&self, outcome: Outcome<()>) {
        self.end_of(|open| open.on_streams -= 1, outcome);
    }

    /// Taking leave begins, as one more call; whether it had not begun before.
    pub fn begin_leaving(&self) -> bool {
        let mut open = lock(&self.open);
        let first = !std::mem::replace(&mut open.leaving, true);
        open.running += usize::from(first);
        first
    }

    /// A split begins: no other call until it has ended.
    pub fn begin_split(&self) {
        let mut open = lock(&self.open);
        open.running += 1;
        open.splits += 1;
    }

    /// A split has ended.
    pub fn end_split(&self, outcome: Outcome<()>) {
        self.end_of(|open| open.splits -= 1, outcome);
    }

    /// Whether a split is under way.
    pub fn splits(&self) -> bool {
        lock(&self.open).splits > 0
    }

    /// Whether any is under way that no stream waits for.
    pub fn running(&self) -> bool {
        let open = lock(&self.open);
        open.running > open.on_streams
    }

    /// Waits until no more than `own` are under way.
    pub fn idle(&self, own: usize) {
        let open = lock(&self.open);
        let _open = self
            .changed
            .wait_while(open, |open| open.running > own)
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// The first failure. One of an argument is told once: the communicator is as good as before.
    pub fn failed(&self) -> Option<Fail> {
        let mut open = lock(&self.open);
        match &open.failed {
            Some(fail) if fail.code != Code::InvalidArgument => Some(fail.clone()),
            _ => open.failed.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_call_on_a_stream_is_never_in_progress() {
        let (calls, busy) = (Calls::default(), AtomicUsize::new(4));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200_000 {
                        calls.begin_on_stream();
                        calls.end_on_stream(Ok(()));
                    }
                    busy.fetch_sub(1, Ordering::Release);
                });
            }
            while busy.load(Ordering::Acquire) > 0 {
                assert!(!calls.running(), "half an end was seen");
            }
        });
        calls.begin();
        assert!(calls.running());
        calls.end(Err(Fail::usage("too early")));
        assert!(!calls.running());
        assert_eq!(
            calls.failed().map(|fail| fail.text).as_deref(),
            Some("too early")
        );
    }
}
