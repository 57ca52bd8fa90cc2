//! The verbs wire: reliable queue pairs between ranks, one on each rail that both have; a put is an RDMA write into the peer's segment whose last
//! piece carries the notice, and a large one is divided among the rails. It knows devices and peers, no plan. Invariants: receives and
//! completion queues cannot run out or over, whatever the peer does (`lane`, `completion`); peers write into the writable part of the segment
//! and nowhere else; nothing of it is touched in a forked child, whose parent goes on using it.
//!
//! The parts: `sys` (the library's names), `member` (what a wire is opened with), `device` (which ports), `memory` (what is registered), `rail` (a port with what belongs to it), `pair`
//! (a queue pair's states), `path` (addresses), `alarms` (what devices say unasked), `locked` (the limit of memory), `desk` (words beside the
//! puts), `connect` (how a link comes up), `lane` (puts to completions), `stripe` (large puts in parts), `merge` (their notices), `link` (the lanes
//! to a peer), `completion` (queues).

mod alarms;
mod completion;
mod connect;
mod desk;
mod device;
mod lane;
mod link;
mod locked;
mod member;
mod memory;
mod merge;
mod pair;
mod path;
mod rail;
mod stripe;
mod sys;

use crate::net::Infiniband;
use crate::shm::Segment;
use crate::wire::{Error, Event, PeerAddress, Put, Transport};
use completion::BATCH;
use connect::Opening;
use desk::{Desk, Kind, Word};
use lane::{Lane, WorkId};
use link::Link;
pub use locked::lockable;
pub use member::{Limits, Member, Port};
pub use pair::Route;
use rail::Rail;
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAME: &str = "verbs";
/// Marks a rank without a link.
const NONE: usize = usize::MAX;
/// Polls between two looks at the side table, which cost a system call.
const LOOK: u32 = 1024;
/// Batches of completions that one poll takes from one queue.
const TURN: usize = 16;
/// How long the end of a wire waits for puts that were reported and are still on their way.
const FAREWELL: Duration = Duration::from_secs(2);

/// One rank's end of the verbs wire.
pub struct Verbs {
    inner: ManuallyDrop<Inner>,
    /// The process that opened it.
    pid: u32,
}

/// Dropped in this order: links before the rails they use.
pub struct Inner {
    rank: usize,
    settings: Infiniband,
    limits: Limits,
    links: Vec<Option<Link>>,
    openings: Vec<Opening>,
    /// The main one first.
    rails: Vec<Rail>,
    segment: Arc<Segment>,
    desk: Desk,
    /// Index into `links` by rank, or `NONE`.
    slots: Vec<usize>,
    /// Number of the next link.
    numbers: u32,
    /// Words of ranks we were not asked to connect yet.
    early: Vec<Word>,
    /// Why a peer will never come up.
    refused: Option<(usize, String)>,
    words: Vec<Word>,
    /// Events of `put`, for the next `poll`.
    events: Vec<Event>,
    polls: u32,
    /// Whether the next poll looks at the side table: the rank was parked.
    look: Cell<bool>,
}

impl Verbs {
    /// Opens the member's ports, or one that `settings` allow. Peers may write the bytes `writable` of `segment` and nothing else; only processes that know
    /// `token` become peers. They find each other by TCP on a free port of `listen`.
    ///
    /// # Errors
    /// No device, none that is up and allowed, no permission, no library: with what to do about it.
    pub fn open(
        member: Member,
        segment: Arc<Segment>,
        writable: Range<usize>,
        listen: IpAddr,
        token: [u8; 32],
        settings: &Infiniband,
        limits: Limits,
    ) -> Result<Verbs, Error> {
        if writable.start > writable.end || writable.end > segment.len() {
            let (bytes, len) = (writable, segment.len());
            return Err(error(
                None,
                format!("bytes {bytes:?} do not lie inside a segment of {len} bytes"),
            ));
        }
        let plain = |cause: String| error(None, cause);
        if limits.credits < 4 || limits.sends < 2 * limits.every.max(1) {
            return Err(plain(format!("{limits:?} do not let a link move")));
        }
        let rails = rail::open(&member, &segment, &writable, settings, &limits).map_err(plain)?;
        let desk = Desk::bind(member.rank, member.world, listen, token)?;
        Ok(Verbs {
            inner: ManuallyDrop::new(Inner {
                rank: member.rank,
                settings: settings.clone(),
                limits,
                links: Vec::new(),
                openings: Vec::new(),
                rails,
                segment,
                desk,
                slots: Vec::new(),
                numbers: 0,
                early: Vec::new(),
                refused: None,
                words: Vec::new(),
                events: Vec::new(),
                polls: 0,
                look: Cell::new(true),
            }),
            pid: std::process::id(),
        })
    }

    /// The NUMA node of the main port's device, where the system tells.
    pub fn numa_node(&self) -> Option<usize> {
        self.rails.first()?.device.numa
    }

