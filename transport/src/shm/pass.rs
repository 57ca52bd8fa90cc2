//! Passing file descriptors between local processes: a server that hands out a set of them, and the call that fetches it. It
//! does not know what the descriptors are for. The server's thread ends with the `FdServer`, whoever is talking to it.

use super::Error;
use super::door::{self, Door, Knock};
use super::packet::{Kind, Token};
use rustix::event::{EventfdFlags, eventfd};
use rustix::rand::{GetRandomFlags, getrandom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

pub(super) fn random_bytes() -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::call("getrandom", errno)),
        }
    }
    Ok(bytes)
}

pub(super) fn random_hex() -> Result<String, Error> {
    Ok(random_bytes()?[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// A fresh token: whoever knows it may fetch.
pub fn random_token() -> Result<Token, Error> {
    random_bytes()
}

/// A fresh address for `FdServer::start` or `exchange`: no other process will have it. `hint` is for people who list sockets.
pub fn unique_address(hint: &str) -> Result<String, Error> {
    let hint: String = hint
        .chars()
        .filter(char::is_ascii_graphic)
        .take(32)
        .collect();
    Ok(format!(
        "hfr-{hint}-{}-{}",
        std::process::id(),
        random_hex()?
    ))
}

/// Hands out its descriptors to every local process that knows the token, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct FdServer {
    address: String,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl FdServer {
    /// Starts handing out `fds` at `address` (see `unique_address`).
    pub fn start(address: &str, token: Token, fds: Vec<OwnedFd>) -> Result<FdServer, Error> {
        let door = Door::open(address, token)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|errno| Error::call("making an eventfd", errno))?;
        let stop = Arc::new(stop);
        let thread = std::thread::Builder::new()
            .name("hfr-fds".into())
            .spawn({
                let stop = stop.clone();
                move || serve(door, &stop, &fds)
            })
            .map_err(|error| {
                Error::new(
                    format!("starting a thread failed: {error}"),
                    "raise the limit of processes (ulimit -u)",
                )
            })?;
        Ok(FdServer {
            address: address.into(),
            stop,
            thread: Some(thread),
        })
    }

    /// Where to fetch from.
    pub fn address(&self) -> String {
        self.address.clone()
    }
}

fn serve(mut door: Door, stop: &OwnedFd, fds: &[OwnedFd]) {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    loop {
        let sent = match door.next(Some(stop.as_fd()), None) {
            Ok(Knock::Guest(guest, message)) if message.kind == Kind::Fetch => {
                door.answer(&guest, message.nonce, Kind::Fds, &[], &fds)
            }
            Ok(Knock::Guest(guest, message)) => {
                let why =
                    b"the process at this address hands out file descriptors and gathers none";
                door.answer(&guest, message.nonce, Kind::Refusal, why, &[])
            }
            Ok(Knock::Stopped | Knock::TooLate) => return,
            Err(error) => {
                // Without a door nobody can fetch; those who try see a closed address, and this line says why.
                tracing::error!(address = door.address(), %error, "no longer hands out file descriptors");
                return;
            }
        };
        if let Err(error) = sent {
            tracing::warn!(address = door.address(), %error, "a local process did not take its file descriptors");
        }
    }
}

impl Drop for FdServer {
    fn drop(&mut self) {
        // A write of 1 to a fresh eventfd cannot fail; if it did, joining would hang, so the thread is left alone then.
        let told = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()).is_ok();
        if let (true, Some(thread)) = (told, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Fetches the descriptors of the `FdServer` at `address`, in its order. Tries again until `deadline` while nobody listens there.
pub fn fetch_fds(address: &str, token: &Token, deadline: Instant) -> Result<Vec<OwnedFd>, Error> {
    Ok(door::ask(address, token, Kind::Fetch, &[], &[], deadline)?.fds)
}
