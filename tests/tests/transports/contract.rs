//! The promises of `wire.rs`, one test each, for any wire.

use super::drive::{
    End, Guard, Random, SEGMENT, connect, fill, pattern, poll_until, read, seed, share, write,
};
use super::traffic::{Checked, Trader};
use hfr_transport::{Body, Event, Landing, Notice, Put};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn notices(events: &[Event]) -> Vec<(usize, u32)> {
    let arrived = |event: &Event| match *event {
        Event::Arrived { from, notice } => Some((from, notice.0)),
        Event::Sent { .. } => None,
    };
    events.iter().filter_map(arrived).collect()
}

fn sent(events: &[Event]) -> usize {
    events
        .iter()
        .filter(|event| matches!(event, Event::Sent { .. }))
        .count()
}

fn traders<'a>(
    ends: &'a mut [End],
    puts: u32,
    checked: &'a Checked,
) -> Vec<(&'a mut End, Trader<'a>)> {
    let ranks = ends.len();
    let trader = |(rank, end): (usize, &'a mut End)| {
        let peers = (0..ranks).filter(|&peer| peer != rank).collect();
        // SAFETY: the segment lives as long as its end, which is borrowed for as long.
        let segment = unsafe { &*std::sync::Arc::as_ptr(&end.1) };
        let trader = Trader::new(rank, peers, puts, segment, checked);
        (end, trader)
    };
    ends.iter_mut().enumerate().map(trader).collect()
}

/// Bytes at `Arrived`, order, exactly once, sources after `Sent`: in an order of puts and polls drawn at random, in which some
/// rank is always left alone for a while.
pub fn random_puts_in_all_directions_one_thread(make: impl Fn(usize) -> Vec<End>) {
    let _guard = Guard::new();
    for (ranks, puts) in [(2, 1500), (3, 400), (5, 150)] {
        let puts = share(puts);
        let mut ends = make(ranks);
        connect(&mut ends, 0..ranks);
        let checked = Checked::new(ranks);
        let mut random = Random(seed());
        let mut traders = traders(&mut ends, puts, &checked);
        let mut lazy = 0;
        while !traders.iter().all(|(_, trader)| trader.done()) {
            if random.below(300) == 0 {
                lazy = random.below(ranks);
            }
            let rank = random.below(ranks);
            let (end, trader) = &mut traders[rank];
            for _ in 0..random.below(6) {
                trader.put(&mut *end.0, random.below(ranks));
            }
            if rank != lazy || random.below(100) == 0 {
                trader.poll(&mut *end.0);
            }
        }
    }
}

/// The same with all ranks at once, each as fast as it can: large traffic both ways must not lock up.
pub fn random_puts_in_all_directions_a_thread_per_rank(make: impl Fn(usize) -> Vec<End>) {
    let _guard = Guard::new();
    for (ranks, puts) in [(2, 1500), (3, 400), (5, 150)] {
        let puts = share(puts);
        let mut ends = make(ranks);
        connect(&mut ends, 0..ranks);
        let checked = Checked::new(ranks);
        let (finished, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for (end, mut trader) in traders(&mut ends, puts, &checked) {
                let (finished, failed) = (&finished, &failed);
                scope.spawn(move || {
                    let _alarm = Alarm(failed);
                    let mut next = 0;
                    while !trader.done() && !failed.load(Ordering::Relaxed) {
                        for _ in 0..ranks {
                            trader.put(&mut *end.0, next);
                            next += 1;
                        }
                        trader.poll(&mut *end.0);
                    }
                    // Nobody hangs up before all have heard everything, or one has failed.
                    finished.fetch_add(1, Ordering::Relaxed);
                    while finished.load(Ordering::Relaxed) < ranks
                        && !failed.load(Ordering::Relaxed)
                    {
                        std::thread::yield_now();
                    }
                });
            }
        });
    }
}

