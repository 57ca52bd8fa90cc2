//! Where a group meets, and its secret, as 128 bytes that one process makes and hands to the others by whatever way they have (MPI, a file, a
//! store of their own): the shape of NCCL's unique id. Making one starts the rendezvous in this process; it lives until the
//! communicators of this process that joined it are gone. It knows nothing of ranks.

use super::{fork::Generation, meeting::Server};
use crate::{
    config::{interface_from_env, rendezvous_from_env},
    error::{Error, Kind},
};
use hfr_transport::{net, store::StoreServer};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// First bytes of an id, with the version of its form.
const MAGIC: [u8; 4] = *b"HFR1";
/// A documentation address (RFC 5737): the route to it is the default route.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// A rendezvous of this process: held here until somebody has joined, and known as long as somebody holds it.
struct Entry {
    address: SocketAddr,
    held: Option<Server>,
    server: Weak<Mutex<StoreServer>>,
    born: Generation,
}

impl Entry {
    /// Whether it is this process's own, and still used.
    fn lives(&self) -> bool {
        !self.born.is_past() && (self.held.is_some() || self.server.strong_count() > 0)
    }
}

static SERVERS: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// Where a group meets, and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct UniqueId {
    address: SocketAddr,
    secret: [u8; 32],
}

impl std::fmt::Debug for UniqueId {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UniqueId({})", self.address)
    }
}

fn start(cause: impl ToString, remedy: &str) -> Error {
    Error::new(Kind::Start, cause.to_string(), remedy)
}

impl UniqueId {
    /// Starts a rendezvous in this process: at the address in `HFR_COMM_ID` (or `NCCL_COMM_ID`), if it is set and not in use here already; else
    /// on the interface that `HFR_SOCKET_IFNAME` names, or that of the default route, or any that is not the loopback, or the loopback.
    ///
    /// # Errors
    /// An address that cannot be listened on, an interface that is not there.
    pub fn create() -> Result<UniqueId, Error> {
        if let Some(address) = rendezvous_from_env() {
            let known = resolve(&address)?;
            let ours = servers()
                .iter()
                .any(|entry| entry.address == known && entry.lives());
            let port = if ours { 0 } else { known.port() };
            return UniqueId::listen(SocketAddr::new(known.ip(), port));
        }
        let chosen = interface_from_env();
        let ip = match net::choose(ANYWHERE, chosen.as_ref().map(|(s, _)| s.as_str())) {
            Ok(ip) => ip,
            Err(error) if chosen.is_some() => return Err(start(error, "set HFR_SOCKET_IFNAME")),
            Err(_) => any_interface(),
        };
        UniqueId::listen(SocketAddr::new(ip, 0))
    }

    /// As [`UniqueId::create`], at this host's address on the route to `host` (a name or an address).
    ///
    /// # Errors
    /// A host that has no address or no route; as [`UniqueId::create`].
    pub fn create_near(host: &str) -> Result<UniqueId, Error> {
        let target = resolve(&format!("{host}:1")).or_else(|_| resolve(&format!("[{host}]:1")))?;
        let chosen = interface_from_env();
        let ip = net::choose(target, chosen.as_ref().map(|(s, _)| s.as_str()))
            .map_err(|error| start(error, "set HFR_SOCKET_IFNAME"))?;
        UniqueId::listen(SocketAddr::new(ip, 0))
    }

    fn listen(address: SocketAddr) -> Result<UniqueId, Error> {
        let mut secret = [0u8; 32];
        let filled = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty());
        if filled != Ok(secret.len()) {
            return Err(start("the system has no random bytes for a secret", ""));
        }
        let server = StoreServer::start(&address.to_string(), &secret).map_err(|e| start(e, ""))?;
        let address = server.address();
        let server = Arc::new(Mutex::new(server));
        let mut all = servers();
        // A forked child leaves its parent's servers as they are.
        all.retain(|entry| entry.born.is_past() || entry.lives());
        all.push(Entry {
            address,
            server: Arc::downgrade(&server),
            held: Some(server),
            born: Generation::default(),
        });
        Ok(UniqueId { address, secret })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// The rendezvous, if it is this process's: from now on the caller's to hold.
    pub(super) fn server(&self) -> Option<Server> {
        let mut all = servers();
        let ours = |entry: &&mut Entry| entry.address == self.address && entry.lives();
        let entry = all.iter_mut().find(ours)?;
        entry.held.take().or_else(|| entry.server.upgrade())
    }

    /// The id as bytes to hand to the other processes.
    pub fn to_bytes(&self) -> [u8; 128] {
        let mut bytes = [0u8; 128];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[5..7].copy_from_slice(&self.address.port().to_be_bytes());
        match self.address.ip() {
            IpAddr::V4(ip) => {
                bytes[4] = 4;
                bytes[8..12].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes[4] = 6;
                bytes[8..24].copy_from_slice(&ip.octets());
            }
        }
        bytes[24..56].copy_from_slice(&self.secret);
        bytes
    }

    /// The id that another process made.
    ///
    /// # Errors
    /// Bytes that are no id, or one of another version.
    pub fn from_bytes(bytes: &[u8; 128]) -> Result<UniqueId, Error> {
        let octets = |n: usize| &bytes[8..8 + n];
        let ip: IpAddr = match (bytes[..4] == MAGIC, bytes[4]) {
            (true, 4) => <[u8; 4]>::try_from(octets(4))
                .map(Ipv4Addr::from)
                .map(Into::into),
            (true, 6) => <[u8; 16]>::try_from(octets(16))
                .map(Ipv6Addr::from)
                .map(Into::into),
            _ => {
                return Err(Error::new(
                    Kind::InvalidArgument,
                    "these bytes are no id of this library",
                    "hand the 128 bytes that one process made to all others, unchanged",
                ));
            }
        }
        .expect("slices of these lengths");
        let port = u16::from_be_bytes([bytes[5], bytes[6]]);
        let mut secret = [0u8; 32];
        secret.copy_from_slice(&bytes[24..56]);
        Ok(UniqueId {
            address: SocketAddr::new(ip, port),
            secret,
        })
    }
}

fn servers() -> MutexGuard<'static, Vec<Entry>> {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn resolve(text: &str) -> Result<SocketAddr, Error> {
    let found = text.to_socket_addrs().ok().and_then(|mut all| all.next());
    found.ok_or_else(|| {
        start(
            format!("`{text}` is no address this host can resolve"),
            "name a host and a port, as in host:29600",
        )
    })
}

/// Without a default route: an interface that leads somewhere, or else the loopback.
fn any_interface() -> IpAddr {
    let all = net::interfaces().unwrap_or_default();
    let outside = all
        .iter()
        .find(|i| i.address.is_ipv4() && !i.address.is_loopback());
    outside.map_or(Ipv4Addr::LOCALHOST.into(), |i| i.address)
}
