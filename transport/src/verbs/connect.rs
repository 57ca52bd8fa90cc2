//! How two ranks become peers: both tell their cards over the side table, the lower decides by which addresses, and each brings its queue pair up. It
//! knows the order of these words and deadlines, no put. Invariants: a rank says that it hears only when receives are posted and its
//! pair is up, so nothing is ever sent to a deaf one; a `connect` that ran out of time goes on where it was when called again.

use super::desk::{Kind, Word};
use super::link::{Link, SPARE, Work, WorkId};
use super::pair::{BITS_24, Depth, Init, Pair, Path, Patience};
use super::path::{self, Card, Choice};
use super::{Inner, NONE, error};
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

/// A peer on its way to become one.
pub(super) struct Opening {
    pub rank: usize,
    pub number: u32,
    pair: Option<Pair<Init>>,
    card: Card,
    theirs: Option<Card>,
    /// Up on our side; what is missing is the peer's word.
    pub link: Option<Link>,
    done: bool,
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
                self.introduce(peer.rank)
                    .map_err(|cause| self.at_device(peer.rank, cause))?;
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

    fn at_device(&self, rank: usize, cause: String) -> Error {
        error(
            Some(rank),
            format!("{} port {}: {cause}", self.device.name, self.device.port),
        )
    }

    /// Makes our end and tells the peer.
    fn introduce(&mut self, rank: usize) -> Result<(), String> {
        // Not every change of the MTU is told.
        self.device.again();
        let limits = self.limits;
        let (_, cq) = self.completions.seat(&self.device)?;
        let depth = Depth {
            sends: limits.sends,
            receives: limits.credits + SPARE,
            inline: limits.inline,
        };
        let mut pair = Pair::new(&self.device, cq, depth)?;
        let number = self.numbers;
        self.numbers += 1;
        let id = WorkId {
            link: number,
            work: Work::Receive,
        };
        pair.receive(depth.receives as usize, id.encode())?;
        let mut packet = [0; 4];
        let got = rustix::rand::getrandom(&mut packet, rustix::rand::GetRandomFlags::empty());
        got.map_err(|e| format!("no random number: {e}"))?;
        let card = Card {
            device: self.device.name.clone(),
            port: self.device.port,
            ethernet: self.device.ethernet,
            lid: self.device.lid,
            mtu: self.device.mtu,
            pkey: self.device.pkey,
            gids: path::candidates(&self.device, &self.settings)?,
            pair: pair.number(),
            packet: u32::from_ne_bytes(packet) & BITS_24,
            credits: limits.credits,
        };
        self.desk
            .say(rank, Kind::Card, &card)
            .map_err(|e| e.cause)?;
        self.openings.push(Opening {
            rank,
            number,
            pair: Some(pair),
            card,
            theirs: None,
            link: None,
            done: false,
        });
        // It may have introduced itself before we were asked to.
        let early: Vec<Word> = self
            .early
            .extract_if(.., |word| word.from == rank)
            .collect();
        early.into_iter().for_each(|word| self.hear(word));
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
            Kind::Card => {
                let theirs: Card = word.read()?;
                let choice = path::choose(&self.openings[at].card, &theirs);
                self.openings[at].theirs = Some(theirs);
                if self.rank < rank {
                    let choice = choice?;
                    self.bring_up(at, choice)?;
                    self.desk
                        .say(rank, Kind::Choice, &choice)
                        .map_err(|e| e.cause)?;
                }
            }
            Kind::Choice => {
                let Choice { gids } = word.read()?;
                // Its own list comes first in its choice.
                self.bring_up(
                    at,
                    Choice {
                        gids: gids.map(|(theirs, ours)| (ours, theirs)),
                    },
                )?;
                self.desk.say(rank, Kind::Ready, &()).map_err(|e| e.cause)?;
                self.openings[at].done = true;
            }
            _ => self.openings[at].done = true,
        }
        if self.openings[at].done
            && let Some(link) = self.openings[at].link.take()
        {
            self.openings.swap_remove(at);
            self.adopt(link);
        }
        Ok(())
    }

    fn bring_up(&mut self, at: usize, choice: Choice) -> Result<(), String> {
        let opening = &mut self.openings[at];
        let (Some(theirs), Some(pair)) = (&opening.theirs, opening.pair.take()) else {
            return Err("its words came in the wrong order; start all ranks from one build".into());
        };
        let gids = match choice.gids {
            None => None,
            Some((near, far)) => match (opening.card.gids.get(near), theirs.gids.get(far)) {
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
            mtu: opening.card.mtu.min(theirs.mtu),
            service_level: self.settings.service_level,
            traffic_class: self.settings.traffic_class,
            pair: theirs.pair,
            packet: theirs.packet,
        };
        let usual = if self.device.soft { SOFT } else { HARD };
        let patience = self
            .limits
            .patience
            .map_or(usual, |(timeout, retries)| Patience { timeout, retries });
        let pair = pair
            .hear(&self.device, &path)?
            .speak(opening.card.packet, patience)?;
        let (name, port) = (&self.device.name, self.device.port);
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
                self.device.lid, theirs.lid, theirs.device
            ),
        };
        tracing::debug!(peer = opening.rank, %way, mtu = 128 << path.mtu, ?patience, "link is up");
        opening.link = Some(Link::new(
            opening.rank,
            opening.number,
            pair,
            way,
            self.limits,
        ));
        Ok(())
    }

    fn adopt(&mut self, link: Link) {
        let (rank, number) = (link.rank, link.number() as usize);
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
