//! By which addresses and attributes a peer is reached, as the device says it after the link is up: rows of the address table, traffic class, MTU. What
//! needs InfiniBand (LIDs, partitions, service levels) is tested beside the code that chooses.

use super::drive::Guard;
use super::ends::{addresses, end_with, pair_with, put, settings, soon, usual};
use super::faults::{Up, set_link};
use hfr_transport::Transport;
use hfr_transport::net::Infiniband;
use hfr_transport::verbs::{Verbs, usable};
use std::process::Command;

fn ip(line: &str) {
    let done = Command::new("ip").args(line.split(' ')).status();
    assert!(done.expect("the program ip").success(), "ip {line}");
}

/// A put each way arrives.
fn talk([a, b]: &mut [Verbs; 2]) {
    a.put(put(1, 0, 3000, 5)).unwrap();
    b.put(put(0, 0, 3000, 6)).unwrap();
    let mut events = [Vec::new(), Vec::new()];
    let came = |events: &Vec<_>| {
        events
            .iter()
            .any(|e| matches!(e, hfr_transport::Event::Arrived { .. }))
    };
    while !events.iter().all(came) {
        a.poll(&mut events[0]).unwrap();
        b.poll(&mut events[1]).unwrap();
    }
}

fn env(pairs: &[(&str, &str)]) -> Infiniband {
    let find = |name: &str| {
        pairs
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, text)| (*text).to_owned())
    };
    Infiniband::from_env(&find).unwrap()
}

#[test]
fn the_traffic_class_and_the_row_reach_the_queue_pair() {
    let _guard = Guard::new();
    let near = env(&[
        ("HFR_IB_HCA", "=rxe0:1"),
        ("HFR_IB_SL", "5"),
        ("HFR_IB_TC", "106"),
        ("NCCL_IB_TC", "7"),
    ]);
    let far = env(&[
        ("NCCL_IB_HCA", "=rxe1"),
        ("NCCL_IB_SL", "3"),
        ("NCCL_IB_TC", "160"),
        ("NCCL_IB_GID_INDEX", "1"),
    ]);
    let mut both = pair_with(&near, &far);
    talk(&mut both);
    let [mut a, mut b] = both;
    let (to, back) = (a.route(1, 0).unwrap(), b.route(0, 0).unwrap());
    // Soft devices keep no service level; that it is a setting at all is tested where settings are read.
    assert_eq!(
        (to.traffic_class, back.traffic_class),
        (106, 160),
        "{to:?}, {back:?}"
    );
    assert_eq!((to.to.to_string(), to.mtu), ("10.77.0.2".into(), 4096));
    assert_eq!(
        (back.to.to_string(), back.gid_index),
        ("10.77.0.1".into(), 1)
    );
}

#[test]
fn selectors_choose_devices_and_ports() {
    let hca = |text: &str| env(&[("HFR_IB_HCA", text)]);
    for (text, there) in [
        ("rxe", true),
        ("=rxe", false),
        ("=rxe1:1", true),
        ("rxe0:2", false),
        ("^rxe", false),
        ("^=rxe", true),
        ("^rxe0:1,rxe1", super::ends::devices() > 2),
        ("mlx5_0,rxe1", true),
    ] {
        let found = usable(&hca(text));
        assert_eq!(found.is_ok(), there, "{text}: {found:?}");
    }
    // Which one it is: only one is left.
    let mut both = pair_with(&settings(0), &hca("^=rxe0"));
    assert_eq!(both[0].route(1, 0).unwrap().to.to_string(), "10.77.0.2");
}

/// The machine of these tests has no IPv6, so the link-local row leads nowhere: that it was taken, and what is missing, is in the error.
#[test]
fn the_link_local_row_is_used_where_it_is_named() {
    let _guard = Guard::new();
    let open = |rank| {
        let row = Infiniband {
            gid_index: Some(0),
            ..settings(rank)
        };
        end_with(rank, 1 << 20, 0..1 << 20, usual(), &row).0
    };
    let (mut a, mut b) = (open(0), open(1));
    let all = addresses(&[&a, &b]);
    let (ours, theirs) = std::thread::scope(|scope| {
        let a = scope.spawn(|| a.connect(&all[1..], soon(2)));
        let b = b.connect(&all[..1], soon(2));
        (a.join().unwrap(), b)
    });
    theirs.unwrap_err();
    let text = ours.unwrap_err().to_string();
    assert!(
        text.contains("IBV_QP_AV: is there a route from fe80::"),
        "{text}"
    );
}

#[test]
fn the_smaller_mtu_of_two_ports_is_taken_and_a_later_link_takes_the_new_one() {
    let _guard = Guard::new();
    for (mtu, bytes) in [(1500, 1024), (600, 512), (4200, 4096)] {
        ip(&format!("link set r1 mtu {mtu}"));
        let mut both = pair_with(&settings(0), &settings(1));
        let found = [
            both[0].route(1, 0).unwrap().mtu,
            both[1].route(0, 0).unwrap().mtu,
        ];
        if found == [bytes; 2] {
            talk(&mut both);
        }
        ip("link set r1 mtu 4200");
        assert_eq!(found, [bytes; 2], "an interface of {mtu}");
    }
}

#[test]
fn an_address_that_changes_between_two_links_is_read_again() {
    let _guard = Guard::new();
    let _up = Up(0);
    let told = |wanted: &str| {
        let [mut a, mut b] = pair_with(&settings(0), &settings(1));
        assert_eq!(b.route(0, 0).unwrap().to.to_string(), wanted);
        a.poll(&mut Vec::new()).unwrap();
    };
    told("10.77.0.1");
    // The second network is not that of rxe1: the row is taken because there is no other.
    ip("addr add 10.78.0.1/24 dev r0");
    ip("addr del 10.77.0.1/24 dev r0");
    let outcome = std::panic::catch_unwind(|| told("10.78.0.1"));
    ip("addr add 10.77.0.1/24 dev r0");
    ip("addr del 10.78.0.1/24 dev r0");
    set_link(0, "up");
    outcome.unwrap();
    told("10.77.0.1");
}
