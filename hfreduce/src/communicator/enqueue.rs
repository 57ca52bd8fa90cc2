//! Calls in the order of a CUDA stream: they start when the stream has come to them, and what the stream is given later can wait for their
//! result, while the host goes on. Nothing here knows how a call is carried out. Invariant: whatever happens to a call, streams that wait
//! for it go on, and its error comes with its end and with every later call.

use super::{Communicator, channel, core::RawCall, pending::Pending, shared::Shared};
use crate::{
    call::Call,
    device::{Firsts, Gate, Kind, Mark, OnDevice, Stream, locate},
    dtype::DType,
    engine::Block,
    error::{self, Error},
    plan::Collective,
};
use std::{
    ptr,
    sync::{Arc, Mutex},
    time::Duration,
};

/// A call that was put on a stream. Clones are the same call; dropping them cancels nothing.
#[derive(Clone)]
pub struct Enqueued {
    pending: Pending,
    mark: Arc<Mark>,
    firsts: Arc<Firsts<Kind>>,
    shared: Arc<Shared>,
}

/// A device that fails where a stream is to wait fails the call as well, which the group soon tells better.
const WORD: Duration = Duration::from_millis(400);

impl Enqueued {
    /// What `stream` is given from now on waits until the call has ended; the host does not, but for a call that is the first of its kind (the
    /// collective and the power of two of its bytes): then the host waits until all ranks have come to it and it has begun. May be called for
    /// several streams. A callback of another call must not.
    ///
    /// # Errors
    /// A stream that is recording a graph; the driver's.
    pub fn block(&self, stream: Stream) -> Result<(), Error> {
        self.firsts.wait(|| self.mark.is_released());
        self.mark.block(stream).map_err(|error| {
            let device = error.kind == error::Kind::Device;
            let verdict = if device { self.shared.hear(WORD) } else { None };
            verdict.unwrap_or_else(|| error.at(self.shared.rank, self.shared.node))
        })
    }

    /// The call's end. When it has come, the results are in the output.
    pub fn pending(&self) -> &Pending {
        &self.pending
    }
}

impl Communicator {
    /// Starts a call behind what `stream` has been given so far, and returns at once. Each of its buffers is device memory or pinned host memory;
    /// ranks with ordinary memory may take part in the same call by [`Communicator::start`]. All calls of one communicator are on one device.
    ///
    /// # Errors
    /// No driver, ordinary host memory, a stream that is recording a graph, another device than before: nothing was started. Errors of the
    /// call itself come with its end.
    ///
    /// # Safety
    /// As [`Communicator::start`], with work on the device in the place of threads: the buffers are left alone by what is not in front of the
    /// call on its stream, or behind a stream's [`Enqueued::block`].
    pub unsafe fn enqueue(&self, call: RawCall, stream: Stream) -> Result<Enqueued, Error> {
        let device = self.on_stream(&call, stream, None)?;
        let mark = device.mark.clone();
        let pending = self.order(call, Some(device));
        Ok(self.enqueued(pending, mark))
    }

    /// Sends `count` elements at `from` to rank `to`, behind what `stream` has been given; as [`Communicator::start_send`].
    ///
    /// # Errors
    /// As [`Communicator::enqueue`].
    ///
    /// # Safety
    /// As [`Communicator::enqueue`].
    pub unsafe fn enqueue_send(
        &self,
        dtype: DType,
        count: usize,
        from: *const u8,
        to: usize,
        tag: u64,
        stream: Stream,
    ) -> Result<Enqueued, Error> {
        let call = channel::one(dtype, count, from, ptr::null_mut(), tag);
        self.enqueue_message(to, true, call, stream)
    }

    /// Receives `count` elements from rank `from` into `into`, behind what `stream` has been given; as [`Communicator::start_recv`].
    ///
    /// # Errors
    /// As [`Communicator::enqueue`].
    ///
    /// # Safety
    /// As [`Communicator::enqueue`].
    pub unsafe fn enqueue_recv(
        &self,
        dtype: DType,
        count: usize,
        into: *mut u8,
        from: usize,
        tag: u64,
        stream: Stream,
    ) -> Result<Enqueued, Error> {
        let call = channel::one(dtype, count, ptr::null(), into, tag);
        self.enqueue_message(from, false, call, stream)
    }

