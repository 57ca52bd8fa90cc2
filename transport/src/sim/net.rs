//! The state of a simulation: clock, schedule, puts in flight and who is alive. It knows no trait and no lock. Invariants: an
//! event happens at most once and never before `now`; a put's steps are scheduled so that read <= land <= arrive and
//! read <= sent, and arrivals of one pair keep the order of their puts.

use super::error;
use super::random::Random;
use super::script::{Fault, Links};
use crate::shm::Segment;
use crate::wire::{Ask, Error, Event, Landing, Put};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Range;
use std::sync::Arc;

/// One step of the simulation. Ordered only so that the schedule can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The source bytes of a put are read.
    Read(u64),
    /// The first or second piece of a put lands in the target.
    Land(u64, bool),
    /// The receiver is told.
    Arrive(u64),
    /// The sender is told.
    Sent(u64),
    /// A rank learns that another is out of reach.
    Lose { rank: usize, peer: usize },
}

/// A put between its first and its last step.
struct Flight {
    from: usize,
    put: Put,
    bytes: Vec<u8>,
    split: usize,
    /// Where its last bytes go, and whether that was asked: as soon as the receiver looks, unless some bytes are there before.
    landing: Option<Landing>,
    asked: bool,
    landed: [bool; 2],
    steps_left: u8,
}

/// What one rank sees.
#[derive(Default)]
struct Seat {
    inbox: Vec<Event>,
    /// Puts to it that have bytes, whose landings are asked for when it looks next.
    new: Vec<u64>,
    /// What goes into landings when it looks next.
    due: Vec<(Landing, Vec<u8>)>,
    peers: BTreeSet<usize>,
    /// Peers out of reach, and why.
    lost: BTreeMap<usize, &'static str>,
    /// Until when its last put occupies it.
    busy: u64,
    gone: bool,
}

pub(super) struct Net {
    segments: Vec<Arc<Segment>>,
    random: Random,
    faults: Vec<Fault>,
    links: Links,
    now: u64,
    happened: u64,
    scheduled: u64,
    schedule: BinaryHeap<Reverse<(u64, u64, Step)>>,
    flights: BTreeMap<u64, Flight>,
    next_flight: u64,
    seats: Vec<Seat>,
    /// Puts so far, and time of the last arrival, by sender and receiver.
    pairs: BTreeMap<(usize, usize), (u64, u64)>,
    /// Links that are broken, lower rank first.
    cut: BTreeSet<(usize, usize)>,
}

const GONE: &str = "its process has ended in the simulation";
const CUT: &str = "the link to it is cut in the simulation";

impl Net {
    pub fn new(segments: Vec<Arc<Segment>>, seed: u64, faults: Vec<Fault>, links: Links) -> Net {
        let mut net = Net {
            seats: segments.iter().map(|_| Seat::default()).collect(),
            segments,
            random: Random::new(seed),
            faults,
            links,
            now: 0,
            happened: 0,
            scheduled: 0,
            schedule: BinaryHeap::new(),
            flights: BTreeMap::new(),
            next_flight: 0,
            pairs: BTreeMap::new(),
            cut: BTreeSet::new(),
        };
        net.drop_due();
        net
    }

    pub fn ranks(&self) -> usize {
        self.seats.len()
    }

    pub fn now(&self) -> u64 {
        self.now
    }

    pub fn events(&self) -> u64 {
        self.happened
    }

    pub fn alive(&self, rank: usize) -> bool {
        !self.seats[rank].gone
    }

    pub fn connect(&mut self, rank: usize, peer: usize) {
        self.seats[rank].peers.insert(peer);
        if self.seats[peer].gone {
            self.later(self.links.latency, Step::Lose { rank, peer });
        }
    }

    pub fn put(&mut self, from: usize, put: Put) -> Result<(), Error> {
        let to = put.peer;
        self.check(from, &put)?;
        let pair = (from.min(to), from.max(to));
        let (count, _) = self.pairs.entry((from, to)).or_default();
        *count += 1;
        let nth = *count;
        let both = nth + self.pairs.get(&(to, from)).map_or(0, |pair| pair.0);
        let breaks = |fault: &Fault| matches!(*fault, Fault::Cut { a, b, at_put } if (a.min(b), a.max(b)) == pair && at_put == both);
        if self.faults.iter().any(breaks) {
            self.cut.insert(pair);
            for (rank, peer) in [(from, to), (to, from)] {
                self.later(0, Step::Lose { rank, peer });
            }
        }
        let extra = |fault: &Fault| match *fault {
            Fault::Delay {
                from: a,
                to: b,
                at_put,
                nanoseconds,
            } if (a, b, at_put) == (from, to, nth) => nanoseconds,
            _ => 0,
        };
        let extra = self.faults.iter().map(extra).sum();
        self.launch(from, put, extra);
        Ok(())
    }

