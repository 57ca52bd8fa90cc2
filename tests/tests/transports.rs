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
use hfr_transport::local::{Local, Places, Seat};
use hfr_transport::shm::Segment;
use hfr_transport::sim::{SimNet, SimWire};
use hfr_transport::{Ask, Error, Event, PeerAddress, Put, Transport};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;

/// Tests of the contract, by name, for one wire. `make` gives the ends of that many ranks, one node each, each with a segment whose
/// first `SEGMENT` bytes peers may write, not yet connected.
macro_rules! promises {
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

/// What every wire promises.
macro_rules! wire {
    ($name:ident, $make:expr $(, $more:ident)*) => {
        promises!(
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
            $($more)*
        );
    };
}

// One line per wire; wires that can know of a dead peer name it.
wire!(on_local, local_ends);
wire!(on_tcp, tcp_ends, a_dead_peer_is_named_and_the_others_go_on);
wire!(on_sim, sim_ends, a_dead_peer_is_named_and_the_others_go_on);
wire!(
    on_chaos_over_tcp,
    |ranks| with_chaos(tcp_ends(ranks)),
    a_dead_peer_is_named_and_the_others_go_on
);
wire!(
    on_chaos_over_sim,
    |ranks| with_chaos(sim_ends(ranks)),
    a_dead_peer_is_named_and_the_others_go_on
);

fn local_ends(ranks: usize) -> Vec<End> {
    let end = |rank| {
        let places = Places::packed(SEGMENT, 1);
        let len = SEGMENT + Places::bytes(ranks, 1);
        let segment = Arc::new(Segment::create("contract", len).expect("shared memory"));
        let seat = Seat {
            rank,
            world: ranks,
            node: rank,
            local_rank: 0,
            local_size: 1,
        };
        let wire = Local::new(seat, segment.clone(), places, None).expect("a local wire");
        (Box::new(wire) as _, segment)
    };
    (0..ranks).map(end).collect()
}

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

    fn gathers(&self) -> bool {
        self.wire.gathers()
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
        self.poll_landing(&mut |_, _| None, events)
    }

    fn poll_landing(&mut self, ask: &mut Ask<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        for _ in 0..3 {
            self.net.advance();
        }
        self.wire.poll_landing(ask, events)
    }

    fn watch(&self, fds: &mut Vec<(RawFd, bool)>) {
        self.wire.watch(fds);
    }
}
