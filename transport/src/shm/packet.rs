//! One message between local processes: a few bytes and file descriptors over a Unix socket that keeps message bounds. The
//! shared token never travels: each side shows with a keyed hash that it knows it. Every wait here ends at a given instant.

use super::Error;
use hmac::{Hmac, KeyInit, Mac};
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use sha2::Sha256;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// What both sides of a meeting know and nobody else does; 32 random bytes, carried by the store.
pub type Token = [u8; 32];

/// The kernel passes at most 253 descriptors with one packet; more go in several.
const FDS_PER_PACKET: usize = 128;
const MAGIC: &[u8; 4] = b"HFR1";
const HEAD: usize = 4 + 1 + 1 + 2 + 32 + 32;
/// Bytes a message may carry: 4 for each of 1,024 local ranks is the most that is asked for.
pub(super) const MAX_BODY: usize = 4096;

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Hand me your descriptors.
    Fetch = 1,
    /// Here are mine; hand me everybody's.
    Join = 2,
    /// Here they are.
    Fds = 3,
    /// No, and why.
    Refusal = 4,
}

#[derive(Debug)]
pub(super) struct Message {
    pub kind: Kind,
    pub nonce: [u8; 32],
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
    proof: [u8; 32],
}

impl Message {
    /// Whether the sender knows the token and meant this meeting.
    pub fn proves(&self, token: &Token, address: &str) -> bool {
        signer(token, self.kind, address, &self.nonce, &self.body)
            .verify_slice(&self.proof)
            .is_ok()
    }
}

fn signer(token: &Token, kind: Kind, address: &str, nonce: &[u8; 32], body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(token).expect("a key of any length is taken");
    mac.update(&[kind as u8]);
    mac.update(nonce);
    mac.update(address.as_bytes());
    // Separates the two parts of variable length.
    mac.update(&[0]);
    mac.update(body);
    mac
}

/// What a sender needs to prove itself: the token, the address of the meeting and the asker's nonce.
pub(super) struct Proof<'a> {
    pub token: &'a Token,
    pub address: &'a str,
    pub nonce: [u8; 32],
}

/// Sends one message, in as many packets as its descriptors need.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    kind: Kind,
    proof: &Proof<'_>,
    body: &[u8],
    fds: &[BorrowedFd<'_>],
    until: Instant,
) -> Result<(), Error> {
    assert!(
        body.len() <= MAX_BODY,
        "a message of {} bytes is too long",
        body.len()
    );
    let mac = signer(proof.token, kind, proof.address, &proof.nonce, body)
        .finalize()
        .into_bytes();
    let mut rest = fds;
    loop {
        let (now, later) = rest.split_at(rest.len().min(FDS_PER_PACKET));
        let mut head = Vec::with_capacity(HEAD + body.len());
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&[kind as u8, u8::from(!later.is_empty())]);
        head.extend_from_slice(&(now.len() as u16).to_le_bytes());
        head.extend_from_slice(&proof.nonce);
        head.extend_from_slice(&mac);
        head.extend_from_slice(body);
        send_packet(socket, &head, now, until)?;
        if later.is_empty() {
            return Ok(());
        }
        rest = later;
    }
}

fn send_packet(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    until: Instant,
) -> Result<(), Error> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_PER_PACKET))];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(
            fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)),
            "space for {} fds",
            fds.len()
        );
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::AGAIN) => wait_for(socket, PollFlags::OUT, until)?,
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::call(
                    "passing file descriptors to a local process",
                    errno,
                ));
            }
        }
    }
}

/// Receives one message of any number of packets; `None` when the other side has hung up or what came is no message of ours.
pub(super) fn receive(socket: BorrowedFd<'_>, until: Instant) -> Result<Option<Message>, Error> {
    let mut whole: Option<Message> = None;
    loop {
        wait_for(socket, PollFlags::IN, until)?;
        let Some((part, more)) = receive_packet(socket)? else {
            return Ok(None);
        };
        match &mut whole {
            None => whole = Some(part),
            Some(message) => message.fds.extend(part.fds),
        }
        if !more {
            return Ok(whole);
        }
    }
}

fn receive_packet(socket: BorrowedFd<'_>) -> Result<Option<(Message, bool)>, Error> {
    let mut bytes = [0_u8; HEAD + MAX_BODY];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_PER_PACKET))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = loop {
        match net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags,
        ) {
            Ok(got) => break got,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(errno) => {
                return Err(Error::call(
                    "receiving file descriptors from a local process",
                    errno,
                ));
            }
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    let bytes = &bytes[..got.bytes.min(HEAD + MAX_BODY)];
    if bytes.len() < HEAD || &bytes[..4] != MAGIC {
        return Ok(None);
    }
    let kind = match bytes[4] {
        1 => Kind::Fetch,
        2 => Kind::Join,
        3 => Kind::Fds,
        4 => Kind::Refusal,
        _ => return Ok(None),
    };
    let announced = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    if announced != fds.len() {
        return Err(Error::new(
            format!(
                "{announced} file descriptors were passed to this process and only {} arrived",
                fds.len()
            ),
            "raise the limit of open files (ulimit -n)",
        ));
    }
    let word = |at: usize| -> [u8; 32] { bytes[at..at + 32].try_into().expect("32 bytes") };
    let message = Message {
        kind,
        nonce: word(8),
        proof: word(40),
        body: bytes[HEAD..].to_vec(),
        fds,
    };
    Ok(Some((message, bytes[5] != 0)))
}

fn wait_for(socket: BorrowedFd<'_>, flags: PollFlags, until: Instant) -> Result<(), Error> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), flags)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(0) if left.is_zero() => {
                return Err(Error::new(
                    "the other local process did not answer in time",
                    "",
                ));
            }
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(Error::call("poll", errno)),
        }
    }
}

/// A duration as the kernel takes it; so long a one that it does not fit is as good as for ever.
pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()) as _,
    }
}
