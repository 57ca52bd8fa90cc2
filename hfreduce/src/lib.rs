//! All-reduce on the CPU for data-parallel training.

pub mod dtype;
pub mod kernel;
pub mod op;
