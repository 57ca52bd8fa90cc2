//! A call that runs while its caller goes on: where its result is left, who waits for it, and what is to be done with it. It knows nothing
//! of what the call does. Invariants: a result is told once; whoever was to be called is called once, on the thread that tells.

use super::fork::Generation;
use crate::error::{Error, Kind};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

type Callback = Box<dyn FnOnce(Result<(), Error>) + Send>;

#[derive(Default)]
struct State {
    result: Option<Result<(), Error>>,
    then: Vec<Callback>,
}

#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    told: Condvar,
    born: Generation,
}

/// A call that was started, and ends by itself. Clones are the same call. Dropping them cancels nothing: the call's buffers must live until
/// it has ended.
#[derive(Clone, Default)]
pub struct Pending(Arc<Slot>);

impl Pending {
    /// A call that has ended already.
    pub fn ended(result: Result<(), Error>) -> Pending {
        let pending = Pending::default();
        pending.tell(result);
        pending
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, result: Result<(), Error>) {
        let then = {
            let mut state = self.state();
            state.result = Some(result.clone());
            std::mem::take(&mut state.then)
        };
        self.0.told.notify_all();
        for callback in then {
            // A panic is the callback's own affair (and has been printed): the thread has other calls to tell of.
            let _ = catch_unwind(AssertUnwindSafe(|| callback(result.clone())));
        }
    }

    /// Waits until the call has ended on this rank.
    ///
    /// # Errors
    /// The call's.
    pub fn wait(&self) -> Result<(), Error> {
        self.0.born.check()?;
        let mut state = self.state();
        loop {
            if let Some(result) = &state.result {
                return result.clone();
            }
            state = self
                .0
                .told
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As [`Pending::wait`], for at most `limit`; `None` when the call still runs then.
    pub fn wait_for(&self, limit: Duration) -> Option<Result<(), Error>> {
        if let Err(error) = self.0.born.check() {
            return Some(Err(error));
        }
        let told = self
            .0
            .told
            .wait_timeout_while(self.state(), limit, |s| s.result.is_none());
        told.unwrap_or_else(PoisonError::into_inner)
            .0
            .result
            .clone()
    }

    /// How the call ended; `None` while it runs.
    pub fn result(&self) -> Option<Result<(), Error>> {
        self.state().result.clone()
    }

    /// Whether the call has ended.
    pub fn is_done(&self) -> bool {
        self.state().result.is_some()
    }

    /// Calls `f` when the call has ended: on the thread that runs calls, which it must not hold up (it must not
    /// wait for other calls), or at once if it has ended already.
    pub fn then(&self, f: impl FnOnce(Result<(), Error>) + Send + 'static) {
        let mut state = self.state();
        match state.result.clone() {
            None => state.then.push(Box::new(f)),
            Some(result) => {
                drop(state);
                f(result);
            }
        }
    }
}

/// The other end of a [`Pending`]: whoever runs the call holds it. Dropped without a result, as when its thread panics, it tells that.
pub struct Promise(Pending);

impl Promise {
    /// A promise, and what is handed to the caller.
    pub fn new() -> (Promise, Pending) {
        let pending = Pending::default();
        (Promise(pending.clone()), pending)
    }

    /// The call has ended.
    pub fn tell(&self, result: Result<(), Error>) {
        self.0.tell(result);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.0.is_done() {
            self.tell(Err(Error::new(
                Kind::Aborted,
                "the thread that ran this call has ended (its panic says why)",
                "this is a bug of the library; please report it",
            )));
        }
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pending").field(&self.result()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_broken_promise_is_an_error_and_a_kept_one_is_told_once() {
        let told = Arc::new(AtomicUsize::new(0));
        let count = |pending: &Pending| {
            let told = told.clone();
            pending.then(move |result| {
                told.fetch_add(if result.is_ok() { 1 } else { 100 }, Ordering::Relaxed);
            });
        };
        let (promise, kept) = Promise::new();
        count(&kept);
        assert_eq!(kept.wait_for(Duration::from_millis(1)), None);
        promise.tell(Ok(()));
        drop(promise);
        assert_eq!(kept.wait(), Ok(()));
        count(&kept);
        let (promise, broken) = Promise::new();
        count(&broken);
        let waiting = std::thread::spawn({
            let broken = broken.clone();
            move || broken.wait()
        });
        drop(promise);
        let error = waiting.join().expect("no panic").expect_err("nobody told");
        assert_eq!(error.kind, Kind::Aborted);
        assert_eq!(told.load(Ordering::Relaxed), 102);
    }
}
