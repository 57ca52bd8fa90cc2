//! All-reduce on the CPU for data-parallel training.

pub mod call;
pub mod dtype;
pub mod engine;
pub mod kernel;
pub mod launch;
pub mod layout;
pub mod op;
pub mod plan;
pub mod simulate;
