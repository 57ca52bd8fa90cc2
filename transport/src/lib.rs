//! Bytes between nodes, and what a job needs to find itself: one shared-memory segment per node, one folder per wire,
//! the rendezvous store and the control plane. This crate knows no collective: a put is a copy of bytes into another
//! node's segment with a 32-bit notice, and the meaning of both is the caller's. Under `cfg(loom)` only the doorbell's protocol
//! is there, on loom's atomics.

#[cfg(not(loom))]
pub mod chaos;
#[cfg(not(loom))]
pub mod control;
#[cfg(not(loom))]
pub mod local;
#[cfg(not(loom))]
pub mod net;
pub mod shm;
#[cfg(not(loom))]
pub mod sim;
#[cfg(not(loom))]
pub mod store;
#[cfg(not(loom))]
pub mod tcp;
#[cfg(all(any(feature = "verbs", feature = "verbs-dlopen"), not(loom)))]
pub mod verbs;
#[cfg(not(loom))]
pub mod wire;

#[cfg(not(loom))]
pub use wire::{Ask, Body, Error, Event, Landing, Notice, PeerAddress, Put, Transport};
