//! The simulation is only worth something if it is unkind, repeatable and breaks as told.

use super::*;
use crate::wire::Notice;

fn net(ranks: usize, seed: u64, faults: Vec<Fault>) -> (SimNet, Vec<SimWire>, Vec<Arc<Segment>>) {
    let segments: Vec<_> = (0..ranks).map(|_| Arc::new(Segment::heap(4096))).collect();
    let net = SimNet::new(segments.clone(), seed, faults);
    let mut wires: Vec<_> = (0..ranks).map(|rank| net.endpoint(rank)).collect();
    for (rank, wire) in wires.iter_mut().enumerate() {
        let others = (0..ranks).filter(|&other| other != rank);
        let peers: Vec<_> = others
            .map(|rank| PeerAddress {
                rank,
                address: format!("sim:{rank}").into_bytes(),
            })
            .collect();
        wire.connect(&peers, Instant::now()).unwrap();
    }
    (net, wires, segments)
}

fn byte(segment: &Segment, at: usize) -> u8 {
    // SAFETY: inside the segment; the test runs in one thread.
    unsafe { segment.at(at, 1).read() }
}

fn set(segment: &Segment, at: usize, value: u8) {
    // SAFETY: as above.
    unsafe { segment.at(at, 1).write(value) }
}

fn put(peer: usize, len: usize, n: u32) -> Put {
    Put {
        peer,
        from: 0,
        len,
        to: 0,
        notice: Notice(n),
        body: None,
        ticket: u64::from(n),
    }
}

/// All that happens when two ranks exchange twenty puts.
fn history(seed: u64) -> Vec<(u64, usize, Event)> {
    let (net, mut wires, _segments) = net(2, seed, Vec::new());
    for n in 0..10 {
        wires[0].put(put(1, 100, n)).unwrap();
        wires[1].put(put(0, 50, n)).unwrap();
    }
    let mut history = Vec::new();
    while net.advance() {
        for (rank, wire) in wires.iter_mut().enumerate() {
            let mut events = Vec::new();
            wire.poll(&mut events).unwrap();
            history.extend(events.into_iter().map(|event| (net.now(), rank, event)));
        }
    }
    history
}

#[test]
fn a_seed_repeats_itself_and_another_does_not() {
    assert_eq!(history(7).len(), 40);
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}

#[test]
fn every_order_the_contract_allows_comes_up() {
    let (mut sent_first, mut arrived_first, mut early_bytes, mut late_bytes, mut torn) =
        (0, 0, 0, 0, 0);
    let mut spoiled = 0;
    for seed in 0..200 {
        let (net, mut wires, segments) = net(2, seed, Vec::new());
        set(&segments[0], 0, 77);
        set(&segments[0], 99, 78);
        wires[0].put(put(1, 100, 1)).unwrap();
        let (mut sent, mut before) = (false, (0, 0));
        loop {
            assert!(net.advance(), "the put never arrived");
            let (mut tell, mut told) = (Vec::new(), Vec::new());
            wires[0].poll(&mut tell).unwrap();
            wires[1].poll(&mut told).unwrap();
            sent |= !tell.is_empty();
            if !told.is_empty() {
                break;
            }
            before = (byte(&segments[1], 0), byte(&segments[1], 99));
            torn += usize::from((before.0 == 0) != (before.1 == 0));
        }
        assert_eq!(
            (byte(&segments[1], 0), byte(&segments[1], 99)),
            (77, 78),
            "seed {seed}"
        );
        *(if sent {
            &mut sent_first
        } else {
            &mut arrived_first
        }) += 1;
        *(if before == (77, 78) {
            &mut early_bytes
        } else {
            &mut late_bytes
        }) += 1;
        // The same again by a sender that does not wait for `Sent`.
        wires[0].put(put(1, 100, 2)).unwrap();
        set(&segments[0], 0, 99);
        while net.advance() {}
        spoiled += usize::from(byte(&segments[1], 0) == 99);
    }
    for (what, count) in [
        ("sent before arrived", sent_first),
        ("arrived before sent", arrived_first),
        ("bytes before the notice", early_bytes),
        ("bytes with the notice", late_bytes),
        ("half of the bytes", torn),
        ("a source overwritten too early", spoiled),
    ] {
        assert!(count >= 20, "{what} came up {count} times in 200 seeds");
    }
}

#[test]
fn a_dropped_rank_is_named_by_its_peers_and_runs_no_more() {
    let (net, mut wires, _segments) = net(
        3,
        5,
        vec![Fault::Drop {
            rank: 1,
            at_event: 4,
        }],
    );
    for n in 0..20 {
        wires[1].put(put(0, 10, n)).unwrap();
    }
    while net.advance() {}
    assert!(!net.alive(1) && net.alive(0));
    let mut events = Vec::new();
    let from_0 = wires[0].poll(&mut events).unwrap_err();
    assert!(events.len() < 20, "a dropped rank delivered all it had");
    assert_eq!(from_0.peer, Some(1));
    assert_eq!(wires[2].put(put(1, 0, 0)).unwrap_err().peer, Some(1));
    assert_eq!(wires[1].poll(&mut events).unwrap_err().peer, None);
    wires[2].put(put(0, 0, 9)).unwrap();
    while net.advance() {}
    events.clear();
    assert!(wires[0].poll(&mut events).is_err());
    assert_eq!(
        events,
        [Event::Arrived {
            from: 2,
            notice: Notice(9)
        }],
        "others still get through"
    );
}

#[test]
fn a_link_is_cut_at_its_nth_put_and_both_ends_name_each_other() {
    let (net, mut wires, _segments) = net(
        3,
        6,
        vec![Fault::Cut {
            a: 2,
            b: 0,
            at_put: 3,
        }],
    );
    let mut events = Vec::new();
    for (n, (from, to)) in [(0, 2), (2, 0)].into_iter().enumerate() {
        wires[from].put(put(to, 8, n as u32)).unwrap();
        while net.advance() {}
        wires[from].poll(&mut events).unwrap();
        wires[to].poll(&mut events).unwrap();
    }
    assert_eq!(events.len(), 4);
    wires[0].put(put(2, 8, 2)).unwrap();
    while net.advance() {}
    assert_eq!(wires[0].poll(&mut events).unwrap_err().peer, Some(2));
    assert_eq!(wires[2].poll(&mut events).unwrap_err().peer, Some(0));
    assert_eq!(events.len(), 4, "the put that broke the link was delivered");
    wires[1].poll(&mut events).unwrap();
}

#[test]
fn a_delayed_put_is_late_by_that_much_and_holds_up_those_behind_it() {
    let delay = Fault::Delay {
        from: 0,
        to: 1,
        at_put: 2,
        nanoseconds: 1_000_000_000,
    };
    let (net, mut wires, _segments) = net(2, 7, vec![delay]);
    for n in 1..=3 {
        wires[0].put(put(1, 8, n)).unwrap();
    }
    let mut times = Vec::new();
    while net.advance() {
        let mut events = Vec::new();
        wires[1].poll(&mut events).unwrap();
        times.extend(events.into_iter().map(|event| (event, net.now())));
    }
    let late: Vec<_> = times.iter().map(|(_, at)| *at >= 1_000_000_000).collect();
    assert_eq!(late, [false, true, true], "{times:?}");
}
