//! The TCP wire: one connection per pair of ranks, frames written from and read into the segment. It knows which part of the
//! segment peers may write, and refuses every frame outside it. Invariant: after `connect`, no call blocks, and
//! nothing is allocated once the queues have grown to what the plan needs.
//!
//! Socket options: congestion control ([`Congestion`]), `TCP_NODELAY` (a notice must not wait for an acknowledgement) and keepalive (an idle connection to a vanished
//! machine fails within `KEEPALIVE_IDLE + 4 * KEEPALIVE_INTERVAL`). Buffer sizes are left to the kernel, whose
//! autotuning a fixed size would switch off. `TCP_USER_TIMEOUT` is left alone on purpose: Linux counts it for a closed window as
//! well, so it would end the connection to a healthy rank that computes for longer between two calls than the timeout; it also
//! replaces the keepalive's limit. Data in flight to a vanished machine is the stall report's business.

mod congestion;
mod connect;
mod frame;
mod link;
mod proof;

use crate::shm::Segment;
use crate::wire::{Ask, Error, Event, PeerAddress, Put, Transport};
pub use congestion::Congestion;
use connect::{Established, Pending};
use link::Link;
use rustix::event::epoll;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Idle time before the kernel asks whether the peer's machine is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Time between two such questions; four unanswered ones end the connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Connections the kernel keeps until `connect` takes them: every rank of a large job may dial at once.
const BACKLOG: i32 = 1024;
/// Up to this many peers each is simply read; with more, one `epoll_wait` says which are worth a read.
const READ_ALL: usize = 2;
/// Ready peers one `poll` looks at.
const READY: usize = 64;
/// Marks a rank without a link.
const NONE: usize = usize::MAX;

/// One rank's end of the TCP wire.
pub struct Tcp {
    rank: usize,
    segment: Arc<Segment>,
    writable: Range<usize>,
    token: [u8; 32],
    congestion: Congestion,
    listener: Socket,
    address: SocketAddr,
    /// Handshakes that have been begun by others.
    pending: Vec<Pending>,
    /// Peers that have dialled and proved themselves before we asked for them.
    early: Vec<Established>,
    links: Vec<Link>,
    /// Index into `links` by rank, or `NONE`.
    slots: Vec<usize>,
    epoll: OwnedFd,
    /// Events of `put`, for the next `poll`.
    events: Vec<Event>,
}

impl Tcp {
    /// Listens on a free port of `listen`, which must be an address peers can reach. Peers may write the bytes `writable` of
    /// `segment` and nothing else; only processes that know `token` become peers.
    ///
    /// # Errors
    /// When `listen` is no address of this machine, when it is unspecified (peers could not reach `0.0.0.0`), when
    /// `writable` does not lie inside the segment, or when a congestion control that was named cannot be had.
    pub fn bind(
        rank: usize,
        segment: Arc<Segment>,
        writable: Range<usize>,
        listen: IpAddr,
        token: [u8; 32],
        congestion: Congestion,
    ) -> Result<Tcp, Error> {
        if listen.is_unspecified() {
            return Err(error(
                None,
                format!("cannot listen on {listen}: peers need the address of one interface"),
            ));
        }
        if writable.start > writable.end || writable.end > segment.len() {
            let (bytes, len) = (writable, segment.len());
            return Err(error(
                None,
                format!("bytes {bytes:?} do not lie inside a segment of {len} bytes"),
            ));
        }
        let fresh = Domain::for_address(SocketAddr::new(listen, 0));
        let socket = Socket::new(fresh, Type::STREAM, Some(Protocol::TCP))
            .map_err(|e| error(None, format!("no socket: {e}")))?;
        congestion.set(&socket)?;
        let open = |socket: Socket| -> std::io::Result<(Socket, SocketAddr)> {
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::from(SocketAddr::new(listen, 0)))?;
            socket.listen(BACKLOG)?;
            let address = socket
                .local_addr()?
                .as_socket()
                .expect("an internet socket has an internet address");
            Ok((socket, address))
        };
        let (listener, address) =
            open(socket).map_err(|e| error(None, format!("cannot listen on {listen}: {e}")))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|e| error(None, format!("no epoll: {e}")))?;
        Ok(Tcp {
            rank,
            segment,
            writable,
            token,
            congestion,
            listener,
            address,
            pending: Vec::new(),
            early: Vec::new(),
            links: Vec::new(),
            slots: Vec::new(),
            epoll,
            events: Vec::new(),
        })
    }

    /// Makes a link of a connection whose peer has proved itself.
    fn adopt(&mut self, peer: Established) -> Result<(), Error> {
        let at = self.links.len();
        let interest = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(
            &self.epoll,
            &peer.socket,
            epoll::EventData::new_u64(at as u64),
            interest,
        )
        .map_err(|e| error(Some(peer.rank), format!("cannot watch its connection: {e}")))?;
        if self.slots.len() <= peer.rank {
            self.slots.resize(peer.rank + 1, NONE);
        }
        self.slots[peer.rank] = at;
        self.links.push(Link::new(peer.rank, peer.socket));
        Ok(())
    }

    fn connected(&self, rank: usize) -> bool {
        self.slots.get(rank).is_some_and(|&at| at != NONE)
    }

    /// Receives from one peer; what is wrong with it stays in its link.
    fn receive(&mut self, at: usize, ask: &mut Ask<'_>, events: &mut Vec<Event>) {
        let link = &mut self.links[at];
        if link.ended {
            return;
        }
        if let Err(cause) = link.receive((&self.segment, &self.writable), ask, events) {
            link.ended = true;
            link.fault.get_or_insert(cause);
            // A closed connection would make every `epoll_wait` return at once. That it cannot be taken out means that it is out.
            let _ = epoll::delete(&self.epoll, &link.socket);
        }
    }
}

