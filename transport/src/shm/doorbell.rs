//! How a rank sleeps and how others wake it: one word per local rank in the node's segment, and an eventfd where the rank also
//! watches sockets. It does not know what a rank waits for. Invariant: no wake-up is lost (see `sync`, which loom checks);
//! waking for nothing is allowed, so every sleeper looks for itself. One thread at a time sleeps on a doorbell.

use super::packet::timespec;
use super::sync;
use super::{Error, Segment};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::thread::futex;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

/// Bytes that one doorbell takes in the segment: a cache line of its own, or its sleeper's word would be pulled from core to
/// core by everybody who rings a neighbour.
pub const DOORBELL_BYTES: usize = 64;

/// The doorbell of one rank, as its owner or as those who ring it hold it.
#[derive(Clone, Debug)]
pub struct Doorbell {
    segment: Arc<Segment>,
    offset: usize,
    event: Option<Arc<OwnedFd>>,
}

impl Doorbell {
    /// A fresh eventfd for a doorbell, to be passed to all who ring it.
    pub fn event() -> Result<OwnedFd, Error> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::call("making an eventfd", errno))
    }

    /// The doorbell at byte `offset` of `segment`, where `DOORBELL_BYTES` begin that were zero at first. `event` is the owner's
    /// eventfd, or a copy of it; without one the owner cannot watch sockets while it sleeps.
    ///
    /// # Panics
    /// When the place is not aligned to `DOORBELL_BYTES` or does not lie inside the segment.
    pub fn new(segment: Arc<Segment>, offset: usize, event: Option<OwnedFd>) -> Doorbell {
        assert!(
            offset.is_multiple_of(DOORBELL_BYTES),
            "a doorbell at offset {offset} would share its cache line"
        );
        segment.at(offset, DOORBELL_BYTES);
        Doorbell {
            segment,
            offset,
            event: event.map(Arc::new),
        }
    }

    /// The eventfd, to pass it on.
    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.event.as_deref().map(AsFd::as_fd)
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: aligned and inside the segment, as checked in `new`; the segment lives as long as `self`; all who touch these
        // bytes do so through this function.
        unsafe { AtomicU32::from_ptr(self.segment.at(self.offset, DOORBELL_BYTES).cast()) }
    }

    /// Whether the owner has taken back what it shows others, in the same line.
    fn taken_back(&self) -> &AtomicU32 {
        let at = self.segment.at(self.offset, DOORBELL_BYTES);
        // SAFETY: as above, four bytes further.
        unsafe { AtomicU32::from_ptr(at.cast::<u32>().add(1)) }
    }

    /// The owner says that its buffers go back to their user, for good: what others read of them from now on, they must not use.
    pub fn withdraw(&self) {
        self.taken_back().store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Whether the owner had not said so when what was read before was read.
    #[inline]
    pub fn shows(&self) -> bool {
        fence(Ordering::Acquire);
        self.taken_back().load(Ordering::Relaxed) == 0
    }

    /// Wakes the owner if it sleeps, to be called after whatever it waits for was published (with `Release` at least). Costs a
    /// fence and a load while the owner is awake, a system call otherwise.
    ///
    /// # Panics
    /// When the owner sleeps on its eventfd and this side was not given it.
    #[inline]
    pub fn ring(&self) {
        sync::published();
        self.ring_published();
    }

    /// As [`Doorbell::ring`], for several at once: the fence, which waits until what was published has left this core, is paid once.
    ///
    /// # Panics
    /// As [`Doorbell::ring`].
    #[inline]
    pub fn ring_all<'a>(bells: impl Iterator<Item = &'a Doorbell>) {
        sync::published();
        bells.for_each(Doorbell::ring_published);
    }

    #[inline]
    fn ring_published(&self) {
        match sync::take_announcement(self.word()) {
            sync::AWAKE => {}
            how => self.wake(how),
        }
    }

    #[cold]
    fn wake(&self, how: u32) {
        if how == sync::ON_FUTEX {
            // Not the PRIVATE kind: the sleeper may be another process. Fails only for an address that is not mapped.
            let woken = futex::wake(self.word(), futex::Flags::empty(), 1);
            debug_assert!(woken.is_ok(), "{woken:?}");
        } else {
            let event = self
                .event
                .as_deref()
                .expect("a rank that watches sockets passes its eventfd to all who ring it");
            // Fails only with EAGAIN, when 2^64 - 2 wakes lie there already: then it is readable anyway.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }

    /// Sleeps until rung, until one of `watch` is readable (or writable too, where the flag says so), or until `timeout` has
    /// passed (`None`: for ever). `recheck` looks whether there is something to do already: it is called once, after the sleep has
    /// been announced, and if it says yes there is no sleep. Returns what it said; may return for no reason at all.
    pub fn park(
        &self,
        timeout: Option<Duration>,
        watch: &[(RawFd, bool)],
        recheck: impl FnMut() -> bool,
    ) -> Result<bool, Error> {
        let mut slept = Ok(());
        let ready = if watch.is_empty() {
            sync::park(self.word(), sync::ON_FUTEX, recheck, || {
                slept = self.sleep_on_word(timeout)
            })
        } else {
            let event = self.event.as_deref().ok_or_else(|| {
                Error::new(
                    "a rank whose wire has sockets to watch needs an eventfd in its doorbell",
                    "",
                )
            })?;
            sync::park(self.word(), sync::IN_POLL, recheck, || {
                slept = sleep_in_poll(event, timeout, watch)
            })
        };
        slept.map(|()| ready)
    }

    fn sleep_on_word(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let timeout = timeout.map(timespec);
        match futex::wait(
            self.word(),
            futex::Flags::empty(),
            sync::ON_FUTEX,
            timeout.as_ref(),
        ) {
            // AGAIN: rung before the kernel looked.
            Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => Ok(()),
            Err(errno) => Err(Error::call("waiting on a futex", errno)),
        }
    }
}

fn sleep_in_poll(
    event: &OwnedFd,
    timeout: Option<Duration>,
    watch: &[(RawFd, bool)],
) -> Result<(), Error> {
    // A parked rank is about to give up its core for microseconds: one small allocation does not count. No borrow of the sockets
    // can be had from numbers, hence the unsafe.
    let mut fds = Vec::with_capacity(watch.len() + 1);
    fds.push(PollFd::new(event, PollFlags::IN));
    for &(fd, writable) in watch {
        let flags = if writable {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        };
        // SAFETY: the wire that named these descriptors keeps them open while its rank sleeps: that rank is this thread.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fds.push(PollFd::from_borrowed_fd(fd, flags));
    }
    let timeout = timeout.map(timespec);
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(Error::call("poll", errno)),
    }
    if !fds[0].revents().is_empty() {
        // Empties it; EAGAIN where a late ringer of an earlier sleep was counted already.
        let _ = rustix::io::read(event, &mut [0_u8; 8]);
    }
    Ok(())
}

