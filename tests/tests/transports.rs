//! One contract, all wires: every promise of `wire.rs` is checked for every wire, alone and behind `Chaos`. The suite knows a
//! wire only as `Transport`; what only TCP promises (handshake, bounds) has its own file.

#[path = "transports/contract.rs"]
mod contract;
#[path = "transports/drive.rs"]
mod drive;
#[path = "transports/tcp.rs"]
mod tcp;
#[path = "transports/traffic.rs"]
mod traffic;

use drive::{End, SEGMENT};
use hfr_transport::chaos::Chaos;
use hfr_transport::shm::Segment;
use hfr_transport::sim::{SimNet, SimWire};
use hfr_transport::{Error, Event, PeerAddress, Put, Transport};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;

/// All tests of the contract for one wire. `make` gives the ends of that many ranks, one node each, each with a segment of
/// `SEGMENT` bytes that peers may write all of, not yet connected.
macro_rules! wire {
    ($name:ident, $make:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn random_puts_in_all_directions_one_thread() {
                contract::random_puts_in_all_directions_one_thread($make);
            }

            #[test]
            fn random_puts_in_all_directions_a_thread_per_rank() {
                contract::random_puts_in_all_directions_a_thread_per_rank($make);
            }

            #[test]
            fn put_does_not_wait_for_a_peer_that_does_not_poll() {
                contract::put_does_not_wait_for_a_peer_that_does_not_poll($make);
            }

            #[test]
            fn the_source_may_be_overwritten_after_sent() {
                contract::the_source_may_be_overwritten_after_sent($make);
            }

            #[test]
            fn a_notice_without_bytes_touches_nothing() {
                contract::a_notice_without_bytes_touches_nothing($make);
            }

            #[test]
            fn further_peers_can_be_connected_later() {
                contract::further_peers_can_be_connected_later($make);
            }

            #[test]
            fn a_put_to_a_stranger_is_an_error() {
                contract::a_put_to_a_stranger_is_an_error($make);
            }

            #[test]
            fn a_dead_peer_is_named_and_the_others_go_on() {
                contract::a_dead_peer_is_named_and_the_others_go_on($make);
            }
        }
    };
}

// One line per wire; a further one (the `local` wire, say) is added here and nowhere else.
wire!(on_tcp, tcp_ends);
wire!(on_sim, sim_ends);
wire!(on_chaos_over_tcp, |ranks| with_chaos(tcp_ends(ranks)));
wire!(on_chaos_over_sim, |ranks| with_chaos(sim_ends(ranks)));

fn tcp_ends(ranks: usize) -> Vec<End> {
    (0..ranks)
        .map(|rank| tcp::end(rank, SEGMENT, 0..SEGMENT, tcp::TOKEN))
        .map(|(tcp, segment)| (Box::new(tcp) as _, segment))
        .collect()
}

fn sim_ends(ranks: usize) -> Vec<End> {
    let segments: Vec<_> = (0..ranks)
        .map(|_| Arc::new(Segment::heap(SEGMENT)))
        .collect();
    let net = SimNet::new(segments.clone(), drive::seed(), Vec::new());
    let wire = |rank| Driven {
        net: net.clone(),
        wire: net.endpoint(rank),
    };
    segments
        .into_iter()
        .enumerate()
        .map(|(rank, segment)| (Box::new(wire(rank)) as _, segment))
        .collect()
}

/// The ends behind a script that holds some puts back, early and late, long and short.
fn with_chaos(ends: Vec<End>) -> Vec<End> {
    let script = "delay=3polls@1,delay=2ms@7,delay=40polls@20,delay=1polls@21,delay=20ms@50,delay=200polls@101";
    let wrap = |wire| Chaos::new(wire, script.parse().unwrap()).unwrap();
    ends.into_iter()
        .map(|(wire, segment)| (Box::new(wrap(wire)) as _, segment))
        .collect()
}

/// A simulated wire that drives the simulation itself, so that the suite need not know virtual time.
struct Driven {
    net: SimNet,
    wire: SimWire,
}

impl Transport for Driven {
    fn name(&self) -> &'static str {
        self.wire.name()
    }

    fn address(&self) -> Vec<u8> {
        self.wire.address()
    }

    fn connect(&mut self, peers: &[PeerAddress], deadline: Instant) -> Result<(), Error> {
        self.wire.connect(peers, deadline)
    }

    fn put(&mut self, put: Put) -> Result<(), Error> {
        self.wire.put(put)
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        for _ in 0..3 {
            self.net.advance();
        }
        self.wire.poll(events)
    }

    fn watch(&self, fds: &mut Vec<(RawFd, bool)>) {
        self.wire.watch(fds);
    }
}
