//! Stream memory operations: a stream waits for a word in pinned host memory, or writes one. It knows words and comparisons, and leaves the waiting to `worker`.
//! Invariant: a queued word is aligned and wholly pinned.

use crate::{
    act::{Act, Test},
    code::{Answer, Code, INVALID_VALUE, NOT_SUPPORTED},
    driver::{State, driver, state},
    export::exports,
    stream::{self, StreamHandle},
};

/// The flag that asks for a flush of remote writes after a wait: there are none here.
const FLUSH: u32 = 1 << 30;

fn prepared(
    state: &mut State,
    stream: StreamHandle,
    at: usize,
    wide: bool,
) -> Result<StreamHandle, Code> {
    let stream = stream::resolve_for_work(state, stream)?;
    let bytes = if wide { 8 } else { 4 };
    if !driver().settings.memops {
        return Err(NOT_SUPPORTED);
    }
    if !at.is_multiple_of(bytes) || !state.registrations.is_pinned(at, bytes)? {
        return Err(INVALID_VALUE);
    }
    Ok(stream)
}

fn wait(stream: StreamHandle, at: usize, value: u64, flags: u32, wide: bool) -> Answer {
    let mut state = state();
    let stream = prepared(&mut state, stream, at, wide)?;
    let test = match flags & !FLUSH {
        0 => Test::AtLeast,
        1 => Test::Equal,
        2 => Test::And,
        3 => Test::Nor,
        _ => return Err(INVALID_VALUE),
    };
    stream::enqueue(
        &mut state,
        stream,
        Act::WaitValue {
            at,
            value,
            test,
            wide,
        },
        &[],
    );
    Ok(())
}

fn write(stream: StreamHandle, at: usize, value: u64, wide: bool) -> Answer {
    let mut state = state();
    let stream = prepared(&mut state, stream, at, wide)?;
    stream::enqueue(&mut state, stream, Act::WriteValue { at, value, wide }, &[]);
    Ok(())
}

exports! {
    fn cuStreamWaitValue32_v2(stream: StreamHandle, at: usize, value: u32, flags: u32) { wait(stream, at, u64::from(value), flags, false) }
    fn cuStreamWaitValue64_v2(stream: StreamHandle, at: usize, value: u64, flags: u32) { wait(stream, at, value, flags, true) }
    fn cuStreamWriteValue32_v2(stream: StreamHandle, at: usize, value: u32, _flags: u32) { write(stream, at, u64::from(value), false) }
    fn cuStreamWriteValue64_v2(stream: StreamHandle, at: usize, value: u64, _flags: u32) { write(stream, at, value, true) }
}
