//! Where the bytes of a ready slot lie: in it, in registered memory, in this rank's output already, or in the memory of the rank that wrote
//! it, which is read there. Headers are compared here, before any byte is read; that a rank still shows what was read is asked behind it.

use super::{Author, Engine, Fault, Job};
use crate::{
    call::Header,
    kernel,
    layout::{HEADER, STAMP, Slots, Turn},
};
use hfr_transport::shm::{Permit, Unread};

/// Where the bytes of a ready slot lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lies {
    /// In a slot.
    Slot(*const u8),
    /// In registered memory of the rank that wrote the slot: good only if that still shows it afterwards.
    Segment(*const u8),
    /// At that address of its own memory.
    Memory(u64),
}

impl Engine {
    /// Ranks of the node show each other their memory from now on, instead of copying from it; these are all permits, by local rank.
    pub fn reach(&mut self, permits: Vec<Permit>) {
        self.permits = permits;
    }

    /// What a header says of an input of this rank that stays where it is: it lies in the segment, or the others can read it in this rank's memory.
    pub(super) fn shown(&self, job: &Job, source: *const u8, bytes: usize) -> Option<u64> {
        let offset = self.offset_of(source, bytes).map(|o| o as u64 + 1);
        let shows = !self.permits.is_empty() && bytes >= job.shown_from;
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
            header.words()
        })
    }

    /// Where the bytes of a ready slot lie. Own input is never read by way of its slot's header.
    pub(super) fn lies(&self, at: usize, header: &Header, bytes: usize) -> Lies {
        match header.data {
            0 => Lies::Slot(self.segment.at(at + HEADER, bytes)),
            Header::WITHIN => Lies::Slot(self.segment.at(at + Header::ROOM_AT, bytes)),
            shown if shown & Header::SHOWN != 0 => Lies::Memory(shown & !Header::SHOWN),
            offset => Lies::Segment(self.segment.at(offset as usize - 1, bytes)),
        }
    }

    /// Where a result, or what was shown, lies: where its slot says, or in the slot of the own input which it is of. `None`: in this rank's output
    /// already.
    pub(super) fn find(
        &self,
        job: &Job,
        turn: Turn,
        (slot, back): (Slots, Option<Slots>),
        author: Author,
        bytes: usize,
    ) -> Result<Option<Lies>, Fault> {
        let at = slot.at(turn);
        let header = self.read_header(at, job, author)?;
        if self.me == 0 || header.given & self.me == 0 {
            return Ok(Some(self.lies(at, &header, bytes)));
        }
        let Some(back) = back.map(|slot| slot.at(turn)) else {
            return Ok(None);
        };
        // SAFETY: inside the segment, aligned, and this rank is its only writer.
        let own = unsafe { self.segment.at(back, STAMP).cast::<Header>().read() }.words();
        // An output that was announced has been written.
        Ok((own.output == 0).then(|| Lies::Slot(self.segment.at(back + HEADER, bytes))))
    }

    /// What was read of an author's registered memory was what it showed.
    pub(super) fn still_shown(&self, job: &Job, author: Author) -> Result<(), Fault> {
        if self.bells.shows(author.local) {
            return Ok(());
        }
        Err(Fault::Unread {
            rank: author.rank,
            error: Unread::Withdrawn,
            ours: job.call,
        })
    }

    /// Copies what a slot's author has there or shows.
    ///
    /// # Safety
    /// `to` is good for writing so many bytes, and another place.
    pub(super) unsafe fn fetch(
        &self,
        job: &Job,
        lies: Lies,
        author: Author,
        to: *mut u8,
        bytes: usize,
    ) -> Result<(), Fault> {
        match lies {
            // SAFETY: the slot is ready, and the rest passed on.
            Lies::Slot(from) => unsafe { kernel::copy(from, to, bytes, job.store) },
            Lies::Segment(from) => {
                // SAFETY: in the segment; that it is not written meanwhile is asked behind it.
                unsafe { kernel::copy(from, to, bytes, job.store) };
                self.still_shown(job, author)?;
            }
            // SAFETY: passed on.
            Lies::Memory(from) => unsafe { self.permits[author.local].read(from, to, bytes) }
                .map_err(|error| Fault::Unread {
                    rank: author.rank,
                    error,
                    ours: job.call,
                })?,
        }
        Ok(())
    }

    /// The same into memory of this rank's from which its device copies on, until the step comes to that slot's turn again.
    pub(super) fn fetch_aside(
        &mut self,
        job: &Job,
        (run, step): (usize, usize),
        turn: Turn,
        (lies, author): (Lies, Author),
        bytes: usize,
    ) -> Result<*const u8, Fault> {
        let r = &mut self.runs[run];
        let all = r.slots as usize * r.slot_bytes;
        let aside = r.aside.entry(step).or_insert_with(|| vec![0; all]);
        let to = aside[Slots::new(0, 0).at(turn)..][..bytes].as_mut_ptr();
        // SAFETY: so many bytes of ours; what the device copied from them last was done before the step began again.
        unsafe { self.fetch(job, lies, author, to, bytes) }?;
        Ok(to)
    }
}
