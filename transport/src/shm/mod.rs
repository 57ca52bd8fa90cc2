//! Shared memory inside a node: the segment, how its descriptors reach the other ranks, and how ranks wait for each other in
//! it. Under `cfg(loom)` only the protocol of `sync` is there, on loom's atomics; all else needs a kernel.

#[cfg(not(loom))]
mod backing;
#[cfg(not(loom))]
mod board;
#[cfg(not(loom))]
mod consent;
#[cfg(not(loom))]
mod door;
#[cfg(not(loom))]
mod doorbell;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod exchange;
#[cfg(not(loom))]
mod headroom;
#[cfg(not(loom))]
mod huge;
#[cfg(not(loom))]
mod numa;
#[cfg(not(loom))]
mod packet;
#[cfg(not(loom))]
mod pass;
#[cfg(not(loom))]
mod segment;
pub mod sync;

#[cfg(not(loom))]
pub use self::{
    backing::Backing,
    board::{Board, COUNTER_BYTES},
    consent::{Consent, Permit, Unread},
    doorbell::{DOORBELL_BYTES, Doorbell, Looked, Waiter},
    error::Error,
    exchange::exchange,
    huge::HUGE,
    numa::Placement,
    packet::Token,
    pass::{FdServer, fetch_fds, random_token, unique_address},
    segment::Segment,
};
