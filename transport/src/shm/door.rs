//! The listening side of a meeting of local processes: an abstract Unix socket that lets in who proves to know the token.
//! Whoever says nothing, says something else or proves nothing is dropped after a while and costs nobody else a wait.

use super::Error;
use super::packet::{self, Kind, Message, Proof, Token, timespec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a client may take to say its one sentence.
const PATIENCE: Duration = Duration::from_secs(2);
/// Clients that have said nothing yet; more wait in the kernel's queue.
const MAX_WAITING: usize = 128;

pub(super) struct Door {
    listener: OwnedFd,
    address: String,
    token: Token,
    waiting: Vec<(OwnedFd, Instant)>,
}

/// What ended a wait at the door.
pub(super) enum Knock {
    /// Somebody who knows the token, and what they want.
    Guest(OwnedFd, Message),
    /// The stop descriptor became readable.
    Stopped,
    /// The time is over.
    TooLate,
}

fn socket() -> Result<OwnedFd, Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|errno| Error::call("making a unix socket", errno))
}

fn abstract_name(address: &str) -> Result<SocketAddrUnix, Error> {
    SocketAddrUnix::new_abstract_name(address.as_bytes()).map_err(|errno| {
        Error::call(
            format_args!("taking {address:?} for the name of a unix socket"),
            errno,
        )
    })
}

impl Door {
    pub fn open(address: &str, token: Token) -> Result<Door, Error> {
        let listener = socket()?;
        net::bind(&listener, &abstract_name(address)?).map_err(|errno| {
            Error::call(
                format_args!("binding the abstract unix socket {address}"),
                errno,
            )
        })?;
        net::listen(&listener, 1024)
            .map_err(|errno| Error::call("listening on a unix socket", errno))?;
        Ok(Door {
            listener,
            address: address.into(),
            token,
            waiting: Vec::new(),
        })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next guest who knows the token.
    pub fn next(
        &mut self,
        stop: Option<BorrowedFd<'_>>,
        until: Option<Instant>,
    ) -> Result<Knock, Error> {
        loop {
            let now = Instant::now();
            self.waiting.retain(|(_, limit)| *limit > now);
            if until.is_some_and(|until| until <= now) {
                return Ok(Knock::TooLate);
            }
            let (stopped, spoke, knocked) = self.wait(stop, until, now)?;
            if stopped {
                return Ok(Knock::Stopped);
            }
            if knocked {
                self.accept()?;
            }
            if let Some(index) = spoke {
                let (guest, _) = self.waiting.swap_remove(index);
                // One who is not of ours, or breaks off, is dropped here without a word.
                match packet::receive(guest.as_fd(), now + PATIENCE) {
                    Ok(Some(message)) if message.proves(&self.token, &self.address) => {
                        return Ok(Knock::Guest(guest, message));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Sleeps until something happens: whether to stop, who of the waiting spoke, whether somebody new is there.
    fn wait(
        &self,
        stop: Option<BorrowedFd<'_>>,
        until: Option<Instant>,
        now: Instant,
    ) -> Result<(bool, Option<usize>, bool), Error> {
        let full = self.waiting.len() >= MAX_WAITING;
        let mut fds = Vec::with_capacity(self.waiting.len() + 2);
        fds.extend(
            self.waiting
                .iter()
                .map(|(fd, _)| PollFd::new(fd, PollFlags::IN)),
        );
        fds.push(PollFd::new(
            &self.listener,
            if full {
                PollFlags::empty()
            } else {
                PollFlags::IN
            },
        ));
        fds.extend(stop.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let first = self
            .waiting
            .iter()
            .map(|(_, limit)| *limit)
            .chain(until)
            .min();
        let timeout = first.map(|at| timespec(at.saturating_duration_since(now)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::call("poll", errno)),
        }
        let fired: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let guests = self.waiting.len();
        Ok((
            fired.get(guests + 1).copied().unwrap_or(false),
            fired[..guests].iter().position(|fired| *fired),
            fired[guests],
        ))
    }

    fn accept(&mut self) -> Result<(), Error> {
        match net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(guest) => self.waiting.push((guest, Instant::now() + PATIENCE)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            // Out of descriptors: somebody may give one back soon, and a loop at full speed would not help them.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(errno) => return Err(Error::call("accepting a local process", errno)),
        }
        Ok(())
    }

    /// Answers a guest, whose question was `asked`.
    pub fn answer(
        &self,
        guest: &OwnedFd,
        asked: [u8; 32],
        kind: Kind,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let proof = Proof {
            token: &self.token,
            address: &self.address,
            nonce: asked,
        };
        packet::send(
            guest.as_fd(),
            kind,
            &proof,
            body,
            fds,
            Instant::now() + PATIENCE,
        )
    }
}

/// The other side: goes to the door at `address`, as often as it takes until somebody opens it, asks, and returns the answer.
pub(super) fn ask(
    address: &str,
    token: &Token,
    kind: Kind,
    body: &[u8],
    fds: &[BorrowedFd<'_>],
    until: Instant,
) -> Result<Message, Error> {
    let name = abstract_name(address)?;
    let socket = loop {
        let socket = socket()?;
        match net::connect(&socket, &name) {
            Ok(()) => break socket,
            // Not there yet, or its queue is full.
            Err(Errno::CONNREFUSED | Errno::AGAIN | Errno::INTR) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(errno) => {
                return Err(Error::new(
                    format!("nobody answers at the local address {address}: {errno}"),
                    "check that the rank there is still running, on this host and in the same network namespace \
                     (containers of one host need --network=host or a common pod)",
                ));
            }
        }
    };
    let nonce = super::pass::random_bytes()?;
    let proof = Proof {
        token,
        address,
        nonce,
    };
    packet::send(socket.as_fd(), kind, &proof, body, fds, until)?;
    match packet::receive(socket.as_fd(), until)? {
        Some(answer) if answer.nonce == nonce && answer.proves(token, address) => match answer.kind
        {
            Kind::Refusal => Err(Error::new(String::from_utf8_lossy(&answer.body), "")),
            _ => Ok(answer),
        },
        _ => Err(Error::new(
            format!("the process at the local address {address} hung up or is not of this job"),
            "check that all ranks were started by one launch and read the same store",
        )),
    }
}
