//! Shared memory inside a node: the segment, and how its descriptors reach the other ranks.

mod backing;
mod door;
mod error;
mod exchange;
mod headroom;
mod packet;
mod pass;
mod segment;

pub use backing::Backing;
pub use error::Error;
pub use exchange::exchange;
pub use packet::Token;
pub use pass::{FdServer, fetch_fds, random_token, unique_address};
pub use segment::Segment;
