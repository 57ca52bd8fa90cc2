//! Device memory: allocations that the host cannot access at their device address, because that is a mapping without rights; a second mapping of
//! the same pages is for the stand-in's own copies. It knows nothing of streams but whether they still use a range. Invariant: a device address is never used again, so
//! that what was freed can be told from what never was.

use crate::{
    act::Act,
    code::{Answer, Code, INVALID_VALUE, OUT_OF_MEMORY},
    context::{self, ContextHandle},
    device,
    driver::{State, state, wait_for},
    export::{Out, exports},
    misuse::{misuse, range},
    stream::{self, StreamHandle},
};
use std::collections::BTreeMap;

/// What fresh device memory holds: huge or not a number as floating point, large as an integer, so that no sum hides it.
const FRESH: u8 = 0x7e;

const PAGE: usize = 4096;

struct Allocation {
    len: usize,
    /// Where we can access it.
    access: usize,
    context: ContextHandle,
    /// `cuMemFreeAsync` has been called, and has not been carried out yet.
    leaving: bool,
}

impl Allocation {
    fn mapped(&self) -> usize {
        self.len.next_multiple_of(PAGE)
    }
}

/// The device memory that there is, by device address.
#[derive(Default)]
pub struct Memory {
    live: BTreeMap<usize, Allocation>,
    /// Length by address.
    freed: BTreeMap<usize, usize>,
}

