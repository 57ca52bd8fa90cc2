//! What a forked child must not do with its parent's communicators: their threads are not there, and their sockets and shared memory are the
//! parent's. A generation is counted up in every child; what was born in another one refuses to be used, and dropping it does nothing.

use crate::error::{Error, Kind};
use std::sync::{
    Once,
    atomic::{AtomicU32, Ordering},
};

static GENERATION: AtomicU32 = AtomicU32::new(0);

extern "C" fn count() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// In which process something was made, counted by forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u32);

impl Default for Generation {
    /// This process's.
    fn default() -> Generation {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: the handler does nothing but count, which is allowed between fork and exec. Should there be no memory for its
            // registration, a child is not recognised, which is what it would be without it.
            unsafe { libc::pthread_atfork(None, None, Some(count)) };
        });
        Generation(GENERATION.load(Ordering::Relaxed))
    }
}

impl Generation {
    /// Whether this process is a fork of the one in which it was made.
    pub fn is_past(self) -> bool {
        GENERATION.load(Ordering::Relaxed) != self.0
    }

    /// # Errors
    /// In a forked child.
    pub fn check(self) -> Result<(), Error> {
        if !self.is_past() {
            return Ok(());
        }
        Err(Error::new(
            Kind::InvalidArgument,
            "this process is a fork of the one that joined the group, whose communicator it must not use",
            "use the communicator in the parent alone, or join a group in the child",
        ))
    }
}
