//! First uses. What a call needs that was not there before (a plan, pinned slots, streams of our own) asks the driver for things that it may
//! give only when the device is idle, and a stream that waits for a call is not. So no stream is made to wait while a first use is open: whoever
//! wants that waits on the host, which happens once for each kind of call. It knows kinds of calls as something to compare, no more.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A communicator's first uses: the kinds of calls that have been used, and how many first ones are open.
pub struct Firsts<K>(Mutex<State<K>>, Condvar);

struct State<K> {
    known: HashSet<K>,
    open: usize,
}

impl<K> Default for Firsts<K> {
    fn default() -> Firsts<K> {
        let state = State {
            known: HashSet::new(),
            open: 0,
        };
        Firsts(Mutex::new(state), Condvar::new())
    }
}

/// Whoever waits looks so often whether there is another reason to go on.
const LOOK: Duration = Duration::from_millis(1);

impl<K: Eq + Hash> Firsts<K> {
    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A first use, if it is one: of a kind that is not known, or of none that could be.
    pub fn open(self: &Arc<Self>, kind: Option<K>) -> Option<First<K>> {
        let mut state = self.state();
        if kind.as_ref().is_some_and(|kind| state.known.contains(kind)) {
            return None;
        }
        state.open += 1;
        drop(state);
        Some(First {
            of: self.clone(),
            kind,
        })
    }

    /// Everything is to be used anew.
    pub fn forget(&self) {
        self.state().known.clear();
    }

    /// Waits until no first use is open, or `enough`.
    pub fn wait(&self, enough: impl Fn() -> bool) {
        let mut state = self.state();
        while state.open > 0 && !enough() {
            let waited = self.1.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A first use that is open, until it is dropped.
pub struct First<K: Eq + Hash> {
    of: Arc<Firsts<K>>,
    kind: Option<K>,
}

impl<K: Eq + Hash> First<K> {
    /// The call has what it needs, and so will others of its kind.
    pub fn met(mut self) {
        if let Some(kind) = self.kind.take() {
            self.of.state().known.insert(kind);
        }
    }
}

impl<K: Eq + Hash> Drop for First<K> {
    fn drop(&mut self) {
        self.of.state().open -= 1;
        self.of.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn nobody_passes_while_a_first_use_is_open() {
        let firsts: Arc<Firsts<u32>> = Arc::default();
        let one = firsts.open(Some(7)).expect("not known yet");
        let passed = Arc::new(AtomicBool::new(false));
        let waiting = std::thread::spawn({
            let (firsts, passed) = (firsts.clone(), passed.clone());
            move || {
                firsts.wait(|| false);
                passed.store(true, Ordering::SeqCst);
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!passed.load(Ordering::SeqCst));
        one.met();
        waiting.join().expect("no panic");
        assert!(firsts.open(Some(7)).is_none(), "it has been met");
        // One that failed is not known, and neither is what has no kind.
        drop(firsts.open(Some(8)).expect("another kind"));
        let again = firsts.open(Some(8)).expect("not met");
        firsts.wait(|| true);
        drop(again);
        firsts.open(None).expect("never known").met();
        assert!(firsts.open(None).is_some());
        firsts.forget();
        assert!(firsts.open(Some(7)).is_some());
    }
}
