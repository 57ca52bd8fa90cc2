//! The local wire between nodes of one process; between processes it takes the same way, since a `Local` always fetches the
//! peer's segment through a socket.

use hfr_transport::local::{Local, Places, Seat};
use hfr_transport::shm::{Doorbell, Segment, Waiter};
use hfr_transport::{Event, Notice, PeerAddress, Put, Transport};
use std::sync::Arc;
use std::time::{Duration, Instant};

const DATA: usize = 1 << 16;
const LOCAL: usize = 2;

struct Rank {
    wire: Local,
    segment: Arc<Segment>,
    bell: Doorbell,
}

/// `nodes` nodes of two ranks, all connected with all of the other nodes.
fn job(nodes: usize) -> Vec<Rank> {
    let world = nodes * LOCAL;
    let mut ranks = Vec::new();
    for node in 0..nodes {
        let segment =
            Arc::new(Segment::create("hfr-local", DATA + Places::bytes(world, LOCAL)).unwrap());
        for local_rank in 0..LOCAL {
            let seat = Seat {
                rank: node * LOCAL + local_rank,
                world,
                node,
                local_rank,
                local_size: LOCAL,
            };
            let places = Places::packed(DATA, LOCAL);
            let event = Doorbell::event().unwrap();
            let bell = Doorbell::new(
                segment.clone(),
                places.doorbells + 64 * local_rank,
                Some(event.try_clone().unwrap()),
            );
            let wire = Local::new(seat, segment.clone(), places, Some(event)).unwrap();
            ranks.push(Rank {
                wire,
                segment: segment.clone(),
                bell,
            });
        }
    }
    let addresses: Vec<PeerAddress> = (0..world)
        .map(|rank| PeerAddress {
            rank,
            address: ranks[rank].wire.address(),
        })
        .collect();
    for (rank, end) in ranks.iter_mut().enumerate() {
        let peers: Vec<PeerAddress> = addresses
            .iter()
            .filter(|peer| peer.rank / LOCAL != rank / LOCAL)
            .cloned()
            .collect();
        let soon = Instant::now() + Duration::from_secs(20);
        end.wire.connect(&peers, soon).unwrap();
        // Again, as after a second plan: nothing happens.
        end.wire.connect(&peers, soon).unwrap();
    }
    ranks
}

#[expect(
    clippy::mut_from_ref,
    reason = "a segment is memory that others write too; the tests take turns"
)]
fn bytes(segment: &Segment, offset: usize, len: usize) -> &mut [u8] {
    // SAFETY: `at` checks the bounds; the tests use a range on one side at a time.
    unsafe { std::slice::from_raw_parts_mut(segment.at(offset, len), len) }
}

fn poll(rank: &mut Rank) -> Vec<Event> {
    let mut events = Vec::new();
    rank.wire.poll(&mut events).unwrap();
    events
}

#[test]
fn bytes_arrive_where_they_belong() {
    let mut ranks = job(3);
    let mut fds = Vec::new();
    ranks[0].wire.watch(&mut fds);
    assert!(fds.is_empty());
    for (from, to) in [(0, 3), (5, 0), (1, 4), (2, 5)] {
        let len = 1000 + 37 * from;
        let pattern: Vec<u8> = (0..len).map(|i| (i * 7 + from * 13 + to) as u8).collect();
        bytes(&ranks[from].segment, 5, len).copy_from_slice(&pattern);
        let notice = Notice(0xFFFF_0000 + from as u32);
        ranks[from]
            .wire
            .put(Put {
                peer: to,
                from: 5,
                len,
                to: 30001,
                notice,
                body: None,
                ticket: 1 << 40,
            })
            .unwrap();
        assert_eq!(poll(&mut ranks[from]), [Event::Sent { ticket: 1 << 40 }]);
        assert_eq!(poll(&mut ranks[from]), []);
        assert_eq!(poll(&mut ranks[to]), [Event::Arrived { from, notice }]);
        assert_eq!(bytes(&ranks[to].segment, 30001, len), pattern);
        assert_eq!(poll(&mut ranks[to]), []);
    }
}

