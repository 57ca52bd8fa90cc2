//! One connection to one peer after its handshake: frames out of the segment and into the segment. It knows sockets and
//! bytes, no handshake and no other peer. Invariants: frames leave in the order of their puts; nothing is written outside the
//! range peers may write; a put is reported as sent only when the kernel has taken its last byte, and as arrived only
//! when its last byte lies in the segment.

use super::frame::{self, Header};
use crate::shm::Segment;
use crate::wire::{Body, Event, Notice, Put};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;

/// Bytes one call of `flush` or `receive` moves at most: what one busy peer can make the others wait for.
const TURN: usize = 1 << 20;
/// Frames one system call sends at most.
const BATCH: usize = 32;
/// Read buffer: large enough for hundreds of small frames.
const INBOX: usize = 16 << 10;
/// Behind a frame with a payload of more bytes no more than a header is read into that buffer: what comes in with a header is copied a second time, and large puts
/// come in rows.
const LARGE: usize = 16 << 10;
/// Frames the queue holds before it has to grow: more than a plan's window of puts to one peer.
const QUEUE: usize = 256;

/// A frame the kernel has not taken completely.
struct Outgoing {
    header: [u8; frame::BYTES],
    from: usize,
    /// Bytes in the segment.
    head: usize,
    /// Bytes behind those.
    body: Option<Body>,
    ticket: u64,
}

/// A frame whose payload is on its way into the segment.
struct Incoming {
    to: usize,
    left: usize,
    notice: Notice,
}

/// A connected peer.
pub(super) struct Link {
    /// Global rank of the peer.
    pub rank: usize,
    /// The connection.
    pub socket: socket2::Socket,
    /// Why this link is of no use any more.
    pub fault: Option<String>,
    /// Whether nothing more can be received.
    pub ended: bool,
    queue: VecDeque<Outgoing>,
    /// Bytes of the first queued frame that the kernel has taken.
    taken: usize,
    inbox: Box<[u8]>,
    /// The part of `inbox` that holds bytes not looked at yet.
    unread: Range<usize>,
    incoming: Option<Incoming>,
    /// Whether the last frame with bytes was a large one.
    large: bool,
}

impl Link {
    /// A link over a connected, non-blocking socket.
    pub fn new(rank: usize, socket: socket2::Socket) -> Link {
        Link {
            rank,
            socket,
            fault: None,
            ended: false,
            queue: VecDeque::with_capacity(QUEUE),
            taken: 0,
            inbox: vec![0; INBOX].into_boxed_slice(),
            unread: 0..0,
            incoming: None,
            large: false,
        }
    }

    /// Whether frames wait for the kernel.
    pub fn queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Adds a put to the queue, of which `head` bytes lie in the segment.
    pub fn push(&mut self, put: &Put, head: usize) {
        let header = Header {
            to: put.to as u64,
            len: put.len as u64,
            notice: put.notice.0,
        };
        self.queue.push_back(Outgoing {
            header: header.encode(),
            from: put.from,
            head,
            body: put.body,
            ticket: put.ticket,
        });
    }

