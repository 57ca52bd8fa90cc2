//! Pinned host memory: ranges that callers have registered, or had allocated pinned. It knows nothing of copies but whether a stream still uses a range.
//! Invariant: ranges do not overlap.

use crate::{
    carry,
    code::{
        Answer, Code, HOST_MEMORY_ALREADY_REGISTERED, HOST_MEMORY_NOT_REGISTERED, INVALID_VALUE,
        OUT_OF_MEMORY,
    },
    context::{self, ContextHandle},
    driver::{Locked, State, driver, state, wait},
    export::{Out, exports},
    misuse::{misuse, range},
    settings::Fault,
};
use std::collections::BTreeMap;

/// What fresh pinned memory holds, for the same reason as device memory does.
const FRESH: u8 = 0x7d;

struct Registration {
    len: usize,
    flags: u32,
    context: ContextHandle,
    /// It is ours: `cuMemHostAlloc` made it.
    allocated: bool,
}

/// The pinned memory that there is, by address.
#[derive(Default)]
pub struct Registrations {
    live: BTreeMap<usize, Registration>,
    asked: u64,
}

/// A pinned range that an address lies in.
pub struct Pinned {
    pub start: usize,
    pub len: usize,
    pub context: ContextHandle,
}

impl Registrations {
    /// How many there are, and of how many bytes.
    pub fn len_and_bytes(&self) -> (usize, usize) {
        (self.live.len(), self.live.values().map(|r| r.len).sum())
    }

    fn meets(&self, start: usize, len: usize) -> bool {
        let last = self.live.range(..start + len).next_back();
        last.is_some_and(|(at, registration)| at + registration.len > start)
    }

    pub fn find(&self, at: usize) -> Option<Pinned> {
        let (start, own) = self.live.range(..=at).next_back()?;
        (at - start < own.len).then_some(Pinned {
            start: *start,
            len: own.len,
            context: own.context,
        })
    }

    /// Whether a range is pinned; one that is so in part, or by two, is an invalid value.
    pub fn is_pinned(&self, at: usize, len: usize) -> Result<bool, Code> {
        match self.find(at) {
            Some(own) if at + len <= own.start + own.len => Ok(true),
            _ if self.meets(at, len) => Err(INVALID_VALUE),
            _ => Ok(false),
        }
    }

    /// Forgets a context's; says how many, and of how many bytes.
    pub fn end_of_context(&mut self, context: ContextHandle) -> (usize, usize) {
        let before = self.len_and_bytes();
        self.live.retain(|_, own| own.context != context);
        let after = self.len_and_bytes();
        (before.0 - after.0, before.1 - after.1)
    }
}

fn register(at: usize, len: usize, flags: u32) -> Answer {
    let mut state = state();
    let context = context::current(&state)?;
    state.registrations.asked += 1;
    if driver().settings.fault == Some(Fault::Register(state.registrations.asked)) {
        return Err(OUT_OF_MEMORY);
    }
    if at == 0
        || len == 0
        || at.checked_add(len).is_none()
        || flags & !0xf != 0
        || state.memory.is_device(at)
        || !carry::is_mapped(at, len)
    {
        return Err(INVALID_VALUE);
    }
    if state.registrations.meets(at, len) {
        return Err(HOST_MEMORY_ALREADY_REGISTERED);
    }
    state.registrations.live.insert(
        at,
        Registration {
            len,
            flags,
            context,
            allocated: false,
        },
    );
    Ok(())
}

/// Takes a registration out that no stream may use any more. In a broken context streams are about to be done with it.
fn take(
    mut state: Locked,
    at: usize,
    allocated: bool,
    what: &str,
) -> Result<(Locked, Registration), Code> {
    let find = |state: &State| {
        let own = state.registrations.live.get(&at);
        let own = own.filter(|own| own.allocated == allocated);
        own.map(|own| (own.len, own.context))
    };
    loop {
        let (len, context) = find(&state).ok_or(HOST_MEMORY_NOT_REGISTERED)?;
        let Some(user) = state.streams.user_of(at, len) else {
            let own = state.registrations.live.remove(&at);
            return Ok((state, own.expect("it was just there")));
        };
        if context::answer_in(&state, context).is_ok() {
            misuse(format!(
                "pinned memory {} is {what} while a stream still uses it: {user}",
                range(at, len)
            ));
        }
        state = wait(state);
    }
}

fn unregister(at: usize) -> Answer {
    let state = state();
    let context = context::current_even_broken(&state)?;
    let (state, _) = take(state, at, false, "unregistered")?;
    context::answer_in(&state, context)
}

fn allocate(out: &Out<usize>, len: usize, flags: u32) -> Answer {
    let mut state = state();
    let context = context::current(&state)?;
    if len == 0 || flags & !7 != 0 {
        return Err(INVALID_VALUE);
    }
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            rights,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(OUT_OF_MEMORY);
    }
    // SAFETY: the mapping is new, ours alone, and of this length.
    unsafe { std::ptr::write_bytes(at.cast::<u8>(), FRESH, len) };
    state.registrations.live.insert(
        at as usize,
        Registration {
            len,
            flags,
            context,
            allocated: true,
        },
    );
    out.give(at as usize)
}

fn free(at: usize) -> Answer {
    let state = state();
    let context = context::current_even_broken(&state)?;
    let Ok((state, own)) = take(state, at, true, "freed") else {
        misuse(format!(
            "{at:#x} is freed and is not memory of cuMemHostAlloc, or was freed before"
        ));
    };
    // SAFETY: the range is a mapping of `allocate`, and no operation uses it any more.
    unsafe { libc::munmap(at as *mut libc::c_void, own.len) };
    context::answer_in(&state, context)
}

fn device_pointer(out: &Out<usize>, at: usize) -> Answer {
    let state = state();
    context::current(&state)?;
    state.registrations.find(at).ok_or(INVALID_VALUE)?;
    out.give(at)
}

fn flags(out: &Out<u32>, at: usize) -> Answer {
    let state = state();
    context::current(&state)?;
    let own = state.registrations.find(at).ok_or(INVALID_VALUE)?;
    out.give(state.registrations.live[&own.start].flags)
}

exports! {
    fn cuMemHostRegister_v2(at: usize, len: usize, flags: u32) { register(at, len, flags) }
    fn cuMemHostUnregister(at: usize) { unregister(at) }
    fn cuMemHostAlloc(out: Out<usize>, len: usize, flags: u32) { allocate(&out, len, flags) }
    fn cuMemFreeHost(at: usize) { free(at) }
    fn cuMemHostGetDevicePointer_v2(out: Out<usize>, at: usize, _flags: u32) { device_pointer(&out, at) }
    fn cuMemHostGetFlags(out: Out<u32>, at: usize) { flags(&out, at) }
}