#[test]
fn more_notices_than_a_mailbox_holds_arrive_once_and_in_order() {
    let mut ranks = job(2);
    for i in 0..1000 {
        ranks[1]
            .wire
            .put(Put {
                peer: 2,
                from: 0,
                len: 0,
                to: 0,
                notice: Notice(i),
                body: None,
                ticket: u64::from(i),
            })
            .unwrap();
    }
    let mut arrived = Vec::new();
    let mut sent = 0;
    for _ in 0..100 {
        sent += poll(&mut ranks[1]).len();
        arrived.extend(poll(&mut ranks[2]));
    }
    assert_eq!(sent, 1000);
    let expected: Vec<Event> = (0..1000)
        .map(|i| Event::Arrived {
            from: 1,
            notice: Notice(i),
        })
        .collect();
    assert_eq!(arrived, expected);
}

/// Looks at events and says whether they were the last ones.
type Done = Box<dyn FnMut(&[Event]) -> bool + Send>;

/// All of one side's puts at once, then sleep: both the receiver and a sender with notices left over must be woken.
#[test]
fn sleepers_are_woken_by_arrivals_and_by_room() {
    const PUTS: usize = 20_000;
    let mut ranks = job(2);
    let (receiver, sender) = (ranks.remove(2), ranks.remove(0));
    let limit = Instant::now() + Duration::from_secs(60);
    let until = move |mut rank: Rank, mut done: Done| {
        let (mut finished, mut events) = (false, Vec::new());
        while !finished {
            assert!(Instant::now() < limit, "a wake-up was lost");
            let Rank { wire, bell, .. } = &mut rank;
            let step = || {
                events.clear();
                wire.poll(&mut events).unwrap();
                finished = done(&events);
                !events.is_empty() || finished
            };
            Waiter::with_pauses(3)
                .wait(bell, Some(Duration::from_secs(70)), &[], step)
                .unwrap();
        }
        rank
    };
    let mut seen = 0;
    let arrived = Box::new(move |events: &[Event]| {
        for event in events {
            assert_eq!(
                *event,
                Event::Arrived {
                    from: 0,
                    notice: Notice(seen as u32)
                }
            );
            seen += 1;
        }
        seen == PUTS
    });
    let receiving = std::thread::spawn(move || {
        let mut receiver = until(receiver, arrived);
        receiver
            .wire
            .put(Put {
                peer: 0,
                from: 0,
                len: 1,
                to: 0,
                notice: Notice(1),
                body: None,
                ticket: 0,
            })
            .unwrap();
        receiver
    });
    let mut sender = sender;
    for i in 0..PUTS {
        sender
            .wire
            .put(Put {
                peer: 2,
                from: 0,
                len: 0,
                to: 0,
                notice: Notice(i as u32),
                body: None,
                ticket: 0,
            })
            .unwrap();
    }
    until(
        sender,
        Box::new(|events| {
            events.contains(&Event::Arrived {
                from: 2,
                notice: Notice(1),
            })
        }),
    );
    receiving.join().unwrap();
}

#[test]
fn what_cannot_be_put_is_an_error_that_names_the_peer() {
    let mut ranks = job(2);
    let put = Put {
        peer: 3,
        from: 0,
        len: 10,
        to: 0,
        notice: Notice(0),
        body: None,
        ticket: 0,
    };
    let outside = ranks[0]
        .wire
        .put(Put {
            to: usize::MAX - 3,
            ..put
        })
        .unwrap_err();
    assert_eq!((outside.wire, outside.peer), ("local", Some(3)));
    assert_eq!(
        ranks[0].wire.put(Put { peer: 1, ..put }).unwrap_err().peer,
        Some(1),
        "rank 1 was never connected"
    );
    assert_eq!(
        ranks[0].wire.put(Put { peer: 77, ..put }).unwrap_err().peer,
        Some(77)
    );
    let odd = PeerAddress {
        rank: 1,
        address: b"127.0.0.1:80".to_vec(),
    };
    assert_eq!(
        ranks[0]
            .wire
            .connect(&[odd], Instant::now())
            .unwrap_err()
            .peer,
        Some(1)
    );
    // A peer that has gone: its memory is still there.
    drop(ranks.remove(3));
    ranks[0].wire.put(put).unwrap();
    let seat = Seat {
        rank: 0,
        world: 2,
        node: 0,
        local_rank: 0,
        local_size: 1,
    };
    let heap = Arc::new(Segment::heap(1 << 16));
    assert!(Local::new(seat, heap, Places::packed(0, 1), None).is_err());
}