/// How long to look before sleeping, chosen once per rank: first without letting go of the core, then giving it to whoever wants it
/// between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    pauses: u32,
    turns: u32,
}

/// Where a core is spare, looking for about 3 us beats a wake across cores (30 us).
const PAUSES_WITH_CORES: u32 = 100;
/// Where ranks share cores, every pause is taken from the rank that is waited for: just enough for what is about to arrive.
const PAUSES_WITHOUT: u32 = 2;
/// So often it gives its core away before it sleeps. Where other ranks want the core, a turn hands over to them in 0.6 us, where a sleep
/// and a wake take 0.9 us on one core and 30 us across two; where nobody wants it, all of them together take about what a wake does.
const TURNS: u32 = 200;
/// Turns that took so long in all went to somebody who computes: a sleeper that is woken has a better claim to the core.
const MOST_TURNS: Duration = Duration::from_millis(1);

/// How looking ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// What `ready` said last.
    pub ready: bool,
    /// Whether somebody who computes had the core for long: better no more turns for a while.
    pub crowded: bool,
}

impl Waiter {
    /// The policy for a rank that may use `cores` CPUs (its affinity mask and cgroup quota), on which `ranks` ranks run, itself among them.
    pub fn new(ranks: usize, cores: usize) -> Waiter {
        let pauses = if ranks > cores {
            PAUSES_WITHOUT
        } else {
            PAUSES_WITH_CORES
        };
        Waiter {
            pauses,
            turns: TURNS,
        }
    }

    /// Looks `pauses` times before it sleeps, and never hands over.
    pub fn with_pauses(pauses: u32) -> Waiter {
        Waiter { pauses, turns: 0 }
    }

    /// How often it looks before it hands the core over.
    pub fn pauses(&self) -> u32 {
        self.pauses
    }

    /// A few looks, where a core is spare: for what should be there at once.
    pub fn glance(&self, mut ready: impl FnMut() -> bool) -> bool {
        for _ in 0..self.pauses / 8 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// Looks until `ready` says yes or it is time to sleep.
    pub fn look(&self, mut ready: impl FnMut() -> bool) -> Looked {
        let mut looked = Looked {
            ready: false,
            crowded: false,
        };
        for _ in 0..self.pauses {
            looked.ready = ready();
            if looked.ready {
                return looked;
            }
            std::hint::spin_loop();
        }
        if self.turns == 0 {
            return looked;
        }
        let began = Instant::now();
        for _ in 0..self.turns {
            std::thread::yield_now();
            // Before the look, which may take long where it finds work.
            looked.crowded = began.elapsed() > MOST_TURNS;
            looked.ready = ready();
            if looked.ready || looked.crowded {
                break;
            }
        }
        looked
    }

    /// Waits until `ready` or, at the latest, until one sleep (see `Doorbell::park`) has ended. Returns what `ready` said last.
    pub fn wait(
        &self,
        bell: &Doorbell,
        timeout: Option<Duration>,
        watch: &[(RawFd, bool)],
        mut ready: impl FnMut() -> bool,
    ) -> Result<bool, Error> {
        Ok(self.look(&mut ready).ready || bell.park(timeout, watch, &mut ready)? || ready())
    }
}
