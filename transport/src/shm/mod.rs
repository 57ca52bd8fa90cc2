//! Shared memory inside a node.

mod segment;

pub use segment::Segment;
