//! The verbs wire over real queue pairs: the contract of all wires, and what only this one promises. Needs RDMA devices rxe0, rxe1, ...: `ci/verbs.sh` runs
//! it in a virtual machine that has them. Only there with the feature `verbs` or `verbs-dlopen`.

#![cfg(any(feature = "verbs", feature = "verbs-dlopen"))]

#[path = "verbs/addresses.rs"]
mod addresses;
#[path = "verbs/alarms.rs"]
mod alarms;
#[path = "transports/contract.rs"]
mod contract;
#[path = "transports/drive.rs"]
mod drive;
#[path = "verbs/ends.rs"]
mod ends;
#[path = "verbs/faults.rs"]
mod faults;
#[path = "verbs/lives.rs"]
mod lives;
#[path = "verbs/locked.rs"]
mod locked;
#[path = "verbs/rails.rs"]
mod rails;
#[path = "transports/traffic.rs"]
mod traffic;

use drive::End;
use ends::{small, usual};
use hfr_transport::chaos::Chaos;

macro_rules! wire {
    ($name:ident, $make:expr) => {
        wire!(
            $name, $make,
            random_puts_in_all_directions_one_thread
            random_puts_in_all_directions_a_thread_per_rank
            put_does_not_wait_for_a_peer_that_does_not_poll
            the_source_may_be_overwritten_after_sent
            a_body_is_sent_from_where_it_lies
            what_has_a_landing_lands_there_and_nothing_else_does
            a_notice_without_bytes_touches_nothing
            further_peers_can_be_connected_later
            a_put_to_a_stranger_is_an_error
            a_dead_peer_is_named_and_the_others_go_on
        );
    };
    ($name:ident, $make:expr, $($promise:ident)*) => {
        mod $name {
            use super::*;
            $(
                #[test]
                fn $promise() {
                    contract::$promise($make);
                }
            )*
        }
    };
}

wire!(on_verbs, |ranks| ends::ends(ranks, usual()));
// Every limit so small that queues, credits and blocks run full all the time.
wire!(on_small_limits, |ranks| ends::ends(ranks, small()));
// Large puts, and nearly all are, over two rails.
wire!(on_rails, |ranks| ends::ends_on_rails(ranks, small()));
wire!(on_chaos, |ranks| with_chaos(ends::ends(ranks, usual())),
    random_puts_in_all_directions_one_thread
    a_dead_peer_is_named_and_the_others_go_on
);

/// The ends behind a script that holds some puts back, early and late, long and short.
fn with_chaos(ends: Vec<End>) -> Vec<End> {
    let script = "delay=3polls@1,delay=2ms@7,delay=40polls@20,delay=1polls@21,delay=20ms@50,delay=200polls@101";
    let wrap = |wire| Chaos::new(wire, script.parse().unwrap()).unwrap();
    ends.into_iter()
        .map(|(wire, segment)| (Box::new(wrap(wire)) as _, segment))
        .collect()
}
