//! How two ranks become peers: both tell their rails over the side table and so know their lanes. Then lane by lane both tell their cards, the
//! lower decides by which addresses, and each brings its queue pair up. It knows the order of these words and deadlines, no put.
//! Invariants: a rank says that it hears only when receives are posted and its pair is up, so nothing is ever sent to a deaf one; nothing is
//! put before all lanes are up; a `connect` that ran out of time goes on where it was when called again.

use super::desk::{Kind, Word};
use super::lane::{Lane, SPARE, Work, WorkId};
use super::link::Link;
use super::pair::{BITS_24, Depth, Init, Pair, Path, Patience};
use super::path::{self, Card, Choice};
use super::rail::Rail;
use super::stripe::lanes;
use super::{Inner, Limits, NONE, error};
use crate::net::Infiniband;
use crate::wire::{Error, PeerAddress};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// As 3FS has them: a packet is sent for about half a second, by some devices several times that long, and then it is an error.
const HARD: Patience = Patience {
    timeout: 14,
    retries: 7,
};
/// Soft devices never give up with 7; and who shares cores with its peer answers late: about two seconds.
const SOFT: Patience = Patience {
    timeout: 16,
    retries: 6,
};

const WRONG_ORDER: &str = "its words came in the wrong order; start all ranks from one build";

/// A peer on its way to become one.
pub(super) struct Opening {
    pub rank: usize,
    pub number: u32,
    /// Our rail and the peer's for each lane, once the peer has told its rails.
    lanes: Vec<(usize, usize)>,
    /// With the lanes that are up on our side.
    pub link: Option<Link>,
    /// The lane that comes up next: our end, and what both have told.
    pair: Option<(Pair<Init>, Card)>,
    theirs: Option<Card>,
}

impl Opening {
    /// As completions of the lane that comes up next name it, for a receive.
    fn id(&self) -> WorkId {
        let up = self.link.as_ref().map_or(0, |link| link.lanes().len());
        WorkId {
            link: self.number,
            lane: up as u8,
            work: Work::Receive,
        }
    }
}

impl Inner {
    pub(super) fn connect_all(
        &mut self,
        peers: &[PeerAddress],
        deadline: Instant,
    ) -> Result<(), Error> {
        if let Some(peer) = peers.iter().find(|peer| peer.rank == self.rank) {
            return Err(error(Some(peer.rank), "a rank is no peer of itself"));
        }
        self.desk.connect(peers, deadline)?;
        for peer in peers {
            let known = self.link_of(peer.rank).is_some();
            if !known
                && !self
                    .openings
                    .iter()
                    .any(|opening| opening.rank == peer.rank)
            {
                self.introduce(peer.rank)?;
            }
        }
        let mut words = Vec::new();
        loop {
            let heard = self.desk.hear(&mut words);
            for word in words.drain(..) {
                self.hear(word);
            }
            let missing = |peer: &&PeerAddress| self.link_of(peer.rank).is_none();
            let Some(first) = peers.iter().find(missing) else {
                return Ok(());
            };
            let first = first.rank;
            if let Some((rank, cause)) = self.refused.take() {
                return Err(error(Some(rank), cause));
            }
            // A peer of an earlier call may be gone; that is no reason to give up on others.
            if let Err(gone) = heard
                && gone.peer.is_none_or(|rank| self.link_of(rank).is_none())
            {
                return Err(error(gone.peer, gone.cause));
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(error(
                    Some(first),
                    "its end of the link did not come up in time; is it in the same call?",
                ));
            }
            self.sleep(now, deadline)?;
        }
    }

    /// Tells a peer our rails.
    fn introduce(&mut self, rank: usize) -> Result<(), Error> {
        let number = self.numbers;
        self.numbers += 1;
        let rails: Vec<usize> = self.rails.iter().map(|rail| rail.number).collect();
        self.desk.say(rank, Kind::Rails, &rails)?;
        self.openings.push(Opening {
            rank,
            number,
            lanes: Vec::new(),
            link: None,
            pair: None,
            theirs: None,
        });
        // It may have introduced itself before we were asked to.
        let early: Vec<Word> = self
            .early
            .extract_if(.., |word| word.from == rank)
            .collect();
        early.into_iter().for_each(|word| self.hear(word));
        Ok(())
    }