/// Tells the other threads of a test when its own panics, so that they do not wait for it.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Many more bytes than any buffer of a kernel, to a peer that looks away.
pub fn put_does_not_wait_for_a_peer_that_does_not_poll(make: impl Fn(usize) -> Vec<End>) {
    let _guard = Guard::new();
    const EACH: usize = (1 << 20) + 13;
    let count = SEGMENT / EACH;
    let mut ends = make(2);
    connect(&mut ends, 0..2);
    let mut bytes = vec![0; EACH];
    let mut events = vec![Vec::new(); 2];
    for n in 0..count {
        pattern(n as u64, &mut bytes);
        write(&ends[0].1, n * EACH, &bytes);
        let put = Put {
            peer: 1,
            from: n * EACH,
            len: EACH,
            to: n * EACH,
            notice: Notice(n as u32),
            body: None,
            ticket: n as u64,
        };
        ends[0].0.put(put).unwrap();
        ends[0].0.poll(&mut events[0]).unwrap();
    }
    poll_until(&mut ends, &mut events, |events| {
        notices(&events[1]).len() == count && sent(&events[0]) == count
    });
    let expected: Vec<_> = (0..count as u32).map(|n| (0, n)).collect();
    assert_eq!(notices(&events[1]), expected);
    for n in 0..count {
        pattern(n as u64, &mut bytes);
        assert!(
            read(&ends[1].1, n * EACH..(n + 1) * EACH) == bytes,
            "put {n}: wrong bytes"
        );
    }
}

/// The bytes that arrive are those from before `Sent`, however late the receiver looks.
pub fn the_source_may_be_overwritten_after_sent(make: impl Fn(usize) -> Vec<End>) {
    let _guard = Guard::new();
    let mut ends = make(2);
    connect(&mut ends, 0..2);
    for (n, len) in [8, 1, 100_000, (1 << 20) + 1, 5 << 20]
        .into_iter()
        .enumerate()
    {
        let mut bytes = vec![0; len];
        pattern(n as u64, &mut bytes);
        write(&ends[0].1, 3, &bytes);
        let mut events = vec![Vec::new(); 2];
        ends[0]
            .0
            .put(Put {
                peer: 1,
                from: 3,
                len,
                to: 5,
                notice: Notice(7),
                body: None,
                ticket: 9,
            })
            .unwrap();
        poll_until(&mut ends, &mut events, |events| {
            events[0] == [Event::Sent { ticket: 9 }]
        });
        fill(&ends[0].1, 3..3 + len, 0xEE);
        poll_until(&mut ends, &mut events, |events| {
            notices(&events[1]) == [(0, 7)]
        });
        assert!(
            read(&ends[1].1, 5..5 + len) == bytes,
            "{len} bytes: the source was read after `Sent`"
        );
    }
}

/// A wire that gathers sends the rest of a put from elsewhere, which may be overwritten after `Sent`; any other refuses to, and names the peer.
pub fn a_body_is_sent_from_where_it_lies(make: impl Fn(usize) -> Vec<End>) {
    let _guard = Guard::new();
    let mut ends = make(2);
    connect(&mut ends, 0..2);
    let lengths = [(8, 8), (64, 0), (1, 100), (64, 100_000), (1000, 5 << 20)];
    for (n, (head, rest)) in lengths.into_iter().enumerate() {
        let mut bytes = vec![0; head + rest];
        pattern(n as u64, &mut bytes);
        write(&ends[0].1, 3, &bytes[..head]);
        let mut elsewhere = bytes[head..].to_vec();
        // SAFETY: what lies there is written again only after `Sent`, and dropped only after the ends or then.
        let body = unsafe { Body::new(elsewhere.as_ptr(), rest) };
        let put = Put {
            peer: 1,
            from: 3,
            len: head + rest,
            to: 5,
            notice: Notice(7),
            body: Some(body),
            ticket: 9,
        };
        if !ends[0].0.gathers() {
            assert_eq!(ends[0].0.put(put).unwrap_err().peer, Some(1));
            continue;
        }
        let mut events = vec![Vec::new(); 2];
        ends[0].0.put(put).unwrap();
        poll_until(&mut ends, &mut events, |events| {
            events[0] == [Event::Sent { ticket: 9 }]
        });
        elsewhere.fill(0xEE);
        poll_until(&mut ends, &mut events, |events| {
            notices(&events[1]) == [(0, 7)]
        });
        assert!(
            read(&ends[1].1, 5..5 + bytes.len()) == bytes,
            "{head} and {rest} bytes"
        );
    }
}

