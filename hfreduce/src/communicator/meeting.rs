//! The end of a process's use of a rendezvous: groups are split off and channels are made there, so the process that holds it closes it last.
//! Every process says when it has closed all its groups; the one with the server waits for that, within bounds. It knows nothing of
//! what a group does.

use super::{core::Group, fork::Generation};
use hfr_transport::store::StoreServer;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Locked because a server is not for several threads, and a communicator is. Only held.
pub type Server = Arc<Mutex<StoreServer>>;

/// The server waits for the others for so long.
const FAREWELL: Duration = Duration::from_secs(2);
/// A last word to a rendezvous that may just be going may take so long.
const WORD: Duration = Duration::from_millis(300);

/// Held by a communicator and all that are split off it.
pub struct Meeting {
    group: Arc<Group>,
    rank: usize,
    ranks: usize,
    server: Option<Server>,
    failed: AtomicBool,
    born: Generation,
}

impl Meeting {
    /// Of the group that came together at the rendezvous; with the server, if it is in this process.
    pub fn new(group: &Arc<Group>, rank: usize, ranks: usize, server: Option<Server>) -> Meeting {
        Meeting {
            group: group.clone(),
            rank,
            ranks,
            server,
            failed: AtomicBool::new(false),
            born: Generation::default(),
        }
    }

    /// A group has failed: nobody waits for anybody.
    pub fn failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    fn key(&self, rank: usize) -> String {
        format!("{}/left/{rank}", self.group.name)
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        if self.born.is_past() || self.failed.load(Ordering::Relaxed) {
            return;
        }
        let store = &self.group.store;
        if !self.group.control.is_orphaned() {
            // The rendezvous may be gone, which is nobody's concern any more.
            let until = Instant::now() + WORD;
            let _ = store.set(&self.key(self.rank), b"1", until);
        }
        let last = |server: &Server| Arc::strong_count(server) == 1;
        if self.server.as_ref().is_some_and(last) {
            let until = Instant::now() + FAREWELL;
            for other in (0..self.ranks).filter(|r| *r != self.rank) {
                if store.get(&self.key(other), until).is_err() {
                    break;
                }
            }
        }
    }
}
