//! Passing descriptors: who may have them, who is dropped, and that strangers cost nobody a wait. Threads stand for processes here
//! (`shm_segment.rs` passes between processes); descriptors are eventfds whose numbers tell them apart.

use hfr_transport::shm::{FdServer, exchange, fetch_fds, random_token, unique_address};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType, connect, send, socket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// A descriptor that one can tell from others: reading it gives `number`, once.
fn mark(number: u32) -> OwnedFd {
    eventfd(number, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn read_mark(fd: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    rustix::io::read(fd, &mut bytes).unwrap();
    u64::from_ne_bytes(bytes)
}

fn stranger(address: &str) -> OwnedFd {
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(
        &socket,
        &SocketAddrUnix::new_abstract_name(address.as_bytes()).unwrap(),
    )
    .unwrap();
    socket
}

#[test]
fn everyone_with_the_token_gets_the_same_set_in_order() {
    let (address, token) = (unique_address("set").unwrap(), random_token().unwrap());
    // More than one packet carries.
    let server = FdServer::start(&address, token, (1..=300).map(mark).collect()).unwrap();
    assert_eq!(server.address(), address);
    let first = fetch_fds(&address, &token, soon()).unwrap();
    let second = fetch_fds(&address, &token, soon()).unwrap();
    assert_eq!(
        first.iter().map(read_mark).collect::<Vec<_>>(),
        (1..=300).collect::<Vec<_>>()
    );
    // The same eventfds, read empty by the first: shared, not copied.
    assert_eq!(second.len(), 300);
    assert!(rustix::io::read(&second[0], &mut [0; 8]).is_err());
}

#[test]
fn a_client_may_come_before_the_server() {
    let (address, token) = (unique_address("early").unwrap(), random_token().unwrap());
    std::thread::scope(|scope| {
        let early = scope.spawn(|| fetch_fds(&address, &token, soon()).unwrap());
        std::thread::sleep(Duration::from_millis(60));
        let _server = FdServer::start(&address, token, vec![mark(5)]).unwrap();
        assert_eq!(read_mark(&early.join().unwrap()[0]), 5);
    });
    let gone = fetch_fds(&address, &token, Instant::now() + Duration::from_millis(50)).unwrap_err();
    assert!(gone.to_string().contains("nobody answers"), "{gone}");
}

#[test]
fn strangers_get_nothing_and_hold_nobody_up() {
    let (address, mut token) = (
        unique_address("strangers").unwrap(),
        random_token().unwrap(),
    );
    let server = FdServer::start(&address, token, vec![mark(77)]).unwrap();
    let silent: Vec<OwnedFd> = (0..20).map(|_| stranger(&address)).collect();
    let chatty = stranger(&address);
    send(
        &chatty,
        b"GET /metrics HTTP/1.1\r\nHost: me\r\n\r\n",
        SendFlags::NOSIGNAL,
    )
    .unwrap();
    let mut answer = [0; 64];
    assert_eq!(
        rustix::io::read(&chatty, &mut answer).unwrap_or(0),
        0,
        "a stranger is hung up on"
    );
    token[31] ^= 1;
    let refused = fetch_fds(&address, &token, soon()).unwrap_err();
    assert!(refused.to_string().contains("not of this job"), "{refused}");
    token[31] ^= 1;
    assert_eq!(
        read_mark(&fetch_fds(&address, &token, soon()).unwrap()[0]),
        77
    );
    // Those who say nothing are dropped after a while (2 s): reading sees the end of the stream.
    assert_eq!(rustix::io::read(&silent[0], &mut answer).unwrap(), 0);
    // More of them than may wait do not lock others out for good.
    let many: Vec<OwnedFd> = (0..200).map(|_| stranger(&address)).collect();
    assert_eq!(fetch_fds(&address, &token, soon()).unwrap().len(), 1);
    // Dropping does not wait for the silent ones.
    let before = Instant::now();
    drop(server);
    assert!(before.elapsed() < Duration::from_secs(1));
    drop(many);
}

#[test]
fn an_address_is_taken_once() {
    let (address, token) = (unique_address("once").unwrap(), random_token().unwrap());
    let _server = FdServer::start(&address, token, vec![]).unwrap();
    assert!(
        FdServer::start(&address, token, vec![])
            .unwrap_err()
            .cause
            .contains(&address)
    );
}

#[test]
fn every_local_rank_gets_every_ones_descriptors() {
    for size in [1, 2, 3, 8, 40] {
        let (address, token) = (unique_address("gather").unwrap(), random_token().unwrap());
        std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..size)
                .map(|rank| {
                    let address = &address;
                    scope.spawn(move || {
                        // Local rank 0 brings one more: the node's segment.
                        let mut mine = vec![mark(1000 + rank as u32)];
                        mine.extend((rank == 0).then(|| mark(9)));
                        exchange(address, &token, rank, size, mine, soon()).unwrap()
                    })
                })
                .collect();
            let tables: Vec<Vec<Vec<OwnedFd>>> =
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
            // Every mark is read in the table of another rank than the one that made it.
            for rank in 0..size {
                let table = &tables[(rank + 1) % size];
                assert_eq!(table.len(), size);
                assert_eq!(read_mark(&table[rank][0]), 1000 + rank as u64);
                assert_eq!(table[rank].len(), 1 + usize::from(rank == 0));
            }
            assert_eq!(read_mark(&tables[size - 1][0][1]), 9);
        });
    }
}

#[test]
fn who_is_missing_is_said_to_those_who_came() {
    let (address, token) = (unique_address("missing").unwrap(), random_token().unwrap());
    std::thread::scope(|scope| {
        let one = scope.spawn(|| exchange(&address, &token, 1, 4, vec![mark(1)], soon()));
        let odd = scope.spawn(|| exchange(&address, &token, 2, 3, vec![mark(1)], soon()));
        let lead = exchange(
            &address,
            &token,
            0,
            4,
            vec![mark(2)],
            Instant::now() + Duration::from_millis(500),
        );
        let said = "local ranks 2, 3 did not bring their file descriptors in time";
        assert_eq!(lead.unwrap_err().cause, said);
        assert_eq!(one.join().unwrap().unwrap_err().cause, said);
        assert_eq!(
            odd.join().unwrap().unwrap_err().cause,
            "local rank 2 of 3 came to a node of 4 local ranks"
        );
    });
}
