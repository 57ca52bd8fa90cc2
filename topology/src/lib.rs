//! Shapes over nodes (rings and double binary trees), and what one machine is made of.
//!
//! Shapes are pure functions from a number of nodes (or the sizes of zones); the labels `0..n` mean nodes in the order the caller
//! numbers them. A machine is found in a folder that looks like `/sys`, or read from a text, and where ranks have their place on it is a
//! pure function again. No bytes, no clock, no dependencies. Equal arguments give equal answers everywhere, which the order of
//! addition in a plan relies on.

mod discover;
pub mod double_tree;
pub mod machine;
pub mod place;
pub mod ring;
pub mod rotation;
pub mod tree;
pub mod zones;

pub use double_tree::double_tree;
pub use machine::{Cpus, Machine};
pub use place::{Placement, Wish, place};
pub use ring::Ring;
pub use rotation::{egress, forest, rotated};
pub use tree::Tree;
pub use zones::{double_tree_of_zones, zoned_double_tree};