    /// Whether `from` may start this put at all.
    fn check(&self, from: usize, put: &Put) -> Result<(), Error> {
        let (seat, to) = (&self.seats[from], put.peer);
        if seat.gone {
            return Err(error(None, "this rank has ended in the simulation"));
        }
        if !seat.peers.contains(&to) {
            return Err(error(Some(to), "a put to a rank that is not connected"));
        }
        if let Some(cause) = seat.lost.get(&to) {
            return Err(error(Some(to), *cause));
        }
        let head = put
            .head()
            .ok_or_else(|| error(Some(to), "a put shorter than its body"))?;
        for (rank, start, len) in [(from, put.from, head), (to, put.to, put.len)] {
            let whole = self.segments[rank].len();
            if len > 0 && start.checked_add(len).is_none_or(|end| end > whole) {
                let cause = format!(
                    "a put of {len} bytes at offset {start}, outside a segment of {whole} bytes"
                );
                return Err(error(Some(to), cause));
            }
        }
        Ok(())
    }

    /// Draws when the steps of a put happen.
    fn launch(&mut self, from: usize, put: Put, extra: u64) {
        let flight = self.next_flight;
        self.next_flight += 1;
        let start = self.now.max(self.seats[from].busy);
        let on_wire = (put.len as u64 * self.links.per_kib) >> 10;
        self.seats[from].busy = start + on_wire;
        let earliest = start + on_wire + self.links.latency + extra;
        let (_, last) = self.pairs.entry((from, put.peer)).or_default();
        let arrive = (earliest + self.random.up_to(self.links.jitter)).max(*last);
        *last = arrive;
        // Read before the arrival, at a random time; pieces land between; told after the reading, perhaps long after the arrival.
        let read = self.between(self.now..arrive);
        let pieces = [self.between(read..arrive), self.between(read..arrive)];
        let sent = match self.random.coin() {
            true => read, // The latest reading there can be: at `Sent` itself.
            false => self.between(read..arrive + 4 * self.links.jitter),
        };
        if put.len > 0 {
            self.seats[put.peer].new.push(flight);
        }
        self.flights.insert(
            flight,
            Flight {
                from,
                put,
                bytes: Vec::new(),
                split: self.random.up_to(put.len as u64) as usize,
                landing: None,
                asked: false,
                landed: [false; 2],
                steps_left: 5,
            },
        );
        // Steps at the same time happen in this order: a piece due at the arrival comes with the notice itself.
        for (at, step) in [
            (read, Step::Read(flight)),
            (sent, Step::Sent(flight)),
            (arrive, Step::Arrive(flight)),
            (pieces[0], Step::Land(flight, false)),
            (pieces[1], Step::Land(flight, true)),
        ] {
            self.at(at, step);
        }
    }

    /// A time in `range`: at its start, at its end or in between, so that the borders come up often.
    fn between(&mut self, range: Range<u64>) -> u64 {
        match self.random.up_to(3) {
            0 => range.start,
            1 => range.end,
            _ => range.start + self.random.up_to(range.end - range.start),
        }
    }

    fn later(&mut self, delay: u64, step: Step) {
        let at = self.now + delay + self.random.up_to(self.links.jitter);
        self.at(at, step);
    }

    fn at(&mut self, time: u64, step: Step) {
        self.schedule.push(Reverse((time, self.scheduled, step)));
        self.scheduled += 1;
    }

    pub fn advance(&mut self) -> bool {
        let Some(Reverse((time, _, step))) = self.schedule.pop() else {
            return false;
        };
        assert!(
            time >= self.now,
            "the simulation's clock would run backwards"
        );
        self.now = time;
        self.happened += 1;
        match step {
            Step::Read(id) | Step::Land(id, _) | Step::Arrive(id) | Step::Sent(id) => {
                self.fly(id, step)
            }
            Step::Lose { rank, peer } => self.lose(rank, peer),
        }
        self.drop_due();
        true
    }

