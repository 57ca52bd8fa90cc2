//! Reading another process's memory where it lies, without a copy into the segment: `process_vm_readv`, with the other's consent. The consent is
//! a random word in that process's own memory, which is read behind the bytes in the same call of the system: as long as it is
//! there, the bytes were of the right process, and had not been taken back by its user when they were read.

use super::{Error, pass::random_bytes};
use serde::{Deserialize, Serialize};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// That other processes may read this one's memory, until it is withdrawn or dropped with its last copy.
#[derive(Clone, Debug)]
pub struct Consent {
    word: Arc<Word>,
    secret: u64,
}

/// Nothing else lies in its cache line: what stands beside it may be written often, and readers come from other cores.
#[derive(Debug)]
#[repr(align(64))]
struct Word(AtomicU64);

impl Drop for Word {
    fn drop(&mut self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

/// What other processes of the machine need to read with a consent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Permit {
    pid: i32,
    at: u64,
    secret: u64,
}

/// Why memory of another process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// The call of the system failed, or read less than it was told to.
    #[error("process {pid} cannot be read: {error}")]
    Failed {
        /// Whose memory.
        pid: i32,
        /// The system's word.
        error: std::io::Error,
    },
    /// Its rank has given its buffers back: what was read may not be what was meant.
    #[error("its call has ended and its buffers are no longer shown")]
    Withdrawn,
}

impl Unread {
    /// Whether there is no such process any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Unread::Failed { error, .. } if error.raw_os_error() == Some(libc::ESRCH))
    }
}

impl Consent {
    /// Gives it.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn give() -> Result<Consent, Error> {
        let random = random_bytes()?;
        let (word, _) = random.split_first_chunk().expect("32 bytes");
        // Never 0, which stands for none.
        let secret = u64::from_ne_bytes(*word) | 1;
        Ok(Consent {
            word: Arc::new(Word(AtomicU64::new(secret))),
            secret,
        })
    }

    /// What others need.
    pub fn permit(&self) -> Permit {
        Permit {
            pid: std::process::id() as i32,
            at: self.word.0.as_ptr().expose_provenance() as u64,
            secret: self.secret,
        }
    }

    /// What others read from now on is refused. Whoever hands buffers back before their readers are done does this first.
    pub fn withdraw(&self) {
        self.word.0.store(0, Ordering::SeqCst);
    }
}

impl Permit {
    /// Copies `bytes` bytes at `from` in that process to `to`.
    ///
    /// # Errors
    /// That process is gone, may not be read, has nothing there, or has withdrawn its consent: what is at `to` means nothing then.
    ///
    /// # Safety
    /// `to` must be good for writing so many bytes. What is at `from` is not our concern: the system looks.
    pub unsafe fn read(&self, from: u64, to: *mut u8, bytes: usize) -> Result<(), Unread> {
        let pid = self.pid;
        let mut word = 0u64;
        let part = |base: *mut u8, len| libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        };
        let there = |at: u64| std::ptr::without_provenance_mut(at as usize);
        // They are read one after the other, the word last.
        let size = size_of::<u64>();
        let local = [part(to, bytes), part((&raw mut word).cast(), size)];
        let remote = [part(there(from), bytes), part(there(self.at), size)];
        // SAFETY: the local parts are promised by the caller and our own word; the remote ones are checked by the system, as a process may do to
        // itself too: ranks may be threads of one.
        let read = unsafe { libc::process_vm_readv(pid, local.as_ptr(), 2, remote.as_ptr(), 2, 0) };
        if read < 0 {
            let error = std::io::Error::last_os_error();
            return Err(Unread::Failed { pid, error });
        }
        if read as usize != bytes + size {
            let error = std::io::Error::other("not all of it is there");
            return Err(Unread::Failed { pid, error });
        }
        if word != self.secret {
            return Err(Unread::Withdrawn);
        }
        Ok(())
    }

    /// Whether this process may read that one: not where they are in different namespaces of processes, nor where the system forbids it
    /// (`kernel.yama.ptrace_scope`, seccomp, other users).
    pub fn works(&self) -> bool {
        let mut byte = 0u8;
        // SAFETY: one byte into our own, of the word that it reads anyway.
        unsafe { self.read(self.at, &raw mut byte, 1) }.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(permit: &Permit, from: &[u8]) -> Result<Vec<u8>, Unread> {
        let mut to = vec![0; from.len()];
        let at = from.as_ptr().expose_provenance() as u64;
        // SAFETY: `to` is as long, and another one.
        unsafe { permit.read(at, to.as_mut_ptr(), from.len()) }?;
        Ok(to)
    }

    #[test]
    fn what_is_read_is_what_is_there_until_it_is_withdrawn() {
        let shown: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let consent = Consent::give().expect("random numbers");
        let permit = consent.permit();
        assert!(permit.works());
        assert_eq!(read(&permit, &shown).expect("readable"), shown);
        let copy = consent.clone();
        drop(consent);
        assert!(permit.works());
        copy.withdraw();
        assert!(!permit.works());
        assert!(matches!(read(&permit, &shown), Err(Unread::Withdrawn)));
    }

    /// A child of fork has the same memory under another number. A parent may read it where strangers may not.
    #[test]
    fn another_process_is_read_by_the_system() {
        let shown: Vec<u8> = (0..20_000u32).map(|i| (i * 3 % 253) as u8).collect();
        let consent = Consent::give().expect("random numbers");
        // SAFETY: the child calls nothing but the system, until it is killed.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            loop {
                // SAFETY: as above.
                unsafe { libc::pause() };
            }
        }
        let permit = Permit {
            pid: child,
            ..consent.permit()
        };
        let right = read(&permit, &shown);
        // What the parent does with its own copy is nothing to the child's.
        consent.withdraw();
        let still = read(&permit, &shown);
        let stranger = read(
            &Permit {
                secret: 4,
                ..permit
            },
            &shown,
        );
        let nowhere = read(&Permit { at: 8, ..permit }, &shown);
        let mut byte = 0;
        // SAFETY: one byte into our own.
        let nothing = unsafe { permit.read(16, &raw mut byte, 1) };
        let mut status = 0;
        // SAFETY: our own child.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        }
        let gone = read(&permit, &shown);
        assert!(gone.as_ref().is_err_and(Unread::is_gone), "{gone:?}");
        if let Err(Unread::Failed { error, .. }) = &right
            && error.raw_os_error() == Some(libc::EPERM)
        {
            eprintln!("not tested: this system lets no process read another, not even its child");
            return;
        }
        assert_eq!(right.expect("readable"), shown);
        assert_eq!(still.expect("readable"), shown);
        assert!(matches!(stranger, Err(Unread::Withdrawn)));
        for unread in [nowhere.err(), nothing.err(), gone.err()] {
            assert!(matches!(unread, Some(Unread::Failed { .. })), "{unread:?}");
        }
    }
}
