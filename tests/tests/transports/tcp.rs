//! What TCP promises beyond the contract.

use super::drive::{Guard, Random, fill, read, seed};
use hfr_transport::shm::Segment;
use hfr_transport::tcp::{Congestion, Tcp};
use hfr_transport::{Event, Notice, PeerAddress, Put, Transport};
use rustix::event::{PollFd, PollFlags};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The token of the job that all these tests are.
pub const TOKEN: [u8; 32] = *b"a job's token, 32 bytes of them.";

/// A rank that listens on the loopback interface.
pub fn end(
    rank: usize,
    len: usize,
    writable: Range<usize>,
    token: [u8; 32],
) -> (Tcp, Arc<Segment>) {
    let segment = Arc::new(Segment::heap(len));
    let tcp = Tcp::bind(
        rank,
        segment.clone(),
        writable,
        [127, 0, 0, 1].into(),
        token,
        Congestion::Auto,
    )
    .unwrap();
    (tcp, segment)
}

fn addresses(ends: &[&Tcp]) -> Vec<PeerAddress> {
    let address = |(rank, end): (usize, &&Tcp)| PeerAddress {
        rank,
        address: end.address(),
    };
    ends.iter().enumerate().map(address).collect()
}

fn soon(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// Two connected ranks; peers of rank 1 may write `writable` only.
fn pair(len: usize, writable: Range<usize>) -> [(Tcp, Arc<Segment>); 2] {
    let (mut a, mut b) = (end(0, len, 0..len, TOKEN), end(1, len, writable, TOKEN));
    let all = addresses(&[&a.0, &b.0]);
    std::thread::scope(|scope| {
        scope.spawn(|| a.0.connect(&all[1..], soon(20)).unwrap());
        b.0.connect(&all[..1], soon(20)).unwrap();
    });
    [a, b]
}

fn put(peer: usize, to: usize, len: usize, n: u32) -> Put {
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

#[test]
fn a_frame_outside_the_writable_part_is_refused_and_changes_nothing() {
    let _guard = Guard::new();
    for (to, len) in [
        (0, 1),
        (4095, 1),
        (4000, 200),
        (8192, 1),
        (8191, 2),
        (1 << 40, 8),
        (usize::MAX, 8),
        (4096, 5000),
    ] {
        let [mut a, mut b] = pair(16384, 4096..8192);
        fill(&a.1, 0..16384, 0x11);
        fill(&b.1, 0..16384, 0x22);
        a.0.put(put(1, 4096, 16, 1)).unwrap();
        a.0.put(put(1, 8176, 16, 2)).unwrap();
        a.0.put(put(1, 3, 0, 3)).unwrap();
        a.0.put(put(1, to, len, 4)).unwrap();
        a.0.put(put(1, 5000, 16, 5)).unwrap();
        let mut events = Vec::new();
        let error = loop {
            if let Err(error) = b.0.poll(&mut events) {
                break error;
            }
        };
        assert_eq!(error.peer, Some(0));
        assert!(error.to_string().contains("outside"), "{error}");
        let fine = [1, 2, 3].map(|n| Event::Arrived {
            from: 0,
            notice: Notice(n),
        });
        assert_eq!(events, fine, "frame to {to}, {len} bytes");
        let changed: Vec<_> = (0..16384)
            .filter(|&at| read(&b.1, at..at + 1) != [0x22])
            .collect();
        assert_eq!(
            changed,
            (4096..4112).chain(8176..8192).collect::<Vec<_>>(),
            "frame to {to}, {len} bytes"
        );
    }
}

#[test]
fn a_put_from_outside_our_own_segment_is_an_error_of_put() {
    let [mut a, _b] = pair(4096, 0..4096);
    for (from, len) in [(4096, 1), (4000, 97), (usize::MAX, 2)] {
        let error =
            a.0.put(Put {
                from,
                ..put(1, 0, len, 0)
            })
            .unwrap_err();
        assert!(error.to_string().contains("outside our segment"), "{error}");
    }
}

#[test]
fn strangers_do_no_harm_and_delay_nobody() {
    let _guard = Guard::new();
    let (mut a, mut b) = (
        end(0, 4096, 0..4096, TOKEN).0,
        end(1, 4096, 0..4096, TOKEN).0,
    );
    let all = addresses(&[&a, &b]);
    let address = String::from_utf8(b.address()).unwrap();
    let mut random = Random(seed());
    // Together the silent ones could hold up a server that asks one after the other for a minute.
    let mut strangers: Vec<TcpStream> = (0..30)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    for i in 0..10 {
        strangers[i]
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let noise: Vec<u8> = (0..random.below(300))
            .map(|_| random.next() as u8)
            .collect();
        strangers[10 + i].write_all(&noise).unwrap();
    }
    drop(strangers.split_off(25));
    std::thread::scope(|scope| {
        scope.spawn(|| b.connect(&all[..1], soon(20)).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        a.connect(&all[1..], soon(20)).unwrap();
    });
    a.put(put(1, 0, 100, 5)).unwrap();
    let mut events = Vec::new();
    while events.is_empty() {
        b.poll(&mut events).unwrap();
    }
    assert_eq!(
        events,
        [Event::Arrived {
            from: 0,
            notice: Notice(5)
        }]
    );
}

#[test]
fn a_silent_client_is_hung_up_on() {
    let _guard = Guard::new();
    let mut b = end(1, 4096, 0..4096, TOKEN).0;
    let mut silent = TcpStream::connect(String::from_utf8(b.address()).unwrap()).unwrap();
    let peer = PeerAddress {
        rank: 0,
        address: b"127.0.0.1:1".to_vec(),
    };
    let error = b.connect(&[peer], soon(4)).unwrap_err().to_string();
    assert!(
        error.contains("peer rank 0: did not connect to this rank within 4")
            && error.contains("in time"),
        "{error}"
    );
    assert_eq!(
        silent.read(&mut [0]).unwrap(),
        0,
        "the silent client is still connected"
    );
}

#[test]
fn another_jobs_token_is_refused_by_both_sides_with_a_reason() {
    let _guard = Guard::new();
    let (mut a, mut b) = (end(0, 64, 0..64, [1; 32]).0, end(1, 64, 0..64, TOKEN).0);
    let all = addresses(&[&a, &b]);
    std::thread::scope(|scope| {
        let a = scope.spawn(|| a.connect(&all[1..], soon(20)).unwrap_err());
        let error = b.connect(&all[..1], soon(1)).unwrap_err();
        assert_eq!(error.peer, Some(0));
        assert!(error.to_string().contains("token"), "{error}");
        let error = a.join().unwrap();
        assert_eq!(error.peer, Some(1));
        assert!(
            error.to_string().contains("does not know this job's token"),
            "{error}"
        );
    });
}

/// Speaks the handshake without the token, and answers with the bytes `forge` makes of the accepter's message.
fn impostor(forge: impl Fn(&[u8; 64]) -> [u8; 32]) -> String {
    let mut b = end(1, 64, 0..64, TOKEN).0;
    let mut stream = TcpStream::connect(String::from_utf8(b.address()).unwrap()).unwrap();
    // Let in, we would wait for ever: then the accepter's result says what went wrong.
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let hello = [
        &b"HFRTCP1\n"[..],
        &0u64.to_le_bytes(),
        &1u64.to_le_bytes(),
        &[9; 32],
    ]
    .concat();
    stream.write_all(&hello).unwrap();
    let peer = PeerAddress {
        rank: 0,
        address: b"127.0.0.1:1".to_vec(),
    };
    std::thread::scope(|scope| {
        let b = scope.spawn(|| b.connect(&[peer], soon(1)).unwrap_err());
        let mut reply = [0; 64];
        stream.read_exact(&mut reply).unwrap();
        stream.write_all(&forge(&reply)).unwrap();
        assert!(
            matches!(stream.read(&mut [0]), Ok(0) | Err(_)),
            "an impostor was let in"
        );
        b.join().unwrap().to_string()
    })
}

#[test]
fn a_forged_or_mirrored_proof_is_refused() {
    let _guard = Guard::new();
    let forged = impostor(|_| [0xAA; 32]);
    let mirrored = impostor(|reply| std::array::from_fn(|i| reply[32 + i]));
    for error in [forged, mirrored] {
        assert!(error.contains("does not know this job's token"), "{error}");
    }
}

#[test]
fn who_dials_before_being_asked_for_is_kept() {
    let _guard = Guard::new();
    let mut ends: Vec<Tcp> = (0..3).map(|rank| end(rank, 64, 0..64, TOKEN).0).collect();
    let all = addresses(&ends.iter().collect::<Vec<_>>());
    let [a, b, c] = &mut ends[..] else {
        unreachable!()
    };
    std::thread::scope(|scope| {
        let early = scope.spawn(|| {
            b.connect(&all[2..], soon(20)).unwrap();
            b
        });
        let first = scope.spawn(|| {
            c.connect(&all[..1], soon(20)).unwrap();
            c
        });
        // Rank 1 has proved itself to rank 2 before rank 2 has asked for it, and while it waits for rank 0.
        let b = early.join().unwrap();
        a.connect(&all[2..], soon(20)).unwrap();
        let c = first.join().unwrap();
        c.connect(&all[..2], soon(20)).unwrap();
        b.put(put(2, 0, 8, 1)).unwrap();
        a.put(put(2, 8, 8, 1)).unwrap();
        let mut events = Vec::new();
        while events.len() < 2 {
            c.poll(&mut events).unwrap();
        }
    });
}

#[test]
fn nobody_at_an_address_is_said_at_once_and_a_strange_address_is_shown() {
    let _guard = Guard::new();
    let mut a = end(0, 64, 0..64, TOKEN).0;
    let gone = end(1, 64, 0..64, TOKEN).0.address();
    let error = a
        .connect(
            &[PeerAddress {
                rank: 1,
                address: gone,
            }],
            soon(200),
        )
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("tcp: peer rank 1: cannot connect to 127.0.0.1:"),
        "{error}"
    );
    let error = a
        .connect(
            &[PeerAddress {
                rank: 1,
                address: b"sim:1".to_vec(),
            }],
            soon(200),
        )
        .unwrap_err();
    assert!(error.to_string().contains("\"sim:1\""), "{error}");
}

#[test]
fn what_a_peer_sent_before_it_died_still_arrives() {
    let _guard = Guard::new();
    let [mut a, mut b] = pair(1 << 20, 0..1 << 20);
    let mut sent = Vec::new();
    for n in 0..50 {
        a.0.put(put(1, n, 2000, n as u32)).unwrap();
    }
    while sent.len() < 50 {
        a.0.poll(&mut sent).unwrap();
    }
    drop(a);
    let mut events = Vec::new();
    let error = loop {
        if let Err(error) = b.0.poll(&mut events) {
            break error;
        }
    };
    assert_eq!(events.len(), 50);
    let says = "tcp: peer rank 0: connection closed by its process (it exited or was killed)";
    assert_eq!(error.to_string(), says);
}

#[test]
fn a_parked_rank_wakes_by_what_it_watches_and_waits_for_room_only_when_it_has_to() {
    let _guard = Guard::new();
    let len = 32 << 20;
    let [mut a, mut b] = pair(len, 0..len);
    let watched = |tcp: &Tcp| {
        let mut fds = Vec::new();
        tcp.watch(&mut fds);
        assert_eq!(fds.len(), 1);
        fds[0]
    };
    assert!(!watched(&a.0).1 && !watched(&b.0).1);
    a.0.put(put(1, 0, len, 1)).unwrap();
    assert!(watched(&a.0).1, "32 MiB fit into the buffers of a socket");
    std::thread::scope(|scope| {
        for (tcp, count) in [(&mut a.0, 1), (&mut b.0, 1)] {
            scope.spawn(move || {
                let mut events = Vec::new();
                loop {
                    tcp.poll(&mut events).unwrap();
                    if events.len() == count {
                        break;
                    }
                    let (fd, room) = watched(tcp);
                    // SAFETY: the wire that owns the descriptor is borrowed.
                    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
                    let flags = if room {
                        PollFlags::IN | PollFlags::OUT
                    } else {
                        PollFlags::IN
                    };
                    rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None).unwrap();
                }
            });
        }
    });
    assert!(!watched(&a.0).1);
}
