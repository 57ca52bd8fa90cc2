//! Each act of a script, on the simulated wire. Killing and stopping are shown by the process tests.

use super::*;
use crate::shm::Segment;
use crate::sim::{SimNet, SimWire};
use crate::wire::Notice;
use std::sync::Arc;
use std::time::Duration;

fn wires(script: &str) -> (SimNet, Vec<Chaos<SimWire>>) {
    let segments = (0..3).map(|_| Arc::new(Segment::heap(64))).collect();
    let net = SimNet::new(segments, 11, Vec::new());
    let wires = (0..3).map(|rank| {
        let script = if rank == 0 {
            script.parse().unwrap()
        } else {
            Script::default()
        };
        let mut wire = Chaos::new(net.endpoint(rank), script).unwrap();
        let others = (0..3).filter(|&other| other != rank);
        let peers: Vec<_> = others
            .map(|rank| PeerAddress {
                rank,
                address: format!("sim:{rank}").into_bytes(),
            })
            .collect();
        wire.connect(&peers, Instant::now()).unwrap();
        wire
    });
    let wires = wires.collect();
    (net, wires)
}

fn put(peer: usize, n: u32) -> Put {
    Put {
        peer,
        from: 0,
        len: 8,
        to: 0,
        notice: Notice(n),
        body: None,
        ticket: u64::from(n),
    }
}

/// The notices `wire` has received.
fn notices(net: &SimNet, wire: &mut impl Transport) -> (Vec<u32>, Result<(), Error>) {
    while net.advance() {}
    let mut events = Vec::new();
    let result = wire.poll(&mut events);
    let notices = events.into_iter().filter_map(|event| match event {
        Event::Arrived { notice, .. } => Some(notice.0),
        Event::Sent { .. } => None,
    });
    (notices.collect(), result)
}

/// Whether a rank parked on what `wire` watches would wake.
fn wakes(wire: &impl Transport) -> bool {
    let mut fds = Vec::new();
    wire.watch(&mut fds);
    fds.iter().any(|&(fd, _)| {
        // SAFETY: the wire that owns the descriptor is borrowed.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            fd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, Some(&now)).unwrap() > 0
    })
}

#[test]
fn a_put_held_back_for_polls_holds_back_its_peer_only() {
    let (net, mut wires) = wires("delay=3polls@2");
    for (n, peer) in [1, 1, 2, 1].into_iter().enumerate() {
        wires[0].put(put(peer, n as u32 + 1)).unwrap();
    }
    assert_eq!(notices(&net, &mut wires[1]).0, [1]);
    assert_eq!(notices(&net, &mut wires[2]).0, [3]);
    for _ in 0..3 {
        assert_eq!(notices(&net, &mut wires[1]).0, [0u32; 0]);
        wires[0].poll(&mut Vec::new()).unwrap();
    }
    assert_eq!(notices(&net, &mut wires[1]).0, [2, 4]);
}

#[test]
fn a_put_held_back_for_a_time_wakes_its_rank_when_it_may_go() {
    let (net, mut wires) = wires("delay=30ms@1");
    assert!(!wakes(&wires[0]));
    let start = Instant::now();
    wires[0].put(put(1, 1)).unwrap();
    wires[0].poll(&mut Vec::new()).unwrap();
    if start.elapsed() < Duration::from_millis(30) {
        assert_eq!(notices(&net, &mut wires[1]).0, [0u32; 0]);
    }
    while !wakes(&wires[0]) {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the timer never came"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(start.elapsed() >= Duration::from_millis(30));
    wires[0].poll(&mut Vec::new()).unwrap();
    assert_eq!(notices(&net, &mut wires[1]).0, [1]);
    assert!(!wakes(&wires[0]), "the timer still rings");
}

#[test]
fn a_cut_peer_is_an_error_of_every_call_and_nothing_from_it_gets_through() {
    let (net, mut wires) = wires("delay=9polls@1,cut@2");
    wires[0].put(put(1, 1)).unwrap();
    assert_eq!(wires[0].put(put(1, 2)).unwrap_err().peer, Some(1));
    assert_eq!(wires[0].put(put(1, 3)).unwrap_err().peer, Some(1));
    wires[0].put(put(2, 4)).unwrap();
    wires[1].put(put(0, 5)).unwrap();
    wires[2].put(put(0, 6)).unwrap();
    let (got, result) = notices(&net, &mut wires[0]);
    assert_eq!(got, [6]);
    assert_eq!(
        result.unwrap_err().to_string(),
        "sim: peer rank 1: the connection was cut by the chaos script"
    );
    for _ in 0..10 {
        assert_eq!(wires[0].poll(&mut Vec::new()).unwrap_err().peer, Some(1));
    }
    assert_eq!(notices(&net, &mut wires[1]).0, [0u32; 0]);
    assert_eq!(notices(&net, &mut wires[2]).0, [4]);
}
