//! What a rank's threads share: the verdict, the history, the doorbell. The control thread delivers the verdict here; whoever runs the engine
//! looks at one flag per step. Invariant: the first verdict stays; it is set before the flag.

use crate::{
    error::{Error, Kind},
    stall::History,
};
use hfr_transport::{
    control::{Hooks, Trouble},
    shm::{Consent, Doorbell},
};
use std::{
    sync::{
        Arc, Condvar, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// One communicator's shared state in this process.
pub struct Shared {
    pub rank: usize,
    pub node: usize,
    pub history: History,
    bell: Doorbell,
    poisoned: AtomicBool,
    /// Somebody has rung, and it has not been heeded.
    rung: AtomicBool,
    printed: AtomicBool,
    verdict: Mutex<Option<Error>>,
    told: Condvar,
    /// That other ranks of the node read this process's memory: while they do and there is no verdict.
    consent: Option<Consent>,
}

impl Shared {
    pub fn new(rank: usize, node: usize, bell: Doorbell, consent: Option<Consent>) -> Arc<Shared> {
        let shared = Arc::new(Shared {
            rank,
            node,
            history: History::default(),
            bell,
            poisoned: AtomicBool::new(false),
            rung: AtomicBool::new(false),
            printed: AtomicBool::new(false),
            verdict: Mutex::new(None),
            told: Condvar::new(),
            consent,
        });
        if let Ok(mut all) = REGISTRY.lock() {
            all.retain(|s| s.strong_count() > 0);
            all.push(Arc::downgrade(&shared));
        }
        shared
    }

    /// Whether there is a verdict.
    #[inline]
    pub fn poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Whether the failure has not been printed yet: it is once, though every later call fails with it.
    pub fn first_told(&self) -> bool {
        !self.printed.swap(true, Ordering::Relaxed)
    }

    /// The verdict, if there is one.
    pub fn verdict(&self) -> Option<Error> {
        self.verdict.lock().ok()?.clone()
    }

    /// Sets the verdict, if it is the first, and wakes whoever runs the engine. From here on buffers go back to their owners, whoever may still read
    /// them.
    pub fn poison(&self, error: Error) {
        self.bell.withdraw();
        if let Some(consent) = &self.consent {
            consent.withdraw();
        }
        if let Ok(mut verdict) = self.verdict.lock() {
            verdict.get_or_insert(error);
            self.poisoned.store(true, Ordering::Release);
        }
        self.told.notify_all();
        self.bell.ring();
    }

    /// The verdict, if it comes within `limit`.
    pub fn hear(&self, limit: Duration) -> Option<Error> {
        let guard = self.verdict.lock().ok()?;
        let told = self.told.wait_timeout_while(guard, limit, |v| v.is_none());
        told.ok()?.0.clone()
    }

    /// Waits for the verdict, at most `limit`; `own` becomes it if nobody has told another by then.
    pub fn await_verdict(&self, own: Error, limit: Duration) -> Error {
        self.hear(limit).unwrap_or_else(|| {
            self.poison(own.clone());
            own
        })
    }

    /// Has whoever runs the engine look at what it runs it for, whether it sleeps or not.
    pub fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Whether [`Shared::ring`] was called since [`Shared::heed`].
    pub fn rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// To be called before what was rung for is looked at.
    pub fn heed(&self) {
        // Loads only where nobody rang: a small call notices a store that others read.
        if self.rung() {
            self.rung.swap(false, Ordering::AcqRel);
        }
    }
}

impl Hooks for Shared {
    fn status(&self) -> Vec<u8> {
        serde_json::to_vec(&self.history.status()).unwrap_or_default()
    }

    fn verdict(&self, cause: &[u8]) {
        self.poison(Error::from_bytes(cause));
    }

    fn describe(&self, trouble: &Trouble) -> Vec<u8> {
        let remedy = match trouble {
            Trouble::Gone { .. } => {
                "look at that process's own output, and for the kernel's out-of-memory killer"
            }
            _ => "look at rank 0's process",
        };
        let kind = match trouble {
            Trouble::MonitorSilent { .. } => Kind::Timeout,
            _ => Kind::PeerLost,
        };
        let mut error = Error::new(kind, trouble.to_string(), remedy);
        error.peer = match trouble {
            Trouble::Gone { rank, .. } => Some(*rank),
            _ => Some(0),
        };
        error.to_bytes()
    }
}

static REGISTRY: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// Prints every communicator's last calls to standard error when the process gets SIGUSR1. Installed once per process; handlers that
/// others have installed are called as well.
pub fn dump_on_signal() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let Ok(mut signals) = signal_hook::iterator::Signals::new([signal_hook::consts::SIGUSR1])
        else {
            return;
        };
        // Without the thread there is no dump, which is no reason not to start.
        let _ = std::thread::Builder::new()
            .name("hfr-dump".into())
            .spawn(move || {
                for _ in signals.forever() {
                    let all = REGISTRY.lock().map(|r| r.clone()).unwrap_or_default();
                    for shared in all.iter().filter_map(Weak::upgrade) {
                        eprint!("{}", shared.history.dump(shared.rank, shared.node));
                    }
                }
            });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use hfr_transport::shm::{DOORBELL_BYTES, Segment};

    fn shared() -> Arc<Shared> {
        let segment = Arc::new(Segment::heap(DOORBELL_BYTES));
        Shared::new(0, 0, Doorbell::new(segment, 0, None), None)
    }

    fn error(text: &str) -> Error {
        Error::new(Kind::PeerLost, text, "look there")
    }

    #[test]
    fn the_first_verdict_stays_and_is_told_once() {
        let shared = shared();
        assert!(shared.hear(Duration::ZERO).is_none() && !shared.poisoned());
        let told = std::thread::scope(|scope| {
            let waits = scope.spawn(|| shared.hear(Duration::from_secs(60)));
            shared.poison(error("rank 1 is gone"));
            waits.join().unwrap().unwrap()
        });
        assert!(told.to_string().contains("rank 1 is gone"), "{told}");
        shared.poison(error("rank 2 is gone"));
        let own = shared.await_verdict(error("we gave up"), Duration::ZERO);
        assert!(own.to_string().contains("rank 1 is gone"), "{own}");
        assert!(shared.poisoned() && shared.first_told() && !shared.first_told());
    }

    #[test]
    fn without_another_verdict_the_own_one_is_it() {
        let shared = shared();
        let own = shared.await_verdict(error("we gave up"), Duration::ZERO);
        assert!(own.to_string().contains("we gave up"), "{own}");
        assert!(shared.verdict().is_some());
    }

    #[test]
    fn what_was_rung_for_stays_until_it_is_heeded() {
        let shared = shared();
        assert!(!shared.rung());
        shared.heed();
        shared.ring();
        shared.ring();
        assert!(shared.rung() && shared.rung());
        shared.heed();
        assert!(!shared.rung());
        shared.ring();
        assert!(shared.rung());
    }
}
