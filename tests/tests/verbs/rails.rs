//! Several ports of one rank: which of them carry what, and what is said when one of them fails. Rank 0 has rxe0 and rxe1, rank 1 rxe2 and rxe3, as far
//! as a test gives them away; how many packets a device has sent is its own count.

use super::drive::{Guard, SEGMENT, fill, pattern, read, write};
use super::ends::{connected, devices, end_on, put, small, usual};
use super::faults::{acquaint, down, fails, quick};
use hfr_transport::shm::Segment;
use hfr_transport::verbs::{Limits, Verbs};
use hfr_transport::{Event, Notice, Put, Transport};
use std::sync::Arc;
use std::time::Duration;

type Both = [(Verbs, Arc<Segment>); 2];

/// Two connected ranks on these devices, each with the number of its rail.
fn ranks(ours: &[(usize, usize)], theirs: &[(usize, usize)], limits: Limits) -> Both {
    assert!(devices() >= 4, "four devices are needed");
    connected(
        end_on(0, ours, SEGMENT, limits),
        end_on(1, theirs, SEGMENT, limits),
    )
}

/// Packets that each device has sent. The kernel gives the same answer again for some milliseconds.
fn packets() -> Vec<u64> {
    std::thread::sleep(Duration::from_millis(50));
    let count = |k: usize| {
        let file = format!("/sys/class/infiniband/rxe{k}/ports/1/hw_counters/sent_pkts");
        let text = std::fs::read_to_string(&file).expect("the device counts its packets");
        text.trim().parse().expect("a number")
    };
    (0..devices()).map(count).collect()
}

/// Puts so many bytes from rank 0 to rank 1 and checks them; how many packets each device has sent for that.
fn carry([a, b]: &mut Both, len: usize) -> Vec<u64> {
    let mut bytes = vec![0; len];
    pattern(len as u64, &mut bytes);
    write(&a.1, 3, &bytes);
    fill(&b.1, 0..len + 200, 0xDD);
    let before = packets();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    a.0.put(Put {
        peer: 1,
        from: 3,
        len,
        to: 101,
        notice: Notice(0xFFFF_0000),
        body: None,
        ticket: 12,
    })
    .unwrap();
    while ours.is_empty() || theirs.is_empty() {
        a.0.poll(&mut ours).unwrap();
        b.0.poll(&mut theirs).unwrap();
    }
    assert_eq!(ours, [Event::Sent { ticket: 12 }]);
    let arrived = Event::Arrived {
        from: 0,
        notice: Notice(0xFFFF_0000),
    };
    assert_eq!(theirs, [arrived]);
    assert!(
        read(&b.1, 101..101 + len) == bytes,
        "{len} bytes: others came"
    );
    let beside = [read(&b.1, 0..101), read(&b.1, 101 + len..len + 200)].concat();
    assert!(
        beside.iter().all(|byte| *byte == 0xDD),
        "{len}: bytes beside"
    );
    let after = packets();
    after
        .iter()
        .zip(before)
        .map(|(now, then)| now - then)
        .collect()
}

/// Of the packets that so many bytes take at least; what answers them is far less.
const fn most_of(len: usize) -> u64 {
    len as u64 / 4096 * 9 / 10
}

#[test]
fn large_puts_go_over_both_rails_and_small_ones_over_the_main_one() {
    let _guard = Guard::new();
    let len = 2 << 20;
    // The lower rank's main rail is the main lane of both.
    let mut both = ranks(&[(1, 1), (0, 0)], &[(2, 0), (3, 1)], usual());
    assert_eq!((both[0].0.usage().1, both[1].0.usage().1), (2, 2));
    acquaint(&mut both);
    let sent = carry(&mut both, len);
    for device in [0, 1] {
        let share = most_of(len / 2)..most_of(len);
        assert!(share.contains(&sent[device]), "{sent:?}");
    }
    // One byte less than is divided.
    let len = 2 * usual().least - 1;
    let sent = carry(&mut both, len);
    assert!(sent[1] >= most_of(len) && sent[0] < 4, "{sent:?}");
    let sent = carry(&mut both, len + 1);
    assert!(sent[0] >= most_of(len / 2), "{sent:?}");
}

