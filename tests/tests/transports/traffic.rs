//! Random traffic between all pairs of ranks, checked byte by byte. A sender spoils its source as soon as `Sent` has come, and
//! a receiver spoils the target after it has looked, so that early reads, late writes and stale bytes all show.

use super::drive::{Random, fill, pattern, read, seed, write};
use hfr_transport::shm::Segment;
use hfr_transport::{Event, Notice, Put, Transport};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

/// Puts of one pair that may be in flight: source and target slots.
const WINDOW: u32 = 4;
/// Largest put.
const LARGEST: usize = 1 << 20;
/// A slot holds the largest put, unaligned, with a byte to spare on both sides.
const SLOT: usize = LARGEST + 128;
const SPOILED_SOURCE: u8 = 0xEE;
const SPOILED_TARGET: u8 = 0xDD;

/// How many puts of each ordered pair have been checked by the receiver: what lets the sender use a target again.
pub struct Checked {
    ranks: usize,
    counts: Vec<AtomicU32>,
}

impl Checked {
    pub fn new(ranks: usize) -> Checked {
        let counts = (0..ranks * ranks).map(|_| AtomicU32::new(0)).collect();
        Checked { ranks, counts }
    }

    fn of(&self, from: usize, to: usize) -> &AtomicU32 {
        &self.counts[from * self.ranks + to]
    }
}

/// One rank's part in the traffic.
pub struct Trader<'a> {
    rank: usize,
    peers: Vec<usize>,
    puts: u32,
    segment: &'a Segment,
    checked: &'a Checked,
    /// Per peer: puts begun, and which source slots are free.
    begun: BTreeMap<usize, u32>,
    free: BTreeMap<usize, [bool; WINDOW as usize]>,
    heard: BTreeMap<usize, u32>,
    events: Vec<Event>,
    scratch: Vec<u8>,
}

impl<'a> Trader<'a> {
    /// Puts `puts` times to each of `peers` and receives as many from each.
    pub fn new(
        rank: usize,
        peers: Vec<usize>,
        puts: u32,
        segment: &'a Segment,
        checked: &'a Checked,
    ) -> Trader<'a> {
        for (side, byte) in [(0, SPOILED_SOURCE), (1, SPOILED_TARGET)] {
            for (at, _) in peers.iter().enumerate() {
                for slot in 0..WINDOW {
                    let start = place(side, at, slot);
                    fill(segment, start..start + SLOT, byte);
                }
            }
        }
        Trader {
            rank,
            begun: peers.iter().map(|&peer| (peer, 0)).collect(),
            free: peers
                .iter()
                .map(|&peer| (peer, [true; WINDOW as usize]))
                .collect(),
            heard: peers.iter().map(|&peer| (peer, 0)).collect(),
            peers,
            puts,
            segment,
            checked,
            events: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Whether everything has been sent, reported and checked.
    pub fn done(&self) -> bool {
        let all = |counts: &BTreeMap<usize, u32>| counts.values().all(|&count| count == self.puts);
        all(&self.begun) && all(&self.heard) && self.free.values().flatten().all(|&free| free)
    }

    /// Begins the next put to one of the peers, if its slots are free.
    pub fn put(&mut self, wire: &mut dyn Transport, which: usize) {
        let at = which % self.peers.len();
        let peer = self.peers[at];
        let n = self.begun[&peer];
        let slot = n % WINDOW;
        let window = n < self.checked.of(self.rank, peer).load(Ordering::Acquire) + WINDOW;
        if n == self.puts || !window || !self.free[&peer][slot as usize] {
            return;
        }
        let shape = shape(self.rank, peer, n);
        let from = place(0, at, slot) + shape.from;
        self.scratch.resize(shape.len, 0);
        pattern(shape.key, &mut self.scratch);
        write(self.segment, from, &self.scratch);
        // The receiver's slots for us: our place among its peers, which are all ranks but itself.
        let seat = if self.rank < peer {
            self.rank
        } else {
            self.rank - 1
        };
        let to = place(1, seat, slot) + shape.to;
        let ticket = (peer as u64) << 32 | u64::from(n);
        wire.put(Put {
            peer,
            from,
            len: shape.len,
            to,
            notice: Notice(n),
            body: None,
            ticket,
        })
        .unwrap();
        self.free.get_mut(&peer).unwrap()[slot as usize] = false;
        *self.begun.get_mut(&peer).unwrap() += 1;
    }

    /// Polls and checks all that is reported.
    pub fn poll(&mut self, wire: &mut dyn Transport) {
        wire.poll(&mut self.events).unwrap();
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Sent { ticket } => self.sent((ticket >> 32) as usize, ticket as u32),
                Event::Arrived { from, notice } => self.arrived(from, notice.0),
            }
        }
    }

    fn sent(&mut self, peer: usize, n: u32) {
        let at = self
            .peers
            .iter()
            .position(|&known| known == peer)
            .expect("the ticket of a put to a peer");
        let slot = n % WINDOW;
        let free = &mut self.free.get_mut(&peer).unwrap()[slot as usize];
        assert!(
            !*free,
            "rank {}: put {n} to rank {peer} reported twice",
            self.rank
        );
        *free = true;
        let start = place(0, at, slot);
        fill(self.segment, start..start + SLOT, SPOILED_SOURCE);
    }

    fn arrived(&mut self, from: usize, n: u32) {
        let rank = self.rank;
        let expected = self
            .heard
            .get_mut(&from)
            .unwrap_or_else(|| panic!("a notice from rank {from}, no peer"));
        assert_eq!(
            n, *expected,
            "rank {rank}: notices from rank {from} out of order, lost or doubled"
        );
        *expected += 1;
        let at = self.peers.iter().position(|&known| known == from).unwrap();
        let (start, shape) = (place(1, at, n % WINDOW), shape(from, rank, n));
        let target = start + shape.to..start + shape.to + shape.len;
        self.scratch.resize(shape.len, 0);
        pattern(shape.key, &mut self.scratch);
        let what = format!(
            "put {n} of {} bytes from rank {from} to rank {rank}",
            shape.len
        );
        assert!(
            read(self.segment, target.clone()) == self.scratch,
            "{what}: wrong bytes"
        );
        for spare in [start..target.start, target.end..start + SLOT] {
            assert!(
                read(self.segment, spare)
                    .iter()
                    .all(|&b| b == SPOILED_TARGET),
                "{what}: bytes beside it changed"
            );
        }
        fill(self.segment, start..start + SLOT, SPOILED_TARGET);
        self.checked.of(from, rank).fetch_add(1, Ordering::Release);
    }
}

/// Offset of a slot: `side` 0 for sources, 1 for targets, `at` the place among the peers.
fn place(side: usize, at: usize, slot: u32) -> usize {
    ((at * 2 + side) * WINDOW as usize + slot as usize) * SLOT
}

/// What the n-th put of a pair looks like; both ends work it out for themselves.
struct Shape {
    len: usize,
    from: usize,
    to: usize,
    key: u64,
}

fn shape(from: usize, to: usize, n: u32) -> Shape {
    let key = (from as u64) << 48 | (to as u64) << 32 | u64::from(n);
    let mut random = Random(key ^ seed().rotate_left(17));
    // Mostly small, some of every size up to the largest.
    let len = match random.below(8) {
        0 => 0,
        1..4 => random.below(100),
        4..7 => random.below(30_000),
        _ => random.below(LARGEST + 1),
    };
    Shape {
        len,
        from: 1 + random.below(64),
        to: 1 + random.below(64),
        key,
    }
}
