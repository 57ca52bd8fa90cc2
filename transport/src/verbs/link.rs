//! One connected peer: its lanes, and what makes one link of them. A large put is divided among the lanes, the main lane saying so in front
//! of its part; all else goes over the main lane. It knows lanes and rails, no other peer. Invariants: events are those of whole puts, in
//! the order of `merge` and `stripe`; whatever fails on one lane is the link's fault, names the port, and stays.

use super::Limits;
use super::lane::{Came, Lane, Load, Work};
use super::memory::Key;
use super::merge::Merge;
use super::rail::Rail;
use super::stripe::{Divided, Done, stripes};
use super::sys::ibv_wc;
use crate::wire::{Event, Notice, Put};

pub(super) struct Link {
    pub rank: usize,
    /// Place among the links of the wire.
    pub number: u32,
    /// The main one first.
    lanes: Vec<Lane>,
    /// Why this link is of no use any more.
    pub fault: Option<String>,
    /// Lane and offset whose key has been asked for.
    pub asked: Option<(usize, usize)>,
    divided: Divided,
    merge: Merge,
    /// A put with less than twice as many bytes stays in one piece.
    least: usize,
}

impl Link {
    /// A link that will have so many lanes.
    pub fn new(rank: usize, number: u32, lanes: usize, limits: &Limits) -> Link {
        Link {
            rank,
            number,
            lanes: Vec::with_capacity(lanes),
            fault: None,
            asked: None,
            divided: Divided::default(),
            merge: Merge::new(lanes),
            least: limits.least,
        }
    }

    /// The next lane is up.
    pub fn add(&mut self, lane: Lane) {
        self.lanes.push(lane);
    }

    pub fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    pub fn queued(&self) -> bool {
        self.lanes.iter().any(Lane::queued)
    }

    /// Whether a device still has work of this link.
    pub fn busy(&self) -> bool {
        self.lanes.iter().any(Lane::busy)
    }

    pub fn push(&mut self, put: Put) {
        let load = Load {
            from: put.from,
            len: put.len,
            to: put.to,
            notice: put.notice.0,
            done: Done::Put(put.ticket),
        };
        let parts = stripes(put.len, self.lanes.len(), self.least);
        if parts.len() == 1 {
            self.lanes[0].push(load);
            return;
        }
        self.lanes[0].announce(parts.len());
        let done = Done::Part(self.divided.begin(put.ticket, parts.len()));
        for (lane, part) in self.lanes.iter_mut().zip(parts) {
            lane.push(Load {
                from: put.from + part.start,
                len: part.len(),
                // Where the peer has no such offset, it says so when it is asked for the key.
                to: put.to.saturating_add(part.start),
                done,
                ..load
            });
        }
    }

    pub fn learn(&mut self, lane: usize, key: Key) {
        self.asked = None;
        self.lanes[lane].learn(key);
    }

    /// Puts the pair of a lane out of order, as a fault of the device would.
    pub fn fail(&mut self, lane: usize) -> Result<(), String> {
        let lane = self.lanes.get_mut(lane).ok_or("has no such lane")?;
        lane.fail()
    }

    /// Posts what is queued, as far as room, credits and keys go. A lane and an offset whose key has to be asked for are the answer.
    pub fn advance(
        &mut self,
        rails: &mut [Rail],
        events: &mut Vec<Event>,
    ) -> Result<Option<(usize, usize)>, String> {
        let mut need = None;
        let divided = &mut self.divided;
        let mut sent = |done| {
            let ticket = divided.sent(done);
            events.extend(ticket.map(|ticket| Event::Sent { ticket }));
        };
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            let rail = &mut rails[lane.rail];
            let offset = lane
                .advance(&rail.device, &mut rail.memory, &mut sent)
                .map_err(|cause| format!("{cause} ({})", lane.way))?;
            need = need.or(offset.map(|offset| (at, offset)));
        }
        Ok(need)
    }

    /// Requests that only tell that all before them are done: for a wire that is about to end.
    pub fn flush(&mut self) -> Result<(), String> {
        self.lanes.iter_mut().try_for_each(Lane::flush)
    }

    /// Takes one completion in.
    pub fn complete(
        &mut self,
        lane: usize,
        wc: &ibv_wc,
        work: Work,
        rails: &[Rail],
        events: &mut Vec<Event>,
    ) {
        let Some(on) = self.lanes.get_mut(lane) else {
            return;
        };
        let divided = &mut self.divided;
        let came = on.complete(wc, work, &rails[on.rail].device, &mut |done| {
            let ticket = divided.sent(done);
            events.extend(ticket.map(|ticket| Event::Sent { ticket }));
        });
        let from = self.rank;
        let merged = came.and_then(|came| match came {
            None => Ok(()),
            Some(Came::Parts(_)) if lane > 0 => {
                Err("it announces a put in parts, and not on the main lane".into())
            }
            Some(Came::Parts(parts)) => self.merge.announce(parts),
            Some(Came::Notice(notice)) => self.merge.notice(lane, notice, &mut |notice| {
                let notice = Notice(notice);
                events.push(Event::Arrived { from, notice });
            }),
        });
        if let Err(cause) = merged {
            let way = &self.lanes[lane].way;
            self.fault.get_or_insert_with(|| format!("{cause} ({way})"));
        }
    }
}
