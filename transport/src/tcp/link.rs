//! One connection to one peer after its handshake: frames out of the segment and into the segment, or into the landing that is asked for. It knows sockets and
//! bytes, no handshake and no other peer. Invariants: frames leave in the order of their puts; nothing is written outside the
//! range peers may write; a put is reported as sent only when the kernel has taken its last byte, and as arrived only
//! when its last byte lies in the segment or in its landing.

use super::frame::{self, Header};
use crate::shm::Segment;
use crate::wire::{Ask, Body, Event, Landing, Notice, Put};
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

/// A frame whose payload is on its way into the segment, and behind that into its landing.
struct Incoming {
    /// Offset in the segment of the next byte, and how many bytes go there.
    to: usize,
    head: usize,
    /// The rest.
    landing: Option<Landing>,
    notice: Notice,
}

impl Incoming {
    fn left(&self) -> usize {
        self.head + self.landing.map_or(0, |landing| landing.len())
    }

    /// Where the next `bytes` bytes of the payload go: in the segment, and in the landing.
    fn next(&self, segment: &Segment, bytes: usize) -> [(*mut u8, usize); 2] {
        let head = self.head.min(bytes);
        let target = segment.at(self.to, head);
        let rest = self.landing.map(|landing| (landing.at(), bytes - head));
        [(target, head), rest.unwrap_or((target, 0))]
    }

    fn landed(&mut self, bytes: usize) {
        let head = self.head.min(bytes);
        self.to += head;
        self.head -= head;
        if let Some(landing) = &mut self.landing {
            *landing = landing.behind(bytes - head);
        }
    }
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

    /// Receives until nothing more is there or the turn is over. Payloads go into the segment, inside the part that peers may write only, and into their
    /// landings.
    pub fn receive(
        &mut self,
        (segment, writable): (&Segment, &Range<usize>),
        ask: &mut Ask<'_>,
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
                .map_or(0, |incoming| incoming.left().min(got));
            self.landed(direct, events);
            self.unread.end += got - direct;
            self.unpack((segment, writable), ask, events)?;
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
        let direct = incoming.left().min(turn);
        let [head, rest] = incoming.next(segment, direct).map(|(at, len)| {
            // SAFETY: `unpack` checked that this put's part of the segment is writable for peers; until its notice has been reported nobody of this
            // node may touch these bytes. Whoever made the landing has promised it as long.
            unsafe { std::slice::from_raw_parts_mut(at, len) }
        });
        let inbox = if direct < incoming.left() {
            &mut []
        } else {
            inbox
        };
        let room = direct + inbox.len();
        let result = match (head.is_empty(), rest.is_empty(), inbox.is_empty()) {
            (false, true, true) => recv(&self.socket, head, RecvFlags::empty()).map(|(got, _)| got),
            (true, false, true) => recv(&self.socket, rest, RecvFlags::empty()).map(|(got, _)| got),
            _ => {
                let mut parts = [head, rest, inbox].map(IoSliceMut::new);
                rustix::io::readv(&self.socket, &mut parts)
            }
        };
        (room, result)
    }

    /// Takes the frames in the inbox apart. Afterwards the inbox is empty or holds less than a header, at its start.
    fn unpack(
        &mut self,
        (segment, writable): (&Segment, &Range<usize>),
        ask: &mut Ask<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), String> {
        loop {
            if let Some(incoming) = &self.incoming {
                let mut bytes = &self.inbox[self.unread.clone()];
                let copied = incoming.left().min(bytes.len());
                if copied == 0 {
                    break;
                }
                for (target, len) in incoming.next(segment, copied) {
                    let (part, rest) = bytes.split_at(len);
                    // SAFETY: the target lies inside the segment (`at`) and inside its writable part (checked below, with the header), or in the landing, which is
                    // promised; it does not overlap the inbox, which is memory of our own.
                    unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), target, len) };
                    bytes = rest;
                }
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
            let mut incoming = admit(&header, writable)?;
            if incoming.head > 0 {
                let landing = ask(incoming.notice, incoming.head);
                incoming.landing = landing.filter(|landing| landing.len() <= incoming.head);
                incoming.head -= incoming.landing.map_or(0, |landing| landing.len());
            }
            self.incoming = Some(incoming);
            self.landed(0, events);
        }
        self.inbox.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        Ok(())
    }

    /// Counts payload bytes that are where they belong, and reports the put when all are.
    fn landed(&mut self, bytes: usize, events: &mut Vec<Event>) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        incoming.landed(bytes);
        if incoming.left() == 0 {
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
    let head = usize::try_from(header.len).map_err(|_| refused())?;
    // A notice alone writes nothing, so its target says nothing.
    if head > 0
        && (to < writable.start || to.checked_add(head).is_none_or(|end| end > writable.end))
    {
        return Err(refused());
    }
    Ok(Incoming {
        to,
        head,
        landing: None,
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
