//! The local wire: nodes that share one host, real ones of a test or a laptop. A put copies into the peer node's segment, which
//! this process maps too; a notice in a mailbox of that segment and its receiver's doorbell do the rest.
//! It cannot know that a peer has died: the peer's memory stays, so puts to it succeed. Deaths are the control plane's business.
//! Invariant: the notices for a peer leave in the order of the puts, those that found the mailbox full included.

mod mailbox;

use crate::shm::{
    self, DOORBELL_BYTES, Doorbell, FdServer, Segment, Token, fetch_fds, random_token,
    unique_address,
};
use crate::wire::{Error, Event, Notice, PeerAddress, Put, Transport};
use mailbox::{Consumer, Producer, RING_BYTES};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

const NAME: &str = "local";

/// Bytes that the mailboxes of a node take: one ring for each of its `local_size` ranks from each of `world` ranks. Only the
/// pages of rings in use cost memory.
pub const fn mailbox_bytes(world: usize, local_size: usize) -> usize {
    world * local_size * RING_BYTES
}

/// Who a rank is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Global rank.
    pub rank: usize,
    /// Number of global ranks.
    pub world: usize,
    /// The node's number: the same for all its ranks, another for every other node.
    pub node: usize,
    /// Rank within the node.
    pub local_rank: usize,
    /// Number of ranks of the node.
    pub local_size: usize,
}

/// Where the wire's things lie in this node's segment: byte offsets, multiples of 64, into memory that was zero at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// The doorbells of the node's ranks, `DOORBELL_BYTES` each, by local rank.
    pub doorbells: usize,
    /// The mailboxes, `mailbox_bytes` in all.
    pub mailboxes: usize,
}

impl Places {
    /// Doorbells from `start` on, mailboxes behind them: `Places::bytes` in all.
    pub const fn packed(start: usize, local_size: usize) -> Places {
        Places {
            doorbells: start,
            mailboxes: start + local_size * DOORBELL_BYTES,
        }
    }

    /// Bytes that `packed` places take.
    pub const fn bytes(world: usize, local_size: usize) -> usize {
        local_size * DOORBELL_BYTES + mailbox_bytes(world, local_size)
    }

    fn doorbell(&self, local_rank: usize) -> usize {
        self.doorbells + local_rank * DOORBELL_BYTES
    }

    /// The ring to `local_rank` of the node whose places these are, from global rank `from`.
    fn ring(&self, world: usize, local_rank: usize, from: usize) -> usize {
        self.mailboxes + (local_rank * world + from) * RING_BYTES
    }

    fn check(&self, seat: &Seat, len: usize) -> Result<(), String> {
        let bells = self.doorbells.checked_add(seat.local_size * DOORBELL_BYTES);
        let boxes = self
            .mailboxes
            .checked_add(mailbox_bytes(seat.world, seat.local_size));
        let fits = [bells, boxes]
            .iter()
            .all(|end| end.is_some_and(|end| end <= len));
        if !fits || !self.doorbells.is_multiple_of(64) || !self.mailboxes.is_multiple_of(64) {
            return Err(format!(
                "{self:?} do not fit a segment of {len} bytes, or are no multiples of 64"
            ));
        }
        if seat.rank >= seat.world || seat.local_rank >= seat.local_size {
            return Err(format!("{seat:?} is no place in a job"));
        }
        Ok(())
    }
}

/// What `address` carries: who and where, and how to get hold of the segment.
#[derive(Serialize, Deserialize)]
struct Card {
    seat: Seat,
    places: Places,
    server: String,
    token: Token,
}

struct Peer {
    rank: usize,
    segment: Arc<Segment>,
    bell: Doorbell,
    out: Producer,
    inbox: Consumer,
    /// Notices that found the mailbox full.
    waiting: VecDeque<u32>,
}

impl Peer {
    /// Moves waiting notices into the mailbox, as many as fit.
    fn flush(&mut self) {
        let mut moved = false;
        while let Some(&notice) = self.waiting.front() {
            if !self.out.push(notice) {
                break;
            }
            self.waiting.pop_front();
            moved = true;
        }
        if moved {
            self.bell.ring();
        }
    }
}

/// One rank's end of the local wire.
pub struct Local {
    seat: Seat,
    places: Places,
    segment: Arc<Segment>,
    token: Token,
    server: FdServer,
    /// One mapping for each node, ours included.
    nodes: BTreeMap<usize, Arc<Segment>>,
    peers: Vec<Peer>,
    /// By global rank: where in `peers`.
    index: Vec<Option<usize>>,
    sent: VecDeque<u64>,
}

fn failed(peer: Option<usize>, cause: impl ToString) -> Error {
    Error {
        wire: NAME,
        peer,
        cause: cause.to_string(),
    }
}

impl Local {
    /// This rank's end. `segment` is its node's (passable, so no heap segment), `places` lie in it. `event` is the eventfd of this
    /// rank's own doorbell, or a copy of it: peers need it to wake a rank that also watches sockets; `None` where it never does.
    pub fn new(
        seat: Seat,
        segment: Arc<Segment>,
        places: Places,
        event: Option<OwnedFd>,
    ) -> Result<Local, Error> {
        let fail = |cause: shm::Error| failed(None, cause);
        places
            .check(&seat, segment.len())
            .map_err(|cause| failed(None, cause))?;
        let fd = segment.fd().ok_or_else(|| {
            failed(
                None,
                "a heap segment cannot be passed to other processes; create it as shared memory",
            )
        })?;
        let mut fds = vec![
            fd.try_clone_to_owned()
                .map_err(|error| failed(None, error))?,
        ];
        fds.extend(event);
        let token = random_token().map_err(fail)?;
        let server =
            FdServer::start(&unique_address(NAME).map_err(fail)?, token, fds).map_err(fail)?;
        Ok(Local {
            seat,
            places,
            token,
            server,
            nodes: BTreeMap::from([(seat.node, segment.clone())]),
            segment,
            peers: Vec::new(),
            index: vec![None; seat.world],
            sent: VecDeque::new(),
        })
    }