/// Maps new pages twice: without rights, and for us.
fn map(len: usize) -> Result<(usize, usize), Code> {
    let shared = |descriptor, rights| {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                rights,
                libc::MAP_SHARED,
                descriptor,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            None
        } else {
            Some(at as usize)
        }
    };
    // SAFETY: the name is a string with its zero.
    let descriptor =
        unsafe { libc::memfd_create(c"standin device memory".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: ftruncate takes numbers alone, and fails on a descriptor that is none.
    let sized = unsafe { libc::ftruncate(descriptor, len as libc::off_t) } == 0;
    let pair = if sized {
        shared(descriptor, libc::PROT_NONE)
            .zip(shared(descriptor, libc::PROT_READ | libc::PROT_WRITE))
    } else {
        None
    };
    // SAFETY: the descriptor is ours and used no more; mappings outlive it.
    unsafe { libc::close(descriptor) };
    pair.ok_or(OUT_OF_MEMORY)
}

/// Gives the pages back and keeps the device address.
fn unmap(device: usize, access: usize, len: usize) {
    // SAFETY: both ranges are an allocation's own mappings, which nobody uses any more: the caller has looked.
    let kept = unsafe {
        libc::munmap(access as *mut libc::c_void, len);
        libc::mmap(
            device as *mut libc::c_void,
            len,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    assert!(
        kept as usize == device,
        "a freed device address could not be kept"
    );
}

impl Memory {
    /// Allocations that nobody has asked to free.
    pub fn kept(&self) -> usize {
        self.live.values().filter(|a| !a.leaving).count()
    }

    fn bytes(&self) -> usize {
        self.live.values().map(Allocation::mapped).sum()
    }

    /// Allocates; a length of 0 is an invalid value.
    fn allocate(&mut self, context: ContextHandle, len: usize) -> Result<usize, Code> {
        if len == 0 {
            return Err(INVALID_VALUE);
        }
        if self.bytes().saturating_add(len) > device::TOTAL_BYTES {
            return Err(OUT_OF_MEMORY);
        }
        let mapped = len.next_multiple_of(PAGE);
        let (device, access) = map(mapped)?;
        // SAFETY: the mapping is new, ours alone, and of this length.
        unsafe { std::ptr::write_bytes(access as *mut u8, FRESH, mapped) };
        self.live.insert(
            device,
            Allocation {
                len,
                access,
                context,
                leaving: false,
            },
        );
        Ok(device)
    }

    /// The allocation that an address lies in: its start, length and context.
    pub fn find(&self, at: usize) -> Option<(usize, usize, ContextHandle)> {
        let (start, allocation) = self.live.range(..=at).next_back()?;
        (at - start < allocation.len.max(1)).then_some((*start, allocation.len, allocation.context))
    }

    /// Whether an address is or was device memory, or lies behind it in its last page.
    pub fn is_device(&self, at: usize) -> bool {
        let live = self
            .live
            .range(..=at)
            .next_back()
            .is_some_and(|(start, a)| at - start < a.mapped());
        live || self
            .freed
            .range(..=at)
            .next_back()
            .is_some_and(|(start, len)| at - start < *len)
    }

    /// Ends the process unless all bytes are of one allocation that is there to stay.
    pub fn demand(&self, at: usize, len: usize) {
        self.access_unless(at, len, |allocation| allocation.leaving);
    }

    /// Where we can access these bytes; ends the process unless they are of one allocation.
    pub fn access(&self, at: usize, len: usize) -> usize {
        self.access_unless(at, len, |_| false)
    }

    fn access_unless(&self, at: usize, len: usize, refused: impl Fn(&Allocation) -> bool) -> usize {
        let wanted = range(at, len);
        let Some((start, allocation)) = self
            .live
            .range(..=at)
            .next_back()
            .filter(|(start, a)| at - *start < a.mapped())
        else {
            if self.is_device(at) {
                misuse(format!("device memory {wanted} is freed"));
            }
            misuse(format!("{wanted} is not device memory"));
        };
        if refused(allocation) {
            misuse(format!(
                "device memory {wanted} is used after cuMemFreeAsync"
            ));
        }
        if at - start + len > allocation.len {
            misuse(format!(
                "device memory {wanted} goes past the end of the allocation {}",
                range(*start, allocation.len)
            ));
        }
        allocation.access + (at - start)
    }

    /// The allocation that starts here, for who frees it.
    fn departing(&mut self, at: usize) -> &mut Allocation {
        let before = self.freed.contains_key(&at);
        match self.live.get_mut(&at) {
            Some(allocation) if !allocation.leaving => allocation,
            None if !before => misuse(format!(
                "{at:#x} is freed and is not the start of device memory"
            )),
            _ => misuse(format!("device memory at {at:#x} is freed twice")),
        }
    }

    fn remove(&mut self, at: usize) {
        let allocation = self.live.remove(&at).expect("an allocation that is there");
        unmap(at, allocation.access, allocation.mapped());
        self.freed.insert(at, allocation.mapped());
    }

    /// A context's allocations are no more; says how many nobody had asked to free. Their pages stay, for a copy that is just running.
    pub fn end_of_context(&mut self, context: ContextHandle) -> usize {
        let of_context = |a: &Allocation| a.context == context;
        let gone: Vec<usize> = self
            .live
            .iter()
            .filter(|(_, a)| of_context(a))
            .map(|(at, _)| *at)
            .collect();
        let mut kept = 0;
        for at in gone {
            let allocation = self.live.remove(&at).expect("it was just there");
            kept += usize::from(!allocation.leaving);
            self.freed.insert(at, allocation.mapped());
        }
        kept
    }
}

fn demand_unused(state: &State, at: usize) {
    let (start, len, _) = state.memory.find(at).expect("an allocation that is there");
    if let Some(user) = state.streams.user_of(start, len) {
        misuse(format!(
            "device memory {} is freed while a stream still uses it: {user}",
            range(start, len)
        ));
    }
}

fn allocate(out: &Out<usize>, len: usize) -> Answer {
    let mut state = state();
    let context = context::current(&state)?;
    out.give(state.memory.allocate(context, len)?)
}

fn allocate_in_order(out: &Out<usize>, len: usize, stream: StreamHandle) -> Answer {
    let mut state = state();
    let stream = stream::resolve_for_work(&mut state, stream)?;
    let context = state.streams.live[&stream].context;
    out.give(state.memory.allocate(context, len)?)
}

fn free(at: usize) -> Answer {
    let mut state = state();
    let context = context::current_even_broken(&state)?;
    if at == 0 {
        return Ok(());
    }
    let own = state.memory.departing(at).context;
    if context::answer_in(&state, own).is_err() {
        // The pages stay for what may be running; nobody has left the memory behind.
        state.memory.departing(at).leaving = true;
    } else {
        // As the driver does: what uses the memory ends first.
        let points = state.streams.ends_of_context(own)?;
        state = wait_for(state, &points)?;
        state.memory.departing(at);
        demand_unused(&state, at);
        state.memory.remove(at);
    }
    context::answer_in(&state, context)
}

fn free_later(at: usize, stream: StreamHandle) -> Answer {
    let mut state = state();
    let stream = stream::resolve_for_work(&mut state, stream)?;
    state.memory.departing(at).leaving = true;
    stream::enqueue(&mut state, stream, Act::Free(at), &[]);
    Ok(())
}

/// `cuMemFreeAsync`, when its turn has come.
pub fn free_in_order(at: usize) {
    let mut state = state();
    // Its context may have ended meanwhile, and have taken it along.
    if state.memory.find(at).is_some() {
        demand_unused(&state, at);
        state.memory.remove(at);
    }
}

fn info(free: &Out<usize>, total: &Out<usize>) -> Answer {
    let state = state();
    context::current(&state)?;
    free.give(device::TOTAL_BYTES - state.memory.bytes())?;
    total.give(device::TOTAL_BYTES)
}

fn address_range(base: &Out<usize>, len: &Out<usize>, at: usize) -> Answer {
    let state = state();
    let (start, bytes, _) = state.memory.find(at).ok_or(crate::code::NOT_FOUND)?;
    base.give_if_wanted(start);
    len.give_if_wanted(bytes);
    Ok(())
}

exports! {
    fn cuMemAlloc_v2(out: Out<usize>, len: usize) { allocate(&out, len) }
    fn cuMemFree_v2(at: usize) { free(at) }
    fn cuMemAllocAsync(out: Out<usize>, len: usize, stream: StreamHandle) { allocate_in_order(&out, len, stream) }
    fn cuMemFreeAsync(at: usize, stream: StreamHandle) { free_later(at, stream) }
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) { info(&free, &total) }
    fn cuMemGetAddressRange_v2(base: Out<usize>, len: Out<usize>, at: usize) { address_range(&base, &len, at) }
}
