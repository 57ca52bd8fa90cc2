//! A wire that breaks as told: it passes everything on to another wire, except for the puts its script names. It knows no plan
//! and does not touch bytes. Invariants: puts to one peer keep their order, held back or not; a put that is held back still
//! belongs to the caller's promise about its source; once a peer is cut, nothing to or from it gets through any more.

mod script;

pub use script::{Act, Hold, Script, ScriptError};

use crate::wire::{Ask, Error, Event, PeerAddress, Put, Transport};
use rustix::process::{Signal, getpid, kill_process};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

/// What a cut peer's errors say.
const CUT: &str = "the connection was cut by the chaos script";

/// When a put that is held back may go.
#[derive(Clone, Copy)]
enum Until {
    Time(Instant),
    Poll(u64),
    /// As soon as those before it are gone.
    Turn,
}

/// A wire with a script.
pub struct Chaos<T> {
    inner: T,
    script: Script,
    puts: u64,
    polls: u64,
    held: VecDeque<(Put, Until)>,
    cut: Vec<usize>,
    /// Wakes a parked rank when a put may go; there only if the script holds any back.
    timer: Option<OwnedFd>,
    passed: Vec<Event>,
}

impl<T: Transport> Chaos<T> {
    /// `inner`, with `script` done to its puts.
    ///
    /// # Errors
    /// When the script holds puts back and the kernel has no timer for it.
    pub fn new(inner: T, script: Script) -> Result<Chaos<T>, Error> {
        let timer = script
            .delays()
            .then(|| timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC));
        let timer = timer.transpose().map_err(|e| Error {
            wire: inner.name(),
            peer: None,
            cause: format!("no timer for the chaos script's delays: {e}"),
        })?;
        Ok(Chaos {
            inner,
            script,
            puts: 0,
            polls: 0,
            held: VecDeque::new(),
            cut: Vec::new(),
            timer,
            passed: Vec::new(),
        })
    }

    fn error(&self, peer: usize) -> Error {
        Error {
            wire: self.inner.name(),
            peer: Some(peer),
            cause: CUT.into(),
        }
    }

    /// Passes on what need not be held back any more, in order for each peer.
    fn release(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let mut blocked = Vec::new();
        let mut at = 0;
        while at < self.held.len() {
            let (put, until) = self.held[at];
            let due = match until {
                Until::Time(time) => now >= time,
                Until::Poll(poll) => self.polls >= poll,
                Until::Turn => true,
            };
            if due && !blocked.contains(&put.peer) {
                self.held.remove(at);
                self.inner.put(put)?;
            } else {
                blocked.push(put.peer);
                at += 1;
            }
        }
        self.wind();
        Ok(())
    }

    /// Sets the timer to the earliest put that waits; one that counts polls wants to be polled at once.
    fn wind(&self) {
        let Some(timer) = &self.timer else { return };
        let now = Instant::now();
        let waits = self.held.iter().filter_map(|(_, until)| match until {
            Until::Time(time) => Some(time.saturating_duration_since(now).as_nanos().max(1)),
            Until::Poll(_) => Some(1),
            Until::Turn => None,
        });
        let nanoseconds = waits.min().unwrap_or(0); // Zero switches the timer off.
        let value = Timespec {
            tv_sec: (nanoseconds / 1_000_000_000) as i64,
            tv_nsec: (nanoseconds % 1_000_000_000) as i64,
        };
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: value,
        };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)
            .expect("a timer of our own with a time in range");
    }
}

impl<T: Transport> Transport for Chaos<T> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn gathers(&self) -> bool {
        self.inner.gathers()
    }

    fn address(&self) -> Vec<u8> {
        self.inner.address()
    }

    fn connect(&mut self, peers: &[PeerAddress], deadline: Instant) -> Result<(), Error> {
        self.inner.connect(peers, deadline)
    }

    fn put(&mut self, put: Put) -> Result<(), Error> {
        self.puts += 1;
        if self.cut.contains(&put.peer) {
            return Err(self.error(put.peer));
        }
        let until = match self.script.act(self.puts) {
            Some(Act::Delay(Hold::Time(time))) => Some(Until::Time(Instant::now() + time)),
            Some(Act::Delay(Hold::Polls(polls))) => {
                Some(Until::Poll(self.polls.saturating_add(polls)))
            }
            Some(Act::Cut) => {
                self.cut.push(put.peer);
                self.held.retain(|(held, _)| held.peer != put.peer);
                self.wind();
                return Err(self.error(put.peer));
            }
            Some(Act::Kill) => {
                raise(Signal::KILL);
                None
            }
            Some(Act::Stop) => {
                raise(Signal::STOP);
                None
            }
            None => None,
        };
        let behind = self.held.iter().any(|(held, _)| held.peer == put.peer);
        match until.or(behind.then_some(Until::Turn)) {
            Some(until) => {
                self.held.push_back((put, until));
                self.wind();
                Ok(())
            }
            None => self.inner.put(put),
        }
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        self.poll_landing(&mut |_, _| None, events)
    }

    fn poll_landing(&mut self, ask: &mut Ask<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        self.polls += 1;
        if !self.held.is_empty() {
            self.release()?;
        }
        if self.cut.is_empty() {
            return self.inner.poll_landing(ask, events);
        }
        let result = self.inner.poll_landing(ask, &mut self.passed);
        let cut = &self.cut;
        events.extend(self.passed.drain(..).filter(|event| match event {
            Event::Arrived { from, .. } => !cut.contains(from),
            Event::Sent { .. } => true,
        }));
        result.and(Err(self.error(self.cut[0])))
    }

    fn watch(&self, fds: &mut Vec<(RawFd, bool)>) {
        self.inner.watch(fds);
        fds.extend(self.timer.as_ref().map(|timer| (timer.as_raw_fd(), false)));
    }
}

fn raise(signal: Signal) {
    kill_process(getpid(), signal).expect("a process may signal itself");
}

impl<T: Transport + ?Sized> Transport for Box<T> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn gathers(&self) -> bool {
        (**self).gathers()
    }

    fn address(&self) -> Vec<u8> {
        (**self).address()
    }

    fn connect(&mut self, peers: &[PeerAddress], deadline: Instant) -> Result<(), Error> {
        (**self).connect(peers, deadline)
    }

    fn put(&mut self, put: Put) -> Result<(), Error> {
        (**self).put(put)
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        (**self).poll(events)
    }

    fn poll_landing(&mut self, ask: &mut Ask<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        (**self).poll_landing(ask, events)
    }

    fn watch(&self, fds: &mut Vec<(RawFd, bool)>) {
        (**self).watch(fds);
    }
}

#[cfg(test)]
mod tests;
