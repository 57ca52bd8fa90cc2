//! Lives of wires: a rank that parks and wakes, a child that inherits a wire, and a thousand wires one after another that leave nothing behind.

use super::drive::Guard;
use super::ends::{pair, put, small, usual};
use hfr_transport::verbs::Verbs;
use hfr_transport::{Event, Transport};
use rustix::event::{PollFd, PollFlags};
use std::os::fd::BorrowedFd;
use std::process::Command;

/// Sleeps until the wire may have something, as a rank does.
fn park(wire: &mut Verbs, events: &mut Vec<Event>) {
    let mut raw = Vec::new();
    wire.watch(&mut raw);
    wire.poll(events).unwrap();
    if !events.is_empty() {
        return;
    }
    let fds = raw.iter().map(|&(fd, _)| {
        // SAFETY: the wire that owns the descriptor is borrowed.
        PollFd::from_borrowed_fd(unsafe { BorrowedFd::borrow_raw(fd) }, PollFlags::IN)
    });
    let mut fds: Vec<_> = fds.collect();
    rustix::event::poll(&mut fds, None).unwrap();
    wire.poll(events).unwrap();
}

/// Back and forth, both parked: no wake-up may be lost. No timeout helps here; the guard ends the test.
#[test]
fn parked_ranks_wake_by_what_they_watch() {
    let _guard = Guard::new();
    for limits in [usual(), small()] {
        let [mut a, mut b] = pair(1 << 20, 0..1 << 20, limits);
        let rounds = 100;
        let turn = move |wire: &mut Verbs, peer: usize, first: bool| {
            let mut events = Vec::new();
            for n in 0..rounds {
                let len = [0, 8, 3000, 20_000][n as usize % 4];
                if first {
                    wire.put(put(peer, 0, len, n)).unwrap();
                }
                while !events
                    .iter()
                    .any(|event| matches!(event, Event::Arrived { notice, .. } if notice.0 == n))
                {
                    events.clear();
                    park(wire, &mut events);
                }
                events.clear();
                if !first {
                    wire.put(put(peer, 0, len, n)).unwrap();
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| turn(&mut a.0, 1, true));
            scope.spawn(|| turn(&mut b.0, 0, false));
        });
    }
}

/// A child that drops what it inherited takes nothing from its parent.
#[test]
fn a_forked_child_leaves_its_parents_wire_alone() {
    let _guard = Guard::new();
    let [mut a, mut b] = pair(1 << 20, 0..1 << 20, usual());
    let mut both = Some((a.0, b.0));
    // SAFETY: the child calls nothing but drops of the wires, which return at once there, and `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(both.take());
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(7) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(libc::WEXITSTATUS(status), 7, "status {status}");
    (a.0, b.0) = both.take().unwrap();
    for n in 0..20 {
        a.0.put(put(1, 64, 3000, n)).unwrap();
        let mut events = Vec::new();
        while events.is_empty() {
            a.0.poll(&mut Vec::new()).unwrap();
            b.0.poll(&mut events).unwrap();
        }
    }
}

/// How many of everything this process and the devices hold.
fn held() -> (usize, String) {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let shown = Command::new("rdma")
        .args(["resource", "show"])
        .output()
        .expect("the program rdma");
    assert!(shown.status.success());
    // Contexts and domains end with the process that is looked at, not before; all numbers count.
    (fds, String::from_utf8(shown.stdout).unwrap())
}

#[test]
fn wires_that_end_leave_no_pair_memory_or_descriptor_behind() {
    let _guard = Guard::new();
    let cycles = std::env::var("HFR_TEST_CYCLES")
        .map_or(1000, |n| n.parse().expect("HFR_TEST_CYCLES is a number"));
    let once = |n: u32| {
        let [mut a, mut b] = pair(8192, 0..8192, small());
        a.0.put(put(1, 1, 100, n)).unwrap();
        let mut events = Vec::new();
        while events.is_empty() {
            a.0.poll(&mut Vec::new()).unwrap();
            b.0.poll(&mut events).unwrap();
        }
        assert!(a.0.usage().0 > 0 && a.0.usage().1 == 1);
    };
    once(0);
    let before = held();
    assert!(before.1.contains("qp "), "{}", before.1);
    let started = std::time::Instant::now();
    for n in 0..cycles {
        once(n);
    }
    assert_eq!(held(), before, "after {cycles} cycles");
    println!(
        "{cycles} cycles in {:.1} s",
        started.elapsed().as_secs_f64()
    );
}
