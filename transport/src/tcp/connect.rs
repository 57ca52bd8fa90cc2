//! How two ranks become peers: the lower rank dials, the higher accepts, both prove the job's token. It knows sockets and
//! deadlines, no frames. Invariants: nobody who has not proved the token reaches the data path; an accepted socket that stays
//! silent or talks nonsense is dropped after `HANDSHAKE` at the latest and delays nobody, because all handshakes advance together.

use super::congestion::Congestion;
use super::proof::{self, Side, Terms};
use super::{Tcp, configure, error};
use crate::wire::{Error, PeerAddress};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long an accepted socket may take to prove itself.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// How long a dialer waits before it dials again after the other end hung up in the handshake.
const REDIAL: Duration = Duration::from_millis(50);
/// Handshakes begun by others that are looked at together; more of them wait in the kernel.
const PENDING: usize = 512;

/// A peer that has proved itself.
pub(super) struct Established {
    /// Global rank.
    pub rank: usize,
    /// The connection, at the first frame.
    pub socket: Socket,
}

/// A message on its way in. Never reads past its end: what follows belongs to somebody else.
struct Message {
    bytes: [u8; proof::REPLY],
    got: usize,
    want: usize,
}

/// What reading a message came to.
enum Heard {
    All,
    More,
    End,
}

impl Message {
    fn new(want: usize) -> Message {
        Message {
            bytes: [0; proof::REPLY],
            got: 0,
            want,
        }
    }

    fn read(&mut self, socket: &Socket) -> Heard {
        while self.got < self.want {
            match (&mut &*socket).read(&mut self.bytes[self.got..self.want]) {
                Ok(0) => return Heard::End,
                Ok(got) => self.got += got,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Heard::More,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Heard::End,
            }
        }
        Heard::All
    }

    /// The first `N` bytes, once they are there.
    fn first<const N: usize>(&self) -> Option<&[u8; N]> {
        self.bytes[..self.got].first_chunk()
    }
}

/// Sends a message of the handshake. It fits into the buffer of a fresh socket, so less than all of it is a broken peer.
fn say(socket: &Socket, bytes: &[u8]) -> bool {
    matches!((&mut &*socket).write(bytes), Ok(n) if n == bytes.len())
}

/// A handshake somebody else has begun.
pub(super) struct Pending {
    socket: Socket,
    from: Option<SocketAddr>,
    until: Instant,
    message: Message,
    /// Known once the hello has come.
    terms: Option<Terms>,
}

/// Where a handshake stands.
enum Step {
    Wait,
    Done(usize),
    Refused(&'static str),
}

impl Pending {
    fn step(&mut self, rank: usize, token: &[u8; 32]) -> Step {
        loop {
            let heard = self.message.read(&self.socket);
            if let (None, Some(magic)) = (&self.terms, self.message.first())
                && *magic != proof::MAGIC
            {
                return Step::Refused("it does not speak this protocol");
            }
            match (heard, self.terms) {
                (Heard::More, _) => return Step::Wait,
                (Heard::End, None) => return Step::Refused("it hung up without a word"),
                (Heard::End, Some(_)) => {
                    return Step::Refused("it hung up before its proof (it has another token?)");
                }
                (Heard::All, Some(terms)) => {
                    let proof = &self.message.bytes[..proof::PROOF];
                    return match terms.verify(Side::Dialer, token, proof) {
                        true => Step::Done(terms.dialer as usize),
                        false => Step::Refused("it does not know this job's token"),
                    };
                }
                (Heard::All, None) => {
                    let terms = self
                        .message
                        .first()
                        .and_then(|hello| Terms::from_hello(hello, nonce()));
                    let Some(terms) = terms else {
                        return Step::Refused("it does not speak this protocol");
                    };
                    if terms.accepter != rank as u64 || terms.dialer >= terms.accepter {
                        return Step::Refused("it looks for another rank");
                    }
                    if !say(&self.socket, &terms.reply(token)) {
                        return Step::Refused("it hung up in the handshake");
                    }
                    self.terms = Some(terms);
                    self.message = Message::new(proof::PROOF);
                }
            }
        }
    }
}

/// A handshake of our own.
struct Dial {
    rank: usize,
    address: SocketAddr,
    terms: Terms,
    socket: Option<Socket>,
    /// When to dial again, while there is no socket.
    again: Instant,
    connecting: bool,
    message: Message,
}

impl Dial {
    fn new(from: usize, to: usize, address: SocketAddr, now: Instant) -> Dial {
        Dial {
            rank: to,
            address,
            terms: Terms {
                dialer: from as u64,
                accepter: to as u64,
                dialer_nonce: nonce(),
                accepter_nonce: [0; 32],
            },
            socket: None,
            again: now,
            connecting: false,
            message: Message::new(proof::REPLY),
        }
    }

