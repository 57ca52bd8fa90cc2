//! Rings and double binary trees over nodes.
//!
//! Pure functions from a number of nodes (or the sizes of zones) to shapes: no bytes, no clock, no I/O, no dependencies. The
//! labels `0..n` mean nodes in the order the caller numbers them. Equal arguments give equal shapes on every machine, which
//! the order of addition in a plan relies on.

pub mod double_tree;
pub mod ring;
pub mod rotation;
pub mod tree;
pub mod zones;

pub use double_tree::double_tree;
pub use ring::Ring;
pub use rotation::{egress, forest, rotated};
pub use tree::Tree;
pub use zones::zoned_double_tree;
