//! Where the bytes of a ready slot lie: in it, elsewhere in the segment, in this rank's output already, or in the memory of the rank that wrote
//! it, which is read there. Headers are compared here, before any byte is read.

use super::{Author, Engine, Fault, Job};
use crate::{
    call::Header,
    layout::{HEADER, STAMP, Slots, Turn},
};
use hfr_transport::shm::Permit;

/// The ranks of this node whose memory this rank may read, as they may its.
pub struct Reach {
    /// Their permits, by local rank.
    pub permits: Vec<Permit>,
    /// Global rank of the node's first.
    pub first: u32,
}

impl Reach {
    fn of(&self, rank: u32) -> &Permit {
        &self.permits[(rank - self.first) as usize]
    }
}

/// Where what is given lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// Where it is wanted.
    There,
    /// In memory of this process.
    At(*const u8),
    /// In that rank's memory.
    With(u32, u64),
}

impl Engine {
    /// Ranks may show each other their memory from now on, instead of copying from it.
    pub fn reach(&mut self, reach: Reach) {
        self.reach = Some(reach);
    }

    /// What a header says of an input of this rank that stays where it is: it lies in the segment, or the others can read it in this rank's memory.
    pub(super) fn shown(&self, job: &Job, source: *const u8, bytes: usize) -> Option<u64> {
        let offset = self.offset_of(source, bytes).map(|o| o as u64 + 1);
        let shows = self.reach.is_some() && bytes >= job.shown_from;
        let address = || source.expose_provenance() as u64 | Header::SHOWN;
        offset.or_else(|| shows.then(address))
    }

    /// The offset of memory that lies in this node's segment, as registered buffers do.
    pub(super) fn offset_of(&self, address: *const u8, bytes: usize) -> Option<usize> {
        let offset = (address as usize).checked_sub(self.segment.at(0, 0) as usize)?;
        (offset <= self.segment.len() && bytes <= self.segment.len() - offset).then_some(offset)
    }

    /// The header of a slot that is ready, if it belongs to our call.
    pub(super) fn read_header(
        &self,
        at: usize,
        job: &Job,
        author: Author,
    ) -> Result<Header, Fault> {
        let place = self.segment.at(at, STAMP).cast::<Header>();
        // SAFETY: inside the segment, aligned, written before the slot was stamped or its counter raised and not again before we are done.
        let header = unsafe { place.read() };
        if header.call != job.call {
            return Err(Fault::Mismatch {
                rank: author.rank,
                theirs: header.call,
                ours: job.call,
            });
        }
        Ok(if author.away {
            Header {
                call: header.call,
                ..Header::default()
            }
        } else {
            header
        })
    }

    /// Where the bytes of a ready slot lie.
    pub(super) fn lies(&self, at: usize, header: &Header, author: Author, bytes: usize) -> Found {
        match header.data {
            0 => Found::At(self.segment.at(at + HEADER, bytes)),
            shown if shown & Header::SHOWN != 0 => {
                let address = shown & !Header::SHOWN;
                if self.is_self(author.rank) {
                    Found::At(std::ptr::with_exposed_provenance(address as usize))
                } else {
                    Found::With(author.rank, address)
                }
            }
            offset => Found::At(self.segment.at(offset as usize - 1, bytes)),
        }
    }

    /// Where a result, or what was shown, lies: in this rank's output already, where its slot says, or in the slot of the own input which it is of.
    pub(super) fn find(
        &self,
        job: &Job,
        turn: Turn,
        (slot, back): (Slots, Option<Slots>),
        author: Author,
        bytes: usize,
    ) -> Result<Found, Fault> {
        let at = slot.at(turn);
        let header = self.read_header(at, job, author)?;
        if self.me == 0 || header.given & self.me == 0 {
            return Ok(self.lies(at, &header, author, bytes));
        }
        let Some(back) = back.map(|slot| slot.at(turn)) else {
            return Ok(Found::There);
        };
        // SAFETY: inside the segment, aligned, and this rank is its only writer.
        let own = unsafe { self.segment.at(back, STAMP).cast::<Header>().read() };
        // An output that was announced has been written.
        Ok(match own.output {
            0 => Found::At(self.segment.at(back + HEADER, bytes)),
            _ => Found::There,
        })
    }

    fn is_self(&self, rank: u32) -> bool {
        let reach = self.reach.as_ref();
        reach.is_some_and(|reach| (rank - reach.first) as usize == self.local)
    }

    /// Copies what another rank of the node shows.
    ///
    /// # Safety
    /// `to` is good for writing so many bytes.
    pub(super) unsafe fn fetch(
        &self,
        job: &Job,
        (rank, from): (u32, u64),
        to: *mut u8,
        bytes: usize,
    ) -> Result<(), Fault> {
        let reach = self.reach.as_ref().expect("ranks that show have told it");
        // SAFETY: passed on.
        let read = unsafe { reach.of(rank).read(from, to, bytes) };
        read.map_err(|error| Fault::Unread {
            rank,
            error,
            ours: job.call,
        })
    }

    /// The same into memory of this rank's from which its device copies on, until the step comes to that slot's turn again.
    pub(super) fn fetch_aside(
        &mut self,
        job: &Job,
        (run, step): (usize, usize),
        turn: Turn,
        from: (u32, u64),
        bytes: usize,
    ) -> Result<*const u8, Fault> {
        let r = &mut self.runs[run];
        let all = r.slots as usize * r.slot_bytes;
        let aside = r.aside.entry(step).or_insert_with(|| vec![0; all]);
        let to = aside[Slots::new(0, 0).at(turn)..][..bytes].as_mut_ptr();
        // SAFETY: so many bytes of ours; what the device copied from them last was done before the step began again.
        unsafe { self.fetch(job, from, to, bytes) }?;
        Ok(to)
    }
}
