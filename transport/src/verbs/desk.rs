//! The side table of a wire: the few words two ranks exchange that are no puts (cards, keys), over the TCP wire into a small memory of their own. It
//! knows words, no queue pair. The connection stays: when it breaks, the peer's process is gone, which a queue pair alone would not tell
//! a rank that only listens. Invariant: of each kind at most one word is under way to a peer, so that none lies where another is read.

use crate::shm::Segment;
use crate::tcp::{Congestion, Tcp};
use crate::wire::{Error, Event, Notice, PeerAddress, Put, Transport};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;

/// Longest word in bytes.
const WORD: usize = 2048;

/// Kinds of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Which rails a rank is on.
    Rails,
    /// A rank's end of a lane.
    Card,
    /// The lower rank's decision; it hears us from here on.
    Choice,
    /// The higher rank hears from here on.
    Ready,
    /// Which lane and offset a key is wanted for.
    Need,
    /// The lane and its key, or why there is none.
    Key,
}

const KINDS: [Kind; 6] = [
    Kind::Rails,
    Kind::Card,
    Kind::Choice,
    Kind::Ready,
    Kind::Need,
    Kind::Key,
];

/// A word that has come.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub from: usize,
    pub kind: Kind,
    bytes: Vec<u8>,
}

impl Word {
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.bytes)
            .map_err(|e| format!("it says something this build does not know ({:?}: {e}); start all ranks from one build", self.kind))
    }
}

pub(super) struct Desk {
    tcp: Tcp,
    memory: Arc<Segment>,
    world: usize,
    rank: usize,
    events: Vec<Event>,
}

impl Desk {
    /// As `Tcp::bind`, for a job of `world` ranks.
    pub fn bind(rank: usize, world: usize, listen: IpAddr, token: [u8; 32]) -> Result<Desk, Error> {
        let half = world * KINDS.len() * WORD;
        let memory = Arc::new(Segment::heap(2 * half));
        let tcp = Tcp::bind(
            rank,
            memory.clone(),
            0..half,
            listen,
            token,
            Congestion::System,
        )?;
        Ok(Desk {
            tcp,
            memory,
            world,
            rank,
            events: Vec::new(),
        })
    }

    pub fn address(&self) -> Vec<u8> {
        self.tcp.address()
    }

    pub fn connect(&mut self, peers: &[PeerAddress], deadline: Instant) -> Result<(), Error> {
        if let Some(peer) = peers.iter().find(|peer| peer.rank >= self.world) {
            let (rank, world) = (peer.rank, self.world);
            return Err(Error {
                wire: "verbs",
                peer: Some(rank),
                cause: format!("there is no rank {rank} in a job of {world} ranks"),
            });
        }
        self.tcp.connect(peers, deadline)
    }

    pub fn watch(&self, fds: &mut Vec<(RawFd, bool)>) {
        self.tcp.watch(fds);
    }

    /// Where a word of this kind lies: what we hear first, what we say behind it.
    fn place(&self, said: bool, peer: usize, kind: Kind) -> usize {
        let half = usize::from(said) * self.world;
        ((half + peer) * KINDS.len() + kind as usize) * WORD
    }

    /// Says a word to a connected peer.
    pub fn say(&mut self, peer: usize, kind: Kind, word: &impl Serialize) -> Result<(), Error> {
        let bytes = serde_json::to_vec(word).expect("words are plain data");
        assert!(bytes.len() <= WORD, "a word of {} bytes", bytes.len());
        let from = self.place(true, peer, kind);
        let at = self.memory.at(from, bytes.len());
        // SAFETY: the range is ours; the last word of this kind to this peer has been answered, so the wire no longer reads it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
        self.tcp.put(Put {
            peer,
            from,
            len: bytes.len(),
            // The place of what we say among what the peer hears.
            to: (self.rank * KINDS.len() + kind as usize) * WORD,
            notice: Notice((kind as u32) << 16 | bytes.len() as u32),
            body: None,
            ticket: 0,
        })
    }

    /// What has been said since the last time; an error names a peer whose process is gone, and comes again every time.
    pub fn hear(&mut self, words: &mut Vec<Word>) -> Result<(), Error> {
        let mut events = std::mem::take(&mut self.events);
        let result = self.tcp.poll(&mut events);
        for event in events.drain(..) {
            let Event::Arrived { from, notice } = event else {
                continue;
            };
            let (kind, len) = ((notice.0 >> 16) as usize, (notice.0 & 0xFFFF) as usize);
            if let (Some(&kind), true) = (KINDS.get(kind), len <= WORD) {
                let at = self.memory.at(self.place(false, from, kind), len);
                // SAFETY: it has arrived, and the peer says no other of its kind before it has an answer.
                let bytes = unsafe { std::slice::from_raw_parts(at, len) }.to_vec();
                words.push(Word { from, kind, bytes });
            }
        }
        self.events = events;
        result
    }
}