    /// The peer has told its rails: what lanes there will be.
    fn arrange(&mut self, at: usize, theirs: &[usize]) -> Result<(), String> {
        let ours: Vec<usize> = self.rails.iter().map(|rail| rail.number).collect();
        let opening = &mut self.openings[at];
        let numbers = match self.rank < opening.rank {
            true => lanes(&ours, theirs),
            false => lanes(theirs, &ours)
                .into_iter()
                .map(|(theirs, ours)| (ours, theirs))
                .collect(),
        };
        if numbers.is_empty() {
            return Err("it has no port; start all ranks from one build".into());
        }
        let place = |number| ours.iter().position(|rail| *rail == number);
        opening.lanes = numbers
            .into_iter()
            .filter_map(|(ours, theirs)| Some((place(ours)?, theirs)))
            .collect();
        let count = opening.lanes.len();
        let link = Link::new(opening.rank, opening.number, count, &self.limits);
        opening.link = Some(link);
        self.offer(at)
    }

    /// Makes our end of the next lane and tells the peer; without a next one, the link is up.
    fn offer(&mut self, at: usize) -> Result<(), String> {
        let opening = &mut self.openings[at];
        let id = opening.id();
        let Some(&(rail, number)) = opening.lanes.get(usize::from(id.lane)) else {
            if let Some(link) = self.openings.swap_remove(at).link {
                self.adopt(link);
            }
            return Ok(());
        };
        let rail = &mut self.rails[rail];
        // Not every change of the MTU is told.
        rail.device.again();
        let (name, port) = (rail.device.name.clone(), rail.device.port);
        let (pair, card) = end(rail, &self.limits, &self.settings, id).map_err(|cause| {
            format!("{name} port {port}, for rail {number} of the peer: {cause}")
        })?;
        self.desk
            .say(opening.rank, Kind::Card, &card)
            .map_err(|e| e.cause)?;
        opening.pair = Some((pair, card));
        Ok(())
    }

    /// Acts on a word of a peer.
    pub(super) fn hear(&mut self, word: Word) {
        let rank = word.from;
        let result = match word.kind {
            Kind::Need | Kind::Key => self.about_memory(&word),
            _ => match self
                .openings
                .iter()
                .position(|opening| opening.rank == rank)
            {
                Some(at) => self.open(at, &word),
                None => {
                    self.early.push(word);
                    Ok(())
                }
            },
        };
        if let Err(cause) = result {
            match self.link_of(rank) {
                Some(link) => drop(link.fault.get_or_insert(cause)),
                None => self.refused = Some((rank, cause)),
            }
        }
    }

    /// A step of bringing up a link.
    fn open(&mut self, at: usize, word: &Word) -> Result<(), String> {
        let rank = self.openings[at].rank;
        match word.kind {
            Kind::Rails => self.arrange(at, &word.read::<Vec<usize>>()?),
            Kind::Card => {
                let theirs: Card = word.read()?;
                if self.rank > rank {
                    self.openings[at].theirs = Some(theirs);
                    return Ok(());
                }
                let (_, ours) = self.openings[at].pair.as_ref().ok_or(WRONG_ORDER)?;
                let choice = path::choose(ours, &theirs)?;
                self.openings[at].theirs = Some(theirs);
                self.bring_up(at, choice)?;
                let said = self.desk.say(rank, Kind::Choice, &choice);
                said.map_err(|e| e.cause)
            }
            Kind::Choice => {
                let Choice { gids } = word.read()?;
                // Its own list comes first in its choice.
                let gids = gids.map(|(theirs, ours)| (ours, theirs));
                self.bring_up(at, Choice { gids })?;
                self.desk.say(rank, Kind::Ready, &()).map_err(|e| e.cause)?;
                self.offer(at)
            }
            _ => self.offer(at),
        }
    }

