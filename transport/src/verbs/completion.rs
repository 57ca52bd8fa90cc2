//! Completion queues and the channel that wakes a parked rank. It knows queues and their capacity, no meaning of a completion.
//! Invariant: a queue serves so many links only that all their work requests together fit into it, so none can overrun.

use super::device::{Device, os};
use super::sys::{self, ibv_comp_channel, ibv_cq, ibv_wc};
use std::cell::Cell;
use std::os::fd::{BorrowedFd, RawFd};

/// Links that share a queue, where the device's queues are long enough: one poll looks after all of them.
const LINKS: usize = 16;
/// Completions one call takes from a queue.
pub(super) const BATCH: usize = 16;
/// Events are acknowledged this many at a time: each acknowledgement takes a lock.
const ACKNOWLEDGE: u32 = 128;

struct Queue {
    cq: *mut ibv_cq,
    links: usize,
    /// Whether the next completion makes the channel readable.
    armed: Cell<bool>,
    /// Events taken and not yet acknowledged.
    unacknowledged: Cell<u32>,
}

/// All completion queues of a wire.
pub(super) struct Completions {
    queues: Vec<Queue>,
    channel: *mut ibv_comp_channel,
    /// Work requests of one link.
    per_link: usize,
}

impl Completions {
    /// Queues for links of `per_link` work requests each.
    pub fn new(device: &Device, per_link: usize) -> Result<Completions, String> {
        // SAFETY: an open context.
        let channel = unsafe { sys::ibv_create_comp_channel(device.context()) };
        if channel.is_null() {
            let why = std::io::Error::last_os_error();
            return Err(format!("no completion channel: {why}"));
        }
        let completions = Completions {
            queues: Vec::new(),
            channel,
            per_link,
        };
        // SAFETY: the channel is open, and so is its descriptor.
        let fd = unsafe { BorrowedFd::borrow_raw(completions.fd()) };
        rustix::fs::fcntl_getfl(fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK))
            .map_err(|e| format!("the completion channel stays blocking: {e}"))?;
        Ok(completions)
    }

    /// A queue with room for one more link: its number, and itself.
    pub fn seat(&mut self, device: &Device) -> Result<(usize, *mut ibv_cq), String> {
        let most = LINKS.min(device.completions / self.per_link);
        if most == 0 {
            let (has, wants) = (device.completions, self.per_link);
            return Err(format!(
                "its completion queues hold {has} entries, a link needs {wants}"
            ));
        }
        if self.queues.last().is_none_or(|queue| queue.links >= most) {
            let entries = (most * self.per_link) as i32;
            let number = self.queues.len();
            // SAFETY: an open context and channel; the number comes back with every event and is no address.
            let cq = unsafe {
                let context = std::ptr::without_provenance_mut(number);
                sys::ibv_create_cq(device.context(), entries, context, self.channel, 0)
            };
            if cq.is_null() {
                let why = std::io::Error::last_os_error();
                return Err(format!("no completion queue of {entries} entries: {why}"));
            }
            self.queues.push(Queue {
                cq,
                links: 0,
                armed: Cell::new(false),
                unacknowledged: Cell::new(0),
            });
        }
        let number = self.queues.len() - 1;
        let queue = &mut self.queues[number];
        queue.links += 1;
        Ok((number, queue.cq))
    }

    /// Number of queues.
    pub fn len(&self) -> usize {
        self.queues.len()
    }

    /// Takes what has completed; how many of `into` are filled.
    pub fn take(&self, queue: usize, into: &mut [ibv_wc; BATCH]) -> Result<usize, String> {
        // SAFETY: the queue is alive, and the array has as many places as the call is told.
        let got =
            unsafe { sys::ibv_poll_cq(self.queues[queue].cq, BATCH as i32, into.as_mut_ptr()) };
        usize::try_from(got).map_err(|_| format!("completions cannot be taken: {}", os(got)))
    }

    pub fn fd(&self) -> RawFd {
        // SAFETY: the channel is open until dropped.
        unsafe { (*self.channel).fd }
    }

    /// Makes the channel readable at the next completion of any queue, and no earlier.
    pub fn arm(&self) {
        loop {
            let (mut cq, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: the channel does not block, and both results are written here.
            if unsafe { sys::ibv_get_cq_event(self.channel, &raw mut cq, &raw mut context) } != 0 {
                break;
            }
            let queue = &self.queues[context.addr()];
            queue.armed.set(false);
            queue.unacknowledged.set(queue.unacknowledged.get() + 1);
            if queue.unacknowledged.get() >= ACKNOWLEDGE {
                queue.acknowledge();
            }
        }
        for queue in self.queues.iter().filter(|queue| !queue.armed.get()) {
            // SAFETY: the queue is alive. A device that cannot be armed is one whose completions are seen when the park ends by its time.
            let code = unsafe { sys::ibv_req_notify_cq(queue.cq, 0) };
            queue.armed.set(code == 0);
        }
    }
}

impl Queue {
    fn acknowledge(&self) {
        // SAFETY: exactly as many events of this queue were taken since the last time.
        unsafe { sys::ibv_ack_cq_events(self.cq, self.unacknowledged.replace(0)) };
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.acknowledge();
            // SAFETY: made in `seat`, destroyed once; its pairs are gone, the wire drops them first.
            unsafe { sys::ibv_destroy_cq(queue.cq) };
        }
        // SAFETY: made in `new`, destroyed once, after its queues.
        unsafe { sys::ibv_destroy_comp_channel(self.channel) };
    }
}
