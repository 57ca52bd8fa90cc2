//! Contexts: a device's primary one, which is retained and released, and those that are created; and which of them is a thread's current one.
//! It knows what else belongs to a context only to take it along at the end. Invariant: a broken context stays broken until its end.

use crate::{
    code::{
        Answer, CONTEXT_IS_DESTROYED, Code, ILLEGAL_ADDRESS, INVALID_CONTEXT, INVALID_VALUE,
        PRIMARY_CONTEXT_ACTIVE,
    },
    device,
    driver::{State, VERSION, changed, driver, state, wait_for},
    export::{Out, exports},
    host_function::HostThread,
    misuse::misuse,
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    ffi::c_void,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A context's handle as the caller holds it; 0 is none.
pub type ContextHandle = usize;

/// What the threads of a context's streams see of it.
#[derive(Default)]
pub struct Shared {
    /// Nothing more runs in it: a copy failed, or it was destroyed.
    pub broken: AtomicBool,
    /// Where its host functions run.
    pub host: HostThread,
}

struct Context {
    device: i32,
    flags: u32,
    /// How often it is retained, where it is a primary one.
    retained: Option<usize>,
    shared: Arc<Shared>,
}

/// The contexts that there are.
#[derive(Default)]
pub struct Contexts {
    live: BTreeMap<ContextHandle, Context>,
    made: usize,
    /// Of the primary contexts, by device, for their next activation.
    primary_flags: BTreeMap<i32, u32>,
}

impl Contexts {
    /// What a stream's thread needs of its context.
    pub fn shared(&self, context: ContextHandle) -> Option<Arc<Shared>> {
        self.live.get(&context).map(|c| c.shared.clone())
    }

    pub fn device(&self, context: ContextHandle) -> Option<i32> {
        self.live.get(&context).map(|c| c.device)
    }

    fn usable(&self, context: ContextHandle) -> Answer {
        let context = self.live.get(&context).ok_or(CONTEXT_IS_DESTROYED)?;
        if context.shared.broken.load(Ordering::Acquire) {
            Err(ILLEGAL_ADDRESS)
        } else {
            Ok(())
        }
    }

    fn is_known(&self, context: ContextHandle) -> bool {
        let primary = (0..driver().settings.devices).any(|device| primary(device) == context);
        primary || self.live.contains_key(&context)
    }
}

thread_local! {
    static STACK: RefCell<Vec<ContextHandle>> = const { RefCell::new(Vec::new()) };
}

fn top() -> ContextHandle {
    STACK.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

/// The current context, for calls that need one whether or not it is broken.
pub fn current_even_broken(state: &State) -> Result<ContextHandle, Code> {
    match top() {
        0 => misuse("no context is current"),
        context if state.contexts.live.contains_key(&context) => Ok(context),
        _ => Err(CONTEXT_IS_DESTROYED),
    }
}

/// The current context, for calls that need one.
pub fn current(state: &State) -> Result<ContextHandle, Code> {
    let context = current_even_broken(state)?;
    state.contexts.usable(context)?;
    Ok(context)
}

/// Whether a call that has done its work in this context says so, or that the context is broken.
pub fn answer_in(state: &State, context: ContextHandle) -> Answer {
    state.contexts.usable(context)
}

/// A device's primary context has the same handle each time.
fn primary(device: i32) -> ContextHandle {
    0x4000_0000 + 0x100 * device as usize
}

fn make(
    state: &mut State,
    handle: ContextHandle,
    device: i32,
    flags: u32,
    retained: Option<usize>,
) {
    if !driver().settings.contexts {
        misuse(format!(
            "a context on device {device} is made, and STANDIN_CONTEXTS=0 says that nobody may"
        ));
    }
    let context = Context {
        device,
        flags,
        retained,
        shared: Arc::default(),
    };
    state.contexts.live.insert(handle, context);
    state.counts.contexts_created += 1;
}

fn end(state: &mut State, handle: ContextHandle) {
    let Some(context) = state.contexts.live.remove(&handle) else {
        return;
    };
    context.shared.broken.store(true, Ordering::Release);
    state.counts.abandoned_streams += state.streams.end_of_context(handle);
    state.counts.abandoned_events += state.events.end_of_context(handle);
    state.counts.abandoned_allocations += state.memory.end_of_context(handle);
    let (registrations, bytes) = state.registrations.end_of_context(handle);
    state.counts.abandoned_registrations += registrations;
    state.counts.abandoned_registered_bytes += bytes;
    changed();
}

fn retain(out: &Out<ContextHandle>, device: i32) -> Answer {
    let (device, mut state) = (device::checked(device)?, state());
    let handle = primary(device);
    match state.contexts.live.get_mut(&handle) {
        Some(context) => *context.retained.as_mut().expect("a primary context") += 1,
        None => {
            let flags = state
                .contexts
                .primary_flags
                .get(&device)
                .copied()
                .unwrap_or(0);
            make(&mut state, handle, device, flags, Some(1));
        }
    }
    out.give(handle)
}

fn release(device: i32) -> Answer {
    let (device, mut state) = (device::checked(device)?, state());
    let Some(context) = state.contexts.live.get_mut(&primary(device)) else {
        misuse(format!(
            "the primary context of device {device} is released more often than it was retained"
        ));
    };
    let retained = context.retained.as_mut().expect("a primary context");
    *retained -= 1;
    if *retained == 0 {
        end(&mut state, primary(device));
    }
    Ok(())
}

fn set_primary_flags(device: i32, flags: u32) -> Answer {
    let (device, mut state) = (device::checked(device)?, state());
    if state
        .contexts
        .live
        .get(&primary(device))
        .is_some_and(|c| c.flags != flags)
    {
        return Err(PRIMARY_CONTEXT_ACTIVE);
    }
    state.contexts.primary_flags.insert(device, flags);
    Ok(())
}

fn primary_state(device: i32, flags: &Out<u32>, active: &Out<i32>) -> Answer {
    let (device, state) = (device::checked(device)?, state());
    let context = state.contexts.live.get(&primary(device));
    flags.give_if_wanted(context.map_or_else(
        || {
            state
                .contexts
                .primary_flags
                .get(&device)
                .copied()
                .unwrap_or(0)
        },
        |c| c.flags,
    ));
    active.give_if_wanted(i32::from(context.is_some()));
    Ok(())
}

fn create(out: &Out<ContextHandle>, flags: u32, device: i32) -> Answer {
    let (device, mut state) = (device::checked(device)?, state());
    state.contexts.made += 1;
    let handle = 0x4100_0000 + 0x100 * state.contexts.made;
    make(&mut state, handle, device, flags, None);
    STACK.with_borrow_mut(|stack| stack.push(handle));
    out.give(handle)
}

fn destroy(context: ContextHandle) -> Answer {
    let mut state = state();
    match state.contexts.live.get(&context) {
        Some(c) if c.retained.is_none() => end(&mut state, context),
        _ => misuse(format!(
            "context {context:#x} is destroyed: it is a primary one, was destroyed before, or is none"
        )),
    }
    if top() == context {
        STACK.with_borrow_mut(|stack| stack.pop());
    }
    Ok(())
}

fn set_current(context: ContextHandle) -> Answer {
    if context != 0 && !state().contexts.is_known(context) {
        return Err(INVALID_CONTEXT);
    }
    STACK.with_borrow_mut(|stack| {
        stack.pop();
        if context != 0 {
            stack.push(context);
        }
    });
    Ok(())
}

fn push(context: ContextHandle) -> Answer {
    if context == 0 || !state().contexts.is_known(context) {
        return Err(INVALID_CONTEXT);
    }
    STACK.with_borrow_mut(|stack| stack.push(context));
    Ok(())
}

fn pop(out: &Out<ContextHandle>) -> Answer {
    let context = STACK
        .with_borrow_mut(|stack| stack.pop())
        .ok_or(INVALID_CONTEXT)?;
    out.give_if_wanted(context);
    Ok(())
}

fn current_device(out: &Out<i32>) -> Answer {
    let state = state();
    let context = top();
    if context == 0 {
        return Err(INVALID_CONTEXT);
    }
    out.give(state.contexts.device(context).ok_or(CONTEXT_IS_DESTROYED)?)
}

fn synchronize() -> Answer {
    let state = state();
    let context = current(&state)?;
    let points = state.streams.ends_of_context(context)?;
    wait_for(state, &points).map(|_| ())
}

fn version(context: ContextHandle, out: &Out<u32>) -> Answer {
    if context != 0 && !state().contexts.is_known(context) {
        return Err(INVALID_CONTEXT);
    }
    out.give(VERSION as u32)
}

fn set_flags(flags: u32) -> Answer {
    let mut state = state();
    let context = current(&state)?;
    state
        .contexts
        .live
        .get_mut(&context)
        .expect("the current one")
        .flags = flags;
    Ok(())
}

fn flags(out: &Out<u32>) -> Answer {
    let state = state();
    out.give(state.contexts.live[&current(&state)?].flags)
}

exports! {
    fn cuDevicePrimaryCtxRetain(context: Out<ContextHandle>, device: i32) { retain(&context, device) }
    fn cuDevicePrimaryCtxRelease_v2(device: i32) { release(device) }
    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) { primary_state(device, &flags, &active) }
    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) { set_primary_flags(device, flags) }
    fn cuCtxCreate_v2(context: Out<ContextHandle>, flags: u32, device: i32) { create(&context, flags, device) }
    fn cuCtxCreate_v3(context: Out<ContextHandle>, _affinities: *mut c_void, count: i32, flags: u32, device: i32) {
        if count != 0 {
            return Err(INVALID_VALUE);
        }
        create(&context, flags, device)
    }
    fn cuCtxDestroy_v2(context: ContextHandle) { destroy(context) }
    fn cuCtxGetCurrent(context: Out<ContextHandle>) { context.give(top()) }
    fn cuCtxSetCurrent(context: ContextHandle) { set_current(context) }
    fn cuCtxPushCurrent_v2(context: ContextHandle) { push(context) }
    fn cuCtxPopCurrent_v2(context: Out<ContextHandle>) { pop(&context) }
    fn cuCtxGetDevice(device: Out<i32>) { current_device(&device) }
    fn cuCtxSynchronize() { synchronize() }
    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current(&state())?;
        least.give_if_wanted(0);
        greatest.give_if_wanted(-5);
        Ok(())
    }
    fn cuCtxGetApiVersion(context: ContextHandle, version_out: Out<u32>) { version(context, &version_out) }
    fn cuCtxSetFlags(flags: u32) { set_flags(flags) }
    fn cuCtxGetFlags(out: Out<u32>) { flags(&out) }
}
