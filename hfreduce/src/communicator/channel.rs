//! Messages between two ranks. Each ordered pair of ranks that uses them has a channel: a group of its own, of two, made when both ends first
//! use it, in which the sender is rank 0 and the receiver rank 1. So messages of a pair stay in order, pairs do not hold each other up,
//! and what the library promises for groups (compared calls, timeouts, one error on both ends) holds for them too. A thread per channel
//! carries its messages, one after the other. Invariant: every message that was started is told its end once.

use super::{
    Communicator, connect,
    core::{Group, RawCall},
    pending::{Pending, Promise},
    place,
    shared::Shared,
    split::JOIN,
};
use crate::{
    config::Config,
    device::OnDevice,
    dtype::{DType, Element},
    error::{Error, Kind},
    op::ReduceOp,
    plan::Collective,
};
use hfr_transport::store;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Slots of a channel, virtual: one plan for two ranks needs less.
const SLOTS: usize = 64 << 20;
/// Closing waits so long for the other end: a message that was received has been confirmed before.
const FAREWELL: Duration = Duration::from_millis(300);
/// Whoever waits for the other end looks for a verdict this often.
const SLICE: Duration = Duration::from_millis(250);
/// Whether a stream has come to a message is looked at this often.
const LOOK: Duration = Duration::from_micros(50);

/// A group's channels, by the other rank and whether this one sends.
#[derive(Default)]
pub struct Channels(Mutex<HashMap<(usize, bool), Arc<Channel>>>);

impl Channels {
    fn all(&self) -> Vec<Arc<Channel>> {
        let channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        channels.values().cloned().collect()
    }

    /// Ends all of them at once.
    pub fn abort(&self, why: &str) {
        for channel in self.all() {
            channel.close();
            let comm = channel.state().comm.clone();
            if let Some(comm) = comm {
                comm.abort(why);
            }
        }
    }

    /// Lets go of all of them: idle ones end, and messages that are under way are given up. Waits for `limit` at most until they have said
    /// goodbye, so that nobody takes the end of this process for a crash.
    pub fn close(&self, limit: Duration) {
        let until = Instant::now() + limit;
        for channel in self.all() {
            channel.close();
            let state = channel.state();
            let busy = state.running || !state.messages.is_empty();
            if let (Some(comm), true) = (state.comm.clone(), busy) {
                drop(state);
                comm.abort("the group was closed while a message was under way");
            }
        }
        for channel in self.all() {
            let left = until.saturating_duration_since(Instant::now());
            let running = |state: &mut State| state.started && !state.ended;
            let waited = channel
                .changed
                .wait_timeout_while(channel.state(), left, running);
            drop(waited);
        }
    }
}

struct Message {
    call: RawCall,
    promise: Promise,
    device: Option<OnDevice>,
}

#[derive(Default)]
struct State {
    comm: Option<Arc<Communicator>>,
    messages: VecDeque<Message>,
    running: bool,
    started: bool,
    closed: bool,
    ended: bool,
}

