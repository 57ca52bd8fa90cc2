//! What the tests of wires have in common: connecting ends, bytes of segments, random numbers, and a guard against hanging.

use hfr_transport::shm::Segment;
use hfr_transport::{Event, PeerAddress, Transport};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// One rank's wire and the segment of its node.
pub type End = (Box<dyn Transport>, Arc<Segment>);

/// Length of the segments in bytes.
pub const SEGMENT: usize = 40 << 20;

/// How long any of these tests may take before it counts as hanging; a hundred times what they need.
const PATIENCE: Duration = Duration::from_secs(240);

/// The seed of all random choices: `HFR_TEST_SEED`, or a fixed one.
pub fn seed() -> u64 {
    std::env::var("HFR_TEST_SEED").map_or(20_240_817, |seed| {
        seed.parse().expect("HFR_TEST_SEED is a number")
    })
}

/// As many of something as the tests do at full length, or fewer where they run in an emulated machine: `HFR_TEST_SHARE` is the divisor.
pub fn share(full: u32) -> u32 {
    let share = std::env::var("HFR_TEST_SHARE").map_or(1, |share| {
        share.parse().expect("HFR_TEST_SHARE is a number")
    });
    (full / share).max(10)
}

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Ends the test with a message when it hangs, and says the seed when it fails.
pub struct Guard {
    _done: Sender<()>,
}

impl Guard {
    pub fn new() -> Guard {
        let (done, wait) = channel::<()>();
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{name} hangs (HFR_TEST_SEED={})", seed());
                std::process::exit(101);
            }
        });
        Guard { _done: done }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with HFR_TEST_SEED={}", seed());
        }
    }
}

/// Connects each of `ranks` with all others of them, all at the same time.
pub fn connect(ends: &mut [End], ranks: Range<usize>) {
    let addresses: Vec<_> = ends
        .iter()
        .enumerate()
        .map(|(rank, (wire, _))| PeerAddress {
            rank,
            address: wire.address(),
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    std::thread::scope(|scope| {
        for (rank, (wire, _)) in ends
            .iter_mut()
            .enumerate()
            .filter(|(rank, _)| ranks.contains(rank))
        {
            let peers: Vec<_> = addresses[ranks.clone()]
                .iter()
                .filter(|peer| peer.rank != rank)
                .cloned()
                .collect();
            scope.spawn(move || wire.connect(&peers, deadline).unwrap());
        }
    });
}

/// Polls `ends` in turn until `done` says so of all they have reported, rank by rank.
pub fn poll_until(
    ends: &mut [End],
    events: &mut [Vec<Event>],
    done: impl Fn(&[Vec<Event>]) -> bool,
) {
    while !done(events) {
        for (rank, (wire, _)) in ends.iter_mut().enumerate() {
            wire.poll(&mut events[rank]).unwrap();
        }
    }
}

/// Writes bytes into a segment.
pub fn write(segment: &Segment, at: usize, bytes: &[u8]) {
    // SAFETY: `at` checks the bounds; the tests write only what no put in flight uses, which is what they are about.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), segment.at(at, bytes.len()), bytes.len())
    }
}

/// Fills a part of a segment with one byte.
pub fn fill(segment: &Segment, range: Range<usize>, byte: u8) {
    // SAFETY: as in `write`.
    unsafe { std::ptr::write_bytes(segment.at(range.start, range.len()), byte, range.len()) }
}

/// The bytes of a part of a segment.
pub fn read(segment: &Segment, range: Range<usize>) -> &[u8] {
    // SAFETY: `at` checks the bounds; nobody writes what has arrived as long as the tests look at it.
    unsafe { std::slice::from_raw_parts(segment.at(range.start, range.len()), range.len()) }
}

/// Random bytes, the same for the same key.
pub fn pattern(key: u64, bytes: &mut [u8]) {
    let mut random = Random(key.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ seed());
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&random.next().to_le_bytes()[..part.len()]);
    }
}
