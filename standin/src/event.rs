//! Events: marks in streams that others wait for. It knows streams by their points. Invariant: a wait is for the record that was last when the call was made;
//! an event that was never recorded counts as complete.

use crate::{
    act::Act,
    capture,
    code::{
        Answer, CAPTURED_EVENT, Code, ILLEGAL_ADDRESS, INVALID_HANDLE, INVALID_VALUE, NOT_READY,
    },
    context::{self, ContextHandle},
    driver::{State, state, wait_for},
    export::{Out, exports},
    misuse::misuse,
    stream::{self, Point, StreamHandle},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Instant,
};

/// An event's handle.
pub type EventHandle = usize;

/// When a record was reached.
#[derive(Default)]
pub struct Mark(OnceLock<Instant>);

impl Mark {
    /// Reached, now; a record is reached once.
    pub fn set(&self, now: Instant) {
        self.0.get_or_init(|| now);
    }
}

struct Event {
    context: ContextHandle,
    timed: bool,
    /// Where it was recorded last.
    at: Option<(Point, Arc<Mark>)>,
    /// The capture in which it was recorded last.
    captured: Option<u64>,
}

/// The events that there are.
#[derive(Default)]
pub struct Events {
    live: BTreeMap<EventHandle, Event>,
    made: usize,
}

impl Events {
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Forgets a context's events; says how many.
    pub fn end_of_context(&mut self, context: ContextHandle) -> usize {
        let before = self.live.len();
        self.live.retain(|_, event| event.context != context);
        before - self.live.len()
    }

    fn get(&mut self, event: EventHandle) -> &mut Event {
        let Some(found) = self.live.get_mut(&event) else {
            misuse(format!("event {event:#x} is destroyed, or never was one"));
        };
        found
    }
}

fn create(out: &Out<EventHandle>, flags: u32) -> Answer {
    let mut state = state();
    let context = context::current(&state)?;
    if flags & !7 != 0 {
        return Err(INVALID_VALUE);
    }
    state.events.made += 1;
    let handle = 0x6000_0000 + 0x40 * state.events.made;
    let event = Event {
        context,
        timed: flags & 2 == 0,
        at: None,
        captured: None,
    };
    state.events.live.insert(handle, event);
    out.give(handle)
}

fn destroy(event: EventHandle) -> Answer {
    let mut state = state();
    let context = state.events.get(event).context;
    state.events.live.remove(&event);
    context::answer_in(&state, context)
}

fn record(event: EventHandle, stream: StreamHandle) -> Answer {
    let mut state = state();
    let own = state.events.get(event).context;
    let stream = stream::resolve_for_work(&mut state, stream)?;
    let other = state.streams.live[&stream].context;
    if own != other {
        misuse(format!(
            "event {event:#x} of context {own:#x} is recorded in a stream of context {other:#x}"
        ));
    }
    if let Some(capture) = capture::of(&state, stream) {
        state.events.get(event).captured = Some(capture);
        return Ok(());
    }
    let mark = Arc::<Mark>::default();
    let point = stream::enqueue(&mut state, stream, Act::Record(mark.clone()), &[]);
    let event = state.events.get(event);
    event.at = Some((point, mark));
    event.captured = None;
    Ok(())
}

/// The point that an event stands for, once its context is known to be whole and it is not captured.
fn point(state: &mut State, event: EventHandle) -> Result<Option<Point>, Code> {
    let event = state.events.get(event);
    let (context, at, captured) = (
        event.context,
        event.at.as_ref().map(|(point, _)| *point),
        event.captured,
    );
    context::answer_in(state, context)?;
    if captured.is_some() {
        Err(CAPTURED_EVENT)
    } else {
        Ok(at)
    }
}

fn query(event: EventHandle) -> Answer {
    let mut state = state();
    let at = point(&mut state, event)?;
    if at.is_none_or(|point| state.streams.is_done(point)) {
        Ok(())
    } else {
        Err(NOT_READY)
    }
}

fn synchronize(event: EventHandle) -> Answer {
    let mut state = state();
    match point(&mut state, event)? {
        Some(at) => wait_for(state, &[at]).map(|_| ()),
        None => Ok(()),
    }
}

fn wait(stream: StreamHandle, event: EventHandle) -> Answer {
    let mut state = state();
    let stream = stream::resolve_for_work(&mut state, stream)?;
    if let Some(capture) = state.events.get(event).captured {
        capture::join(&mut state, stream, capture);
        return Ok(());
    }
    let Some(at) = point(&mut state, event)? else {
        return Ok(());
    };
    stream::enqueue(&mut state, stream, Act::Pass, &[at]);
    Ok(())
}

fn elapsed(out: &Out<f32>, start: EventHandle, end: EventHandle) -> Answer {
    let mut state = state();
    let mut times = Vec::new();
    for event in [start, end] {
        let at = point(&mut state, event)?
            .filter(|_| state.events.get(event).timed)
            .ok_or(INVALID_HANDLE)?;
        if !state.streams.is_done(at) {
            return Err(NOT_READY);
        }
        let mark = state
            .events
            .get(event)
            .at
            .as_ref()
            .expect("a recorded event")
            .1
            .clone();
        times.push(*mark.0.get().ok_or(ILLEGAL_ADDRESS)?);
    }
    let (start, end) = (times[0], times[1]);
    let forward = end.saturating_duration_since(start).as_secs_f32();
    out.give(1e3 * (forward - start.saturating_duration_since(end).as_secs_f32()))
}

exports! {
    fn cuEventCreate(event: Out<EventHandle>, flags: u32) { create(&event, flags) }
    fn cuEventDestroy_v2(event: EventHandle) { destroy(event) }
    fn cuEventRecord(event: EventHandle, stream: StreamHandle) { record(event, stream) }
    fn cuEventRecordWithFlags(event: EventHandle, stream: StreamHandle, _flags: u32) { record(event, stream) }
    fn cuEventQuery(event: EventHandle) { query(event) }
    fn cuEventSynchronize(event: EventHandle) { synchronize(event) }
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: EventHandle, end: EventHandle) { elapsed(&milliseconds, start, end) }
    fn cuStreamWaitEvent(stream: StreamHandle, event: EventHandle, _flags: u32) { wait(stream, event) }
}
