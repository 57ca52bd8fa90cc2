//! What only this wire's inside can show: the rest is in the contract suite.

use super::*;
use crate::wire::Notice;

const TOKEN: [u8; 32] = *b"the token of a job in this test.";

fn pair(len: usize, congestion: Congestion) -> [(Tcp, Arc<Segment>); 2] {
    let mut ends = [0, 1].map(|rank| {
        let segment = Arc::new(Segment::heap(len));
        let tcp = Tcp::bind(
            rank,
            segment.clone(),
            0..len,
            "127.0.0.1".parse().unwrap(),
            TOKEN,
            congestion.clone(),
        )
        .unwrap();
        (tcp, segment)
    });
    let addresses = [0, 1].map(|rank| PeerAddress {
        rank,
        address: ends[rank].0.address(),
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    let [(a, _), (b, _)] = &mut ends;
    std::thread::scope(|scope| {
        scope.spawn(|| a.connect(&addresses[1..], deadline).unwrap());
        b.connect(&addresses[..1], deadline).unwrap();
    });
    ends
}

#[test]
fn frames_larger_than_every_buffer_and_frames_without_bytes_arrive_in_order() {
    let len = 8 << 20;
    let [(mut a, from), (mut b, to)] = pair(len, Congestion::Auto);
    for i in 0..len {
        // SAFETY: inside the segment, which no put uses yet.
        unsafe { from.at(i, 1).write(((i * 31) >> 3) as u8) };
    }
    let sizes = [0, 5 << 20, 0, 1, 24, INBOX_AND_ONE, 7, 2 << 20];
    let (mut at, mut sent, mut arrived) = (0, Vec::new(), Vec::new());
    for (i, len) in sizes.into_iter().enumerate() {
        let put = Put {
            peer: 1,
            from: at,
            len,
            to: at,
            notice: Notice(i as u32),
            body: None,
            ticket: 100 + i as u64,
        };
        a.put(put).unwrap();
        at += len;
    }
    let stop = Instant::now() + Duration::from_secs(30);
    while (sent.len() < sizes.len() || arrived.len() < sizes.len()) && Instant::now() < stop {
        a.poll(&mut sent).unwrap();
        b.poll(&mut arrived).unwrap();
    }
    let expect = |i: usize| Event::Arrived {
        from: 0,
        notice: Notice(i as u32),
    };
    assert_eq!(arrived, (0..sizes.len()).map(expect).collect::<Vec<_>>());
    assert_eq!(
        sent,
        (0..sizes.len())
            .map(|i| Event::Sent {
                ticket: 100 + i as u64
            })
            .collect::<Vec<_>>()
    );
    // SAFETY: everything has arrived, nothing writes any more.
    let (want, got) = unsafe {
        (
            std::slice::from_raw_parts(from.at(0, at), at),
            std::slice::from_raw_parts(to.at(0, at), at),
        )
    };
    assert!(want == got, "the bytes that arrived differ from those sent");
}

/// One byte more than the read buffer takes.
const INBOX_AND_ONE: usize = (16 << 10) + 1;

#[test]
fn both_ends_of_a_connection_have_the_congestion_control_that_was_asked_for() {
    let named = |congestion| {
        pair(4096, congestion)
            .map(|(tcp, _)| tcp.links[0].socket.tcp_congestion().expect("its name"))
    };
    let is = |name: &[u8], text: &str| name.split(|b| *b == 0).next() == Some(text.as_bytes());
    for name in named(Congestion::Named("reno".to_owned())) {
        assert!(is(&name, "reno"), "{name:?}");
    }
    let system = named(Congestion::System);
    for name in named(Congestion::Auto) {
        assert!(!is(&name, "bbr"), "{name:?}");
        assert!(is(&system[0], "bbr") || name == system[0]);
    }
}

#[test]
fn a_congestion_control_that_does_not_exist_is_named() {
    let segment = Arc::new(Segment::heap(4096));
    let none = Congestion::Named("nagle".to_owned());
    let listen = "127.0.0.1".parse().unwrap();
    let refused = Tcp::bind(0, segment, 0..4096, listen, TOKEN, none).err();
    let cause = refused.expect("there is none of that name").cause;
    assert!(cause.contains("HFR_TCP_CONGESTION=nagle"), "{cause}");
}
