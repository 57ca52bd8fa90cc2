//! The client of the rendezvous: finds the server, proves that it knows the job's secret, and asks one thing at a time over
//! each connection. It knows nothing of what the server remembers. While nobody listens yet it tries again, asleep in
//! between, until its deadline; calls of several threads use a connection each, so that none waits behind another.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use super::auth::{self, CHALLENGE, Conversation, HELLO, MAGIC, SIZE, Service, Side, WELCOME};
use super::codec::{Malformed, Reader, Writer, framed, read_by, read_frame_by, write_by};
use super::serve::{REPLY_LIMIT, Reply, Request};
use super::table::decode_values;
use super::{Error, Store};

/// One attempt to connect or to shake hands may take this long.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Between attempts, at most.
const PAUSE: Duration = Duration::from_millis(250);
/// Connections kept for later calls.
const IDLE: usize = 8;

/// How much longer than the server a client waits, so that the server's answer about a deadline arrives.
pub(crate) fn grace() -> Duration {
    Duration::from_millis(500)
}

/// A rank's access to the [`StoreServer`](super::StoreServer) of its job.
pub struct TcpStore {
    address: String,
    cookie: Vec<u8>,
    idle: Mutex<Vec<TcpStream>>,
}

impl TcpStore {
    /// Connects to the server at `address` (`host:port`); tries until `deadline` while nobody listens there.
    ///
    /// # Errors
    /// [`Error::Unreachable`] at the deadline; [`Error::Refused`] at once when the cookies differ; [`Error::Foreign`] when
    /// something else listens there.
    pub fn connect(address: &str, cookie: &[u8], deadline: Instant) -> Result<TcpStore, Error> {
        let first = dial(address, cookie, Service::Store, deadline)?;
        Ok(TcpStore {
            address: address.to_owned(),
            cookie: cookie.to_owned(),
            idle: Mutex::new(vec![first]),
        })
    }

    fn call(&self, key: &str, request: &Request, deadline: Instant) -> Result<Vec<u8>, Error> {
        let start = Instant::now();
        let kept = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let stream = match kept {
            Some(stream) => stream,
            None => dial(&self.address, &self.cookie, Service::Store, deadline)?,
        };
        let patience = deadline + grace();
        let reply = write_by(&stream, &framed(&request.encode()), patience)
            .and_then(|()| read_frame_by(&stream, REPLY_LIMIT, patience))
            .and_then(|body| Ok(Reply::decode(&body)?))
            .map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => Error::Silent {
                    address: self.address.clone(),
                    key: key.to_owned(),
                },
                _ => self.lost(key, error.to_string()),
            })?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(stream);
        }
        reply.into_result(request, start.elapsed())
    }

    fn lost(&self, key: &str, cause: String) -> Error {
        Error::Lost {
            address: self.address.clone(),
            key: key.to_owned(),
            cause,
        }
    }
}

impl Store for TcpStore {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result<(), Error> {
        let request = Request::Set {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        self.call(key, &request, deadline).map(drop)
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, Error> {
        let request = Request::Get {
            key: key.to_owned(),
            patience: deadline.saturating_duration_since(Instant::now()),
        };
        self.call(key, &request, deadline)
    }

    fn gather(
        &self,
        prefix: &str,
        world: usize,
        rank: usize,
        mine: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let request = Request::Gather {
            prefix: prefix.to_owned(),
            world,
            rank,
            value: mine.to_owned(),
            patience: deadline.saturating_duration_since(Instant::now()),
        };
        let result = self.call(prefix, &request, deadline)?;
        decode_values(&result).map_err(|Malformed| self.lost(prefix, "malformed answer".into()))
    }
}

enum Failed {
    /// Nobody there yet, or too busy: try again.
    ForNow(io::Error),
    /// Trying again would not help.
    ForGood(Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::ForNow(error)
    }
}

/// An authenticated, blocking connection to `service` of the server at `address`.
pub(crate) fn dial(
    address: &str,
    cookie: &[u8],
    service: Service,
    deadline: Instant,
) -> Result<TcpStream, Error> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let cause = match attempt(address, cookie, service, deadline) {
            Ok(stream) => return Ok(stream),
            Err(Failed::ForGood(error)) => return Err(error),
            Err(Failed::ForNow(cause)) => cause,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Unreachable {
                address: address.to_owned(),
                waited: start.elapsed(),
                cause: cause.to_string(),
            });
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(PAUSE);
    }
}

