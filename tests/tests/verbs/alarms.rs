//! What a device says unasked. The kernel's soft device says that a port goes down and that its addresses change; what it never says (broken pairs, a broken
//! device) is tested where events are told apart.

use super::drive::Guard;
use super::ends::{pair, put, usual};
use super::faults::{acquaint, down, fails};
use hfr_transport::Transport;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::BorrowedFd;

#[test]
fn a_port_that_goes_down_wakes_a_parked_rank_and_ends_its_links() {
    let _guard = Guard::new();
    let mut both = pair(1 << 20, 0..1 << 20, usual());
    acquaint(&mut both);
    let [mut a, mut b] = both;
    for _ in 0..200 {
        a.0.poll(&mut Vec::new()).unwrap();
    }
    let mut raw = Vec::new();
    a.0.watch(&mut raw);
    a.0.poll(&mut Vec::new()).unwrap();
    raw.clear();
    a.0.watch(&mut raw);
    let fds = raw.iter().map(|&(fd, _)| {
        // SAFETY: the wire that owns the descriptor lives until the end of the test.
        PollFd::from_borrowed_fd(unsafe { BorrowedFd::borrow_raw(fd) }, PollFlags::IN)
    });
    let mut fds: Vec<_> = fds.collect();
    let long = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let up = down(0);
    let woken = rustix::event::poll(&mut fds, Some(&long)).unwrap();
    // Nothing was put: only the device can have said it.
    let error = fails(&mut a.0);
    drop(up);
    assert!(woken > 0, "the rank slept on");
    assert_eq!(error.peer, Some(1));
    let text = error.to_string();
    for part in [
        "IBV_EVENT_PORT_ERR",
        "rxe0 port 1",
        "our port is down",
        "check the cable",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        a.0.put(put(1, 0, 8, 1)).is_err(),
        "a put by a port that was down went through"
    );
    for _ in 0..200 {
        b.0.poll(&mut Vec::new()).unwrap();
    }
}
