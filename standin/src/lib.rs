//! A stand-in for the CUDA driver, for tests on machines without a GPU: the shared library of this crate exports the driver API's C symbols, and
//! a test puts it in a process's way as `libcuda.so.1` ([`library_folder`]). It does on host memory and threads what the driver does on a GPU, slowly
//! and in unlucky orders, so that a missing wait is a wrong result; and what the driver's rules forbid ends the process with a line on stderr
//! that starts with `stand-in cuda: misuse:`. It knows nothing of HFReduce. The invariant: whatever a correct program may rely on holds here, and
//! nothing else does.
//!
//! # Settings, by environment variable, read at `cuInit`
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `STANDIN_DEVICES` | how many devices there are | 1 |
//! | `STANDIN_DELAY_US` | every operation of a stream starts up to so many microseconds late, at random | 50 |
//! | `STANDIN_SEED` | of all random choices | 1 |
//! | `STANDIN_GBPS` | copies of one direction run at this rate, in GB/s per process | as fast as the host |
//! | `STANDIN_NO_MEMOPS` | `1`: stream memory operations are not supported | supported |
//! | `STANDIN_CONTEXTS` | `0`: making a context is a misuse, and so is retaining a primary one that is not active | allowed |
//! | `STANDIN_FAIL` | `copy:N`: the N-th asynchronous copy breaks its context; `hang:N`: it never ends; `register:N`: the N-th host registration is refused | nothing |
//! | `STANDIN_REPORT` | where a [`Report`] is written when the process exits; `%p` in it is the process's id | nowhere |
//!
//! # Where it differs from the driver
//!
//! - What is undefined or an error code in the driver, but never right, is a misuse here: calls before `cuInit`, without a current context, on handles that are
//!   destroyed, on memory that is freed or past its end; unpinning or freeing pinned memory that a queued operation uses; any call from within a host function; any kernel.
//! - A queued operation needs its stream's context to be the current one.
//! - Copies with pageable host memory have ended when the call returns. Of copies to pinned memory, the destination is filled with a pattern as soon as the copy could begin.
//! - Handles and device addresses are never used again, and the host cannot access device memory at its device address.
//! - Waiting for a value needs the word in pinned host memory; device memory is refused.
//! - A capturing stream swallows its work and ends with no graph. Work of other streams does not invalidate a capture.
//! - An active primary context that is retained anew after its last release has the same handle and nothing else of its former self. Objects that a context took with
//!   it when it was destroyed stay in the report as live: nobody destroyed them.
//! - Memory is not shared between processes, and peer access does not exist.

#![allow(non_snake_case)]

mod act;
mod capture;
mod carry;
mod code;
mod context;
mod copy;
mod device;
mod driver;
mod event;
mod export;
mod folder;
mod host_function;
mod kernel;
mod lookup;
mod memops;
mod memory;
mod misuse;
mod pointer;
mod random;
mod registration;
mod report;
mod settings;
mod stream;
mod worker;

pub use folder::{LibraryFolder, library_folder};
pub use report::{Direction, Report, report};
