//! The simulated wire: all ranks in one process, in virtual time, from a seed. It is as late and as unordered as the contract
//! of a wire allows, so what only works on a kind network fails here. It knows puts and faults, no plan and no real
//! clock, and makes no system call, so it runs under an interpreter. Invariants: the same seed and the same calls give the same
//! run; notices of one pair of ranks keep their order; after `Arrived` the bytes are there and stay.
//!
//! What a put may do between its start and its end, as the seed has it: its source is read at once or only just before `Sent`;
//! its bytes land in two pieces, in any order, long before `Arrived` or just then, and overtake those of other puts; `Sent`
//! comes before or long after `Arrived`.

mod net;
mod random;
mod script;

pub use script::{Fault, Links};

use crate::shm::Segment;
use crate::wire::{Ask, Error, Event, PeerAddress, Put, Transport};
use net::Net;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// All simulated links between some ranks: the driver's handle.
#[derive(Clone)]
pub struct SimNet {
    net: Arc<Mutex<Net>>,
}

impl SimNet {
    /// One rank per entry of `segments`; ranks of one node share a segment. `seed` decides every choice, `faults` happen as
    /// written.
    pub fn new(segments: Vec<Arc<Segment>>, seed: u64, faults: Vec<Fault>) -> SimNet {
        SimNet::with_links(segments, seed, faults, Links::default())
    }

    /// As `new`, over links of the given speed.
    pub fn with_links(
        segments: Vec<Arc<Segment>>,
        seed: u64,
        faults: Vec<Fault>,
        links: Links,
    ) -> SimNet {
        SimNet {
            net: Arc::new(Mutex::new(Net::new(segments, seed, faults, links))),
        }
    }

    /// The end of `rank`.
    pub fn endpoint(&self, rank: usize) -> SimWire {
        assert!(
            rank < self.lock().ranks(),
            "rank {rank} has no segment in this simulation"
        );
        SimWire {
            net: self.clone(),
            rank,
        }
    }

    /// Lets the next event happen and moves the clock to it. False when nothing is going to happen by itself.
    pub fn advance(&self) -> bool {
        self.lock().advance()
    }

    /// Virtual time in nanoseconds since the start.
    pub fn now(&self) -> u64 {
        self.lock().now()
    }

    /// Events that have happened.
    pub fn events(&self) -> u64 {
        self.lock().events()
    }

    /// Whether no fault has ended `rank`. The driver must not run a dead rank any more.
    pub fn alive(&self, rank: usize) -> bool {
        self.lock().alive(rank)
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        self.net
            .lock()
            .expect("no simulated rank has panicked inside the net")
    }
}

/// One rank's end of the simulated wire.
pub struct SimWire {
    net: SimNet,
    rank: usize,
}

impl Transport for SimWire {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn gathers(&self) -> bool {
        true
    }

    fn address(&self) -> Vec<u8> {
        format!("sim:{}", self.rank).into_bytes()
    }

    /// Never waits: in one thread there is nobody to wait for.
    fn connect(&mut self, peers: &[PeerAddress], _deadline: Instant) -> Result<(), Error> {
        let mut net = self.net.lock();
        for peer in peers {
            if peer.rank == self.rank {
                return Err(error(Some(peer.rank), "a rank is no peer of itself"));
            }
            if peer.rank >= net.ranks() || peer.address != format!("sim:{}", peer.rank).as_bytes() {
                let shown = String::from_utf8_lossy(&peer.address);
                return Err(error(
                    Some(peer.rank),
                    format!("its address {shown:?} is not in this simulation"),
                ));
            }
            net.connect(self.rank, peer.rank);
        }
        Ok(())
    }

    fn put(&mut self, put: Put) -> Result<(), Error> {
        self.net.lock().put(self.rank, put)
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        self.poll_landing(&mut |_, _| None, events)
    }

    fn poll_landing(&mut self, ask: &mut Ask<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        self.net.lock().poll(self.rank, ask, events)
    }

    fn watch(&self, _fds: &mut Vec<(RawFd, bool)>) {}
}

impl Drop for SimWire {
    fn drop(&mut self) {
        // Not `lock`: a failed test drops its wires after a panic, and a second panic would hide the first.
        if let Ok(mut net) = self.net.net.lock() {
            net.leave(self.rank);
        }
    }
}

fn error(peer: Option<usize>, cause: impl Into<String>) -> Error {
    Error {
        wire: "sim",
        peer,
        cause: cause.into(),
    }
}

#[cfg(test)]
mod tests;
