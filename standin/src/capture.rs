//! Stream capture, as much of it as shows that a stream is capturing: its work is swallowed, and at the end there is no graph.
//! It knows streams by handle. Invariant: a stream belongs to at most one capture.

use crate::{
    code::{
        Answer, Code, STREAM_CAPTURE_INVALIDATED, STREAM_CAPTURE_UNMATCHED,
        STREAM_CAPTURE_UNSUPPORTED,
    },
    driver::{State, state},
    export::{Out, exports},
    stream::{self, Kind, StreamHandle},
};
use std::cell::Cell;

/// `CUDA_ERROR_ILLEGAL_STATE`: begun twice, or ended without a beginning.
const ILLEGAL_STATE: Code = Code(401);

/// A stream's part in a capture.
#[derive(Clone, Copy)]
pub struct Capture {
    /// The stream where it began, which no other capture has at this time.
    pub origin: u64,
    pub invalid: bool,
}

/// The capture that a stream is in.
pub fn of(state: &State, stream: StreamHandle) -> Option<u64> {
    state.streams.live[&stream]
        .capture
        .map(|capture| capture.origin)
}

/// The stream has waited for an event of a capture, and belongs to it now.
pub fn join(state: &mut State, stream: StreamHandle, origin: u64) {
    let active = state
        .streams
        .live
        .get(&(origin as usize))
        .is_some_and(|s| s.capture.is_some());
    let own = state
        .streams
        .live
        .get_mut(&stream)
        .expect("a resolved stream");
    if active && own.capture.is_none() {
        own.capture = Some(Capture {
            origin,
            invalid: false,
        });
    }
}

/// Something that cannot be captured was asked of the stream.
pub fn invalidate(state: &mut State, stream: StreamHandle) {
    let Some(origin) = of(state, stream) else {
        return;
    };
    for capture in state
        .streams
        .live
        .values_mut()
        .filter_map(|s| s.capture.as_mut())
        .filter(|c| c.origin == origin)
    {
        capture.invalid = true;
    }
}

fn begin(handle: StreamHandle) -> Answer {
    let mut state = state();
    let stream = stream::resolve_for_work(&mut state, handle)?;
    let own = state
        .streams
        .live
        .get_mut(&stream)
        .expect("a resolved stream");
    if own.kind == Kind::Null {
        return Err(STREAM_CAPTURE_UNSUPPORTED);
    }
    if own.capture.is_some() {
        return Err(ILLEGAL_STATE);
    }
    own.capture = Some(Capture {
        origin: stream as u64,
        invalid: false,
    });
    Ok(())
}

fn end(handle: StreamHandle, graph: &Out<usize>) -> Answer {
    let mut state = state();
    let stream = stream::resolve_for_work(&mut state, handle)?;
    let capture = state.streams.live[&stream].capture.ok_or(ILLEGAL_STATE)?;
    if capture.origin != stream as u64 {
        return Err(STREAM_CAPTURE_UNMATCHED);
    }
    for own in state.streams.live.values_mut() {
        own.capture.take_if(|c| c.origin == capture.origin);
    }
    graph.give(0)?;
    if capture.invalid {
        Err(STREAM_CAPTURE_INVALIDATED)
    } else {
        Ok(())
    }
}

/// The driver's status (0 none, 1 active, 2 invalidated) and the capture's number.
fn status(handle: StreamHandle) -> Result<(u32, u64), Code> {
    let mut state = state();
    let stream = stream::resolve(&mut state, handle)?;
    let capture = state.streams.live[&stream].capture;
    Ok(capture.map_or((0, 0), |c| (1 + u32::from(c.invalid), c.origin)))
}

thread_local! {
    /// How this thread's calls bear on captures of others: 0 global, 1 thread-local, 2 relaxed. Kept, and nothing more.
    static MODE: Cell<u32> = const { Cell::new(0) };
}

exports! {
    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) { mode.give(MODE.replace(mode.read()?)) }
    fn cuStreamBeginCapture_v2(stream: StreamHandle, _mode: u32) { begin(stream) }
    fn cuStreamEndCapture(stream: StreamHandle, graph: Out<usize>) { end(stream, &graph) }
    fn cuStreamIsCapturing(stream: StreamHandle, out: Out<u32>) { out.give(status(stream)?.0) }
    fn cuStreamGetCaptureInfo_v2(
        stream: StreamHandle, out: Out<u32>, id: Out<u64>, graph: Out<usize>, dependencies: Out<usize>, count: Out<usize>
    ) {
        let (status, number) = status(stream)?;
        id.give_if_wanted(number);
        graph.give_if_wanted(0);
        dependencies.give_if_wanted(0);
        count.give_if_wanted(0);
        out.give(status)
    }
}
