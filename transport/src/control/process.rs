//! Waiting for the end of another process by its pidfd, parked in the runtime like any socket. It knows no ranks. The only
//! `unsafe` of the control plane is here.

use std::fs::read_to_string;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The process behind a pidfd while it lives; 0 when it has ended already.
pub(super) fn pid_of(process: &OwnedFd) -> u32 {
    let info =
        read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.and_then(|pid| pid.trim().parse().ok()).unwrap_or(0)
}

/// Returns when the process has ended.
///
/// # Errors
/// The descriptor cannot be waited for, so nothing is known about the process.
pub(super) async fn ended(process: OwnedFd) -> std::io::Result<()> {
    // SAFETY: an `OwnedFd` is open and stays the same descriptor until it is dropped, which `AsyncFd` alone does.
    let process = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }?;
    process.readable().await.map(drop)
}
