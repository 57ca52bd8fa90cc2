//! The job as the bench sees it: who takes part, memory, and raw calls. It knows nothing of what is measured. Invariants: a call is given
//! only memory of two [`Buffer`]s, and only ranges inside them; on a device both are used in the order of the rank's stream alone.

use crate::gpu::{DeviceMemory, Gpu};
use anyhow::{Context, Result, ensure};
use hfreduce::{
    Block, Blocks, Communicator, Pending, RawCall, Registered,
    config::Config,
    dtype::DType,
    launch::{Launch, with_proxy},
    op::ReduceOp,
    plan::Collective,
};
use std::{
    borrow::Cow,
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

/// What this process's environment says of it.
///
/// # Errors
/// An environment that contradicts itself.
pub fn launch() -> Result<Launch> {
    let env = |name: &str| std::env::var(name).ok();
    Ok(Launch::from_env(&|name| with_proxy(&env, name))?)
}

/// Whether this process was started as a rank of a job.
///
/// # Errors
/// As [`launch`].
pub fn inside() -> Result<bool> {
    let alone = Launch::from_env(&|_| None)?;
    Ok(launch()?.source != alone.source)
}

/// The joined job.
pub struct Job {
    communicator: Communicator,
    /// How long it took this rank to connect, waiting for the others included.
    pub start_up: Duration,
    gpu: Option<Gpu>,
    /// Calls on the stream whose ends have not been looked at.
    open: RefCell<Vec<Pending>>,
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
    /// On the rank's device.
    Device(DeviceMemory),
}

impl Buffer {
    fn plain(bytes: usize) -> Buffer {
        // Aligned by hand: the first aligned byte of a slightly larger piece. A vector that never grows stays where it is.
        let align = align_of::<Line>();
        let memory = vec![0u8; bytes + align];
        let skip = memory.as_ptr().align_offset(align);
        Buffer::Plain(memory, skip, bytes)
    }

    /// How many bytes.
    fn len(&self) -> usize {
        match self {
            Buffer::Plain(_, _, bytes) => *bytes,
            Buffer::Registered(memory) => memory.len(),
            Buffer::Device(memory) => memory.len(),
        }
    }

    /// Where the first byte is, on the host or on the device.
    fn at(&mut self) -> *mut u8 {
        match self {
            Buffer::Plain(memory, skip, _) => memory[*skip..].as_mut_ptr(),
            Buffer::Registered(memory) => memory.as_mut_ptr(),
            Buffer::Device(memory) => memory.at(),
        }
    }

    /// Has `write` write the first bytes, which it finds as they please.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn fill(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) -> Result<()> {
        match self {
            Buffer::Plain(memory, skip, _) => write(&mut memory[*skip..*skip + bytes]),
            Buffer::Registered(memory) => write(&mut memory[..bytes]),
            Buffer::Device(memory) => {
                let mut image = vec![0; bytes];
                write(&mut image);
                memory.put(&image)?;
            }
        }
        Ok(())
    }

    /// The first bytes.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn read(&self, bytes: usize) -> Result<Cow<'_, [u8]>> {
        Ok(match self {
            Buffer::Plain(memory, skip, _) => memory[*skip..*skip + bytes].into(),
            Buffer::Registered(memory) => memory[..bytes].into(),
            Buffer::Device(memory) => memory.get(bytes)?.into(),
        })
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
    /// Into how many equal tensors the elements are cut, each of them a call of its own and all in flight at once; only where each element's
    /// result is at its own place.
    pub tensors: usize,
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
    /// Joins the job of the environment, with buffers on a device or on the host.
    ///
    /// # Errors
    /// As the library says; no driver, or no device.
    pub fn join(on_device: bool) -> Result<Job> {
        let join = "cannot join the job";
        let mut config = Config::from_env().context(join)?;
        if on_device {
            // Before the others wait for this rank.
            crate::gpu::count()?;
        }
        config.gpu = Some(on_device);
        let began = Instant::now();
        let communicator = Communicator::connect(&config).context(join)?;
        let start_up = began.elapsed();
        let gpu = on_device.then(|| Gpu::open(communicator.local_rank()));
        Ok(Job {
            gpu: gpu.transpose()?,
            communicator,
            start_up,
            open: RefCell::default(),
        })
    }

    /// The communicator, for what needs no care.
    pub fn group(&self) -> &Communicator {
        &self.communicator
    }

    /// This rank's device, where buffers are on devices.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
    }

    /// Memory of `bytes` bytes: on the device if there is one, otherwise on the host.
    ///
    /// # Errors
    /// Too little shared memory for a registered one; too little on the device.
    pub fn buffer(&self, bytes: usize, registered: bool) -> Result<Buffer> {
        if let Some(gpu) = &self.gpu {
            return Ok(Buffer::Device(gpu.memory(bytes)?));
        }
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

    /// Runs a call from the beginning of `input` to the beginning of `output`. On a device it is only put on the stream, as are the fills and
    /// reads of buffers, until [`Job::settle`].
    ///
    /// # Errors
    /// Buffers too short; a failure of the group.
    pub fn run(&self, call: &Call, input: &mut Buffer, output: &mut Buffer) -> Result<()> {
        let (i, o) = call.lengths(self.communicator.size());
        ensure!(
            i <= input.len() && o <= output.len(),
            "a buffer is too short"
        );
        // SAFETY: both ranges lie in their buffers, which are two because they are borrowed mutably, and stay until the call has ended:
        // this waits for it, or the stream does, which alone touches and frees what is on the device.
        unsafe { self.raw(call, input.at(), output.at()) }
    }

    /// Runs a call in place, in `buffer`.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn run_in_place(&self, call: &Call, buffer: &mut Buffer) -> Result<()> {
        let (i, o) = call.lengths(self.communicator.size());
        let (from, to) = call.in_place(self.communicator.rank());
        ensure!(
            (from + i).max(to + o) <= buffer.len(),
            "a buffer is too short"
        );
        let base = buffer.at();
        // SAFETY: both ranges lie in the buffer, as the collective's in-place form has them; it stays until the call has ended, as above.
        unsafe { self.raw(call, base.add(from), base.add(to)) }
    }

    /// Waits until all calls on the stream have ended. On the host they have.
    ///
    /// # Errors
    /// Theirs.
    pub fn settle(&self) -> Result<()> {
        if let Some(gpu) = &self.gpu {
            gpu.synchronize()?;
        }
        for pending in self.open.take() {
            pending.wait()?;
        }
        Ok(())
    }

    /// # Safety
    /// As [`Communicator::run`] or, on a device, [`Communicator::enqueue`].
    unsafe fn raw(&self, call: &Call, input: *const u8, output: *mut u8) -> Result<()> {
        let bytes = call.count / call.tensors * call.dtype.size();
        let tensor = |n: usize| {
            let (from, to) = (
                input.wrapping_add(n * bytes),
                output.wrapping_add(n * bytes),
            );
            self.of_one(call, from, to)
        };
        if let Some(gpu) = &self.gpu {
            // SAFETY: the caller's promise; the tensors do not overlap.
            let enqueue = |n| unsafe { self.communicator.enqueue(tensor(n), gpu.stream()) };
            let enqueued: Vec<_> = (0..call.tensors).map(enqueue).collect();
            // The stream waits for all that have started, whatever became of the others.
            for one in enqueued.iter().flatten() {
                one.block(gpu.stream())?;
                self.open.borrow_mut().push(one.pending().clone());
            }
            enqueued.into_iter().collect::<Result<Vec<_>, _>>()?;
        } else if call.tensors == 1 {
            // SAFETY: the caller's promise.
            unsafe { self.communicator.run(tensor(0))? };
        } else {
            // SAFETY: the caller's promise; the tensors do not overlap, and all calls are waited for below, whatever becomes of each.
            let started = |n| unsafe { self.communicator.start(tensor(n)) };
            let started: Vec<Pending> = (0..call.tensors).map(started).collect();
            let ends: Vec<_> = started.iter().map(Pending::wait).collect();
            ends.into_iter().collect::<Result<(), _>>()?;
        }
        Ok(())
    }

    /// One of a call's tensors, or all of it.
    fn of_one(&self, call: &Call, input: *const u8, output: *mut u8) -> RawCall {
        let Call {
            collective,
            dtype,
            op,
            count,
            tensors,
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
        RawCall {
            collective,
            dtype,
            op,
            count: count / tensors,
            input,
            output,
            blocks,
        }
    }
}
