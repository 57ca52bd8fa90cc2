//! All-reduce on the CPU for data-parallel training.

pub mod launch;
