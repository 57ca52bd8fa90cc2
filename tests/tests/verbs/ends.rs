//! Ends of the verbs wire for tests: each rank on a device of its own, as far as there are enough.

use super::drive::{End, SEGMENT};
use hfr_transport::net::Infiniband;
use hfr_transport::shm::Segment;
use hfr_transport::verbs::{Limits, Member, Port, Verbs};
use hfr_transport::{Notice, PeerAddress, Put, Transport};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The token of the job that all these tests are.
const TOKEN: [u8; 32] = *b"a job's token, 32 bytes of them.";
/// Ranks of a job, as far as these tests go.
const WORLD: usize = 8;

/// The limits jobs have.
pub fn usual() -> Limits {
    Limits::default()
}

/// Limits at which everything fills up.
pub fn small() -> Limits {
    Limits {
        credits: 4,
        sends: 6,
        every: 3,
        inline: 16,
        least: 100,
        block: 96 << 10,
        patience: None,
    }
}

/// How many devices rxe0, rxe1, ... there are.
pub fn devices() -> usize {
    let there = |k: &usize| std::path::Path::new(&format!("/sys/class/infiniband/rxe{k}")).exists();
    let count = (0..).take_while(there).count();
    assert!(
        count > 1,
        "no devices rxe0 and rxe1: run this by ci/verbs.sh"
    );
    count
}

/// The settings of a rank.
pub fn settings(rank: usize) -> Infiniband {
    Infiniband {
        hca: Some(format!("=rxe{}", rank % devices())),
        ..Infiniband::default()
    }
}

/// One rank's end, whose peers may write `writable`.
pub fn end(
    rank: usize,
    len: usize,
    writable: Range<usize>,
    limits: Limits,
) -> (Verbs, Arc<Segment>) {
    end_with(rank, len, writable, limits, &settings(rank))
}

/// The same, with settings of its own.
pub fn end_with(
    rank: usize,
    len: usize,
    writable: Range<usize>,
    limits: Limits,
    settings: &Infiniband,
) -> (Verbs, Arc<Segment>) {
    open(rank, Vec::new(), len, writable, limits, settings)
}

/// One rank's end on these devices, each with the number of its rail, its main one first.
pub fn end_on(
    rank: usize,
    rails: &[(usize, usize)],
    len: usize,
    limits: Limits,
) -> (Verbs, Arc<Segment>) {
    let port = |&(device, rail): &(usize, usize)| Port {
        name: format!("rxe{device}:1"),
        rail,
    };
    let ports = rails.iter().map(port).collect();
    open(rank, ports, len, 0..len, limits, &Infiniband::default())
}

fn open(
    rank: usize,
    ports: Vec<Port>,
    len: usize,
    writable: Range<usize>,
    limits: Limits,
    settings: &Infiniband,
) -> (Verbs, Arc<Segment>) {
    let segment = Arc::new(Segment::create("verbs", len).expect("shared memory"));
    let member = Member {
        rank,
        world: WORLD,
        local_rank: 0,
        ports,
    };
    let listen = [127, 0, 0, 1].into();
    let wire = Verbs::open(
        member,
        segment.clone(),
        writable,
        listen,
        TOKEN,
        settings,
        limits,
    );
    (wire.expect("a verbs wire"), segment)
}

/// Ends as the contract wants them.
pub fn ends(ranks: usize, limits: Limits) -> Vec<End> {
    (0..ranks)
        .map(|rank| end(rank, SEGMENT, 0..SEGMENT, limits))
        .map(|(wire, segment)| (Box::new(wire) as _, segment))
        .collect()
}

/// The same, each on two rails with devices of its own as far as there are enough; odd ranks have the other one as their main rail.
pub fn ends_on_rails(ranks: usize, limits: Limits) -> Vec<End> {
    let end = |rank: usize| {
        let device = |rail: usize| (2 * rank + rail) % devices();
        let mut rails = [(device(0), 0), (device(1), 1)];
        rails.rotate_left(rank % 2);
        end_on(rank, &rails, SEGMENT, limits)
    };
    (0..ranks)
        .map(end)
        .map(|(wire, segment)| (Box::new(wire) as _, segment))
        .collect()
}

/// Where each rank is, by rank.
pub fn addresses(ends: &[&Verbs]) -> Vec<PeerAddress> {
    let address = |(rank, end): (usize, &&Verbs)| PeerAddress {
        rank,
        address: end.address(),
    };
    ends.iter().enumerate().map(address).collect()
}

pub fn soon(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// Two connected ranks; peers of rank 1 may write `writable` only.
pub fn pair(len: usize, writable: Range<usize>, limits: Limits) -> [(Verbs, Arc<Segment>); 2] {
    connected(end(0, len, 0..len, limits), end(1, len, writable, limits))
}

/// Ranks 0 and 1, connected.
pub fn connected(
    mut a: (Verbs, Arc<Segment>),
    mut b: (Verbs, Arc<Segment>),
) -> [(Verbs, Arc<Segment>); 2] {
    let all = addresses(&[&a.0, &b.0]);
    std::thread::scope(|scope| {
        scope.spawn(|| a.0.connect(&all[1..], soon(20)).unwrap());
        b.0.connect(&all[..1], soon(20)).unwrap();
    });
    [a, b]
}

/// The same of two ranks with settings of their own.
pub fn pair_with(near: &Infiniband, far: &Infiniband) -> [Verbs; 2] {
    let open = |rank, settings| end_with(rank, 1 << 20, 0..1 << 20, usual(), settings).0;
    let (mut a, mut b) = (open(0, near), open(1, far));
    let all = addresses(&[&a, &b]);
    std::thread::scope(|scope| {
        scope.spawn(|| a.connect(&all[1..], soon(20)).unwrap());
        b.connect(&all[..1], soon(20)).unwrap();
    });
    [a, b]
}

/// A put from the beginning of the segment.
pub fn put(peer: usize, to: usize, len: usize, n: u32) -> Put {
    Put {
        peer,
        from: 0,
        len,
        to,
        notice: Notice(n),
        body: None,
        ticket: u64::from(n),
    }
}
