//! Copies by CUDA's copy engines: a stream for each direction, so that both run at once, and an event behind every copy, which is asked and
//! never waited for. No kernel is launched. It knows no plan. Invariants: our streams hold nothing but copies whose two sides are ready, so
//! they come to their end by themselves; host memory stays pinned until they have.

use super::{
    Device,
    driver::{Context, check},
    stream::{event, reached},
};
use crate::error::Error;
use cudarc::driver::sys;
use std::{
    any::Any,
    collections::VecDeque,
    ptr,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long an end waits for copies that are under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// One direction: its stream, and the copies on it.
struct Way {
    stream: sys::CUstream,
    /// Tickets, oldest first, with the events behind their copies; none behind a copy of no bytes.
    queue: VecDeque<(u64, Option<sys::CUevent>)>,
    spare: Vec<sys::CUevent>,
}

/// The copies of one communicator on one device.
pub struct Cuda {
    context: Context,
    into_host: Way,
    into_device: Way,
    /// Host memory that is pinned, by where it begins and how long it is.
    covered: Vec<(usize, usize)>,
    /// Whatever holds that memory.
    keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: handles, which the driver lets any thread use, one at a time.
unsafe impl Send for Cuda {}

impl Way {
    /// Of the highest priority: copies are short and others wait for them, and streams of one priority may share a queue of the hardware.
    fn new() -> Result<Way, Error> {
        let (mut least, mut greatest, mut stream) = (0, 0, ptr::null_mut());
        // SAFETY: a context is current; the driver writes two numbers and a handle.
        unsafe {
            check(
                sys::cuCtxGetStreamPriorityRange(&raw mut least, &raw mut greatest),
                "asking for the priorities of streams",
            )?;
            let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            check(
                sys::cuStreamCreateWithPriority(&raw mut stream, flags, greatest),
                "making a stream",
            )?;
        }
        Ok(Way {
            stream,
            queue: VecDeque::with_capacity(64),
            spare: Vec::new(),
        })
    }

    /// `seam`: bytes in front of the end of what was pinned at once, in which one copy must stay.
    fn copy(
        &mut self,
        from: *const u8,
        to: *mut u8,
        bytes: usize,
        seam: Option<usize>,
        ticket: u64,
    ) -> Result<(), Error> {
        if bytes == 0 {
            self.queue.push_back((ticket, None));
            return Ok(());
        }
        let event = match self.spare.pop() {
            Some(event) => event,
            None => event()?,
        };
        // SAFETY: the caller of the trait's methods promises both sides.
        let begun = unsafe {
            let (to, from, first) = (to as u64, from as u64, seam.unwrap_or(bytes));
            let mut begun = sys::cuMemcpyAsync(to, from, first, self.stream);
            if begun == sys::CUresult::CUDA_SUCCESS && first < bytes {
                let (to, from) = (to + first as u64, from + first as u64);
                begun = sys::cuMemcpyAsync(to, from, bytes - first, self.stream);
            }
            match begun {
                sys::CUresult::CUDA_SUCCESS => sys::cuEventRecord(event, self.stream),
                refused => refused,
            }
        };
        self.queue.push_back((ticket, Some(event)));
        check(begun, "copying between device and host memory")
    }

    fn poll(&mut self, ended: &mut Vec<u64>) -> Result<(), Error> {
        while let Some(&(ticket, event)) = self.queue.front() {
            if let Some(event) = event {
                if !reached(event, "copying between device and host memory")? {
                    break;
                }
                self.spare.push(event);
            }
            self.queue.pop_front();
            ended.push(ticket);
        }
        Ok(())
    }

    /// Whether nothing is under way on the stream, or never will be.
    fn is_idle(&self) -> bool {
        // SAFETY: ours, of the current context. Any other answer than "not ready" is the last.
        unsafe { sys::cuStreamQuery(self.stream) != sys::CUresult::CUDA_ERROR_NOT_READY }
    }

    fn destroy(&mut self) {
        let queued = self.queue.drain(..).filter_map(|(_, event)| event);
        for event in queued.chain(self.spare.drain(..)) {
            // SAFETY: ours, and not used again.
            unsafe { sys::cuEventDestroy_v2(event) };
        }
        // SAFETY: as above.
        unsafe { sys::cuStreamDestroy_v2(self.stream) };
    }
}

impl Cuda {
    /// The copies of a communicator whose slots are in `keep`'s memory.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(context: Context, keep: Arc<dyn Any + Send + Sync>) -> Result<Cuda, Error> {
        let _entered = context.enter()?;
        Ok(Cuda {
            context,
            into_host: Way::new()?,
            into_device: Way::new()?,
            covered: Vec::new(),
            keep,
        })
    }

    /// How many bytes of a range lie in front of a seam between what was pinned at once and what came later.
    fn seam(&self, at: *const u8, bytes: usize) -> Option<usize> {
        let (first, end) = (at as usize, at as usize + bytes);
        let seams = self.covered.iter().map(|(at, len)| at + len);
        seams
            .filter(|seam| first < *seam && *seam < end)
            .map(|seam| seam - first)
            .next()
    }

    fn uncover(&mut self) {
        if let Ok(_entered) = self.context.enter() {
            for (at, _) in self.covered.drain(..) {
                // SAFETY: registered by `cover`, and no copy is under way.
                unsafe { sys::cuMemHostUnregister(at as *mut _) };
            }
        }
    }
}

impl Device for Cuda {
    unsafe fn copy_in(
        &mut self,
        device: *const u8,
        host: *mut u8,
        bytes: usize,
        ticket: u64,
    ) -> Result<(), Error> {
        let _entered = self.context.enter()?;
        let seam = self.seam(host, bytes);
        self.into_host.copy(device, host, bytes, seam, ticket)
    }

    unsafe fn copy_out(
        &mut self,
        host: *const u8,
        device: *mut u8,
        bytes: usize,
        ticket: u64,
    ) -> Result<(), Error> {
        let _entered = self.context.enter()?;
        let seam = self.seam(host, bytes);
        self.into_device.copy(host, device, bytes, seam, ticket)
    }

    fn poll(&mut self, ended: &mut Vec<u64>) -> Result<(), Error> {
        let _entered = self.context.enter()?;
        self.into_host.poll(ended)?;
        self.into_device.poll(ended)
    }

    fn busy(&self) -> bool {
        !self.into_host.queue.is_empty() || !self.into_device.queue.is_empty()
    }

    fn cover(&mut self, at: *mut u8, bytes: usize) -> Result<(), Error> {
        let (first, end) = (at as usize, at as usize + bytes);
        let from = self.covered.last().map_or(first, |(at, len)| at + len);
        if end <= from {
            return Ok(());
        }
        let _entered = self.context.enter()?;
        let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
        check(
            // SAFETY: memory of `keep`, which stays until it is uncovered.
            unsafe { sys::cuMemHostRegister_v2(from as *mut _, end - from, flags) },
            &format!("pinning {} bytes of the node's segment", end - from),
        )?;
        self.covered.push((from, end - from));
        Ok(())
    }

    fn drain(&mut self, limit: Duration) -> bool {
        let Ok(_entered) = self.context.enter() else {
            return true;
        };
        let until = Instant::now() + limit;
        while !(self.into_host.is_idle() && self.into_device.is_idle()) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        true
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if !self.drain(PATIENCE) {
            // The device may still write there: the memory must stay.
            std::mem::forget(self.keep.clone());
            return;
        }
        self.uncover();
        if let Ok(_entered) = self.context.enter() {
            self.into_host.destroy();
            self.into_device.destroy();
        }
    }
}
