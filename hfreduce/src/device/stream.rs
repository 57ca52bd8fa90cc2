//! The user's stream: the gate, which opens when the stream has come to a call, and the mark, for which what the stream is given later waits. It
//! knows no call. Invariants: a mark is released whatever happens, and then for good; its word stays pinned while the process lives,
//! because a stream may come to its wait at any later time.

use super::driver::{Context, check};
use crate::error::{Error, Kind};
use cudarc::driver::sys;
use std::{
    collections::VecDeque,
    ffi::c_void,
    ptr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A CUDA stream as its user has it (`CUstream`, `cudaStream_t`); null is the legacy default stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(sys::CUstream);

// SAFETY: a handle, which the driver lets any thread use.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// The stream with this handle.
    pub fn new(handle: *mut c_void) -> Stream {
        Stream(handle.cast())
    }

    pub(super) fn raw(self) -> sys::CUstream {
        self.0
    }

    /// The context it is of; of a default stream, the current one.
    pub(super) fn context(self) -> Result<Option<Context>, Error> {
        let current = Context::current()?;
        // 0, 1 and 2 are the default streams, of whichever context is current.
        if self.0 as usize <= 2 {
            return Ok(current);
        }
        let mut raw = ptr::null_mut();
        check(
            // SAFETY: a stream of the user's; the driver writes a handle.
            unsafe { sys::cuStreamGetCtx(self.0, &raw mut raw) },
            "asking for a stream's context",
        )?;
        Context::of(raw).map(Some)
    }

    /// Refuses a stream that is recording a graph: what the library does on the host would not be in it.
    pub(super) fn refuse_capture(self) -> Result<(), Error> {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the context is current; the driver writes a state.
        let asked = unsafe { sys::cuStreamIsCapturing(self.0, &raw mut status) };
        let captures = status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        if captures || asked == sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT {
            return Err(Error::new(
                Kind::InvalidArgument,
                "the stream is recording a CUDA graph, which cannot hold what the CPU does",
                "make the call outside of the capture",
            ));
        }
        check(asked, "asking whether a stream is recording a graph")
    }
}

/// Opens when a stream has done what it was given before.
#[derive(Debug)]
pub struct Gate {
    event: sys::CUevent,
    context: Context,
}

// SAFETY: a handle, which the driver lets any thread use.
unsafe impl Send for Gate {}

impl Gate {
    /// A gate at the end of what `stream` has been given so far.
    pub fn record(context: Context, stream: Stream) -> Result<Gate, Error> {
        let _entered = context.enter()?;
        stream.refuse_capture()?;
        let event = event()?;
        let gate = Gate { event, context };
        check(
            // SAFETY: both are of the current context, or the driver says so.
            unsafe { sys::cuEventRecord(event, stream.0) },
            "marking a place on the caller's stream",
        )?;
        Ok(gate)
    }

    /// Whether the stream has come by.
    ///
    /// # Errors
    /// The device has failed.
    pub fn is_open(&self) -> Result<bool, Error> {
        let _entered = self.context.enter()?;
        reached(self.event, "the work in front of the call on its stream")
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Ok(_entered) = self.context.enter() {
            // SAFETY: ours, and not used again; the driver keeps it as long as a stream needs it.
            unsafe { sys::cuEventDestroy_v2(self.event) };
        }
    }
}

/// A new event of the current context, without time stamps: those cost.
pub(super) fn event() -> Result<sys::CUevent, Error> {
    let mut event = ptr::null_mut();
    let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
    check(
        // SAFETY: a context is current; the driver writes a handle.
        unsafe { sys::cuEventCreate(&raw mut event, flags) },
        "making an event",
    )?;
    Ok(event)
}

/// Whether an event has happened.
pub(super) fn reached(event: sys::CUevent, what: &str) -> Result<bool, Error> {
    // SAFETY: a living event of the current context.
    match unsafe { sys::cuEventQuery(event) } {
        sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
        other => check(other, what).map(|()| true),
    }
}

/// A word that streams can wait for, and the value it has had last.
struct Word {
    host: &'static AtomicU64,
    device: sys::CUdeviceptr,
}

/// Words that nobody uses now. What they count only grows, so an old wait is over for good.
static WORDS: Mutex<VecDeque<Word>> = Mutex::new(VecDeque::new());

/// Bytes of words made at once: more than are ever in use, since pinning may have to wait for the device.
const PAGE: usize = 64 << 10;

impl Word {
    fn take() -> Result<Word, Error> {
        let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
        if words.is_empty() {
            words.extend(Word::page()?);
        }
        Ok(words.pop_front().expect("a page has words"))
    }

    /// A page of words, pinned for the life of the process. Shared, so that a fork does not part it from the device.
    fn page() -> Result<Vec<Word>, Error> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        // SAFETY: new memory, wherever the kernel likes.
        let page = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                PAGE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }
        .map_err(|e| Error::new(Kind::Memory, format!("no page for marks: {e}"), ""))?;
        let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
        check(
            // SAFETY: the page is ours and is never unmapped.
            unsafe { sys::cuMemHostRegister_v2(page, PAGE, flags) },
            "pinning a page",
        )?;
        let mut device = 0;
        check(
            // SAFETY: the page has just been registered.
            unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut device, page, 0) },
            "asking for a page's device address",
        )?;
        let word = |i: usize| Word {
            // SAFETY: inside the page, aligned, zero, and never unmapped.
            host: unsafe { &*page.cast::<AtomicU64>().add(i) },
            device: device + 8 * i as u64,
        };
        Ok((0..PAGE / 8).map(word).collect())
    }
}

/// What later work on a stream waits for.
pub struct Mark {
    word: Option<Word>,
    value: u64,
    context: Context,
    /// Whether the device's streams can wait for a word by themselves.
    by_itself: bool,
    /// A forked child shares the word, which is the parent's business.
    process: u32,
}

impl Mark {
    /// A mark that is not released.
    pub fn new(context: Context) -> Result<Arc<Mark>, Error> {
        let _entered = context.enter()?;
        let able = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS;
        let word = Word::take()?;
        Ok(Arc::new(Mark {
            value: word.host.load(Ordering::Relaxed) + 1,
            word: Some(word),
            context,
            process: std::process::id(),
            by_itself: context.attribute(able)? != 0,
        }))
    }

    fn word(&self) -> &Word {
        self.word.as_ref().expect("given back on drop only")
    }

    /// What `stream` is given from now on waits until the mark is released. Where the device's streams cannot, the host does.
    pub fn block(&self, stream: Stream) -> Result<(), Error> {
        let _entered = self.context.enter()?;
        stream.refuse_capture()?;
        if self.is_released() {
            return Ok(());
        }
        if self.by_itself {
            let when = sys::CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_GEQ as u32;
            return check(
                // SAFETY: the word is pinned, and stays so.
                unsafe {
                    sys::cuStreamWaitValue64_v2(stream.0, self.word().device, self.value, when)
                },
                "having the stream wait for the result",
            );
        }
        // A host function that waits could stand in front of the very work it waits for: the driver runs them one after the other. So the
        // host waits, which is slow and cannot go wrong.
        while !self.is_released() {
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    /// Whether streams go on.
    pub fn is_released(&self) -> bool {
        self.word().host.load(Ordering::Acquire) >= self.value
    }

    /// Streams go on.
    pub fn release(&self) {
        if self.process == std::process::id() {
            self.word().host.fetch_max(self.value, Ordering::Release);
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.release();
        if let (Some(word), Ok(mut words)) = (self.word.take(), WORDS.lock()) {
            words.push_back(word);
        }
    }
}
