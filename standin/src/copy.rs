//! Copies and fills as callers ask for them: what each side is, whether the call may return before the end, and what is to go wrong on purpose.
//! It moves no bytes (`carry` does). Invariant: what is queued has been checked at the time of the call.

use crate::{
    act::{Act, Copy, Side, Trouble, Way},
    carry,
    code::{Answer, Code},
    driver::{State, driver, state, wait_for},
    export::exports,
    misuse::{misuse, range},
    settings::Fault,
    stream::{self, StreamHandle},
};

/// What a call says about one side of its copy.
#[derive(Clone, Copy)]
enum Place {
    Device(usize),
    Host(usize),
    /// The address says what it is.
    Any(usize),
}

impl Place {
    fn side(self, state: &State, len: usize) -> Result<Side, Code> {
        match self {
            Self::Any(at) if state.memory.is_device(at) => Self::Device(at).side(state, len),
            Self::Any(at) => Self::Host(at).side(state, len),
            Self::Device(at) => {
                state.memory.demand(at, len);
                Ok(Side::Device(at))
            }
            Self::Host(at) => {
                if state.memory.is_device(at) {
                    misuse(format!(
                        "{} is device memory where host memory belongs",
                        range(at, len)
                    ));
                }
                let pinned = state.registrations.is_pinned(at, len)?;
                Ok(if pinned {
                    Side::Pinned(at)
                } else {
                    Side::Pageable(at)
                })
            }
        }
    }
}

fn trouble(state: &mut State) -> Trouble {
    state.counts.asynchronous += 1;
    match driver().settings.fault {
        Some(Fault::Copy(n)) if n == state.counts.asynchronous => Trouble::Break,
        Some(Fault::Hang(n)) if n == state.counts.asynchronous => Trouble::Hang,
        _ => Trouble::None,
    }
}

fn copy(to: Place, from: Place, len: usize, stream: StreamHandle, asynchronous: bool) -> Answer {
    let mut state = state();
    let stream = stream::resolve_for_work(&mut state, stream)?;
    if len == 0 {
        return Ok(());
    }
    let (to, from) = (to.side(&state, len)?, from.side(&state, len)?);
    let way = match (from.is_device(), to.is_device()) {
        (true, false) => Way::DeviceToHost,
        (false, true) => Way::HostToDevice,
        (true, true) => Way::DeviceToDevice,
        (false, false) => Way::HostToHost,
    };
    let trouble = if asynchronous {
        trouble(&mut state)
    } else {
        Trouble::None
    };
    let pageable = [to, from]
        .iter()
        .any(|side| matches!(side, Side::Pageable(_)));
    if asynchronous && pageable {
        state.counts.pageable += 1;
    }
    let mut job = Copy {
        to,
        from,
        len,
        way,
        spoil: way == Way::DeviceToHost && !pageable,
        trouble,
    };
    let before = stream::before(&state, stream);
    let free = state.streams.user_of(to.address(), len).is_none()
        && !state.streams.waits_for_the_host(&before, &mut Vec::new());
    if job.spoil && free && state.streams.live[&stream].capture.is_none() {
        // The device decides alone when it begins: from here on nobody may read the destination.
        drop(state);
        carry::spoil(&job);
        job.spoil = false;
        state = crate::driver::state();
    }
    let end = stream::enqueue(&mut state, stream, Act::Copy(job), &[]);
    if asynchronous && !pageable {
        return Ok(());
    }
    wait_for(state, &[end]).map(|_| ())
}

fn fill(
    to: usize,
    pattern: [u8; 4],
    len: usize,
    stream: StreamHandle,
    asynchronous: bool,
) -> Answer {
    let mut state = state();
    let stream = stream::resolve_for_work(&mut state, stream)?;
    if len == 0 {
        return Ok(());
    }
    state.memory.demand(to, len);
    let end = stream::enqueue(&mut state, stream, Act::Fill { to, pattern, len }, &[]);
    if asynchronous {
        return Ok(());
    }
    wait_for(state, &[end]).map(|_| ())
}

exports! {
    fn cuMemcpyAsync(to: usize, from: usize, len: usize, stream: StreamHandle) { copy(Place::Any(to), Place::Any(from), len, stream, true) }
    fn cuMemcpy(to: usize, from: usize, len: usize) { copy(Place::Any(to), Place::Any(from), len, 0, false) }
    fn cuMemcpyHtoDAsync_v2(to: usize, from: usize, len: usize, stream: StreamHandle) { copy(Place::Device(to), Place::Host(from), len, stream, true) }
    fn cuMemcpyDtoHAsync_v2(to: usize, from: usize, len: usize, stream: StreamHandle) { copy(Place::Host(to), Place::Device(from), len, stream, true) }
    fn cuMemcpyDtoDAsync_v2(to: usize, from: usize, len: usize, stream: StreamHandle) { copy(Place::Device(to), Place::Device(from), len, stream, true) }
    fn cuMemcpyHtoD_v2(to: usize, from: usize, len: usize) { copy(Place::Device(to), Place::Host(from), len, 0, false) }
    fn cuMemcpyDtoH_v2(to: usize, from: usize, len: usize) { copy(Place::Host(to), Place::Device(from), len, 0, false) }
    fn cuMemcpyDtoD_v2(to: usize, from: usize, len: usize) { copy(Place::Device(to), Place::Device(from), len, 0, false) }
    fn cuMemsetD8_v2(to: usize, value: u8, count: usize) { fill(to, [value; 4], count, 0, false) }
    fn cuMemsetD8Async(to: usize, value: u8, count: usize, stream: StreamHandle) { fill(to, [value; 4], count, stream, true) }
    fn cuMemsetD32_v2(to: usize, value: u32, count: usize) { fill(to, value.to_ne_bytes(), 4 * count, 0, false) }
    fn cuMemsetD32Async(to: usize, value: u32, count: usize, stream: StreamHandle) { fill(to, value.to_ne_bytes(), 4 * count, stream, true) }
}