    fn enqueue_message(
        &self,
        other: usize,
        sends: bool,
        call: RawCall,
        stream: Stream,
    ) -> Result<Enqueued, Error> {
        let device = self.on_stream(&call, stream, Some((other, sends)))?;
        let mark = device.mark.clone();
        let pending = self.message(other, sends, call, Some(device));
        Ok(self.enqueued(pending, mark))
    }

    fn enqueued(&self, pending: Pending, mark: Arc<Mark>) -> Enqueued {
        Enqueued {
            pending,
            mark,
            firsts: self.firsts.clone(),
            shared: self.shared.clone(),
        }
    }

    /// Calls of one kind have a plan in common. Where some counts are known to other ranks alone, there is no telling.
    fn kind(&self, call: &RawCall, ends: Option<(usize, bool)>) -> Option<Kind> {
        if call.collective == Collective::AllToAllV {
            return None;
        }
        let blocks = call
            .blocks
            .iter()
            .flat_map(|b| b.input.iter().chain(&b.output));
        let longest = blocks.map(|b| b.count).fold(call.count, usize::max);
        let shares = call.collective.shares(self.size());
        let shares = shares.map_or(1, |(input, output)| input.max(output));
        let bytes = longest * call.dtype.size() * shares;
        let root = call.collective.root().unwrap_or(u32::MAX);
        let code = Call::code(call.collective);
        Some((code, root, ends, bytes.next_power_of_two()))
    }

    /// Number of the device on which this rank's calls are, once there was one.
    pub fn device(&self) -> Option<i32> {
        self.context.get().map(|context| context.device)
    }

    /// Finds the device of a call, and puts a gate on the stream.
    fn on_stream(
        &self,
        call: &RawCall,
        stream: Stream,
        ends: Option<(usize, bool)>,
    ) -> Result<OnDevice, Error> {
        self.born.check()?;
        if let Some(verdict) = self.failure() {
            return Err(verdict);
        }
        let named = |mut error: Error| {
            error.operation = Some(call.collective.name().to_owned());
            error.at(self.rank(), self.node())
        };
        let place = |block: &Block| (block.count > 0).then_some(block.at.cast_const());
        let places = |blocks: &[Block], whole: *const u8| -> Vec<*const u8> {
            let whole = (call.count > 0).then_some(whole);
            match blocks {
                [] => whole.into_iter().collect(),
                some => some.iter().filter_map(place).collect(),
            }
        };
        let blocks = call.blocks.as_deref();
        let mut input = places(blocks.map_or(&[], |b| &b.input), call.input);
        let mut output = places(blocks.map_or(&[], |b| &b.output), call.output);
        // What a rank that is not the root need not have may be anything.
        let root = call.collective.root() == Some(self.rank() as u32);
        match call.collective {
            Collective::Broadcast { .. } | Collective::Scatter { .. } if !root => input.clear(),
            Collective::Reduce { .. } | Collective::Gather { .. } if !root => output.clear(),
            _ => {}
        }
        let (sides, context) = locate(input.iter(), output.iter(), stream).map_err(named)?;
        if let Some(first) = self.context.get().filter(|first| **first != context) {
            return Err(named(self.invalid(
                format!(
                    "the buffers are on device {}, and this communicator has worked on device {}",
                    context.device, first.device
                ),
                "use one communicator for each device (split makes another)",
            )));
        }
        let made = Gate::record(context, stream).and_then(|gate| Ok((gate, Mark::new(context)?)));
        let (gate, mark) = made.map_err(|error| match error.kind {
            // The others make this call: a device that fails here is everyone's error.
            error::Kind::Device => self.report_failure(named(error)),
            _ => named(error),
        })?;
        // Only now: the call is good.
        self.context.get_or_init(|| context);
        Ok(OnDevice {
            sides,
            context,
            gate,
            mark,
            first: Mutex::new(self.firsts.open(self.kind(call, ends))),
        })
    }
}
