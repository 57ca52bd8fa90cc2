//! The C interface: what `include/hfreduce.h` declares, over the Rust library. It knows nothing of plans, memory layouts or wires. Invariant: no
//! panic and no foreign address crosses the boundary unchecked: every exported function runs in `fail::guard`, and every handle is
//! looked up in a table of those that live.
//!
//! `value` has the numbers of the header, `fail` the failures and their texts, `table` the handles, `comm` what a communicator is here, `calls` what is under way on it, `config` the
//! settings, `group` the calls that start together, `stream` where a call runs, `own` messages to oneself, `arguments` what is checked of all. The exported functions are in
//! `start`, `end`, `collective`, `message`, `group`, `redop`, `memory`, `reducer`; `forward` gives them to a Rust crate with other names for them.

#![allow(non_snake_case, reason = "exported functions have C's names")]

mod arguments;
mod calls;
mod collective;
mod comm;
mod config;
mod end;
mod fail;
pub mod forward;
mod group;
mod memory;
mod message;
mod own;
mod redop;
mod reducer;
mod start;
mod stream;
mod table;
mod value;

#[cfg(test)]
mod header_tests;
