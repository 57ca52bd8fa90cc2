//! What goes wrong between queue pairs, and what it says: a killed peer, a link that is down, a broken pair, memory that is not to be
//! written, devices that cannot be had.

use super::drive::{Guard, fill, read};
use super::ends::{addresses, devices, end, pair, put, settings, small, soon, usual};
use hfr_transport::net::Infiniband;
use hfr_transport::shm::Segment;
use hfr_transport::verbs::{Limits, Verbs, usable};
use hfr_transport::{Error, Event, PeerAddress, Transport};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Polls until an error comes.
pub fn fails(wire: &mut Verbs) -> Error {
    let started = Instant::now();
    loop {
        if let Err(error) = wire.poll(&mut Vec::new()) {
            return error;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "no error within a minute"
        );
    }
}

/// One put each way: both know where the other may be written from here on, and need not ask.
pub fn acquaint([a, b]: &mut [(Verbs, Arc<Segment>); 2]) {
    let mut events = [Vec::new(), Vec::new()];
    a.0.put(put(1, 0, 8, 70)).unwrap();
    b.0.put(put(0, 0, 8, 70)).unwrap();
    let came = |events: &Vec<Event>| {
        events
            .iter()
            .any(|event| matches!(event, Event::Arrived { .. }))
    };
    while !events.iter().all(came) {
        a.0.poll(&mut events[0]).unwrap();
        b.0.poll(&mut events[1]).unwrap();
    }
}

/// Sets the link of a device up or down. The kernel forgets routes and neighbours of a link that goes down; a job's host would learn them again.
pub fn set_link(device: usize, state: &str) {
    let mut lines = vec![format!("link set r{device} {state}")];
    if state == "up" {
        let (own, table) = (format!("10.77.0.{}", device + 1), 1000 + device);
        lines.push(format!(
            "route replace local {own} dev r{device} table {table}"
        ));
        lines.push(format!(
            "route replace 10.77.0.0/24 dev r{device} src {own} table {table}"
        ));
        let others = (0..devices()).filter(|k| *k != device);
        lines.extend(others.map(|k| {
            format!(
                "neigh replace 10.77.0.{} lladdr 02:77:00:00:00:{k:02x} dev r{device} nud permanent",
                k + 1
            )
        }));
    }
    for line in lines {
        let done = Command::new("ip").args(line.split(' ')).status();
        assert!(done.expect("the program ip").success(), "ip {line}");
    }
}

/// Whatever a test comes to, the link is up afterwards.
pub struct Up(pub usize);

/// Sets the link of a device down, until this is dropped.
pub fn down(device: usize) -> Up {
    set_link(device, "down");
    Up(device)
}

impl Drop for Up {
    fn drop(&mut self) {
        set_link(self.0, "up");
    }
}

/// Errors come soon: 67 ms, sent once again.
pub fn quick() -> Limits {
    Limits {
        patience: Some((14, 1)),
        ..usual()
    }
}

#[test]
fn a_put_outside_the_writable_part_is_refused_by_both_ends() {
    let _guard = Guard::new();
    for (to, len) in [
        (0, 300),
        (4095, 1),
        (4000, 400),
        (8000, 400),
        (8192, 1),
        (usize::MAX - 600, 500),
    ] {
        let [mut a, mut b] = pair(16384, 4096..8192, small());
        fill(&a.1, 0..16384, 0x11);
        fill(&b.1, 0..16384, 0x22);
        a.0.put(put(1, 4096, 16, 1)).unwrap();
        let mut events = Vec::new();
        while !events
            .iter()
            .any(|event| matches!(event, Event::Arrived { .. }))
        {
            a.0.poll(&mut Vec::new()).unwrap();
            b.0.poll(&mut events).unwrap();
        }
        let (mut ours, mut theirs) = (a.0.put(put(1, to, len, 2)).err(), None);
        let started = Instant::now();
        while (ours.is_none() || theirs.is_none()) && started.elapsed() < Duration::from_secs(30) {
            theirs = theirs.or(b.0.poll(&mut Vec::new()).err());
            ours = ours.or(a.0.poll(&mut Vec::new()).err());
        }
        let (ours, theirs) = (
            ours.expect("an error of the sender"),
            theirs.expect("an error of the receiver"),
        );
        assert_eq!(
            (ours.peer, theirs.peer),
            (Some(1), Some(0)),
            "{to}, {len}: {ours}; {theirs}"
        );
        assert!(
            ours.to_string().contains("outside the bytes"),
            "{to}, {len}: {ours}"
        );
        let outside = (0..4096).chain(8192..16384);
        let changed = outside
            .filter(|&at| read(&b.1, at..at + 1) != [0x22])
            .count();
        assert_eq!(changed, 0, "{to}, {len}: bytes outside changed");
    }
}

#[test]
fn a_broken_pair_is_named_by_both_ends() {
    let _guard = Guard::new();
    let mut both = pair(1 << 20, 0..1 << 20, quick());
    acquaint(&mut both);
    let [mut a, mut b] = both;
    a.0.break_lane(1, 0).unwrap();
    let error = fails(&mut a.0);
    assert_eq!(error.peer, Some(1));
    assert!(error.to_string().contains("put out of order"), "{error}");
    assert!(
        a.0.put(put(1, 0, 8, 1)).is_err(),
        "a put to a broken pair went through"
    );
    // The other end learns it by its next put.
    b.0.put(put(0, 0, 8, 1)).unwrap();
    let error = fails(&mut b.0);
    assert_eq!(error.peer, Some(0));
    assert!(error.to_string().contains("did not answer"), "{error}");
}