    /// One step of a put, unless an end of it or the link between is gone.
    fn fly(&mut self, id: u64, step: Step) {
        let flight = self
            .flights
            .get_mut(&id)
            .expect("a put in flight until its last step");
        let (from, put) = (flight.from, flight.put);
        let broken = self.cut.contains(&(from.min(put.peer), from.max(put.peer)));
        if !broken && !self.seats[from].gone && !self.seats[put.peer].gone {
            match step {
                Step::Read(_) => flight.bytes = read(&self.segments[from], &put),
                Step::Land(_, second) => {
                    let due = flight.land(&self.segments[put.peer], second);
                    self.seats[put.peer].due.extend(due);
                }
                Step::Arrive(_) => {
                    for second in [false, true] {
                        let due = flight.land(&self.segments[put.peer], second);
                        self.seats[put.peer].due.extend(due);
                    }
                    let notice = put.notice;
                    self.seats[put.peer]
                        .inbox
                        .push(Event::Arrived { from, notice });
                }
                Step::Sent(_) => self.seats[from]
                    .inbox
                    .push(Event::Sent { ticket: put.ticket }),
                Step::Lose { .. } => {}
            }
        }
        flight.steps_left -= 1;
        if flight.steps_left == 0 {
            self.flights.remove(&id);
        }
    }

    fn lose(&mut self, rank: usize, peer: usize) {
        let cause = if self.seats[peer].gone { GONE } else { CUT };
        self.seats[rank].lost.entry(peer).or_insert(cause);
    }

    /// Ends the ranks whose hour has come.
    fn drop_due(&mut self) {
        for i in 0..self.faults.len() {
            if let Fault::Drop { rank, at_event } = self.faults[i]
                && at_event <= self.happened
            {
                self.leave(rank);
            }
        }
    }

    /// Ends a rank: its peers learn of it later, each at another time.
    pub fn leave(&mut self, rank: usize) {
        if std::mem::replace(&mut self.seats[rank].gone, true) {
            return;
        }
        for other in 0..self.seats.len() {
            if self.seats[other].peers.contains(&rank) {
                self.later(
                    self.links.latency,
                    Step::Lose {
                        rank: other,
                        peer: rank,
                    },
                );
            }
        }
    }

    pub fn poll(
        &mut self,
        rank: usize,
        ask: &mut Ask<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let seat = &mut self.seats[rank];
        if seat.gone {
            return Err(error(None, "this rank has ended in the simulation"));
        }
        for id in seat.new.drain(..) {
            if let Some(flight) = self.flights.get_mut(&id)
                && !flight.asked
            {
                flight.asked = true;
                let landing = ask(flight.put.notice, flight.put.len);
                flight.landing = landing.filter(|landing| landing.len() <= flight.put.len);
            }
        }
        for (landing, bytes) in seat.due.drain(..) {
            // SAFETY: promised until the put has arrived, which is told below at the earliest, or until this rank looks no more.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), landing.at(), bytes.len()) };
        }
        events.append(&mut seat.inbox);
        match seat.lost.first_key_value() {
            Some((&peer, cause)) => Err(error(Some(peer), *cause)),
            None => Ok(()),
        }
    }
}

impl Flight {
    /// Copies one piece into the target, once: after the notice the target belongs to the receiver. What belongs into the landing is handed back.
    fn land(&mut self, target: &Segment, second: bool) -> Option<(Landing, Vec<u8>)> {
        // Nobody is asked any more.
        self.asked = true;
        if std::mem::replace(&mut self.landed[usize::from(second)], true) {
            return None;
        }
        let piece = if second {
            self.split..self.put.len
        } else {
            0..self.split
        };
        let head = self.put.len - self.landing.map_or(0, |landing| landing.len());
        let (start, end) = (piece.start.min(head), piece.end.min(head));
        if start < end {
            let bytes = &self.bytes[start..end];
            let to = target.at(self.put.to + start, bytes.len());
            // SAFETY: `at` has checked the target; until `Arrived` nobody but the wire may touch it, and the simulation is locked.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
        let (start, end) = (piece.start.max(head), piece.end.max(head));
        let landing = self.landing.filter(|_| start < end)?;
        Some((
            landing.behind(start - head),
            self.bytes[start..end].to_vec(),
        ))
    }
}

/// The source bytes of a put.
fn read(segment: &Segment, put: &Put) -> Vec<u8> {
    let head = put.head().expect("checked when it was put");
    let mut bytes = Vec::with_capacity(put.len);
    if head > 0 {
        // SAFETY: `at` has checked the source; until `Sent` nobody may write it.
        bytes.extend(unsafe { std::slice::from_raw_parts(segment.at(put.from, head), head) });
    }
    if let Some(body) = put.body {
        // SAFETY: promised until `Sent` by whoever made it.
        bytes.extend(unsafe { std::slice::from_raw_parts(body.at(), body.len()) });
    }
    bytes
}