/// One end of a channel.
struct Channel {
    /// Group ranks of both ends, sender first.
    ends: [usize; 2],
    sends: bool,
    config: Config,
    group: Arc<Group>,
    /// The whole group's verdict.
    shared: Arc<Shared>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Channel {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// An error in the words of the whole group: in the channel the ranks are 0 and 1.
    fn translate(&self, mut error: Error) -> Error {
        if speaks_of_the_rendezvous(&error) {
            return self.name(error);
        }
        let [from, to] = self.ends;
        let name = |rank: Option<usize>| rank.and_then(|r| self.ends.get(r).copied());
        for text in [&mut error.cause, &mut error.remedy] {
            *text = text
                .replace("rank 1", "rank \u{0}")
                .replace("rank 0", &format!("rank {from}"))
                .replace("rank \u{0}", &format!("rank {to}"));
        }
        (error.rank, error.peer, error.node) = (name(error.rank), name(error.peer), None);
        self.name(error)
    }

    /// With the message's name, as this rank sees it.
    fn name(&self, mut error: Error) -> Error {
        let what = if self.sends { "send to" } else { "recv from" };
        let other = self.ends[usize::from(self.sends)];
        let message = error.operation.map_or(String::new(), |o| format!(": {o}"));
        error.operation = Some(format!("{what} rank {other}{message}"));
        error
    }

    /// Waits until the other end uses the channel too, and makes the group of both.
    fn connect(&self) -> Result<Arc<Communicator>, Error> {
        let [from, to] = self.ends;
        let name = format!("{}/from {from} to {to}", self.group.name);
        let started = Instant::now();
        loop {
            if let Some(verdict) = self.shared.verdict() {
                return Err(verdict);
            }
            let slice = Instant::now() + SLICE;
            let store = &self.group.store;
            match store.gather(&format!("{name}/hail"), 2, self.config.rank, b"", slice) {
                Ok(_) => break,
                Err(store::Error::Missing { .. }) if self.state().closed => {
                    return Err(Error::new(Kind::Aborted, "the group was closed", ""));
                }
                Err(store::Error::Missing { .. }) if started.elapsed() < self.config.timeout => {}
                Err(store::Error::Missing { .. }) => {
                    let theirs = if self.sends { "recv" } else { "send" };
                    return Err(Error::new(
                        Kind::Timeout,
                        format!(
                            "no matching {theirs} in {:.1} s",
                            started.elapsed().as_secs_f64()
                        ),
                        "look what the other rank does, or raise HFR_TIMEOUT",
                    ));
                }
                Err(e) if e.is_silence() && started.elapsed() < self.config.timeout => {}
                Err(other) => return Err(Error::new(Kind::PeerLost, other.to_string(), "")),
            }
        }
        let parts = connect::join(&self.config, self.group.store.clone(), &name)?;
        let mut comm = Communicator::of(parts, self.config.clone());
        comm.patience = FAREWELL;
        Ok(Arc::new(comm))
    }

    /// The channel's thread: carries messages until the channel is closed.
    fn work(&self) {
        let _ends = Ends(self);
        let connected = self.connect();
        let comm = match connected {
            Ok(comm) => {
                self.state().comm = Some(comm.clone());
                Ok(comm)
            }
            Err(mut error) => {
                // Said in the words of the whole group, but for this rank's own number.
                if error.kind == Kind::Start || error.kind == Kind::Memory {
                    error.rank = Some(self.ends[self.config.rank]);
                    error.node = None;
                }
                Err(self.name(error))
            }
        };
        while let Some(Message {
            call,
            promise,
            device,
        }) = self.next()
        {
            let result = match &comm {
                Ok(comm) => self
                    .pass(comm, device.as_ref())
                    // The other end waits for this message.
                    .map_err(|error| {
                        let mut core = comm.lock();
                        let error = core.here(error);
                        core.fail(error)
                    })
                    // SAFETY: whoever started the message keeps the buffer until told.
                    .and_then(|()| unsafe { comm.run_quietly(&call, device.as_ref()) })
                    .map_err(|e| self.translate(e)),
                Err(error) => Err(error.clone()),
            };
            self.state().running = false;
            drop(device);
            promise.tell(result);
        }
        self.state().comm = None;
    }

    /// Waits until a message's stream has come to it.
    fn pass(&self, comm: &Communicator, device: Option<&OnDevice>) -> Result<(), Error> {
        let Some(device) = device else {
            return Ok(());
        };
        device.context.adopt()?;
        while !device.gate.is_open()? {
            if let Some(verdict) = comm.failure() {
                return Err(verdict);
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn next(&self) -> Option<Message> {
        let waiting = |s: &mut State| s.messages.is_empty() && !s.closed;
        let mut state = self
            .changed
            .wait_while(self.state(), waiting)
            .unwrap_or_else(PoisonError::into_inner);
        let next = state.messages.pop_front();
        state.running = next.is_some();
        next
    }
}

/// What a channel's thread leaves behind, however it ends. Made first, so that it comes behind the goodbye of the channel's group.
struct Ends<'a>(&'a Channel);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.closed, state.ended) = (true, true);
        let broken = std::mem::take(&mut state.messages);
        drop(state);
        self.0.changed.notify_all();
        drop(broken);
    }
}

impl Communicator {
    fn channel(&self, other: usize, sends: bool) -> Result<Arc<Channel>, Error> {
        self.born.check()?;
        if other >= self.size() || other == self.rank() {
            return Err(self.invalid(
                format!(
                    "rank {other} is no other rank of this group of {}",
                    self.size()
                ),
                "messages go to another rank of the group",
            ));
        }
        if let Some(verdict) = self.failure() {
            return Err(verdict);
        }
        let mut channels = self
            .channels
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let channel = channels.entry((other, sends)).or_insert_with(|| {
            let mut config = self.config.clone();
            config.rank = usize::from(!sends);
            config.world = 2;
            config.slots = SLOTS;
            config.heap = Some(0);
            config.algorithm = None;
            config.connect_timeout = config.connect_timeout.min(JOIN);
            let me = self.rank();
            Arc::new(Channel {
                ends: if sends { [me, other] } else { [other, me] },
                sends,
                config,
                group: self.group.clone().expect("a group of several ranks"),
                shared: self.shared.clone(),
                state: Mutex::default(),
                changed: Condvar::new(),
            })
        });
        Ok(channel.clone())
    }

