//! One conformance test for both stores, and what only the one with sockets can get wrong: secrets, strangers, silence,
//! servers that come late, go early, or cannot listen at all.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hfr_transport::store::{Error, Limits, MemoryStore, Store, StoreServer, TcpStore};

const COOKIE: &[u8] = b"a secret of this test";

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(200)
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn server() -> (StoreServer, String) {
    let server = StoreServer::start("127.0.0.1:0", COOKIE).unwrap();
    let address = server.address().to_string();
    (server, address)
}

/// Both kinds, and what keeps them alive.
fn both() -> Vec<(&'static str, Arc<dyn Store>, Option<StoreServer>)> {
    let (server, address) = server();
    let client = TcpStore::connect(&address, COOKIE, later()).unwrap();
    vec![
        ("memory", Arc::new(MemoryStore::new()), None),
        ("tcp", Arc::new(client), Some(server)),
    ]
}

#[test]
fn values_are_set_replaced_and_waited_for() {
    for (kind, store, _server) in both() {
        let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
        store.set("plan", &bytes, later()).unwrap();
        assert_eq!(store.get("plan", soon()).unwrap(), bytes, "{kind}");
        store.set("plan", b"", later()).unwrap();
        assert_eq!(store.get("plan", soon()).unwrap(), b"", "{kind}");
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| store.get("address of rank 0", later())))
                .collect();
            std::thread::sleep(Duration::from_millis(50));
            store
                .set("address of rank 0", b"10.0.0.1", later())
                .unwrap();
            for waiter in waiters {
                assert_eq!(waiter.join().unwrap().unwrap(), b"10.0.0.1", "{kind}");
            }
        });
    }
}

#[test]
fn a_value_that_does_not_come_is_named() {
    for (kind, store, _server) in both() {
        let begun = Instant::now();
        let error = store.get("segment of node 3", soon()).unwrap_err();
        assert!(begun.elapsed() >= Duration::from_millis(190), "{kind}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{kind}");
        assert!(
            matches!(&error, Error::Timeout { key, .. } if key == "segment of node 3"),
            "{kind}: {error}"
        );
        assert!(
            error.to_string().contains("'segment of node 3'"),
            "{kind}: {error}"
        );
        store.set("segment of node 3", b"x", later()).unwrap();
        assert_eq!(store.get("segment of node 3", soon()).unwrap(), b"x");
    }
}

#[test]
fn everyone_gathers_everyone_again_and_again() {
    for (kind, store, _server) in both() {
        for round in 0..3u8 {
            std::thread::scope(|scope| {
                let ranks: Vec<_> = (0..8usize)
                    .map(|rank| {
                        let store = store.clone();
                        let mine = vec![round ^ 0x5a; rank * 100];
                        scope.spawn(move || store.gather("ranks", 8, rank, &mine, later()))
                    })
                    .collect();
                for rank in ranks {
                    let values = rank.join().unwrap().unwrap();
                    assert_eq!(values.len(), 8);
                    for (rank, value) in values.iter().enumerate() {
                        assert_eq!(*value, vec![round ^ 0x5a; rank * 100], "{kind}");
                    }
                }
            });
        }
    }
}

#[test]
fn a_gather_names_the_missing_ranks_first() {
    for (kind, store, _server) in both() {
        std::thread::scope(|scope| {
            for rank in [0usize, 3] {
                let store = store.clone();
                scope.spawn(move || {
                    let error = store
                        .gather("addresses", 6, rank, b"here", soon())
                        .unwrap_err();
                    let text = error.to_string();
                    assert!(
                        text.starts_with("missing ranks 1, 2, 4, 5 of 6"),
                        "{kind}: {text}"
                    );
                    assert!(text.contains("'addresses'"), "{kind}: {text}");
                });
            }
        });
    }
}

#[test]
fn contradictions_are_refused_alike() {
    for (kind, store, _server) in both() {
        let text = |result: Result<Vec<Vec<u8>>, Error>| result.unwrap_err().to_string();
        assert!(
            text(store.gather("g", 2, 2, b"", soon())).contains("rank 2 cannot be in a world of 2"),
            "{kind}"
        );
        let _ = store.gather("g", 3, 0, b"", soon());
        assert!(
            text(store.gather("g", 2, 1, b"", soon())).contains("world size 2, others with 3"),
            "{kind}"
        );
        std::thread::scope(|scope| {
            let first = store.clone();
            let first = scope.spawn(move || first.gather("twice", 2, 1, b"", later()));
            std::thread::sleep(Duration::from_millis(100));
            assert!(
                text(store.gather("twice", 2, 1, b"", soon())).contains("two processes claim"),
                "{kind}"
            );
            store.gather("twice", 2, 0, b"", later()).unwrap();
            first.join().unwrap().unwrap();
        });
        let big = vec![1; Limits::default().value + 1];
        assert!(store.set("big", &big, later()).is_err(), "{kind}");
    }
}