/// A wire that asks for landings asks once for a put with bytes, and writes its last bytes there; what it does not ask for lies in the segment.
pub fn what_has_a_landing_lands_there_and_nothing_else_does(make: impl Fn(usize) -> Vec<End>) {
    const ROOM: usize = 3 << 20;
    let _guard = Guard::new();
    let mut ends = make(2);
    connect(&mut ends, 0..2);
    // Bytes of the segment and of the landing; none is wanted elsewhere in the second row, and more than there is in the last.
    let puts = [
        (64, 100_000),
        (70_000, 0),
        (64, 16 << 10),
        (0, 9),
        (8, 8),
        (1, 2 << 20),
        (0, 0),
        (500, 40_000),
        (64, 65),
        (30, ROOM),
    ];
    let mut asked_in_all = 0;
    for round in 0..4 {
        let (mut at, mut places, mut all) = (3, Vec::new(), Vec::new());
        fill(&ends[1].1, 0..ROOM, 0xCD);
        for (n, &(head, rest)) in puts.iter().enumerate() {
            let len = if rest == ROOM { head } else { head + rest };
            let mut bytes = vec![0; len];
            pattern(100 * round + n as u64, &mut bytes);
            write(&ends[0].1, at, &bytes);
            let put = Put {
                peer: 1,
                from: at,
                len,
                to: at,
                notice: Notice(n as u32),
                body: None,
                ticket: n as u64,
            };
            ends[0].0.put(put).unwrap();
            places.push(at);
            all.push(bytes);
            at += len + 1;
        }
        assert!(at < ROOM);
        let mut elsewhere: Vec<_> = puts.iter().map(|(_, rest)| vec![0xAB; *rest]).collect();
        let mut asked = vec![0; puts.len()];
        let mut events = vec![Vec::new(); 2];
        while notices(&events[1]).len() < puts.len() || sent(&events[0]) < puts.len() {
            ends[0].0.poll(&mut events[0]).unwrap();
            let mut ask = |Notice(n): Notice, len: usize| {
                let n = n as usize;
                assert_eq!(len, all[n].len());
                asked[n] += 1;
                let target = &mut elsewhere[n];
                // SAFETY: nobody looks at it before all have arrived, and it lives as long.
                let landing = unsafe { Landing::new(target.as_mut_ptr(), target.len()) };
                (n != 1).then_some(landing)
            };
            ends[1].0.poll_landing(&mut ask, &mut events[1]).unwrap();
        }
        for (n, &(head, rest)) in puts.iter().enumerate() {
            let (bytes, place) = (&all[n], places[n]);
            assert!(asked[n] <= usize::from(!bytes.is_empty()), "{n}: {asked:?}");
            asked_in_all += asked[n];
            let lands = asked[n] > 0 && rest < ROOM && rest > 0;
            let there = if lands { head } else { bytes.len() };
            let segment = read(&ends[1].1, place..place + bytes.len() + 1);
            assert!(segment[..there] == bytes[..there], "put {n}, round {round}");
            assert!(segment[there..].iter().all(|b| *b == 0xCD), "put {n}");
            if lands {
                assert!(elsewhere[n] == bytes[head..], "put {n}, round {round}");
            } else {
                assert!(elsewhere[n].iter().all(|b| *b == 0xAB), "put {n}");
            }
        }
    }
    let receives = ends[0].0.name() != "local" && ends[0].0.name() != "verbs";
    assert_eq!(asked_in_all > 0, receives);
}

/// A put of no bytes is a notice, in its place among the others, and its offsets mean nothing.
pub fn a_notice_without_bytes_touches_nothing(make: impl Fn(usize) -> Vec<End>) {
    let _guard = Guard::new();
    let mut ends = make(2);
    connect(&mut ends, 0..2);
    let mut events = vec![Vec::new(); 2];
    fill(&ends[1].1, 0..1000, 0xAB);
    fill(&ends[0].1, 0..1000, 0xCD);
    for (n, (at, len)) in [(0, 0), (500, 10), (999, 0), (SEGMENT, 0)]
        .into_iter()
        .enumerate()
    {
        let put = Put {
            peer: 1,
            from: at,
            len,
            to: at,
            notice: Notice(u32::MAX - n as u32),
            body: None,
            ticket: n as u64,
        };
        ends[0].0.put(put).unwrap();
    }
    poll_until(&mut ends, &mut events, |events| {
        notices(&events[1]).len() == 4 && sent(&events[0]) == 4
    });
    let expected: Vec<_> = (0..4).map(|n| (0, u32::MAX - n)).collect();
    assert_eq!(notices(&events[1]), expected);
    let changed: Vec<_> = (0..1000)
        .filter(|&at| read(&ends[1].1, at..at + 1) != [0xAB])
        .collect();
    assert_eq!(changed, (500..510).collect::<Vec<_>>());
}

