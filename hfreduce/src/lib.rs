//! All-reduce on the CPU for data-parallel training.

pub mod call;
pub mod communicator;
pub mod config;
pub mod device;
pub mod dtype;
pub mod engine;
pub mod error;
pub mod kernel;
pub mod launch;
pub mod layout;
pub mod op;
pub mod plan;
pub mod reducer;
pub mod simulate;
pub mod stall;
pub mod tuning;

pub use communicator::{
    Communicator, Enqueued, Handle, Pending, RawCall, Registered, Scope, UniqueId,
};
pub use config::{Config, Wire};
pub use dtype::{DType, Element};
pub use engine::{Block, Blocks, Stage, Stages};
pub use error::{Error, Kind};
pub use op::ReduceOp;
pub use plan::Collective;
pub use reducer::Reducer;

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// So are those of the page for Rust's users.
#[cfg(doctest)]
#[doc = include_str!("../../docs/rust.md")]
struct RustPage;