fn attempt(
    address: &str,
    cookie: &[u8],
    service: Service,
    deadline: Instant,
) -> Result<TcpStream, Failed> {
    let left = deadline.saturating_duration_since(Instant::now());
    let within = left.clamp(Duration::from_millis(20), ATTEMPT);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for target in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&target, within) {
            Ok(stream) => {
                tune(&stream)?;
                shake_hands(&stream, address, cookie, service, Instant::now() + within)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

fn shake_hands(
    stream: &TcpStream,
    address: &str,
    cookie: &[u8],
    service: Service,
    deadline: Instant,
) -> Result<(), Failed> {
    let client = auth::nonce()?;
    let mut hello = [0; HELLO];
    hello[..4].copy_from_slice(&MAGIC);
    hello[4] = service as u8;
    hello[5..].copy_from_slice(&client);
    write_by(stream, &hello, deadline)?;
    let mut challenge = [0; CHALLENGE];
    read_by(stream, &mut challenge[..4], deadline)?;
    if challenge[..4] != MAGIC {
        return Err(Failed::ForGood(Error::Foreign {
            address: address.to_owned(),
        }));
    }
    read_by(stream, &mut challenge[4..], deadline)?;
    let mut server = [0; SIZE];
    server.copy_from_slice(&challenge[4..]);
    let talk = Conversation {
        service,
        client,
        server,
    };
    write_by(stream, &talk.proof(cookie, Side::Client), deadline)?;
    let mut welcome = [0; WELCOME];
    read_by(stream, &mut welcome, deadline)?;
    if welcome[0] != 1 || !talk.verify(cookie, Side::Server, &welcome[1..]) {
        return Err(Failed::ForGood(Error::Refused {
            address: address.to_owned(),
        }));
    }
    Ok(())
}

/// No delay for small messages; a host that vanished without a word is noticed in about fifteen seconds, by the kernel.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(6))
        .with_interval(Duration::from_secs(3))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        let ms = |time: &Duration| time.as_millis() as u64;
        match self {
            Request::Set { key, value } => Writer::new(1).text(key).bytes(value).end(),
            Request::Get { key, patience } => Writer::new(2).text(key).u64(ms(patience)).end(),
            Request::Gather {
                prefix,
                world,
                rank,
                value,
                patience,
            } => Writer::new(3)
                .text(prefix)
                .size(*world)
                .size(*rank)
                .bytes(value)
                .u64(ms(patience))
                .end(),
        }
    }

    fn key(&self) -> String {
        match self {
            Request::Set { key, .. } | Request::Get { key, .. } => key.clone(),
            Request::Gather { prefix, .. } => prefix.clone(),
        }
    }
}

impl Reply {
    fn decode(body: &[u8]) -> Result<Reply, Malformed> {
        let mut reader = Reader(body);
        match reader.u8()? {
            0 => Ok(Reply::Done(reader.0.into())),
            1 => Ok(Reply::Late),
            2 => Ok(Reply::Missing(reader.list(Reader::size)?)),
            3 => Ok(Reply::Rejected(reader.text()?)),
            4 => Ok(Reply::Closed),
            _ => Err(Malformed),
        }
    }

    fn into_result(self, request: &Request, waited: Duration) -> Result<Vec<u8>, Error> {
        let key = request.key();
        Err(match self {
            Reply::Done(value) => return Ok(value.to_vec()),
            Reply::Late => Error::Timeout { key, waited },
            Reply::Missing(missing) => Error::Missing {
                prefix: key,
                world: match request {
                    Request::Gather { world, .. } => *world,
                    _ => 0,
                },
                missing,
                waited,
            },
            Reply::Rejected(text) => Error::Rejected(text),
            Reply::Closed => Error::Closed { key },
        })
    }
}