    /// Advances as far as it goes without waiting: whether the peer has proved itself, or why it never will.
    fn step(&mut self, token: &[u8; 32], with: &Congestion, now: Instant) -> Result<bool, String> {
        if self.socket.is_none() {
            if now < self.again {
                return Ok(false);
            }
            self.dial(with)?;
        }
        let Some(socket) = &self.socket else {
            return Ok(false);
        };
        if self.connecting {
            if !ready(socket, PollFlags::OUT) {
                return Ok(false);
            }
            if let Some(e) = socket.take_error().map_err(|e| self.unreachable(&e))? {
                return Err(self.unreachable(&e));
            }
            self.connecting = false;
            if !say(socket, &self.terms.hello()) {
                self.hang_up(now);
                return Ok(false);
            }
        }
        match self.message.read(socket) {
            Heard::More => return Ok(false),
            Heard::End => {
                self.hang_up(now);
                return Ok(false);
            }
            Heard::All => {}
        }
        let (nonce, proof) = self.message.bytes.split_at(32);
        self.terms.accepter_nonce.copy_from_slice(nonce);
        if !self.terms.verify(Side::Accepter, token, proof) {
            let address = self.address;
            return Err(format!(
                "the process at {address} does not know this job's token (it belongs to another job?)"
            ));
        }
        if !say(socket, &self.terms.proof(Side::Dialer, token)) {
            self.hang_up(now);
            return Ok(false);
        }
        Ok(true)
    }

    fn dial(&mut self, with: &Congestion) -> Result<(), String> {
        let domain = Domain::for_address(self.address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
            .map_err(|e| self.unreachable(&e))?;
        with.set(&socket).map_err(|e| e.cause)?;
        let open = || -> std::io::Result<()> {
            configure(&socket)?;
            match socket.connect(&SockAddr::from(self.address)) {
                Err(e) if e.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(e),
                _ => Ok(()),
            }
        };
        open().map_err(|e| self.unreachable(&e))?;
        self.socket = Some(socket);
        self.connecting = true;
        self.message = Message::new(proof::REPLY);
        Ok(())
    }

    /// Peers listen before they publish their address: a refusal is final, not early.
    fn unreachable(&self, cause: &std::io::Error) -> String {
        format!("cannot connect to {}: {cause}", self.address)
    }

    /// The other end gave up on us, for instance because this process was stopped in the middle: once more.
    fn hang_up(&mut self, now: Instant) {
        self.socket = None;
        self.again = now + REDIAL;
        self.terms.dialer_nonce = nonce();
    }
}

impl Tcp {
    pub(super) fn connect_all(
        &mut self,
        peers: &[PeerAddress],
        deadline: Instant,
    ) -> Result<(), Error> {
        let start = Instant::now();
        let (mut dials, mut awaited) = (Vec::new(), Vec::new());
        for peer in peers.iter().filter(|peer| !self.connected(peer.rank)) {
            if peer.rank == self.rank {
                return Err(error(Some(peer.rank), "a rank is no peer of itself"));
            }
            let address = parse(peer)?;
            if peer.rank > self.rank {
                dials.push(Dial::new(self.rank, peer.rank, address, start));
            } else {
                awaited.push((peer.rank, address));
            }
        }
        let mut refusal = None;
        loop {
            let now = Instant::now();
            self.dial_on(&mut dials, now)?;
            if !awaited.is_empty() {
                self.accept()?;
                self.hear_on(&mut refusal, now);
                self.take_early(&mut awaited)?;
            }
            if dials.is_empty() && awaited.is_empty() {
                return Ok(());
            }
            if now >= deadline {
                return Err(late(&dials, &awaited, refusal, now - start));
            }
            self.sleep(&dials, !awaited.is_empty(), now, deadline)?;
        }
    }

    /// Advances our own handshakes.
    fn dial_on(&mut self, dials: &mut Vec<Dial>, now: Instant) -> Result<(), Error> {
        let mut at = 0;
        while at < dials.len() {
            let dial = &mut dials[at];
            if !dial
                .step(&self.token, &self.congestion, now)
                .map_err(|cause| error(Some(dial.rank), cause))?
            {
                at += 1;
                continue;
            }
            let dial = dials.swap_remove(at);
            let socket = dial.socket.expect("a finished handshake has a socket");
            self.adopt(Established {
                rank: dial.rank,
                socket,
            })?;
        }
        Ok(())
    }