#[test]
fn ranks_with_one_rail_in_common_use_that() {
    let _guard = Guard::new();
    let mut both = ranks(&[(0, 0), (1, 1)], &[(3, 1)], usual());
    assert_eq!((both[0].0.usage().1, both[1].0.usage().1), (1, 1));
    let len = 1 << 20;
    let sent = carry(&mut both, len);
    assert!(sent[1] >= most_of(len), "{sent:?}");
    assert_eq!((sent[0], sent[2]), (0, 0), "{sent:?}");
}

#[test]
fn ranks_without_a_rail_in_common_use_their_main_ports() {
    let _guard = Guard::new();
    let mut both = ranks(&[(1, 5), (0, 0)], &[(2, 7), (3, 6)], usual());
    assert_eq!((both[0].0.usage().1, both[1].0.usage().1), (1, 1));
    let len = 1 << 20;
    let sent = carry(&mut both, len);
    assert!(sent[1] >= most_of(len), "{sent:?}");
    assert_eq!((sent[0], sent[3]), (0, 0), "{sent:?}");
}

/// One lane has work and the other none: a wire that parks hears both, and what is divided comes in its place among what is not.
#[test]
fn notices_keep_the_order_of_puts_large_and_small() {
    let _guard = Guard::new();
    let [mut a, mut b] = ranks(&[(0, 0), (1, 1)], &[(2, 0), (3, 1)], small());
    let lens = [0, 150_000, 8, 200, 199, 0, 3000, 70_000, 1, 640];
    let mut events = Vec::new();
    let mut tickets = Vec::new();
    for n in 0..60 {
        let len = lens[n as usize % lens.len()];
        a.0.put(put(1, 200_000 * (n as usize % 10), len, n))
            .unwrap();
        a.0.poll(&mut tickets).unwrap();
        if n % 7 == 0 {
            b.0.poll(&mut events).unwrap();
        }
    }
    while events.len() < 60 || tickets.len() < 60 {
        a.0.poll(&mut tickets).unwrap();
        b.0.poll(&mut events).unwrap();
    }
    let arrived = |n| Event::Arrived {
        from: 0,
        notice: Notice(n),
    };
    assert_eq!(events, (0..60).map(arrived).collect::<Vec<_>>());
    tickets.sort_by_key(|event| match event {
        Event::Sent { ticket } => *ticket,
        Event::Arrived { .. } => u64::MAX,
    });
    let sent = |ticket| Event::Sent { ticket };
    assert_eq!(tickets, (0..60).map(sent).collect::<Vec<_>>());
}

#[test]
fn a_broken_lane_breaks_the_link_and_names_its_port() {
    let _guard = Guard::new();
    let mut both = ranks(&[(0, 0), (1, 1)], &[(2, 0), (3, 1)], quick());
    acquaint(&mut both);
    carry(&mut both, 1 << 20);
    let [mut a, _b] = both;
    assert!(a.0.break_lane(1, 2).is_err(), "there is no lane 2");
    a.0.break_lane(1, 1).unwrap();
    let error = fails(&mut a.0);
    assert_eq!(error.peer, Some(1));
    let text = error.to_string();
    assert!(
        text.contains("put out of order") && text.contains("rxe1 port 1"),
        "{text}"
    );
    assert!(
        a.0.put(put(1, 0, 8, 1)).is_err(),
        "a put over the lane that is left went through"
    );
}

#[test]
fn a_link_that_is_down_on_one_rail_is_an_error_that_names_the_port() {
    let _guard = Guard::new();
    let mut both = ranks(&[(0, 0), (1, 1)], &[(2, 0), (3, 1)], quick());
    acquaint(&mut both);
    carry(&mut both, 1 << 20);
    let [mut a, mut b] = both;
    let up = down(1);
    let error = a.0.put(put(1, 0, 1 << 20, 1)).err();
    let mut events = Vec::new();
    let error = error.unwrap_or_else(|| {
        loop {
            b.0.poll(&mut events).unwrap();
            if let Err(error) = a.0.poll(&mut Vec::new()) {
                break error;
            }
        }
    });
    drop(up);
    assert_eq!(error.peer, Some(1));
    let text = error.to_string();
    assert!(
        text.contains("rxe1 port 1") && text.contains("our port is down"),
        "{text}"
    );
    // The half that came over the other rail is no arrival.
    b.0.poll(&mut events).unwrap();
    assert_eq!(events, []);
}
