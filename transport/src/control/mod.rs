//! The control plane: one connection of every rank to the monitor in rank 0's process, on the rendezvous port. The first
//! cause that reaches the monitor becomes the verdict, and every rank is told exactly that one, once. It knows nothing of
//! collectives: causes, statuses and questions are opaque bytes, except for troubles it sees itself ([`Trouble`]), whose
//! words its user chooses.
//!
//! A rank that is silent (stopped, swapped out) is no failure by itself; it is one when somebody's time is up. Nothing here
//! polls: an idle control plane uses no processor time, and a host that vanished is noticed by the kernel's keepalive.

mod client;
mod message;
mod monitor;
mod process;
mod serve;
mod session;

pub use client::Control;
pub(crate) use serve::Monitors;

use std::sync::Arc;

/// What a rank's control thread asks its rank. All calls come from that one thread and must be quick.
pub trait Hooks: Send + Sync + 'static {
    /// What this rank is doing, for the judge; asked when some rank stalls.
    fn status(&self) -> Vec<u8>;

    /// The one cause; called at most once.
    fn verdict(&self, cause: &[u8]);

    /// The cause, in the user's own format, for a trouble the control plane saw itself. Must depend on nothing but
    /// `trouble`, since every rank calls it for itself and all must say the same.
    fn describe(&self, trouble: &Trouble) -> Vec<u8>;
}

/// What the control plane can see by itself. `Display` gives a plain sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// A rank's process ended without leaving.
    #[error("rank {rank} (host {host}, pid {pid}): its process is gone (killed or crashed)")]
    Gone {
        /// Its rank in the group.
        rank: usize,
        /// Its host's name.
        host: String,
        /// Its process id on that host; 0 where it is not known.
        pid: u32,
    },
    /// The monitor's process ended without a goodbye.
    #[error(
        "rank 0 (host {host}, pid {pid}) is gone: its process was killed or crashed, or its host is unreachable"
    )]
    MonitorGone {
        /// Host name of the monitor's process.
        host: String,
        /// Its process id on that host.
        pid: u32,
    },
    /// The monitor's process is there, but does not answer.
    #[error(
        "rank 0 (host {host}, pid {pid}) does not answer: its process is stopped, or its host is overloaded"
    )]
    MonitorSilent {
        /// Host name of the monitor's process.
        host: String,
        /// Its process id on that host.
        pid: u32,
    },
}

/// What a rank tells the monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Something failed; this becomes the verdict if it is the first.
    Failure(Vec<u8>),
    /// No progress for a while; the judge may find a reason, or none.
    Check(Vec<u8>),
    /// An operation's time is up: there will be a verdict. The judge names a cause; if it finds none, these bytes are it.
    Timeout(Vec<u8>),
}

/// One rank's part in a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who asks.
    pub rank: usize,
    /// Whether its time is up ([`Report::Timeout`]) or it only wonders ([`Report::Check`]).
    pub timeout: bool,
    /// The bytes of its report.
    pub said: Vec<u8>,
}

/// Why the judge is called: reports that came in together are one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who asked, in order of arrival; never empty.
    pub asked: Vec<Asked>,
}

impl Question {
    /// Whether somebody's time is up, so that a cause must be named.
    pub fn must_answer(&self) -> bool {
        self.asked.iter().any(|asked| asked.timeout)
    }
}

/// What a rank said when it was asked for its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RankState {
    /// Its [`Hooks::status`].
    Answered(Vec<u8>),
    /// Nothing for half a second: stopped, or its host is out of reach; or it has not joined yet.
    Silent,
    /// It has closed its communicator in order.
    Left,
    /// Its connection is lost.
    Gone,
}

/// Finds the cause of a stall from everyone's status, in rank order. Runs on the control thread of the rank that brought it.
pub type Judge = Arc<dyn Fn(&Question, &[RankState]) -> Option<Vec<u8>> + Send + Sync>;