#[test]
fn another_secret_is_refused_at_once() {
    let (_server, address) = server();
    let begun = Instant::now();
    let error = TcpStore::connect(&address, b"another", later())
        .map(drop)
        .unwrap_err();
    assert_eq!(error, Error::Refused { address });
    assert!(
        error
            .to_string()
            .contains("refused: the job's secret (HFR_COOKIE) differs")
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn strangers_are_closed_and_hold_nobody_up() {
    let (_server, address) = server();
    let silent: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    let mut half = TcpStream::connect(&address).unwrap();
    half.write_all(b"HFR1\x01abc").unwrap();
    let mut scraper = TcpStream::connect(&address).unwrap();
    scraper
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let store = TcpStore::connect(&address, COOKIE, later()).unwrap();
    store.set("k", b"v", later()).unwrap();
    assert_eq!(store.get("k", soon()).unwrap(), b"v");
    for mut stream in silent.into_iter().chain([half, scraper]) {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let closed = match stream.read(&mut [0; 64]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        };
        assert!(closed, "a stranger is told nothing and closed");
    }
    assert_eq!(store.get("k", soon()).unwrap(), b"v");
}

#[test]
fn a_client_waits_for_a_late_server() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let error = TcpStore::connect(&address, COOKIE, soon())
        .map(drop)
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&address) && text.contains("within 0.2 s"),
        "{text}"
    );
    assert!(text.contains("check that rank 0 is running"), "{text}");
    std::thread::scope(|scope| {
        let client = scope.spawn(|| TcpStore::connect(&address, COOKIE, later()));
        std::thread::sleep(Duration::from_millis(300));
        let _server = StoreServer::start(&address, COOKIE).unwrap();
        client
            .join()
            .unwrap()
            .unwrap()
            .set("k", b"v", later())
            .unwrap();
    });
}

#[test]
fn a_port_in_use_is_an_immediate_error() {
    let (_server, address) = server();
    let text = StoreServer::start(&address, COOKIE)
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&format!("cannot listen on {address}")),
        "{text}"
    );
    assert!(
        text.contains("choose another port with HFR_COMM_ID"),
        "{text}"
    );
    let text = StoreServer::start("192.0.2.1:0", COOKIE)
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("no interface of this host has this address"),
        "{text}"
    );
}

#[test]
fn something_else_on_the_port_is_recognised() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").unwrap();
        let _ = stream.read(&mut [0; 64]);
    });
    let error = TcpStore::connect(&address, COOKIE, later())
        .map(drop)
        .unwrap_err();
    assert_eq!(error, Error::Foreign { address });
    other.join().unwrap();
}

#[test]
fn closing_tells_those_who_wait_and_delivers_what_is_done() {
    let (server, address) = server();
    let connect = || TcpStore::connect(&address, COOKIE, later()).unwrap();
    let (waiter, early, last) = (connect(), connect(), connect());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || waiter.get("never", later()));
        let early = scope.spawn(move || early.gather("bye", 2, 1, b"one", later()));
        std::thread::sleep(Duration::from_millis(100));
        let values = last.gather("bye", 2, 0, b"zero", later()).unwrap();
        drop(server);
        assert_eq!(values, [&b"zero"[..], b"one"]);
        assert_eq!(early.join().unwrap().unwrap(), values);
        assert_eq!(
            waiting.join().unwrap().unwrap_err(),
            Error::Closed {
                key: "never".into()
            }
        );
    });
    let error = last.get("k", soon()).unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
}

#[test]
fn connections_are_limited_and_freed() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let server = StoreServer::start_with("127.0.0.1:0", COOKIE, limits).unwrap();
    let address = server.address().to_string();
    let first = TcpStore::connect(&address, COOKIE, later()).unwrap();
    let _second = TcpStore::connect(&address, COOKIE, later()).unwrap();
    let error = TcpStore::connect(&address, COOKIE, soon())
        .map(drop)
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    drop(first);
    TcpStore::connect(&address, COOKIE, later())
        .unwrap()
        .set("k", b"v", later())
        .unwrap();
}