    fn meet(&mut self, rank: usize, address: &[u8], deadline: Instant) -> Result<Peer, String> {
        let card: Card = serde_json::from_slice(address)
            .map_err(|error| format!("its address is not one of the local wire: {error}"))?;
        let (theirs, ours) = (card.seat, self.seat);
        if theirs.rank != rank || theirs.world != ours.world {
            return Err(format!(
                "its address is that of rank {} of {}, not of {rank} of {}",
                theirs.rank, theirs.world, ours.world
            ));
        }
        let mut fds = fetch_fds(&card.server, &card.token, deadline)
            .map_err(|error| error.to_string())?
            .into_iter();
        let fd = fds.next().ok_or("it passed no segment")?;
        let segment = match self.nodes.get(&theirs.node) {
            Some(segment) => segment.clone(),
            None => Arc::new(Segment::attach(fd).map_err(|error| error.to_string())?),
        };
        card.places.check(&theirs, segment.len())?;
        self.nodes.insert(theirs.node, segment.clone());
        let bell = Doorbell::new(
            segment.clone(),
            card.places.doorbell(theirs.local_rank),
            fds.next(),
        );
        let out = Producer::new(
            segment.clone(),
            card.places.ring(theirs.world, theirs.local_rank, ours.rank),
        );
        let inbox = Consumer::new(
            self.segment.clone(),
            self.places.ring(ours.world, ours.local_rank, rank),
        );
        Ok(Peer {
            rank,
            segment,
            bell,
            out,
            inbox,
            waiting: VecDeque::new(),
        })
    }
}

/// Whether `len` bytes at `offset` lie inside of `segment`.
fn holds(segment: &Segment, offset: usize, len: usize) -> bool {
    offset <= segment.len() && len <= segment.len() - offset
}

impl Transport for Local {
    fn name(&self) -> &'static str {
        NAME
    }

    fn gathers(&self) -> bool {
        true
    }

    fn address(&self) -> Vec<u8> {
        let card = Card {
            seat: self.seat,
            places: self.places,
            server: self.server.address(),
            token: self.token,
        };
        serde_json::to_vec(&card).expect("numbers and a string are always JSON")
    }

    fn connect(&mut self, peers: &[PeerAddress], deadline: Instant) -> Result<(), Error> {
        for PeerAddress { rank, address } in peers {
            match self.index.get(*rank) {
                None => {
                    return Err(failed(
                        Some(*rank),
                        format!("there are only {} ranks", self.seat.world),
                    ));
                }
                Some(Some(_)) => continue,
                Some(None) if *rank == self.seat.rank => {
                    return Err(failed(Some(*rank), "a rank is no peer of itself"));
                }
                Some(None) => {}
            }
            let peer = self
                .meet(*rank, address, deadline)
                .map_err(|cause| failed(Some(*rank), cause))?;
            self.index[*rank] = Some(self.peers.len());
            self.peers.push(peer);
        }
        Ok(())
    }

    fn put(&mut self, put: Put) -> Result<(), Error> {
        let index = self.index.get(put.peer).copied().flatten();
        let peer = &mut self.peers
            [index.ok_or_else(|| failed(Some(put.peer), "a put before connecting to it"))?];
        let head = put
            .head()
            .filter(|head| holds(&self.segment, put.from, *head))
            .filter(|_| holds(&peer.segment, put.to, put.len));
        let Some(head) = head else {
            let (ours, theirs) = (self.segment.len(), peer.segment.len());
            return Err(failed(
                Some(put.peer),
                format!("{put:?} does not fit segments of {ours} and {theirs} bytes"),
            ));
        };
        let (from, to) = (
            self.segment.at(put.from, head),
            peer.segment.at(put.to, put.len),
        );
        // SAFETY: both ranges lie inside their mappings. The caller keeps the source still until `Sent` and owns the target until it
        // has arrived (the plan's proof). Between nodes the mappings differ; within one node the ranges may not overlap, but if
        // they did, `copy` would still be defined. The body was promised by whoever made it.
        unsafe {
            std::ptr::copy(from, to, head);
            if let Some(body) = put.body {
                std::ptr::copy(body.at(), to.add(head), body.len());
            }
        }
        self.sent.push_back(put.ticket);
        if peer.waiting.is_empty() && peer.out.push(put.notice.0) {
            peer.bell.ring();
        } else {
            peer.waiting.push_back(put.notice.0);
        }
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        events.extend(self.sent.drain(..).map(|ticket| Event::Sent { ticket }));
        for peer in &mut self.peers {
            let from = peer.rank;
            if !peer.waiting.is_empty() {
                peer.flush();
            }
            if peer.inbox.drain(|notice| {
                events.push(Event::Arrived {
                    from,
                    notice: Notice(notice),
                })
            }) {
                // The sender sleeps with notices that found our mailbox full; there is room now.
                peer.bell.ring();
            }
        }
        Ok(())
    }

    /// Nothing: arrivals ring the doorbell.
    fn watch(&self, _: &mut Vec<(RawFd, bool)>) {}
}
