//! The rendezvous: where the ranks of a job leave values for each other before they are connected, and gather everyone's.
//! Values are opaque bytes. There is a server in rank 0's process with a client for every rank, and an in-process twin;
//! both behave the same, which one conformance test checks.

mod auth;
mod client;
pub(crate) mod codec;
mod error;
mod memory;
mod serve;
mod server;
mod table;

pub(crate) use auth::Service;
pub(crate) use client::{dial, grace};
pub(crate) use table::WORLD_LIMIT;

pub use client::TcpStore;
pub use error::Error;
pub use memory::MemoryStore;
pub use server::StoreServer;
pub use table::Limits;

use std::time::Instant;

/// Values by key, shared by all ranks of a job. A call may be made from any thread; calls do not hold each other up.
pub trait Store: Send + Sync {
    /// Sets `key` (1 to 512 bytes), over an older value if there is one.
    ///
    /// # Errors
    /// A limit of the store; the connection to it is lost, or cannot be had until `deadline`.
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> Result<(), Error>;

    /// The value of `key`; waits until there is one.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the key at `deadline`; a lost connection.
    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, Error>;

    /// Every rank brings a value and gets those of all ranks, in rank order: one request and one answer per rank. The
    /// prefix may be used again once all ranks have their result.
    ///
    /// # Errors
    /// [`Error::Missing`] with the ranks that did not come until `deadline`; [`Error::Rejected`] when ranks differ about the
    /// world size or two claim one rank; a lost connection.
    fn gather(
        &self,
        prefix: &str,
        world: usize,
        rank: usize,
        mine: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, Error>;
}
