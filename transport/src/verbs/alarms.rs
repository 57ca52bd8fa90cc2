//! What a device says unasked: a port went down or came back, its addresses changed, a queue pair or the whole device is broken. It knows these events and which
//! links they concern, no completion. Invariants: nothing here blocks; an event is acknowledged as soon as it is read, since a pair with one that is not cannot be destroyed;
//! it is read only where the side table is, so puts pay nothing for it.

use super::Inner;
use super::device::Device;
use super::sys::{self, ibv_event_type as Kind};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Alarm {
    /// To the queue pair of this number.
    Pair(u32, &'static str),
    /// To all that was made of the device.
    Device(&'static str),
    /// The port does not carry anything now.
    Down(u8, &'static str),
    /// The port is there, maybe under another address.
    Changed(u8, &'static str),
}

/// What an event means; `about` is the pair's number or the port, whichever it has.
fn meaning(kind: u32, about: u32) -> Option<Alarm> {
    const CQ_ERR: u32 = Kind::IBV_EVENT_CQ_ERR as u32;
    const QP_FATAL: u32 = Kind::IBV_EVENT_QP_FATAL as u32;
    const QP_REQ_ERR: u32 = Kind::IBV_EVENT_QP_REQ_ERR as u32;
    const QP_ACCESS_ERR: u32 = Kind::IBV_EVENT_QP_ACCESS_ERR as u32;
    const DEVICE_FATAL: u32 = Kind::IBV_EVENT_DEVICE_FATAL as u32;
    const PORT_ACTIVE: u32 = Kind::IBV_EVENT_PORT_ACTIVE as u32;
    const PORT_ERR: u32 = Kind::IBV_EVENT_PORT_ERR as u32;
    const LID_CHANGE: u32 = Kind::IBV_EVENT_LID_CHANGE as u32;
    const PKEY_CHANGE: u32 = Kind::IBV_EVENT_PKEY_CHANGE as u32;
    const SM_CHANGE: u32 = Kind::IBV_EVENT_SM_CHANGE as u32;
    const CLIENT_REREGISTER: u32 = Kind::IBV_EVENT_CLIENT_REREGISTER as u32;
    const GID_CHANGE: u32 = Kind::IBV_EVENT_GID_CHANGE as u32;
    let port = about as u8;
    Some(match kind {
        QP_FATAL => Alarm::Pair(about, "the queue pair is broken (IBV_EVENT_QP_FATAL)"),
        QP_REQ_ERR => Alarm::Pair(
            about,
            "the device refused a request of the peer (IBV_EVENT_QP_REQ_ERR)",
        ),
        QP_ACCESS_ERR => Alarm::Pair(
            about,
            "the peer wrote where it may not (IBV_EVENT_QP_ACCESS_ERR)",
        ),
        CQ_ERR => Alarm::Device("a completion queue is broken (IBV_EVENT_CQ_ERR)"),
        DEVICE_FATAL => Alarm::Device("the device is broken (IBV_EVENT_DEVICE_FATAL); see `dmesg`"),
        PORT_ERR => Alarm::Down(
            port,
            "our port went down (IBV_EVENT_PORT_ERR); check the cable, `ip link` and `rdma link`",
        ),
        PORT_ACTIVE => Alarm::Changed(port, "it is active again"),
        LID_CHANGE => Alarm::Changed(port, "it has another LID"),
        PKEY_CHANGE => Alarm::Changed(port, "its partition table has changed"),
        SM_CHANGE | CLIENT_REREGISTER => Alarm::Changed(port, "the subnet manager has changed"),
        GID_CHANGE => Alarm::Changed(port, "its GID table has changed"),
        _ => return None,
    })
}

/// Where the device says it.
pub(super) fn fd(device: &Device) -> RawFd {
    // SAFETY: an open context.
    unsafe { (*device.context()).async_fd }
}

/// Makes the device's descriptor one that does not block.
pub(super) fn open(device: &Device) -> Result<(), String> {
    // SAFETY: the context is open, and so is its descriptor.
    let fd = unsafe { BorrowedFd::borrow_raw(fd(device)) };
    rustix::fs::fcntl_getfl(fd)
        .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK))
        .map_err(|e| format!("the events of {} stay blocking: {e}", device.name))
}

/// The next event: nothing where there is none, and within it nothing where it does not concern us.
fn next(device: &Device) -> Option<Option<Alarm>> {
    let mut event = MaybeUninit::<sys::ibv_async_event>::zeroed();
    // SAFETY: an open context whose descriptor does not block; the event is written here.
    if unsafe { sys::ibv_get_async_event(device.context(), event.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: it was written. Read as a number: a newer kernel may have kinds that the enumeration lacks.
    let kind = unsafe {
        (&raw const (*event.as_ptr()).event_type)
            .cast::<u32>()
            .read()
    };
    let of_pair =
        kind >= Kind::IBV_EVENT_QP_FATAL as u32 && kind <= Kind::IBV_EVENT_QP_ACCESS_ERR as u32;
    // SAFETY: events of these kinds hold a pair, which lives: destroying it waits for the acknowledgement below. Others hold a port or
    // something whose number is not looked at.
    let about = unsafe {
        let element = &(*event.as_ptr()).element;
        if of_pair {
            (*element.qp).qp_num
        } else {
            element.port_num as u32
        }
    };
    // SAFETY: it was got above and is acknowledged once.
    unsafe { sys::ibv_ack_async_event(event.as_mut_ptr()) };
    Some(meaning(kind, about))
}

impl Inner {
    /// Hears what the devices have said since the last time.
    pub(super) fn hear_alarms(&mut self) {
        for rail in 0..self.rails.len() {
            while let Some(alarm) = next(&self.rails[rail].device) {
                if let Some(alarm) = alarm {
                    self.hear_alarm(rail, alarm);
                }
            }
        }
    }

    fn hear_alarm(&mut self, rail: usize, alarm: Alarm) {
        let device = &mut self.rails[rail].device;
        let (name, port) = (&device.name, device.port);
        match alarm {
            Alarm::Pair(number, what) => self.strike(rail, what, Some(number)),
            Alarm::Device(what) => self.strike(rail, what, None),
            // A port that is back by now lost packets, which are sent again.
            Alarm::Down(of, what) if of == port => match device.state() {
                "active" => tracing::warn!(%name, port, "the RDMA port was down for a moment"),
                _ => self.strike(rail, what, None),
            },
            Alarm::Changed(of, what) if of == port => {
                tracing::info!(%name, port, what, "RDMA port");
                device.again();
            }
            Alarm::Down(..) | Alarm::Changed(..) => {}
        }
    }

    /// Puts the links out of use that have a lane on this rail, or the one with this pair there.
    fn strike(&mut self, rail: usize, what: &str, pair: Option<u32>) {
        let state = self.rails[rail].device.state();
        for link in self.links.iter_mut().flatten() {
            let concerned = link.lanes().iter().find(|lane| {
                lane.rail == rail && pair.is_none_or(|number| lane.pair_number() == number)
            });
            if let Some(lane) = concerned {
                let fault = format!("{what} ({}; our port is {state})", lane.way);
                link.fault.get_or_insert(fault);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_link_is_told_from_what_changes_its_address() {
        assert!(matches!(meaning(1, 17), Some(Alarm::Pair(17, what)) if what.contains("QP_FATAL")));
        assert!(matches!(meaning(3, 18), Some(Alarm::Pair(18, _))));
        assert!(
            matches!(meaning(8, 0), Some(Alarm::Device(what)) if what.contains("DEVICE_FATAL"))
        );
        assert!(matches!(meaning(10, 2), Some(Alarm::Down(2, _))));
        for kind in [9, 11, 12, 13, 17, 18] {
            assert!(
                matches!(meaning(kind, 2), Some(Alarm::Changed(2, _))),
                "{kind}"
            );
        }
        // A connection that begins, the last receive of a shared queue, and what does not exist yet.
        for kind in [4, 16, 99] {
            assert_eq!(meaning(kind, 2), None, "{kind}");
        }
    }
}