impl Transport for Tcp {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn gathers(&self) -> bool {
        true
    }

    fn address(&self) -> Vec<u8> {
        self.address.to_string().into_bytes()
    }

    fn connect(&mut self, peers: &[PeerAddress], deadline: Instant) -> Result<(), Error> {
        self.connect_all(peers, deadline)
    }

    fn put(&mut self, put: Put) -> Result<(), Error> {
        let at = self.slots.get(put.peer).copied().unwrap_or(NONE);
        let Some(link) = self.links.get_mut(at) else {
            return Err(error(
                Some(put.peer),
                "a put to a rank that is not connected",
            ));
        };
        if let Some(cause) = &link.fault {
            return Err(error(Some(put.peer), cause.as_str()));
        }
        let inside = |head: &usize| {
            let end = put.from.checked_add(*head);
            end.is_some_and(|end| end <= self.segment.len())
        };
        let Some(head) = put.head().filter(inside) else {
            let (len, from, whole) = (put.len, put.from, self.segment.len());
            let cause = format!(
                "a put of {len} bytes from offset {from}, outside our segment of {whole} bytes"
            );
            return Err(error(Some(put.peer), cause));
        };
        let behind = link.queued();
        link.push(&put, head);
        if behind {
            return Ok(()); // The kernel was full a moment ago; `poll` asks it again, once for all that is queued.
        }
        link.flush(&self.segment, &mut self.events)
            .map_err(|cause| {
                link.fault = Some(cause.clone());
                error(Some(put.peer), cause)
            })
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        self.poll_landing(&mut |_, _| None, events)
    }

    fn poll_landing(&mut self, ask: &mut Ask<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        events.append(&mut self.events);
        for link in self
            .links
            .iter_mut()
            .filter(|link| link.queued() && link.fault.is_none())
        {
            link.fault = link.flush(&self.segment, events).err();
        }
        if self.links.len() <= READ_ALL {
            for at in 0..self.links.len() {
                self.receive(at, ask, events);
            }
        } else {
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let mut ready = [MaybeUninit::uninit(); READY];
            match epoll::wait(&self.epoll, &mut ready, Some(&now)) {
                Ok((ready, _)) => ready
                    .iter()
                    .for_each(|ready| self.receive(ready.data.u64() as usize, ask, events)),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    return Err(error(
                        None,
                        format!("cannot ask which peers have sent: {e}"),
                    ));
                }
            }
        }
        // Reported after everything else was done, and again by every later call: a fault does not heal.
        match self
            .links
            .iter()
            .find_map(|link| Some((link.rank, link.fault.as_ref()?)))
        {
            Some((rank, cause)) => Err(error(Some(rank), cause.as_str())),
            None => Ok(()),
        }
    }

    fn watch(&self, fds: &mut Vec<(RawFd, bool)>) {
        let open = self.links.iter().filter(|link| !link.ended);
        fds.extend(open.map(|link| {
            (
                link.socket.as_raw_fd(),
                link.queued() && link.fault.is_none(),
            )
        }));
    }
}

/// Options of every data socket.
fn configure(socket: &Socket) -> std::io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(4))
}

fn error(peer: Option<usize>, cause: impl Into<String>) -> Error {
    Error {
        wire: "tcp",
        peer,
        cause: cause.into(),
    }
}

#[cfg(test)]
mod tests;
