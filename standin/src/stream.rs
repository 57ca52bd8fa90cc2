//! Streams: queues of operations, each with a thread that carries them out in order. It knows who waits for whom, including the old rule of the NULL stream,
//! and nothing of what operations do. Invariant: operation n of a stream is done exactly when `done >= n`, and a stream that is gone is done with everything.

use crate::{
    act::{Act, Operation, Touch},
    capture::Capture,
    code::{
        Answer, CONTEXT_IS_DESTROYED, Code, ILLEGAL_ADDRESS, INVALID_VALUE, NOT_READY,
        STREAM_CAPTURE_UNSUPPORTED,
    },
    context::{self, ContextHandle, Shared},
    driver::{State, changed, state, wait_for},
    export::{Out, current_call, exports},
    misuse::misuse,
    worker,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    thread::ThreadId,
};

/// A stream's handle. 0 and 1 are the current context's NULL stream, 2 that of the calling thread.
pub type StreamHandle = usize;

/// Operation `number` of a stream, counted from 1; 0 is before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub stream: StreamHandle,
    pub number: u64,
}

/// How a stream stands to the NULL stream of its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is the NULL stream.
    Null,
    /// One thread's own NULL stream, which waits for the context's as others do.
    Thread(ThreadId),
    /// It waits for the NULL stream, and the NULL stream for it.
    Blocking,
    /// Neither waits for the other.
    NonBlocking,
}

/// What is known of the operation that is being carried out.
pub struct Running {
    pub call: &'static str,
    pub touches: Vec<Touch>,
    pub waits_for_the_host: bool,
}

pub struct Stream {
    pub context: ContextHandle,
    pub shared: Arc<Shared>,
    pub kind: Kind,
    pub priority: i32,
    pub queue: VecDeque<Operation>,
    pub running: Option<Running>,
    pub submitted: u64,
    pub done: u64,
    /// Its thread ends with the last operation.
    pub destroyed: bool,
    pub capture: Option<Capture>,
}

/// The streams that there are.
#[derive(Default)]
pub struct Streams {
    pub live: BTreeMap<StreamHandle, Stream>,
    made: usize,
}

impl Streams {
    fn create(
        &mut self,
        context: ContextHandle,
        shared: Arc<Shared>,
        kind: Kind,
        priority: i32,
    ) -> StreamHandle {
        self.made += 1;
        let handle = 0x5000_0000 + 0x40 * self.made;
        let stream = Stream {
            context,
            shared,
            kind,
            priority,
            queue: VecDeque::new(),
            running: None,
            submitted: 0,
            done: 0,
            destroyed: false,
            capture: None,
        };
        self.live.insert(handle, stream);
        worker::start(handle, self.made as u64);
        handle
    }

    pub fn is_done(&self, point: Point) -> bool {
        self.live
            .get(&point.stream)
            .is_none_or(|s| s.done >= point.number)
    }

    /// Whether the stream's context is broken; one that is gone is not.
    pub fn is_broken(&self, stream: StreamHandle) -> bool {
        self.live
            .get(&stream)
            .is_some_and(|s| s.shared.broken.load(Ordering::Acquire))
    }

    fn end_of(&self, stream: StreamHandle) -> Point {
        Point {
            stream,
            number: self.live[&stream].submitted,
        }
    }

    fn of_context(&self, context: ContextHandle) -> impl Iterator<Item = (StreamHandle, &Stream)> {
        self.live
            .iter()
            .filter(move |(_, s)| s.context == context && !s.shared.broken.load(Ordering::Acquire))
            .map(|(handle, s)| (*handle, s))
    }

