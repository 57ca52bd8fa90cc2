//! The listener in rank 0's process: one port, one thread, for the store and for the control plane. It accepts,
//! authenticates within two seconds, and hands each connection to its service; it knows nothing of what they say. A stranger (a
//! scraper's `GET /metrics`, a port scan) is closed, harms nothing and holds nobody up.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::Error;
use super::auth::{self, CHALLENGE, Conversation, HELLO, MAGIC, SIZE, Service, Side, WELCOME};
use super::client::tune;
use super::serve::{self, Shared};
use super::table::Limits;
use crate::control::Monitors;

/// An accepted socket has this long to prove that it belongs to the job.
const STRANGER: Duration = Duration::from_secs(2);
/// Closing waits this long for last answers to be written.
const FLUSH: Duration = Duration::from_millis(500);
/// Connections the kernel holds until they are accepted: all ranks of a job come at once.
const BACKLOG: i32 = 4096;

/// The job's rendezvous server. Dropping it closes in order: whoever waits is told, clients of the control plane hear a
/// goodbye.
pub struct StoreServer {
    address: SocketAddr,
    stop: Arc<Notify>,
    done: mpsc::Receiver<()>,
}

impl StoreServer {
    /// Listens on `address` (`host:port`; port 0 takes a free one) for processes that know `cookie`.
    ///
    /// # Errors
    /// [`Error::Bind`] at once when the port is in use or the host is not this one.
    pub fn start(address: &str, cookie: &[u8]) -> Result<StoreServer, Error> {
        StoreServer::start_with(address, cookie, Limits::default())
    }

    /// As [`start`](StoreServer::start), with limits of the caller's choice.
    ///
    /// # Errors
    /// As [`start`](StoreServer::start).
    pub fn start_with(address: &str, cookie: &[u8], limits: Limits) -> Result<StoreServer, Error> {
        let refuse = |error: io::Error| Error::Bind {
            address: address.to_owned(),
            advice: advice(error.kind()),
            cause: error.to_string(),
        };
        let listener = listen(address).map_err(refuse)?;
        let bound = listener.local_addr().map_err(refuse)?;
        let stop = Arc::new(Notify::new());
        let (finished, done) = mpsc::channel();
        let (cookie, stopping) = (cookie.to_owned(), stop.clone());
        std::thread::Builder::new()
            .name("hfr-store".into())
            .spawn(move || {
                if let Err(error) = run(listener, cookie, limits, &stopping) {
                    tracing::error!("the rendezvous server ended: {error}");
                }
                drop(finished);
            })
            .map_err(refuse)?;
        Ok(StoreServer {
            address: bound,
            stop,
            done,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        self.stop.notify_one();
        // The thread ends by itself within `FLUSH`; it is not joined, so that a stuck host cannot hold up an exit.
        let _ = self.done.recv_timeout(2 * FLUSH);
    }
}

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => {
            "another job or a former run listens there: end it, or choose another port with HFR_COMM_ID=host:port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this host has this address: HFR_COMM_ID must name the host that rank 0 runs on"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need privileges: choose another with HFR_COMM_ID=host:port"
        }
        _ => "check the address in HFR_COMM_ID=host:port",
    }
}

fn listen(address: &str) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for target in address.to_socket_addrs()? {
        match listen_on(target) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of a former run in TIME_WAIT must not keep the port; a live listener still does.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn run(listener: TcpListener, cookie: Vec<u8>, limits: Limits, stop: &Notify) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let server = Rc::new(Server {
        cookie,
        limits,
        open: Cell::new(0),
        store: Rc::new(Shared::new(limits)),
        monitors: Monitors::new(),
    });
    LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::select! {
            () = stop.notified() => {}
            () = accept(&listener, &server) => {}
        }
        drop(listener);
        server.store.close();
        server.monitors.close();
        let flushed = async {
            while !(server.store.is_idle() && server.monitors.is_idle()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, flushed).await;
        Ok(())
    })
}

struct Server {
    cookie: Vec<u8>,
    limits: Limits,
    open: Cell<usize>,
    store: Rc<Shared>,
    monitors: Rc<Monitors>,
}

async fn accept(listener: &tokio::net::TcpListener, server: &Rc<Server>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others end and free some.
                tracing::warn!("the rendezvous cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if server.open.get() >= server.limits.connections {
            tracing::warn!(
                "the rendezvous has {} connections already",
                server.limits.connections
            );
            continue;
        }
        server.open.set(server.open.get() + 1);
        let server = server.clone();
        tokio::task::spawn_local(async move {
            server.serve(stream).await;
            server.open.set(server.open.get() - 1);
        });
    }
}

impl Server {
    async fn serve(&self, mut stream: TcpStream) {
        let known = tokio::time::timeout(STRANGER, self.authenticate(&mut stream)).await;
        let service = match known {
            Ok(Ok(Some(service))) => service,
            Ok(Ok(None) | Err(_)) | Err(_) => return,
        };
        let Some(stream) = tuned(stream) else { return };
        match service {
            Service::Store => serve::connection(self.store.clone(), stream).await,
            Service::Control => self.monitors.connection(stream).await,
        }
    }

    /// Which service the client wants, if it is one of ours.
    async fn authenticate(&self, stream: &mut TcpStream) -> io::Result<Option<Service>> {
        let mut hello = [0; HELLO];
        // The magic first: a stranger need not send as much as we expect to be turned away.
        stream.read_exact(&mut hello[..4]).await?;
        if hello[..4] != MAGIC {
            return Ok(None);
        }
        stream.read_exact(&mut hello[4..]).await?;
        let Some(service) = Service::from_byte(hello[4]) else {
            return Ok(None);
        };
        let mut client = [0; SIZE];
        client.copy_from_slice(&hello[5..]);
        let server = auth::nonce()?;
        let mut challenge = [0; CHALLENGE];
        challenge[..4].copy_from_slice(&MAGIC);
        challenge[4..].copy_from_slice(&server);
        stream.write_all(&challenge).await?;
        let mut proof = [0; SIZE];
        stream.read_exact(&mut proof).await?;
        let talk = Conversation {
            service,
            client,
            server,
        };
        let mut welcome = [0; WELCOME];
        let known = talk.verify(&self.cookie, Side::Client, &proof);
        if known {
            welcome[0] = 1;
            welcome[1..].copy_from_slice(&talk.proof(&self.cookie, Side::Server));
        }
        stream.write_all(&welcome).await?;
        Ok(known.then_some(service))
    }
}

/// Socket options are set through the standard library's type, as on the client's side.
fn tuned(stream: TcpStream) -> Option<TcpStream> {
    let stream = stream.into_std().ok()?;
    tune(&stream).ok()?;
    TcpStream::from_std(stream).ok()
}
