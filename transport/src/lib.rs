//! Bytes between nodes, and what a job needs to find itself: one shared-memory segment per node, one folder per wire,
//! the rendezvous store and the control plane. This crate knows no collective: a put is a copy of bytes into another
//! node's segment with a 32-bit notice, and the meaning of both is the caller's.

pub mod chaos;
pub mod shm;
pub mod sim;
pub mod tcp;
pub mod wire;

pub use wire::{Error, Event, Notice, PeerAddress, Put, Transport};