    fn bring_up(&mut self, at: usize, choice: Choice) -> Result<(), String> {
        let opening = &mut self.openings[at];
        let id = opening.id();
        let (Some(theirs), Some((pair, card)), Some(link)) = (
            opening.theirs.take(),
            opening.pair.take(),
            opening.link.as_mut(),
        ) else {
            return Err(WRONG_ORDER.into());
        };
        let (rail, number) = opening.lanes[usize::from(id.lane)];
        let device = &self.rails[rail].device;
        let gids = match choice.gids {
            None => None,
            Some((near, far)) => match (card.gids.get(near), theirs.gids.get(far)) {
                (Some(near), Some(far)) => Some((*near, *far)),
                _ => {
                    return Err(
                        "it chose an address that nobody named; start all ranks from one build"
                            .into(),
                    );
                }
            },
        };
        let path = Path {
            lid: theirs.lid,
            gids,
            mtu: card.mtu.min(theirs.mtu),
            service_level: self.settings.service_level,
            traffic_class: self.settings.traffic_class,
            pair: theirs.pair,
            packet: theirs.packet,
        };
        let usual = if device.soft { SOFT } else { HARD };
        let patience = self
            .limits
            .patience
            .map_or(usual, |(timeout, retries)| Patience { timeout, retries });
        let pair = pair.hear(device, &path)?.speak(card.packet, patience)?;
        let (name, port) = (&device.name, device.port);
        let way = match gids {
            Some((near, far)) => format!(
                "{name} port {port}, {:?} {} to {} of {}",
                near.kind,
                near.ip(),
                far.ip(),
                theirs.device
            ),
            None => format!(
                "{name} port {port}, LID {} to {} of {}",
                device.lid, theirs.lid, theirs.device
            ),
        };
        let (lane, rails) = (id.lane, (self.rails[rail].number, number));
        tracing::debug!(peer = opening.rank, lane, ?rails, %way, mtu = 128 << path.mtu, ?patience, "lane is up");
        link.add(Lane::new(id, rail, pair, way, self.limits));
        Ok(())
    }

    fn adopt(&mut self, link: Link) {
        let (rank, number) = (link.rank, link.number as usize);
        // Links come up in any order; completions name them by number.
        if self.links.len() <= number {
            self.links.resize_with(number + 1, || None);
        }
        self.links[number] = Some(link);
        if self.slots.len() <= rank {
            self.slots.resize(rank + 1, NONE);
        }
        self.slots[rank] = number;
    }

    /// Sleeps until somebody says something.
    fn sleep(&self, now: Instant, deadline: Instant) -> Result<(), Error> {
        let mut raw = Vec::new();
        self.desk.watch(&mut raw);
        let fds = raw.iter().map(|&(fd, room)| {
            let flags = if room {
                PollFlags::IN | PollFlags::OUT
            } else {
                PollFlags::IN
            };
            // SAFETY: the side table keeps its connections open while it is borrowed.
            PollFd::from_borrowed_fd(unsafe { BorrowedFd::borrow_raw(fd) }, flags)
        });
        let mut fds: Vec<PollFd> = fds.collect();
        let left = deadline.saturating_duration_since(now);
        let wait = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(error(None, format!("cannot wait for peers: {e}"))),
        }
    }
}

/// Our end of a lane, with its receives posted: the pair, and what the peer is told of it.
fn end(
    rail: &mut Rail,
    limits: &Limits,
    settings: &Infiniband,
    id: WorkId,
) -> Result<(Pair<Init>, Card), String> {
    let device = &rail.device;
    let (_, cq) = rail.completions.seat(device)?;
    let depth = Depth {
        sends: limits.sends,
        receives: limits.credits + SPARE,
        inline: limits.inline,
    };
    let mut pair = Pair::new(device, cq, depth)?;
    pair.receive(depth.receives as usize, id.encode())?;
    let mut packet = [0; 4];
    let got = rustix::rand::getrandom(&mut packet, rustix::rand::GetRandomFlags::empty());
    got.map_err(|e| format!("no random number: {e}"))?;
    let card = Card {
        device: device.name.clone(),
        port: device.port,
        ethernet: device.ethernet,
        lid: device.lid,
        mtu: device.mtu,
        pkey: device.pkey,
        gids: path::candidates(device, settings)?,
        pair: pair.number(),
        packet: u32::from_ne_bytes(packet) & BITS_24,
        credits: limits.credits,
    };
    Ok((pair, card))
}
