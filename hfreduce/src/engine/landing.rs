//! What a wire receives for this rank alone goes straight into its output, where the job is there already and the wire asks. Plans say which
//! puts these are ([`Facts::lands`](crate::plan::Facts::lands)), and prove that nothing is read there any more.

use super::{CHUNK_BITS, Lands, Run, counter_of};
use crate::{layout::HEADER, plan::Piece};
use hfr_transport::{Landing, Notice, shm::Board};

/// The puts that raise one counter.
struct Landed {
    run: usize,
    /// Of the own output.
    piece: Piece,
    /// By slot: the number of the last chunk that was given a landing, from 1.
    chunks: Vec<u64>,
}

/// Which puts of other nodes land in this rank's outputs.
#[derive(Default)]
pub(super) struct Landings {
    /// By counter of this node.
    puts: Vec<Option<Landed>>,
}

impl Landings {
    /// These puts of a plan may land; its number is `run`.
    pub fn install(&mut self, lands: &[Lands], run: usize, slots: u64) {
        for &Lands { counter, piece } in lands {
            if self.puts.len() <= counter {
                self.puts.resize_with(counter + 1, || None);
            }
            self.puts[counter] = Some(Landed {
                run,
                piece,
                chunks: vec![0; slots as usize],
            });
        }
    }

    /// Forgets all but those of the first `counters`.
    pub fn truncate(&mut self, counters: usize) {
        self.puts.truncate(counters);
    }

    /// Where a put of so many bytes is to land that begins to come in: behind its header, in the output of the job that it is for.
    pub fn of(
        &mut self,
        runs: &[Run],
        board: &Board,
        notice: Notice,
        bytes: usize,
    ) -> Option<Landing> {
        let counter = counter_of(notice);
        let landed = self.puts.get_mut(counter)?.as_mut()?;
        // Puts that raise one counter come in order, a few of them before any is counted.
        let counted = board.load(counter);
        let mask = (1 << CHUNK_BITS) - 1;
        let chunk = counted + (u64::from(notice.0).wrapping_sub(counted) & mask);
        let jobs = runs[landed.run].jobs.iter();
        let mut of =
            jobs.filter(|(base, job)| (*base..base + job.extent.chunks()).contains(&chunk));
        let (base, job) = of.next().filter(|(_, job)| !job.sides.output)?;
        let (at, count) = job.output(landed.piece, chunk - base);
        let wanted = count * job.size;
        // Another rank may have made another call: that is told of, and must not write where this one ends.
        if wanted == 0 || bytes != HEADER + wanted {
            return None;
        }
        let slot = chunk % landed.chunks.len() as u64;
        landed.chunks[slot as usize] = chunk + 1;
        // SAFETY: the job promises its output until it is done, which it is not before this chunk's put has arrived, or until the engine is never
        // stepped, and so its wire never polled again; by the plan's proof nobody reads or writes there meanwhile.
        Some(unsafe { Landing::new(at, wanted) })
    }

    /// Whether that chunk's put, which has arrived, has landed in the output.
    pub fn has(&self, counter: usize, chunk: u64) -> bool {
        let landed = self.puts.get(counter).and_then(Option::as_ref);
        landed.is_some_and(|l| l.chunks[(chunk % l.chunks.len() as u64) as usize] == chunk + 1)
    }
}
