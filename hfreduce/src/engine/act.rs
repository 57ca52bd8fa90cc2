//! What a step does to memory, but for additions (`reduce`). This is where the bytes are touched, and why it is sound: plans are [`Checked`](crate::plan::Checked), so
//! whoever may write a slot does so only before its counter is raised, and whoever reads it only after (release and acquire on its
//! stamp, or on the board), and nobody writes it again before the last reader is done. Readers compare the header's call before they touch data.

use super::{Engine, Fault, Job, Op, Source, Term, find::Lies, ticket};
use crate::{
    call::Header,
    kernel,
    layout::{HEADER, STAMP, Slots, Turn},
    plan::{Piece, TakeAlias},
};
use hfr_transport::{Body, shm::Segment};
use std::sync::atomic::AtomicU64;

/// Bytes of a slot that are brought near in advance.
const EXPECTED: usize = 1 << 10;
/// Slots for which it is done: who writes more of them in a call is not as quick as that anyway.
const MOST_EXPECTED: usize = 4;

/// The stamp of the slot at `at`.
pub(super) fn stamp(segment: &Segment, at: usize) -> &AtomicU64 {
    // SAFETY: inside the segment, which outlives the reference, and aligned, as slots are; all who touch these bytes do so through this
    // function, but for installing, while nobody runs, and for wires: they read a slot that is not written meanwhile, and write only slots whose
    // stamps nobody reads.
    unsafe { AtomicU64::from_ptr(segment.at(at + STAMP, size_of::<u64>()).cast()) }
}

impl Engine {
    /// Calls often come in rows: has the lines brought to this core that the next call on this plan, if it is small, writes first. Other
    /// ranks have read them long ago; without this the next call waits for them.
    pub(super) fn expect(&mut self, run: usize) {
        let r = &mut self.runs[run];
        let turn = r.turn(r.end);
        let bytes = EXPECTED.min(r.slot_bytes);
        let taken = r.steps.iter().filter_map(|step| match step.op {
            Op::Take { slot, alias, .. } if alias != TakeAlias::Own => Some(slot.at(turn)),
            _ => None,
        });
        for at in taken.take(MOST_EXPECTED) {
            kernel::expect(self.segment.at(at, bytes), bytes);
        }
    }

    /// Does a step that is done at once. `chunk` counts from the job's first; `turn` is of the plan's.
    pub(super) fn act(
        &mut self,
        run: usize,
        i: usize,
        job: &Job,
        chunk: u64,
        turn: Turn,
    ) -> Result<(), Fault> {
        match self.runs[run].steps[i].op {
            Op::Take {
                piece,
                slot,
                alias,
                over,
                within,
            } => {
                self.take(job, chunk, piece, (slot.at(turn), within), alias, over);
                Ok(())
            }
            Op::Give {
                from,
                piece,
                back,
                lands,
            } => {
                let there =
                    lands.is_some_and(|counter| self.landings.has(counter, self.runs[run].done[i]));
                self.give(job, chunk, turn, (from, back), piece, there)
            }
            Op::Reduce { .. } => self.reduce(run, i, job, chunk, turn),
            Op::Nothing => Ok(()),
            Op::Put { .. } | Op::SignalAway { .. } => unreachable!("puts are begun by `begin`"),
        }
    }

    /// Begins a step that the device does: a take from its memory, or a give into it.
    pub(super) fn act_on_device(
        &mut self,
        run: usize,
        i: usize,
        job: &Job,
        chunk: u64,
        turn: Turn,
    ) -> Result<(), Fault> {
        let ticket = ticket(run, i);
        let begun = match self.runs[run].steps[i].op {
            Op::Take { piece, slot, .. } => {
                let (source, count) = job.input(piece, chunk);
                let (at, bytes) = (slot.at(turn), count * job.size);
                let header = Header {
                    call: job.call,
                    ..Header::default()
                };
                self.write_header(at, header);
                let target = self.segment.at(at + HEADER, bytes);
                // SAFETY: the job promises the input; the slot is ours until its counter is raised, which waits for the ticket.
                unsafe { self.device().copy_in(source, target, bytes, ticket) }
            }
            Op::Give {
                from, piece, back, ..
            } => {
                let (target, count) = job.output(piece, chunk);
                let bytes = count * job.size;
                let (source, same) = match from {
                    Term::Own(input, slot) => {
                        let (input, _) = job.input(input, chunk);
                        let taken = self.segment.at(slot.at(turn) + HEADER, bytes);
                        let source = if job.sides.input {
                            taken
                        } else {
                            input.cast_mut()
                        };
                        (source.cast_const(), input == target.cast_const())
                    }
                    Term::Slot(from, author) => {
                        match self.find(job, turn, (from, back), author, bytes)? {
                            None => (target.cast_const(), true),
                            Some(Lies::Slot(source)) => (source, false),
                            Some(lies) => {
                                let from = (lies, author);
                                let aside = self.fetch_aside(job, (run, i), turn, from, bytes)?;
                                (aside, false)
                            }
                        }
                    }
                };
                let bytes = if same { 0 } else { bytes };
                // SAFETY: the job promises the output; the slot is read by nobody's writer before this step is done, which waits for the
                // ticket.
                unsafe { self.device().copy_out(source, target, bytes, ticket) }
            }
            _ => unreachable!("only takes and gives touch a job's buffers"),
        };
        begun.map_err(|error| Fault::Device {
            error,
            ours: Some(job.call),
        })
    }

