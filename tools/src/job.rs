//! The job as the bench sees it: who takes part, memory, and raw calls. It knows nothing of what is measured. Invariant: a call is given
//! only memory of two [`Buffer`]s, and only ranges inside them.

use anyhow::{Context, Result, ensure};
use hfreduce::{
    Block, Blocks, Communicator, RawCall, Registered,
    dtype::DType,
    launch::{Launch, environment},
    op::ReduceOp,
    plan::Collective,
};
use std::sync::Arc;

/// Whether this process was started as a rank of a job.
///
/// # Errors
/// An environment that contradicts itself.
pub fn inside() -> Result<bool> {
    let launch = Launch::from_env(&environment)?;
    let alone = Launch::from_env(&|_| None)?;
    Ok(launch.source != alone.source)
}

/// The joined job.
pub struct Job {
    communicator: Communicator,
}

/// 64 bytes on a cache line of their own.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Memory for inputs or outputs.
pub enum Buffer {
    /// The process's own.
    Plain(Vec<u8>, usize, usize),
    /// In the node's segment.
    Registered(Registered<u8>),
}

impl Buffer {
    fn plain(bytes: usize) -> Buffer {
        // Aligned by hand: the first aligned byte of a slightly larger piece. A vector that never grows stays where it is.
        let align = align_of::<Line>();
        let memory = vec![0u8; bytes + align];
        let skip = memory.as_ptr().align_offset(align);
        Buffer::Plain(memory, skip, bytes)
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        match self {
            Buffer::Plain(memory, skip, bytes) => &mut memory[*skip..*skip + *bytes],
            Buffer::Registered(memory) => memory,
        }
    }
}

/// One call on buffers: what, and where in them.
#[derive(Clone, Copy)]
pub struct Call {
    /// What is performed.
    pub collective: Collective,
    /// Of what elements.
    pub dtype: DType,
    /// By what operation; of no consequence where nothing is reduced.
    pub op: ReduceOp,
    /// Elements, per rank where buffers are shares.
    pub count: usize,
}

impl Call {
    /// Bytes of the input and of the output.
    pub fn lengths(&self, ranks: usize) -> (usize, usize) {
        let bytes = self.count * self.dtype.size();
        let (input, output) = self.collective.shares(ranks).unwrap_or((1, 1));
        (input * bytes, output * bytes)
    }

    /// Whether input and output may be the same memory.
    pub fn has_in_place(&self) -> bool {
        !matches!(
            self.collective,
            Collective::AllToAll | Collective::AllToAllV
        )
    }

    /// Where input and output of `rank` begin in one buffer, when the call is in place.
    pub fn in_place(&self, rank: usize) -> (usize, usize) {
        let share = rank * self.count * self.dtype.size();
        match self.collective {
            Collective::ReduceScatter | Collective::Scatter { .. } => (0, share),
            Collective::AllGather | Collective::Gather { .. } => (share, 0),
            _ => (0, 0),
        }
    }
}

impl Job {
    /// Joins the job of the environment.
    ///
    /// # Errors
    /// As the library says.
    pub fn join() -> Result<Job> {
        let communicator = Communicator::from_env().context("cannot join the job")?;
        Ok(Job { communicator })
    }

    /// The communicator, for what needs no care.
    pub fn group(&self) -> &Communicator {
        &self.communicator
    }

    /// Memory of `bytes` bytes.
    ///
    /// # Errors
    /// Too little shared memory for a registered one.
    pub fn buffer(&self, bytes: usize, registered: bool) -> Result<Buffer> {
        if registered {
            return Ok(Buffer::Registered(self.communicator.alloc::<u8>(bytes)?));
        }
        Ok(Buffer::plain(bytes))
    }

    /// Every rank's `own`, by rank.
    ///
    /// # Errors
    /// A failure of the group.
    pub fn gather(&self, own: &[f64]) -> Result<Vec<Vec<f64>>> {
        let mut all = vec![0.0; own.len() * self.communicator.size()];
        self.communicator.all_gather(own, &mut all)?;
        Ok(all.chunks(own.len()).map(<[f64]>::to_vec).collect())
    }

    /// Runs a call from the beginning of `input` to the beginning of `output`.
    ///
    /// # Errors
    /// Buffers too short; a failure of the group.
    pub fn run(&self, call: &Call, input: &mut Buffer, output: &mut Buffer) -> Result<()> {
        let (i, o) = call.lengths(self.communicator.size());
        ensure!(
            i <= input.bytes().len() && o <= output.bytes().len(),
            "a buffer is too short"
        );
        let (from, to) = (input.bytes().as_ptr(), output.bytes().as_mut_ptr());
        // SAFETY: both ranges lie in their buffers, which are two because they are borrowed mutably, and stay until the call returns.
        unsafe { self.raw(call, from, to) }
    }

    /// Runs a call in place, in `buffer`.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn run_in_place(&self, call: &Call, buffer: &mut Buffer) -> Result<()> {
        let (i, o) = call.lengths(self.communicator.size());
        let (from, to) = call.in_place(self.communicator.rank());
        let bytes = buffer.bytes();
        ensure!(
            (from + i).max(to + o) <= bytes.len(),
            "a buffer is too short"
        );
        // SAFETY: both ranges lie in the buffer, which is borrowed until the call returns, as the collective's in-place form has them.
        unsafe {
            let base = bytes.as_mut_ptr();
            self.raw(call, base.add(from), base.add(to))
        }
    }

    /// # Safety
    /// As [`Communicator::run`].
    unsafe fn raw(&self, call: &Call, input: *const u8, output: *mut u8) -> Result<()> {
        let Call {
            collective,
            dtype,
            op,
            count,
        } = *call;
        // Where counts are the ranks' own affair, equal ones: the figures show what finding that out costs.
        let apart = collective == Collective::AllToAllV;
        let cut = |base: *const u8| {
            let each = count * dtype.size();
            let block = |rank| Block {
                at: base.wrapping_add(rank * each).cast_mut(),
                count,
            };
            (0..self.communicator.size()).map(block).collect()
        };
        let blocks = apart.then(|| {
            Arc::new(Blocks {
                input: cut(input),
                output: cut(output),
            })
        });
        // SAFETY: the caller's promise.
        unsafe {
            self.communicator.run(RawCall {
                collective,
                dtype,
                op,
                count,
                input,
                output,
                blocks,
            })?
        };
        Ok(())
    }
}