#[test]
fn a_link_that_is_down_is_an_error_with_the_ports_state() {
    let _guard = Guard::new();
    let mut both = pair(1 << 20, 0..1 << 20, quick());
    acquaint(&mut both);
    let [mut a, _b] = both;
    let up = down(0);
    let error = a.0.put(put(1, 0, 8, 1)).err();
    let error = error.unwrap_or_else(|| fails(&mut a.0));
    let closed = usable(&settings(0)).unwrap_err();
    drop(up);
    assert_eq!(error.peer, Some(1));
    let text = error.to_string();
    assert!(
        text.contains("rxe0 port 1") && text.contains("our port is down"),
        "{text}"
    );
    assert!(
        closed.contains("rxe0:1 is down; check the cable"),
        "{closed}"
    );
    drop(a);
    // And the device serves again.
    let [mut a, mut b] = pair(1 << 20, 0..1 << 20, usual());
    a.0.put(put(1, 0, 100, 7)).unwrap();
    let mut events = Vec::new();
    while events.is_empty() {
        a.0.poll(&mut Vec::new()).unwrap();
        b.0.poll(&mut events).unwrap();
    }
}

/// Not a test by itself: the process that `a_killed_peer_is_named` kills.
#[test]
fn the_peer_that_is_killed() {
    let Ok(address) = std::env::var("HFR_TEST_VERBS_PEER") else {
        return;
    };
    let (mut wire, _segment) = end(1, 1 << 20, 0..1 << 20, usual());
    println!("address {}", String::from_utf8(wire.address()).unwrap());
    std::io::stdout().flush().unwrap();
    let peer = PeerAddress {
        rank: 0,
        address: address.into_bytes(),
    };
    wire.connect(&[peer], soon(30)).unwrap();
    let mut events = Vec::new();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        wire.poll(&mut events).unwrap();
        if !events.is_empty() {
            events.clear();
            wire.put(put(0, 0, 5000, 9)).unwrap();
        }
    }
}

#[test]
fn a_killed_peer_is_named() {
    let _guard = Guard::new();
    let (mut wire, _segment) = end(0, 1 << 20, 0..1 << 20, usual());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::the_peer_that_is_killed", "--nocapture"])
        .env(
            "HFR_TEST_VERBS_PEER",
            String::from_utf8(wire.address()).unwrap(),
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines.map_while(Result::ok).find_map(|line| {
        let at = line.find("address ")?;
        Some(line[at + 8..].trim().to_owned())
    });
    let peer = PeerAddress {
        rank: 1,
        address: told.expect("the peer's address").into_bytes(),
    };
    wire.connect(&[peer], soon(30)).unwrap();
    // It lives and answers, and then it does not.
    wire.put(put(1, 0, 5000, 1)).unwrap();
    let mut events = Vec::new();
    while !events
        .iter()
        .any(|event| matches!(event, Event::Arrived { from: 1, .. }))
    {
        wire.poll(&mut events).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let error = fails(&mut wire);
    assert_eq!(error.peer, Some(1));
    assert!(
        error.to_string().contains("it exited or was killed"),
        "{error}"
    );
    assert!(
        wire.put(put(1, 0, 8, 1)).is_err(),
        "a put to a dead process went through"
    );
}

#[test]
fn a_device_that_cannot_be_had_says_why() {
    let hca = |text: &str| Infiniband {
        hca: Some(text.into()),
        ..Infiniband::default()
    };
    let error = usable(&hca("mlx5_7:2")).unwrap_err();
    assert!(
        error.contains("rxe0:1 is not among HFR_IB_HCA=mlx5_7:2"),
        "{error}"
    );
    let row = Infiniband {
        pkey_index: 999,
        ..settings(0)
    };
    let error = usable(&row).unwrap_err();
    assert!(error.contains("no row 999; set HFR_IB_PKEY"), "{error}");
    usable(&hca("^rxe0")).unwrap();
}

#[test]
fn an_empty_row_of_the_address_table_is_said_and_the_named_one_is_used() {
    let _guard = Guard::new();
    for (index, works) in [(1, true), (200, false)] {
        let open = |rank: usize| {
            let settings = Infiniband {
                gid_index: Some(index),
                ..settings(rank)
            };
            super::ends::end_with(rank, 1 << 20, 0..1 << 20, usual(), &settings).0
        };
        let (mut a, mut b) = (open(0), open(1));
        let all = addresses(&[&a, &b]);
        let (a, b) = std::thread::scope(|scope| {
            let a = scope.spawn(|| a.connect(&all[1..], soon(if works { 20 } else { 1 })));
            let b = b.connect(&all[..1], soon(if works { 20 } else { 1 }));
            (a.join().unwrap(), b)
        });
        if works {
            a.unwrap();
            b.unwrap();
        } else {
            let error = a.and(b).unwrap_err().to_string();
            assert!(error.contains("HFR_IB_GID_INDEX=200"), "{error}");
        }
    }
}
