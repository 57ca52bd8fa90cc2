//! The contract of every wire: puts with notices between ranks of different nodes. A wire knows addresses, bytes and
//! peers; it knows no plan, no counter and no clock but the deadline it is given while connecting.
//!
//! What every wire promises (the contract suite in `tests/` checks each of them against it):
//! 1. after `Arrived` has been returned by `poll`, all bytes of that put are visible in the receiver's segment, or its last ones in the landing that the
//!    wire has asked for;
//! 2. notices from one sender arrive in the order of its puts to this receiver, each exactly once;
//! 3. after `Sent`, the source bytes may be overwritten;
//! 4. `put` and `poll` never block and never allocate once the queues have grown to what the plan needs;
//! 5. a dead peer is an error of `put` or `poll` that names it, not silence, where the wire can know.

use std::os::fd::RawFd;
use std::time::Instant;

/// What a put says on arrival, besides its bytes. The wire carries it untouched; 32 bits because that is what an
/// RDMA WRITE WITH IMM carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Notice(pub u32);

/// Bytes somewhere in the sender's memory, promised to stay as they are until a wire says that it has sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    at: *const u8,
    len: usize,
}

// SAFETY: an address that is only read, by whatever thread has the wire; `new` has promised the memory.
unsafe impl Send for Body {}

impl Body {
    /// The `len` bytes at `at`.
    ///
    /// # Safety
    /// They must stay readable and as they are until the wire has reported `Sent` for a put with them, or is neither polled nor given a put
    /// again.
    pub unsafe fn new(at: *const u8, len: usize) -> Body {
        Body { at, len }
    }

    /// Its first byte.
    pub fn at(&self) -> *const u8 {
        self.at
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Bytes of this node's segment that go into the segment of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// Global rank of the receiver: its process is told, its node's segment is written.
    pub peer: usize,
    /// Source: byte offset in the segment of this node.
    pub from: usize,
    /// Length in bytes; 0 is a notice alone.
    pub len: usize,
    /// The last of these bytes, where they lie elsewhere: those at `from` come first, and as many as are missing. Only for wires that gather.
    pub body: Option<Body>,
    /// Target: byte offset in the segment of the peer's node.
    pub to: usize,
    /// Handed to the receiver with `Arrived`.
    pub notice: Notice,
    /// Handed back to the sender with `Sent`; the caller's own number.
    pub ticket: u64,
}

impl Put {
    /// How many of its bytes lie in the segment; `None` where the body is longer than the whole.
    pub fn head(&self) -> Option<usize> {
        self.len.checked_sub(self.body.map_or(0, |body| body.len))
    }
}

/// Memory of the receiver, promised to be nobody else's from when a wire is told of it until that has reported the put as arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landing {
    at: *mut u8,
    len: usize,
}

// SAFETY: an address that only the wire writes to, on whatever thread has it; `new` has promised the memory.
unsafe impl Send for Landing {}

impl Landing {
    /// The `len` bytes at `at`.
    ///
    /// # Safety
    /// They must be writable, and nobody else may touch them, until the wire has reported `Arrived` for the put that they are meant for, or is not
    /// polled again.
    pub unsafe fn new(at: *mut u8, len: usize) -> Landing {
        Landing { at, len }
    }

    /// What is left of it behind `bytes` bytes.
    ///
    /// # Panics
    /// When it has fewer.
    pub fn behind(self, bytes: usize) -> Landing {
        Landing {
            at: self.at.wrapping_add(bytes),
            len: self.len.checked_sub(bytes).expect("bytes of the landing"),
        }
    }

    /// Its first byte.
    pub fn at(&self) -> *mut u8 {
        self.at
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Asked by a wire for a put that begins to come in, by its notice and its length: where are its last bytes wanted? Those that lie in no landing go into
/// the segment.
pub type Ask<'a> = dyn FnMut(Notice, usize) -> Option<Landing> + 'a;

/// What `poll` reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The put with this ticket no longer needs its source bytes.
    Sent {
        /// The ticket of the put.
        ticket: u64,
    },
    /// A put from `from` has arrived; its bytes are in this node's segment, or the last ones in their landing.
    Arrived {
        /// Global rank of the sender.
        from: usize,
        /// The notice of the put.
        notice: Notice,
    },
}

/// How to reach one rank: what its `Transport::address` returned, carried as opaque bytes by the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Global rank.
    pub rank: usize,
    /// The peer's address bytes.
    pub address: Vec<u8>,
}

/// What went wrong on a wire.
#[derive(Debug, thiserror::Error)]
#[error("{wire}: {}{cause}", peer.map(|p| format!("peer rank {p}: ")).unwrap_or_default())]
pub struct Error {
    /// The wire's name.
    pub wire: &'static str,
    /// Global rank of the peer, where one is to blame.
    pub peer: Option<usize>,
    /// A lower-case sentence a person can act on.
    pub cause: String,
}

/// One rank's end of a wire.
pub trait Transport: Send {
    /// The wire's name, as `--transport` spells it.
    fn name(&self) -> &'static str;

    /// Whether puts may have a body. Not where a device reads the source, which reads registered memory alone.
    fn gathers(&self) -> bool;

    /// What peers need to know to connect to this rank.
    fn address(&self) -> Vec<u8>;

    /// Connects to each of `peers`, each of which calls this with our rank among its own peers at about the same time.
    /// May be called again later with further peers; peers that are connected already are passed over. Blocks until all
    /// are connected or `deadline` has passed.
    fn connect(&mut self, peers: &[PeerAddress], deadline: Instant) -> Result<(), Error>;

    /// Starts a put. The source bytes must stay as they are until `Sent` with its ticket.
    fn put(&mut self, put: Put) -> Result<(), Error>;

    /// Makes progress and appends what happened to `events`.
    fn poll(&mut self, events: &mut Vec<Event>) -> Result<(), Error>;

    /// As `poll`; a wire that receives bytes itself, and gathers, may ask where those of a put are to land, at most once for each. They are written in this
    /// call or in later ones, until the put has arrived.
    fn poll_landing(&mut self, ask: &mut Ask<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        let _ = ask;
        self.poll(events)
    }

    /// Appends the file descriptors a parked rank has to watch, each with whether it waits for writability too. A wire whose
    /// arrivals ring the doorbell of the receiving rank by themselves appends nothing. Some wires only make a descriptor readable by
    /// what comes from here on: poll once more between this and sleeping.
    fn watch(&self, fds: &mut Vec<(RawFd, bool)>);
}