    /// Bytes of memory that are registered with the devices, all together, and the number of queue pairs.
    pub fn usage(&self) -> (usize, usize) {
        let bytes = self.rails.iter().map(|rail| rail.memory.registered());
        let lanes = self.links.iter().flatten().map(|link| link.lanes().len());
        (bytes.sum(), lanes.sum())
    }

    /// By which addresses and attributes a peer is reached on a lane, as the device itself says it.
    ///
    /// # Errors
    /// A rank that is not connected; a lane that is not there; a device that does not say it.
    pub fn route(&mut self, rank: usize, lane: usize) -> Result<Route, Error> {
        let link = self.inner.link_of(rank);
        let link = link.ok_or_else(|| error(Some(rank), "is not connected"))?;
        let lane = link.lanes().get(lane).ok_or("has no such lane".to_owned());
        lane.and_then(Lane::route)
            .map_err(|cause| error(Some(rank), cause))
    }

    /// Puts the queue pair of a lane to a peer out of order, as a fault of the device would: for tests.
    ///
    /// # Errors
    /// A rank that is not connected; a lane that is not there; a device that refuses.
    pub fn break_lane(&mut self, rank: usize, lane: usize) -> Result<(), Error> {
        let link = self
            .inner
            .link_of(rank)
            .ok_or_else(|| error(Some(rank), "is not connected"))?;
        link.fail(lane).map_err(|cause| error(Some(rank), cause))
    }
}

/// Whether this host has a port that `settings` allow.
///
/// # Errors
/// Why not, with what to do about it.
pub fn usable(settings: &Infiniband) -> Result<(), String> {
    device::open(settings, 0, &[]).map(drop)
}

/// The names of the ports that are up and that `settings` allow, as `mlx5_0:1`.
///
/// # Errors
/// Why there is none, with what to do about it.
pub fn ports(settings: &Infiniband) -> Result<Vec<String>, String> {
    device::ports(settings)
}

impl Deref for Verbs {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Verbs {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

// SAFETY: the library's objects may be used from any thread, by one at a time, which `&mut` sees to.
unsafe impl Send for Verbs {}

impl Drop for Verbs {
    fn drop(&mut self) {
        // In a forked child the device's memory is not mapped and all of it is the parent's.
        if std::process::id() != self.pid {
            return;
        }
        self.inner.finish();
        // SAFETY: dropped once, here, and not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
    }
}

impl Inner {
    fn link_of(&mut self, rank: usize) -> Option<&mut Link> {
        let at = self.slots.get(rank).copied().unwrap_or(NONE);
        self.links.get_mut(at)?.as_mut()
    }

    /// Posts what a link has queued, and asks for the key it lacks. What is wrong stays in the link.
    fn advance(&mut self, at: usize) {
        let Some(link) = self.links[at].as_mut().filter(|link| link.fault.is_none()) else {
            return;
        };
        match link.advance(&mut self.rails, &mut self.events) {
            Ok(Some(need)) if link.asked.is_none() => {
                link.asked = Some(need);
                if let Err(e) = self.desk.say(link.rank, Kind::Need, &need) {
                    link.fault = Some(e.cause);
                }
            }
            Ok(_) => {}
            Err(cause) => link.fault = Some(cause),
        }
    }

    /// A peer wants to know where to write on a lane, or tells us.
    fn about_memory(&mut self, word: &Word) -> Result<(), String> {
        let rank = word.from;
        let at = self.slots.get(rank).copied().unwrap_or(NONE);
        let link = self.links.get_mut(at).and_then(Option::as_mut);
        let link = link.ok_or("it speaks of memory before the link is up")?;
        if word.kind == Kind::Need {
            let (lane, offset): (usize, usize) = word.read()?;
            let on = link.lanes().get(lane).ok_or("it has a lane too many")?;
            let rail = &mut self.rails[on.rail];
            let key = rail.memory.remote(&rail.device, offset);
            let said = self.desk.say(rank, Kind::Key, &(lane, &key));
            said.map_err(|e| e.cause)?;
            // Its next put would fail anyway; why, only we can say here.
            return key.map(drop);
        }
        let (lane, key): (usize, Result<_, String>) = word.read()?;
        if link.asked.is_none_or(|(asked, _)| asked != lane) {
            return Err("it answers what nobody asked".into());
        }
        link.learn(
            lane,
            key.map_err(|why| format!("a put was refused: {why}"))?,
        );
        self.advance(at);
        Ok(())
    }

    /// Hears what peers say beside their puts.
    fn look(&mut self) {
        self.look.set(false);
        let mut words = std::mem::take(&mut self.words);
        let gone = self.desk.hear(&mut words);
        self.hear_alarms();
        for word in words.drain(..) {
            self.hear(word);
        }
        self.words = words;
        if let Err(e) = gone
            && let Some(link) = e.peer.and_then(|rank| self.link_of(rank))
        {
            link.fault.get_or_insert(e.cause);
        }
    }