    /// Hands queued frames to the kernel until it takes no more or the turn is over. The queue's sources lie in `segment`.
    pub fn flush(&mut self, segment: &Segment, events: &mut Vec<Event>) -> Result<(), String> {
        let mut turn = TURN;
        while turn > 0 && !self.queue.is_empty() {
            let (offered, result) = self.offer(segment, turn);
            match result {
                Ok(taken) => {
                    self.account(taken, events);
                    turn -= taken;
                    if taken < offered {
                        break;
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(lost(errno)),
            }
        }
        Ok(())
    }

    /// One `sendmsg` of as many queued frames as fit in a batch and in `turn` bytes: bytes offered, and what the kernel said.
    fn offer(&self, segment: &Segment, turn: usize) -> (usize, Result<usize, Errno>) {
        let mut slices = [IoSlice::new(&[]); 3 * BATCH];
        let (mut used, mut room, mut skip) = (0, turn, self.taken);
        for out in self.queue.iter().take(BATCH) {
            // SAFETY: `Tcp::put` checked that the source lies inside the segment; by the contract its bytes stay as they
            // are until `Sent`, which is reported only when the frame leaves the queue.
            let head: &[u8] =
                unsafe { std::slice::from_raw_parts(segment.at(out.from, out.head), out.head) };
            let body = out.body.map_or(&[][..], |body| {
                // SAFETY: whoever made the body has promised it until `Sent`.
                unsafe { std::slice::from_raw_parts(body.at(), body.len()) }
            });
            for part in [&out.header[..], head, body] {
                let skipped = skip.min(part.len());
                skip -= skipped;
                let part = &part[skipped..];
                let part = &part[..room.min(part.len())];
                if !part.is_empty() {
                    slices[used] = IoSlice::new(part);
                    used += 1;
                    room -= part.len();
                }
            }
            if room == 0 {
                break;
            }
        }
        let control = &mut SendAncillaryBuffer::default();
        // NOSIGNAL: a dead peer is an error to return, not a SIGPIPE for the whole process.
        let result =
            rustix::net::sendmsg(&self.socket, &slices[..used], control, SendFlags::NOSIGNAL);
        (turn - room, result)
    }

    /// Takes the frames the kernel has completely taken off the queue.
    fn account(&mut self, taken: usize, events: &mut Vec<Event>) {
        self.taken += taken;
        while let Some(first) = self.queue.front() {
            let whole = frame::BYTES + first.head + first.body.map_or(0, |body| body.len());
            if self.taken < whole {
                break;
            }
            self.taken -= whole;
            events.push(Event::Sent {
                ticket: first.ticket,
            });
            self.queue.pop_front();
        }
    }

    /// Receives until nothing more is there or the turn is over. Payloads go into `segment`, inside `writable` only.
    pub fn receive(
        &mut self,
        segment: &Segment,
        writable: &Range<usize>,
        events: &mut Vec<Event>,
    ) -> Result<(), String> {
        let mut turn = TURN;
        while turn > 0 {
            let (room, result) = self.read(segment, turn);
            let got = match result {
                Ok(0) => {
                    return Err(match self.incoming.is_some() || !self.unread.is_empty() {
                        true => "connection closed by its process in the middle of a put (it exited or was killed)".into(),
                        false => "connection closed by its process (it exited or was killed)".into(),
                    });
                }
                Ok(got) => got,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(lost(errno)),
            };
            let direct = self
                .incoming
                .as_ref()
                .map_or(0, |incoming| incoming.left.min(got));
            self.landed(direct, events);
            self.unread.end += got - direct;
            self.unpack(segment, writable, events)?;
            if got < room {
                break; // The socket is empty: the next system call would only say so.
            }
            turn = turn.saturating_sub(got);
        }
        Ok(())
    }

    /// One read of what is missing of the payload on its way, and behind it of the next frames: room given, and what the
    /// kernel said.
    fn read(&mut self, segment: &Segment, turn: usize) -> (usize, Result<usize, Errno>) {
        let end = if self.large { frame::BYTES } else { INBOX };
        let inbox = &mut self.inbox[self.unread.end..end];
        let Some(incoming) = &self.incoming else {
            let room = inbox.len();
            return (
                room,
                recv(&self.socket, inbox, RecvFlags::empty()).map(|(got, _)| got),
            );
        };
        let direct = incoming.left.min(turn);
        // SAFETY: `unpack` checked that the rest of this put lies inside the writable part of the segment; until its
        // notice has been reported nobody of this node may touch these bytes.
        let payload =
            unsafe { std::slice::from_raw_parts_mut(segment.at(incoming.to, direct), direct) };
        if direct < incoming.left {
            return (
                direct,
                recv(&self.socket, payload, RecvFlags::empty()).map(|(got, _)| got),
            );
        }
        let room = direct + inbox.len();
        let mut parts = [IoSliceMut::new(payload), IoSliceMut::new(inbox)];
        (room, rustix::io::readv(&self.socket, &mut parts))
    }

    /// Takes the frames in the inbox apart. Afterwards the inbox is empty or holds less than a header, at its start.
    fn unpack(
        &mut self,
        segment: &Segment,
        writable: &Range<usize>,
        events: &mut Vec<Event>,
    ) -> Result<(), String> {
        loop {
            if let Some(incoming) = &self.incoming {
                let bytes = &self.inbox[self.unread.clone()];
                let bytes = &bytes[..incoming.left.min(bytes.len())];
                if bytes.is_empty() {
                    break;
                }
                let target = segment.at(incoming.to, bytes.len());
                // SAFETY: the target lies inside the segment (`at`) and inside its writable part (checked below, with
                // the header); it does not overlap the inbox, which is memory of our own.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
                let copied = bytes.len();
                self.unread.start += copied;
                self.landed(copied, events);
            }
            let Some(bytes) = self.inbox[self.unread.clone()].first_chunk() else {
                break;
            };
            let header = Header::decode(bytes)
                .ok_or("sent bytes that are no frame (another version of this library?)")?;
            self.unread.start += frame::BYTES;
            // A notice without bytes says nothing of what comes behind it.
            if header.len > 0 {
                self.large = header.len > LARGE as u64;
            }
            self.incoming = Some(admit(&header, writable)?);
            self.landed(0, events);
        }
        self.inbox.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        Ok(())
    }

    /// Counts payload bytes that lie in the segment, and reports the put when all do.
    fn landed(&mut self, bytes: usize, events: &mut Vec<Event>) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        incoming.to += bytes;
        incoming.left -= bytes;
        if incoming.left == 0 {
            let notice = incoming.notice;
            events.push(Event::Arrived {
                from: self.rank,
                notice,
            });
            self.incoming = None;
        }
    }
}

/// Lets a frame in only when all its bytes belong into the writable part of the segment.
fn admit(header: &Header, writable: &Range<usize>) -> Result<Incoming, String> {
    let refused = || {
        format!(
            "sent a frame of {} bytes for offset {}, outside the part of this segment that peers may write ({}..{})",
            header.len, header.to, writable.start, writable.end
        )
    };
    let to = usize::try_from(header.to).map_err(|_| refused())?;
    let left = usize::try_from(header.len).map_err(|_| refused())?;
    // A notice alone writes nothing, so its target says nothing.
    if left > 0
        && (to < writable.start || to.checked_add(left).is_none_or(|end| end > writable.end))
    {
        return Err(refused());
    }
    Ok(Incoming {
        to,
        left,
        notice: Notice(header.notice),
    })
}

/// What a connection's error says about the peer.
fn lost(errno: Errno) -> String {
    match errno {
        Errno::CONNRESET | Errno::PIPE => {
            "connection closed by its process (it exited or was killed)".into()
        }
        Errno::TIMEDOUT => {
            "connection timed out (its machine or the network between is down)".into()
        }
        other => format!("connection lost: {}", std::io::Error::from(other)),
    }
}