/// First some ranks connect, then all; who is connected already is passed over and loses nothing.
pub fn further_peers_can_be_connected_later(make: impl Fn(usize) -> Vec<End>) {
    let _guard = Guard::new();
    let mut ends = make(4);
    let mut expected = vec![Vec::new(); 4];
    let mut events = vec![Vec::new(); 4];
    for (round, ranks) in [1..3, 1..4, 0..4].into_iter().enumerate() {
        connect(&mut ends, ranks.clone());
        for from in ranks.clone() {
            for peer in ranks.clone().filter(|&peer| peer != from) {
                let notice = Notice((round * 10 + from) as u32);
                ends[from]
                    .0
                    .put(Put {
                        peer,
                        from: 0,
                        len: 100,
                        to: from * 100,
                        notice,
                        body: None,
                        ticket: 0,
                    })
                    .unwrap();
                expected[peer].push((from, notice.0));
            }
        }
        // Left unpolled in the first round: what is under way must survive the next `connect`.
        if round > 0 {
            let total = |lists: &[Vec<(usize, u32)>]| lists.iter().map(Vec::len).sum::<usize>();
            let got = |events: &[Vec<Event>]| {
                events
                    .iter()
                    .map(|events| notices(events).len())
                    .sum::<usize>()
            };
            poll_until(&mut ends, &mut events, |events| {
                got(events) == total(&expected)
            });
        }
    }
    for rank in 0..4 {
        let mut got = notices(&events[rank]);
        got.sort_by_key(|&(from, notice)| (notice, from));
        expected[rank].sort_by_key(|&(from, notice)| (notice, from));
        assert_eq!(got, expected[rank], "rank {rank}");
    }
}

/// A rank that was never connected is an error that names it, not silence.
pub fn a_put_to_a_stranger_is_an_error(make: impl Fn(usize) -> Vec<End>) {
    let _guard = Guard::new();
    let mut ends = make(3);
    connect(&mut ends, 0..2);
    for peer in [2, 77] {
        let put = Put {
            peer,
            from: 0,
            len: 1,
            to: 0,
            notice: Notice(0),
            body: None,
            ticket: 0,
        };
        // The first put may be held back by a script, and then fails in `poll`.
        let error = (0..1000).find_map(|_| {
            ends[0]
                .0
                .put(put)
                .and_then(|()| ends[0].0.poll(&mut Vec::new()))
                .err()
        });
        assert_eq!(
            error.expect("a put to a stranger went through").peer,
            Some(peer)
        );
    }
}

/// A peer whose end is gone becomes an error of the others that names it, and they still reach each other.
pub fn a_dead_peer_is_named_and_the_others_go_on(make: impl Fn(usize) -> Vec<End>) {
    let _guard = Guard::new();
    let mut ends = make(4);
    connect(&mut ends, 0..4);
    drop(std::mem::replace(&mut ends[2].0, make(1).remove(0).0));
    let mut events = Vec::new();
    for rank in [0, 1, 3] {
        let error = loop {
            if let Err(error) = ends[rank].0.poll(&mut events) {
                break error;
            }
        };
        assert_eq!(error.peer, Some(2), "{error}");
        let put = Put {
            peer: 2,
            from: 0,
            len: 1,
            to: 0,
            notice: Notice(0),
            body: None,
            ticket: 0,
        };
        let error = (0..1000).find_map(|_| {
            ends[rank]
                .0
                .put(put)
                .and_then(|()| ends[rank].0.poll(&mut events))
                .err()
        });
        assert_eq!(
            error.expect("a put to a dead peer went through").peer,
            Some(2)
        );
    }
    events.clear();
    for n in 0..5 {
        ends[3]
            .0
            .put(Put {
                peer: 0,
                from: 0,
                len: 10,
                to: 0,
                notice: Notice(n),
                body: None,
                ticket: 0,
            })
            .unwrap();
    }
    while notices(&events).len() < 5 {
        assert_eq!(
            ends[3].0.poll(&mut Vec::new()).unwrap_err().peer,
            Some(2),
            "the error has gone away"
        );
        assert_eq!(
            ends[0].0.poll(&mut events).unwrap_err().peer,
            Some(2),
            "the error has gone away"
        );
    }
}