    fn take_completions(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        // SAFETY: plain data, for which all zeros is a value.
        let mut batch: [sys::ibv_wc; BATCH] = unsafe { std::mem::zeroed() };
        let queues = |rail: usize, inner: &Inner| inner.rails[rail].completions.len();
        for rail in 0..self.rails.len() {
            for queue in 0..queues(rail, self) {
                for _ in 0..TURN {
                    let completions = &self.rails[rail].completions;
                    let got = completions.take(queue, &mut batch);
                    let got = got.map_err(|cause| error(None, cause))?;
                    for wc in &batch[..got] {
                        self.complete(wc, events);
                    }
                    if got < BATCH {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn complete(&mut self, wc: &sys::ibv_wc, events: &mut Vec<Event>) {
        let WorkId { link, lane, work } = WorkId::decode(wc.wr_id);
        let found = match self.links.get_mut(link as usize) {
            Some(Some(link)) => Some(link),
            // The first put of a peer can be here before its last word.
            _ => {
                let mut openings = self.openings.iter_mut();
                let opening = openings.find(|opening| opening.number == link);
                opening.and_then(|opening| opening.link.as_mut())
            }
        };
        if let Some(link) = found {
            link.complete(usize::from(lane), wc, work, &self.rails, events);
        }
    }

    /// Puts that were reported before the device was done with them still arrive.
    fn finish(&mut self) {
        let until = Instant::now() + FAREWELL;
        let mut events = Vec::new();
        for link in self
            .links
            .iter_mut()
            .flatten()
            .filter(|link| link.fault.is_none())
        {
            if let Err(cause) = link.flush() {
                link.fault = Some(cause);
            }
        }
        let busy = |link: &Option<Link>| {
            link.as_ref()
                .is_some_and(|link| link.fault.is_none() && link.busy())
        };
        while self.links.iter().any(busy) && Instant::now() < until {
            if self.take_completions(&mut events).is_err() {
                return;
            }
            events.clear();
            self.look();
            std::thread::yield_now();
        }
    }

    fn wait_for_keys(&self) -> bool {
        self.links
            .iter()
            .flatten()
            .any(|link| link.asked.is_some() && link.fault.is_none())
    }
}

impl Transport for Verbs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn gathers(&self) -> bool {
        false
    }

    fn address(&self) -> Vec<u8> {
        self.desk.address()
    }

    fn connect(&mut self, peers: &[PeerAddress], deadline: Instant) -> Result<(), Error> {
        self.connect_all(peers, deadline)
    }

    fn put(&mut self, put: Put) -> Result<(), Error> {
        let whole = self.segment.len();
        let Some(link) = self.inner.link_of(put.peer) else {
            return Err(error(
                Some(put.peer),
                "a put to a rank that is not connected",
            ));
        };
        if let Some(cause) = &link.fault {
            return Err(error(Some(put.peer), cause.as_str()));
        }
        if put.body.is_some() {
            let cause = "a put with a body: a device reads registered memory alone";
            return Err(error(Some(put.peer), cause));
        }
        if put.from.checked_add(put.len).is_none_or(|end| end > whole) {
            let (len, from) = (put.len, put.from);
            return Err(error(
                Some(put.peer),
                format!(
                    "a put of {len} bytes from offset {from}, outside our segment of {whole} bytes"
                ),
            ));
        }
        let behind = link.queued();
        link.push(put);
        if behind {
            return Ok(()); // Room, credits or a key were missing a moment ago; `poll` tries again, once for all that is queued.
        }
        let at = self.slots[put.peer];
        self.inner.advance(at);
        match self.links[at]
            .as_ref()
            .and_then(|link| link.fault.as_deref())
        {
            Some(cause) => Err(error(Some(put.peer), cause)),
            None => Ok(()),
        }
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        let inner = &mut *self.inner;
        events.append(&mut inner.events);
        inner.polls = inner.polls.wrapping_add(1);
        // First the side table: what came before a peer's end is among the completions then.
        if inner.polls.is_multiple_of(LOOK) || inner.look.get() || inner.wait_for_keys() {
            inner.look();
        }
        inner.take_completions(events)?;
        for at in 0..inner.links.len() {
            if inner.links[at].as_ref().is_some_and(Link::queued) {
                inner.advance(at);
            }
        }
        events.append(&mut inner.events);
        // Reported after everything else was done, and again by every later call: a fault does not heal.
        let fault = |link: &Link| Some((link.rank, link.fault.clone()?));
        match inner.links.iter().flatten().find_map(fault) {
            Some((rank, cause)) => Err(error(Some(rank), cause)),
            None => Ok(()),
        }
    }

    fn watch(&self, fds: &mut Vec<(RawFd, bool)>) {
        self.look.set(true);
        self.desk.watch(fds);
        for rail in &self.rails {
            rail.completions.arm();
            fds.push((rail.completions.fd(), false));
            fds.push((alarms::fd(&rail.device), false));
        }
    }
}

fn error(peer: Option<usize>, cause: impl Into<String>) -> Error {
    Error {
        wire: NAME,
        peer,
        cause: cause.into(),
    }
}