    /// Takes in who has dialled us.
    fn accept(&mut self) -> Result<(), Error> {
        while self.pending.len() < PENDING {
            match self.listener.accept() {
                Ok((socket, from)) => {
                    // A socket that cannot be configured is already dead.
                    if configure(&socket).is_ok() {
                        self.pending.push(Pending {
                            socket,
                            from: from.as_socket(),
                            until: Instant::now() + HANDSHAKE,
                            message: Message::new(proof::HELLO),
                            terms: None,
                        });
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // The caller has given up meanwhile, or a signal came: both leave the others to be accepted.
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(error(None, format!("cannot accept connections: {e}"))),
            }
        }
        Ok(())
    }

    /// Advances the handshakes of others. Who has proved itself waits in `early`, whether we asked for it or not.
    fn hear_on(&mut self, refusal: &mut Option<String>, now: Instant) {
        let mut at = 0;
        while at < self.pending.len() {
            let step = self.pending[at].step(self.rank, &self.token);
            let step = match step {
                // What has come is looked at first: between two calls of `connect` nobody listens, and that is not the dialer's fault.
                Step::Wait if now >= self.pending[at].until => {
                    Step::Refused("it did not finish the handshake in time")
                }
                step => step,
            };
            match step {
                Step::Wait => at += 1,
                Step::Done(rank) => {
                    let socket = self.pending.swap_remove(at).socket;
                    // Of two dialers of one rank the later is the living one.
                    self.early.retain(|early| early.rank != rank);
                    self.early.push(Established { rank, socket });
                }
                Step::Refused(why) => {
                    let pending = self.pending.swap_remove(at);
                    let from = pending
                        .from
                        .map_or("unknown".into(), |from| from.to_string());
                    tracing::debug!(%from, why, "connection refused");
                    *refusal = Some(format!("a connection from {from} was refused: {why}"));
                }
            }
        }
    }

    fn take_early(&mut self, awaited: &mut Vec<(usize, SocketAddr)>) -> Result<(), Error> {
        while let Some(at) = self
            .early
            .iter()
            .position(|early| awaited.iter().any(|(rank, _)| *rank == early.rank))
        {
            let peer = self.early.swap_remove(at);
            awaited.retain(|(rank, _)| *rank != peer.rank);
            self.adopt(peer)?;
        }
        Ok(())
    }

    /// Sleeps until a handshake can go on.
    fn sleep(
        &self,
        dials: &[Dial],
        accepting: bool,
        now: Instant,
        deadline: Instant,
    ) -> Result<(), Error> {
        let mut fds = Vec::new();
        let mut until = deadline;
        for dial in dials {
            match &dial.socket {
                Some(socket) if dial.connecting => fds.push(PollFd::new(socket, PollFlags::OUT)),
                Some(socket) => fds.push(PollFd::new(socket, PollFlags::IN)),
                None => until = until.min(dial.again),
            }
        }
        if accepting {
            if self.pending.len() < PENDING {
                fds.push(PollFd::new(&self.listener, PollFlags::IN));
            }
            for pending in &self.pending {
                fds.push(PollFd::new(&pending.socket, PollFlags::IN));
                until = until.min(pending.until);
            }
        }
        let wait = Timespec::try_from(until.saturating_duration_since(now)).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(error(None, format!("cannot wait for connections: {e}"))),
        }
    }
}

fn parse(peer: &PeerAddress) -> Result<SocketAddr, Error> {
    let text = std::str::from_utf8(&peer.address).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&peer.address);
        error(
            Some(peer.rank),
            format!("its address {shown:?} is not of the form ip:port (another wire's address?)"),
        )
    })
}

/// Names the first peer that is missing, and what else could explain it.
fn late(
    dials: &[Dial],
    awaited: &[(usize, SocketAddr)],
    refusal: Option<String>,
    waited: Duration,
) -> Error {
    let seconds = waited.as_secs_f64();
    let others = match dials.len() + awaited.len() - 1 {
        0 => String::new(),
        n => format!("; {n} further ranks are missing"),
    };
    let refusal = refusal
        .map(|refusal| format!("; {refusal}"))
        .unwrap_or_default();
    match (dials.first(), awaited.first()) {
        (Some(dial), _) => {
            let what = if dial.connecting {
                "no answer from"
            } else {
                "no handshake from"
            };
            let cause = format!(
                "{what} {} within {seconds:.1} s{others}{refusal}",
                dial.address
            );
            error(Some(dial.rank), cause)
        }
        (None, first) => {
            let address = first.map_or(String::new(), |(_, address)| {
                format!(" (it listens on {address})")
            });
            let cause = format!(
                "did not connect to this rank within {seconds:.1} s{address}{others}{refusal}"
            );
            error(first.map(|(rank, _)| *rank), cause)
        }
    }
}

/// Whether `socket` is ready now.
fn ready(socket: &Socket, flags: PollFlags) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(socket, flags)], Some(&now)).is_ok_and(|n| n > 0)
}

/// 32 bytes nobody can guess.
fn nonce() -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut got = 0;
    while got < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[got..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => got += n,
            Err(Errno::INTR) => {}
            Err(e) => panic!("the kernel gives no random bytes: {e}"),
        }
    }
    bytes
}
