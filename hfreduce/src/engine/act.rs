//! What a step does to memory. This is where the bytes are touched, and why it is sound: plans are [`Checked`](crate::plan::Checked), so
//! whoever may write a slot does so only before its counter is raised, and whoever reads it only after (release and acquire on its
//! stamp, or on the board), and nobody writes it again before the last reader is done. Readers compare the header's call before they touch data.

use super::{Engine, Fault, Job, Op, Source, Target, Term, find::Lies, ticket};
use crate::{
    call::Header,
    kernel::{self, Store},
    layout::{HEADER, STAMP, Slots, Turn},
    plan::{Piece, TakeAlias},
};
use hfr_transport::{Body, shm::Segment};
use std::sync::atomic::AtomicU64;

/// Results for several receivers are computed in blocks of at most this many bytes, so that all but the first copy come out of the nearest cache.
const BLOCK: usize = 8 << 10;
/// All terms of a block together are no more than this: in place, the copies go to where they were read, while it is still there.
const TERMS: usize = 32 << 10;

/// Bytes of a block of a result of so many terms.
fn block_of(terms: usize) -> usize {
    (TERMS / terms.max(1))
        .next_power_of_two()
        .clamp(1 << 10, BLOCK)
}

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
            } => {
                self.take(job, chunk, piece, slot.at(turn), alias, over);
                Ok(())
            }
            Op::Give { from, piece, back } => self.give(job, chunk, turn, from, piece, back),
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
            Op::Give { from, piece, back } => {
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

    fn write_header(&self, at: usize, header: Header) {
        let place = self.segment.at(at, STAMP).cast::<Header>();
        // SAFETY: inside the segment, aligned to a cache line, and this rank is the slot's only writer until it stamps it.
        unsafe { place.write(header) }
    }

    /// What is put behind the header of the slot at `at`, where it does not lie there; the header of what was never taken into the slot is
    /// written now.
    pub(super) fn body(
        &self,
        job: &Job,
        chunk: u64,
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
                job.input(piece, chunk).0
            }
            Source::Output(piece) if !job.sides.output => job.output(piece, chunk).0.cast_const(),
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
        at: usize,
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
        if let Some(over) = over {
            let (target, count) = job.output(over, chunk);
            header.output = self
                .offset_of(target, count * job.size)
                .map_or(0, |o| o as u64 + 1);
        }
        let stays = match alias {
            TakeAlias::Shared => self.shown(job, source, bytes),
            _ => None,
        };
        match stays {
            Some(data) => header.data = data,
            None => {
                let target = self.segment.at(at + HEADER, bytes);
                // SAFETY: the job promises the input; the slot is ours until its counter is raised.
                unsafe { kernel::copy_shared(source, target, bytes) }
            }
        }
        self.write_header(at, header);
    }

    fn give(
        &mut self,
        job: &Job,
        chunk: u64,
        turn: Turn,
        from: Term,
        piece: Piece,
        back: Option<Slots>,
    ) -> Result<(), Fault> {
        let (target, count) = job.output(piece, chunk);
        let bytes = count * job.size;
        let source = match from {
            Term::Own(_, slot) if job.sides.input => {
                self.segment.at(slot.at(turn) + HEADER, bytes).cast_const()
            }
            Term::Own(input, _) => job.input(input, chunk).0,
            Term::Slot(from, author) => {
                let Some(lies) = self.find(job, turn, (from, back), author, bytes)? else {
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

    fn reduce(
        &mut self,
        run: usize,
        i: usize,
        job: &Job,
        chunk: u64,
        turn: Turn,
    ) -> Result<(), Fault> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let sum = self.gather(run, i, job, chunk, turn, &mut scratch);
        let done = sum.and_then(|sum| {
            add(job, &scratch.sources, &scratch.targets, &sum);
            self.write_header(sum.at, sum.header);
            if sum.shown {
                self.terms_still_shown(run, i, job)
            } else {
                Ok(())
            }
        });
        self.scratch = scratch;
        done
    }

    /// What was read of the terms' authors was what they showed.
    fn terms_still_shown(&self, run: usize, i: usize, job: &Job) -> Result<(), Fault> {
        let Op::Reduce { terms, .. } = &self.runs[run].steps[i].op else {
            unreachable!("called for a reduction")
        };
        terms.iter().try_for_each(|term| match term {
            Term::Slot(_, author) if !author.away => self.still_shown(job, *author),
            _ => Ok(()),
        })
    }

    /// Resolves a reduction's terms and targets to addresses; all headers are compared here, before any byte is read. What other ranks show in
    /// their own memory is fetched.
    fn gather(
        &self,
        run: usize,
        i: usize,
        job: &Job,
        chunk: u64,
        turn: Turn,
        scratch: &mut Scratch,
    ) -> Result<Addition, Fault> {
        let Op::Reduce {
            terms,
            part,
            raw,
            last,
            slot: to,
            targets: wanted,
            shared,
            sent,
        } = &self.runs[run].steps[i].op
        else {
            unreachable!("called for a reduction")
        };
        let count = job.input(*part, chunk).1;
        let bytes = count * job.size;
        let mut shown = false;
        let Scratch {
            sources,
            targets,
            slots,
            fetched,
        } = scratch;
        sources.clear();
        targets.clear();
        slots.clear();
        for (t, term) in terms.iter().enumerate() {
            let mut came = (0, std::ptr::null_mut());
            sources.push(match *term {
                Term::Own(_, slot) if job.sides.input => {
                    self.segment.at(slot.at(turn) + HEADER, bytes)
                }
                Term::Own(piece, _) => job.input(piece, chunk).0,
                Term::Slot(slot, author) => {
                    let at = slot.at(turn);
                    let header = self.read_header(at, job, author)?;
                    let source = match self.lies(at, &header, bytes) {
                        Lies::Slot(source) => source,
                        Lies::Segment(source) => {
                            shown = true;
                            source
                        }
                        lies @ Lies::Memory(_) => {
                            let all = terms.len() * bytes;
                            if fetched.len() < all {
                                fetched.resize(all, 0);
                            }
                            // One pointer for all terms: each has its part, and those before are read later.
                            let to = fetched.as_mut_ptr().wrapping_add(t * bytes);
                            // SAFETY: so many bytes of ours.
                            unsafe { self.fetch(job, lies, author, to, bytes) }?;
                            to.cast_const()
                        }
                    };
                    came.0 = header.output;
                    if header.data == 0 {
                        came.1 = source.cast_mut();
                    }
                    source
                }
            });
            slots.push(came);
        }
        let at = to.at(turn);
        let mut header = Header {
            call: job.call,
            ..Header::default()
        };
        // What somebody reads next comes first: the result is computed there, and only copies of it go past the caches.
        let mut near = 0;
        let mut left_over = *shared;
        for target in wanted {
            match *target {
                Target::Own(_) if job.sides.output => left_over = true,
                Target::Own(piece) => {
                    let at = if *sent { near } else { targets.len() };
                    targets.insert(at, job.output(piece, chunk).0);
                    near += usize::from(*sent);
                    header.given |= self.me;
                }
                Target::Of { term, bit, back } => match slots.get(term) {
                    Some(&(output, _)) if output != 0 => {
                        targets.push(self.segment.at(output as usize - 1, bytes));
                        header.given |= bit;
                    }
                    Some(&(_, slot)) if back && !slot.is_null() => {
                        targets.insert(near, slot);
                        near += 1;
                        header.given |= bit;
                    }
                    _ => left_over = true,
                },
            }
        }
        if left_over {
            targets.insert(near, self.segment.at(at + HEADER, bytes));
            near += 1;
        }
        Ok(Addition {
            header,
            at,
            count,
            raw: *raw,
            last: *last,
            near,
            shown,
        })
    }
}

/// A reduction's addresses, and what they were found by. Kept from step to step, so that nothing allocates.
#[derive(Default)]
pub(super) struct Scratch {
    sources: Vec<*const u8>,
    targets: Vec<*mut u8>,
    /// By term: where its rank wants the result, and the slot it came in.
    slots: Vec<(u64, *mut u8)>,
    /// Terms that were fetched from other ranks' memory.
    fetched: Vec<u8>,
}

/// A reduction of one chunk, but for its sources and targets.
struct Addition {
    /// What is written in front of the slot at `at`.
    header: Header,
    at: usize,
    /// Elements.
    count: usize,
    /// So many of the sources are inputs as ranks gave them.
    raw: usize,
    /// Whether the result is complete.
    last: bool,
    /// So many of the targets are read next; they come first.
    near: usize,
    /// Sources lie in registered memory of other ranks.
    shown: bool,
}

/// Adds all sources into all targets, element by element in the order of the sources.
fn add(job: &Job, sources: &[*const u8], targets: &[*mut u8], sum: &Addition) {
    let Addition {
        count,
        raw,
        last,
        near,
        ..
    } = *sum;
    let Some(kernel) = &job.kernel else {
        unreachable!("a collective that reduces has a kernel")
    };
    let Some((&first, others)) = targets.split_first() else {
        return;
    };
    if others.is_empty() {
        let store = if near > 0 { Store::Cached } else { job.store };
        // SAFETY: all sources are readable and the target writable for `count` elements: slots by the plan's proof, user memory by the
        // job's promise; the target is one of the sources or disjoint from them.
        unsafe { kernel.reduce(sources, raw, first, count, last, store) };
        return;
    }
    let block = block_of(sources.len()) / job.size;
    let mut shifted = [std::ptr::null(); 64];
    let mut heap = Vec::new();
    let shifted: &mut [*const u8] = if sources.len() <= shifted.len() {
        &mut shifted[..sources.len()]
    } else {
        heap.resize(sources.len(), std::ptr::null());
        &mut heap
    };
    let mut at = 0;
    while at < count {
        let n = block.min(count - at);
        let offset = at * job.size;
        for (s, source) in shifted.iter_mut().zip(sources) {
            *s = source.wrapping_add(offset);
        }
        let first = first.wrapping_add(offset);
        // SAFETY: as above, for a part of the elements.
        unsafe {
            kernel
                .before(count - at - n)
                .reduce(shifted, raw, first, n, last, Store::Cached)
        };
        for (i, &other) in others.iter().enumerate() {
            let store = if i + 1 < near {
                Store::Cached
            } else {
                job.store
            };
            // SAFETY: all sources of this part have been read; the targets are distinct pieces of memory.
            unsafe {
                let other = other.wrapping_add(offset);
                match store {
                    Store::Cached if count <= block => {
                        kernel::copy_shared(first, other, n * job.size);
                    }
                    store => kernel::copy(first, other, n * job.size, store),
                }
            };
        }
        at += n;
    }
}