    /// The ends of all queues of a context; refused while one of them is capturing.
    pub fn ends_of_context(&self, context: ContextHandle) -> Result<Vec<Point>, Code> {
        if self.of_context(context).any(|(_, s)| s.capture.is_some()) {
            return Err(STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(self
            .of_context(context)
            .map(|(handle, _)| self.end_of(handle))
            .collect())
    }

    /// All streams of a context end; says how many their owner had not destroyed.
    pub fn end_of_context(&mut self, context: ContextHandle) -> usize {
        let mut kept = 0;
        for stream in self.live.values_mut().filter(|s| s.context == context) {
            kept += usize::from(stream.is_owned());
            stream.destroyed = true;
        }
        kept
    }

    /// Streams that callers have created and not destroyed.
    pub fn owned(&self) -> usize {
        self.live.values().filter(|s| s.is_owned()).count()
    }

    /// What new work in a stream has to wait for: the old rule of the NULL stream.
    fn implicit(&self, stream: StreamHandle) -> Vec<Point> {
        let own = &self.live[&stream];
        self.of_context(own.context)
            .filter(|(_, other)| match own.kind {
                Kind::Null => matches!(other.kind, Kind::Blocking | Kind::Thread(_)),
                Kind::Blocking | Kind::Thread(_) => other.kind == Kind::Null,
                Kind::NonBlocking => false,
            })
            .map(|(handle, _)| self.end_of(handle))
            .filter(|point| !self.is_done(*point))
            .collect()
    }

    /// Whether anything that is queued or running uses any of these bytes.
    pub fn user_of(&self, start: usize, len: usize) -> Option<&'static str> {
        let meets = |touches: &[Touch]| touches.iter().any(|t| t.meets(start, len));
        self.live.values().find_map(|stream| {
            let running = stream.running.as_ref();
            let running = running.filter(|r| meets(&r.touches)).map(|r| r.call);
            running.or_else(|| {
                stream
                    .queue
                    .iter()
                    .find(|operation| meets(&operation.act.touches()))
                    .map(|operation| operation.call)
            })
        })
    }

    /// Whether the host has a say in when work that is given to this stream now can begin.
    pub fn waits_for_the_host(&self, after: &[Point], seen: &mut Vec<StreamHandle>) -> bool {
        after
            .iter()
            .filter(|point| !self.is_done(**point))
            .any(|point| {
                if seen.contains(&point.stream) {
                    return false;
                }
                seen.push(point.stream);
                let stream = &self.live[&point.stream];
                let running = stream
                    .running
                    .as_ref()
                    .is_some_and(|r| r.waits_for_the_host);
                running
                    || stream.queue.iter().any(|o| {
                        o.act.waits_for_the_host() || self.waits_for_the_host(&o.after, seen)
                    })
            })
    }
}

impl Stream {
    fn is_owned(&self) -> bool {
        !self.destroyed && matches!(self.kind, Kind::Blocking | Kind::NonBlocking)
    }
}

/// The stream that a handle means, whoever's it is.
pub fn resolve(state: &mut State, handle: StreamHandle) -> Result<StreamHandle, Code> {
    if handle > 2 {
        if state.streams.live.get(&handle).is_none_or(|s| s.destroyed) {
            misuse(format!("stream {handle:#x} is destroyed, or never was one"));
        }
        return Ok(handle);
    }
    let context = context::current_even_broken(state)?;
    let kind = if handle == 2 {
        Kind::Thread(std::thread::current().id())
    } else {
        Kind::Null
    };
    let known = state
        .streams
        .live
        .iter()
        .find(|(_, s)| s.context == context && s.kind == kind && !s.destroyed);
    if let Some((found, _)) = known {
        return Ok(*found);
    }
    let shared = state.contexts.shared(context).ok_or(CONTEXT_IS_DESTROYED)?;
    Ok(state.streams.create(context, shared, kind, 0))
}

/// The stream that a handle means, where work is given to it: it must be of the current context.
pub fn resolve_for_work(state: &mut State, handle: StreamHandle) -> Result<StreamHandle, Code> {
    let current = context::current(state)?;
    let stream = resolve(state, handle)?;
    let own = state.streams.live[&stream].context;
    if own != current {
        misuse(format!(
            "work for stream {stream:#x} of context {own:#x} while context {current:#x} is current"
        ));
    }
    Ok(stream)
}

/// What work that is given to the stream now waits for: its own queue, and implicitly others.
pub fn before(state: &State, stream: StreamHandle) -> Vec<Point> {
    let mut points = state.streams.implicit(stream);
    points.push(state.streams.end_of(stream));
    points
}

/// Queues an act that waits for `after` too. A capturing stream swallows it.
pub fn enqueue(state: &mut State, stream: StreamHandle, act: Act, after: &[Point]) -> Point {
    let mut all = state.streams.implicit(stream);
    all.extend(after.iter().filter(|point| point.stream != stream));
    let own = state
        .streams
        .live
        .get_mut(&stream)
        .expect("a resolved stream");
    if own.capture.is_none() {
        own.submitted += 1;
        own.queue.push_back(Operation {
            act,
            call: current_call(),
            after: all,
        });
        changed();
    }
    Point {
        stream,
        number: own.submitted,
    }
}

fn create(out: &Out<StreamHandle>, flags: u32, priority: i32) -> Answer {
    let mut state = state();
    let context = context::current(&state)?;
    let kind = match flags {
        0 => Kind::Blocking,
        1 => Kind::NonBlocking,
        _ => return Err(INVALID_VALUE),
    };
    let shared = state.contexts.shared(context).ok_or(CONTEXT_IS_DESTROYED)?;
    out.give(
        state
            .streams
            .create(context, shared, kind, priority.clamp(-5, 0)),
    )
}

fn destroy(handle: StreamHandle) -> Answer {
    let mut state = state();
    let stream = resolve(&mut state, handle)?;
    if handle <= 2 {
        return Err(crate::code::INVALID_HANDLE);
    }
    let own = state
        .streams
        .live
        .get_mut(&stream)
        .expect("a resolved stream");
    own.destroyed = true;
    let context = own.context;
    changed();
    context::answer_in(&state, context)
}

fn synchronize(handle: StreamHandle) -> Answer {
    let mut state = state();
    let stream = resolve(&mut state, handle)?;
    if state.streams.live[&stream].capture.is_some() {
        crate::capture::invalidate(&mut state, stream);
        return Err(STREAM_CAPTURE_UNSUPPORTED);
    }
    let points = [state.streams.end_of(stream)];
    // Its own queue's end has waited for the others; an empty queue of the NULL stream has not.
    let implicit = state.streams.implicit(stream);
    let state = wait_for(state, &points)?;
    wait_for(state, &implicit).map(|_| ())
}

fn query(handle: StreamHandle) -> Answer {
    let mut state = state();
    let stream = resolve(&mut state, handle)?;
    if state.streams.live[&stream].capture.is_some() {
        crate::capture::invalidate(&mut state, stream);
        return Err(STREAM_CAPTURE_UNSUPPORTED);
    }
    if state.streams.is_broken(stream) {
        return Err(ILLEGAL_ADDRESS);
    }
    let done = before(&state, stream)
        .iter()
        .all(|point| state.streams.is_done(*point));
    if done { Ok(()) } else { Err(NOT_READY) }
}

fn with<T>(handle: StreamHandle, what: impl FnOnce(&Stream) -> T) -> Result<T, Code> {
    let mut state = state();
    let stream = resolve(&mut state, handle)?;
    context::answer_in(&state, state.streams.live[&stream].context)?;
    Ok(what(&state.streams.live[&stream]))
}

exports! {
    fn cuStreamCreate(stream: Out<StreamHandle>, flags: u32) { create(&stream, flags, 0) }
    fn cuStreamCreateWithPriority(stream: Out<StreamHandle>, flags: u32, priority: i32) { create(&stream, flags, priority) }
    fn cuStreamDestroy_v2(stream: StreamHandle) { destroy(stream) }
    fn cuStreamSynchronize(stream: StreamHandle) { synchronize(stream) }
    fn cuStreamQuery(stream: StreamHandle) { query(stream) }
    fn cuStreamGetCtx(stream: StreamHandle, context: Out<ContextHandle>) { context.give(with(stream, |s| s.context)?) }
    fn cuStreamGetPriority(stream: StreamHandle, priority: Out<i32>) { priority.give(with(stream, |s| s.priority)?) }
    fn cuStreamGetFlags(stream: StreamHandle, flags: Out<u32>) { flags.give(with(stream, |s| u32::from(s.kind == Kind::NonBlocking))?) }
}
