//! Starting up: ranks that do not come or die on the way, strangers, and a port that is taken.

use super::*;
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Instant,
};

#[test]
fn a_rank_that_never_comes_is_named() {
    for absent in [0, 2] {
        let plan = Plan::new(&[2, 2], "tcp", "5").with("HFR_CONNECT_TIMEOUT", "1.5");
        let mut job = plan.start(RANK, &["barrier"], &[absent]);
        let here = others(4, absent);
        let codes = job.ends(&here, Duration::from_secs(5));
        assert_eq!(codes, [Some(3); 3], "{}", job.story());
        for r in here {
            let error = job.error(r);
            let named = if absent == 0 {
                "rank 0 is running"
            } else {
                "rank 2"
            };
            assert!(
                error.starts_with("Start|") && error.contains(named),
                "{error}"
            );
        }
    }
}

#[test]
fn killed_on_the_way() {
    each(&JOBS, |&(nodes, wire)| {
        for (i, dead) in [0, 3, 0, 3, 0, 3].into_iter().enumerate() {
            let plan = Plan::new(nodes, wire, "3").with("HFR_CONNECT_TIMEOUT", "3");
            let mut job = start(&plan, &["loop:100000:1000000"]);
            std::thread::sleep(Duration::from_millis(4 + 12 * i as u64));
            job.kill(dead);
            let here = others(4, dead);
            let codes = job.ends(&here, Duration::from_secs(8));
            assert_eq!(codes, [Some(3); 3], "{}", job.story());
            for r in here {
                let error = job.error(r);
                let known = error.starts_with("Start|") || error.starts_with("PeerLost|");
                assert!(known, "{error}\n{}", job.story());
            }
        }
    });
}

#[test]
fn a_stranger_is_refused() {
    let plan = Plan::new(&[2, 2], "local", "5")
        .with("HFR_CONNECT_TIMEOUT", "2")
        .only(3, "HFR_COOKIE", "of another job");
    let mut job = start(&plan, &["barrier"]);
    job.ends(&[0, 1, 2, 3], Duration::from_secs(6));
    let error = job.error(3);
    assert!(
        error.starts_with("Start|") && error.contains("HFR_COOKIE"),
        "{error}"
    );
    assert!(job.error(0).contains("rank 3"), "{}", job.story());
}

#[test]
fn a_setting_that_makes_no_sense_is_named() {
    let plan = Plan::new(&[1], "auto", "5").with("HFR_CORES", "0");
    let mut job = start(&plan, &["barrier"]);
    job.ends(&[0], Duration::from_secs(6));
    let error = job.error(0);
    let named = error.starts_with("Start|") && error.contains("HFR_CORES=0");
    assert!(named, "{error}");
}

/// Says something that is no rank's greeting to the rendezvous, as soon as there is one.
fn disturb(address: &str, words: &[u8]) {
    let until = Instant::now() + Duration::from_secs(10);
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(e) => assert!(Instant::now() < until, "{e}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    // Refused in the middle of a word is as good as at its end.
    let _ = stream.write_all(words);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
    let _ = stream.read(&mut [0; 100]);
}

#[test]
fn strangers_at_the_port_do_no_harm() {
    for wire in ["local", "tcp"] {
        let plan = Plan::new(&[2, 2], wire, "20");
        // Rank 3 comes late, so that the job is still meeting.
        let steps = ["loop:30000:10"];
        let mut job = plan.start(RANK, &steps, &[3]);
        let strangers = [
            &b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            &[0xff; 70_000],
            b"",
            &[0; 64],
        ];
        for words in strangers {
            disturb(&plan.rendezvous, words);
        }
        job.add(&plan, RANK, 3, &steps);
        job.succeeds(LONG);
    }
}

#[test]
fn a_port_in_use_is_told_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut plan = Plan::new(&[2], "local", "5");
    plan.rendezvous = taken.local_addr().expect("bound").to_string();
    let mut job = plan.start(RANK, &["barrier"], &[1]);
    job.ends(&[0], Duration::from_secs(3));
    let error = job.error(0);
    assert!(
        error.starts_with("Start|") && error.contains("cannot listen on"),
        "{error}"
    );
    assert!(error.contains(&plan.rendezvous), "{error}");
}