    pub(super) fn write_header(&self, at: usize, header: Header) {
        let place = self.segment.at(at, STAMP).cast::<Header>();
        // SAFETY: inside the segment, aligned to a cache line, and this rank is the slot's only writer until it stamps it.
        unsafe { place.write(header) }
    }

    /// What is put behind the header of the slot at `at`, where it does not lie there; the header of what was never taken into the slot is
    /// written now.
    pub(super) fn body(
        &self,
        job: &Job,
        (chunk, base): (u64, u64),
        at: usize,
        source: Source,
        bytes: usize,
    ) -> Option<Body> {
        let lies = match source {
            Source::Input(piece) if !job.sides.input => {
                let header = Header {
                    call: job.call,
                    ..Header::default()
                };
                self.write_header(at, header);
                job.input(piece, chunk - base).0
            }
            Source::Output(piece) if !job.sides.output => {
                job.output(piece, chunk - base).0.cast_const()
            }
            Source::Landed(piece, counter) if self.landings.has(counter, chunk) => {
                job.output(piece, chunk - base).0.cast_const()
            }
            _ => return None,
        };
        // Of no elements there may be no buffer.
        if bytes == 0 {
            return None;
        }
        // SAFETY: the job promises its memory until it is done, which it is not before the put, or until the engine is never stepped again; and
        // the proof that nobody writes there meanwhile.
        Some(unsafe { Body::new(lies, bytes) })
    }

    fn take(
        &mut self,
        job: &Job,
        chunk: u64,
        piece: Piece,
        (at, within): (usize, bool),
        alias: TakeAlias,
        over: Option<Piece>,
    ) {
        if alias == TakeAlias::Own {
            return;
        }
        let (source, count) = job.input(piece, chunk);
        let bytes = count * job.size;
        let mut header = Header {
            call: job.call,
            ..Header::default()
        };
        let stays = match alias {
            TakeAlias::Shared => self.shown(job, source, bytes),
            _ => None,
        };
        let within = within && stays.is_none() && bytes <= Header::ROOM;
        if within {
            header.data = Header::WITHIN;
        } else {
            header.data = stays.unwrap_or(0);
            if let Some(over) = over {
                let (target, count) = job.output(over, chunk);
                let offset = self.offset_of(target, count * job.size);
                header.output = offset.map_or(0, |o| o as u64 + 1);
            }
        }
        self.write_header(at, header);
        if stays.is_none() {
            let behind = if within { Header::ROOM_AT } else { HEADER };
            let target = self.segment.at(at + behind, bytes);
            // SAFETY: the job promises the input; the slot is ours until its counter is raised.
            unsafe { kernel::copy_shared(source, target, bytes) }
        }
    }

    fn give(
        &mut self,
        job: &Job,
        chunk: u64,
        turn: Turn,
        (from, back): (Term, Option<Slots>),
        piece: Piece,
        there: bool,
    ) -> Result<(), Fault> {
        let (target, count) = job.output(piece, chunk);
        let bytes = count * job.size;
        let source = match from {
            Term::Own(_, slot) if job.sides.input => {
                self.segment.at(slot.at(turn) + HEADER, bytes).cast_const()
            }
            Term::Own(input, _) => job.input(input, chunk).0,
            Term::Slot(from, author) => {
                let lies = self.find(job, turn, (from, back), author, bytes)?;
                let Some(lies) = lies.filter(|_| !there) else {
                    return Ok(());
                };
                // SAFETY: the job promises the output, in which nothing of this lies.
                return unsafe { self.fetch(job, lies, author, target, bytes) };
            }
        };
        if source != target.cast_const() {
            // SAFETY: the job promises the output and the own input, the proof the slot; they do not overlap unless equal.
            unsafe { kernel::copy(source, target, bytes, job.store) }
        }
        Ok(())
    }
}