    pub(super) fn message(
        &self,
        other: usize,
        sends: bool,
        call: RawCall,
        device: Option<OnDevice>,
    ) -> Pending {
        let channel = match self.channel(other, sends) {
            Ok(channel) => channel,
            Err(error) => return Pending::ended(Err(error)),
        };
        let (promise, pending) = Promise::new();
        let mut state = channel.state();
        if state.closed {
            let aborted = || Error::new(Kind::Aborted, "the group was closed or aborted", "");
            let verdict = self.failure().unwrap_or_else(aborted);
            return Pending::ended(Err(channel.name(verdict)));
        }
        if !state.started {
            let (own, cpus) = (channel.clone(), self.cpus());
            let spawned = std::thread::Builder::new()
                .name("hfr-channel".into())
                .spawn(move || {
                    cpus.iter().for_each(|cpus| place::run_on(cpus));
                    own.work();
                });
            if let Err(why) = spawned {
                return Pending::ended(Err(self.invalid(
                    format!("no thread for a channel to rank {other}: {why}"),
                    "raise the limit on threads",
                )));
            }
            state.started = true;
        }
        state.messages.push_back(Message {
            call,
            promise,
            device,
        });
        drop(state);
        channel.changed.notify_all();
        pending
    }

    /// Starts sending `count` elements at `from` to rank `to`, and returns at once. It ends when the receiver has them. Messages from one rank to
    /// another arrive in the order in which they were started; `tag` must be the receiver's.
    ///
    /// # Safety
    /// The elements must be readable and left alone until the message has ended.
    pub unsafe fn start_send(
        &self,
        dtype: DType,
        count: usize,
        from: *const u8,
        to: usize,
        tag: u64,
    ) -> Pending {
        let call = one(dtype, count, from, std::ptr::null_mut(), tag);
        self.message(to, true, call, None)
    }

    /// Starts receiving `count` elements from rank `from` into `into`, and returns at once.
    ///
    /// # Safety
    /// The elements must be writable, and for nobody else until the message has ended.
    pub unsafe fn start_recv(
        &self,
        dtype: DType,
        count: usize,
        into: *mut u8,
        from: usize,
        tag: u64,
    ) -> Pending {
        let call = one(dtype, count, std::ptr::null(), into, tag);
        self.message(from, false, call, None)
    }

    /// Sends `buffer` to rank `to`; returns when it has it. Two ranks that both send first wait for each other: start one of the messages, or
    /// exchange with [`Communicator::all_to_all`].
    ///
    /// # Errors
    /// A rank that is no other rank; a receiver that expects another length or type; a failure of either rank.
    pub fn send<T: Element>(&self, buffer: &[T], to: usize) -> Result<(), Error> {
        // SAFETY: the buffer is borrowed until the message has ended.
        unsafe { self.start_send(T::DTYPE, buffer.len(), buffer.as_ptr().cast(), to, 0) }.wait()
    }

    /// Receives what rank `from` sends next to this rank: `buffer.len()` elements.
    ///
    /// # Errors
    /// As [`Communicator::send`].
    pub fn recv<T: Element>(&self, buffer: &mut [T], from: usize) -> Result<(), Error> {
        let at = buffer.as_mut_ptr().cast();
        // SAFETY: the buffer is borrowed until the message has ended.
        unsafe { self.start_recv(T::DTYPE, buffer.len(), at, from, 0) }.wait()
    }
}

/// Whether it is about the process with the rendezvous, which is rank 0 of the job and perhaps not of the channel.
fn speaks_of_the_rendezvous(error: &Error) -> bool {
    let of_a_member = error.cause.contains("): its process is gone");
    error.cause.starts_with("rank 0 (host ") && !of_a_member
}

/// A message as a call.
pub(super) fn one(
    dtype: DType,
    count: usize,
    input: *const u8,
    output: *mut u8,
    tag: u64,
) -> RawCall {
    RawCall {
        collective: Collective::SendRecv,
        dtype,
        // Carries the tag to where calls are compared.
        op: ReduceOp::PremulSum(f64::from_bits(tag)),
        count,
        input,
        output,
        blocks: None,
    }
}
