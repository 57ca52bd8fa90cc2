//! How a reduction is done: its terms and targets become addresses, and the kernel adds the ones into the others. All headers are compared before
//! any byte is read. Invariant: what somebody reads next is written first and stays near; only copies of it go past the caches.

use super::{Engine, Fault, Job, Op, Target, Term, find::Lies};
use crate::{
    call::Header,
    kernel::{self, Store},
    layout::{HEADER, Turn},
};

/// Results for several receivers are computed in blocks of at most this many bytes, so that all but the first copy come out of the nearest cache.
const BLOCK: usize = 8 << 10;
/// Bytes of a cache line: loads that cross none are faster.
const LINE: usize = 64;
/// All terms of a block together are no more than this: in place, the copies go to where they were read, while it is still there.
const TERMS: usize = 32 << 10;

/// Bytes of a block of a result of so many terms.
fn block_of(terms: usize) -> usize {
    (TERMS / terms.max(1))
        .next_power_of_two()
        .clamp(1 << 10, BLOCK)
}

impl Engine {
    pub(super) fn reduce(
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
                            let room = bytes.next_multiple_of(LINE);
                            let all = terms.len() * room + LINE;
                            if fetched.len() < all {
                                fetched.resize(all, 0);
                            }
                            // One pointer for all terms: each has its part, and those before are read later.
                            let lines = fetched.as_mut_ptr();
                            let lines = lines.wrapping_add(lines.align_offset(LINE));
                            let to = lines.wrapping_add(t * room);
                            // SAFETY: so many bytes of ours.
                            unsafe { self.fetch(job, lies, author, to, bytes) }?;
                            to.cast_const()
                        }
                    };
                    came.0 = header.output;
                    if matches!(header.data, 0 | Header::WITHIN) {
                        came.1 = self.segment.at(at + HEADER, bytes);
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
        // A group of one, in place.
        if kernel.keeps_one() && *sources == [first.cast_const()] {
            return;
        }
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
