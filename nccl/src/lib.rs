//! NCCL's C interface, under its own names and soname, over the C interface of this library: an unmodified NCCL program runs over it with `LD_PRELOAD`.
//! It knows nothing of how calls are carried out, which is for the package `c`. Invariant: every call of a program written for NCCL 2.28 is
//! here; what this library does not do is refused with a text and never left out, because a missing symbol keeps a program from starting.
//!
//! `calls` has what moves data, `comms` how communicators come and go, `config` NCCL's settings, `memory` device memory and registrations, `refused` what
//! is not done, `words` the texts of errors. The names that are exported are listed in `symbols.txt`.

#![allow(non_snake_case, reason = "exported functions have NCCL's names")]

mod calls;
mod comms;
mod config;
mod memory;
mod refused;
mod words;
