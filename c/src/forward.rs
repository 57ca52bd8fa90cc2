//! What a C interface of other names needs of this one beside the exported functions: `libhfr_nccl` stands on it. Knows none of those names. Invariant:
//! a failure that is told here is kept as every other is, with the communicator and with the thread.

pub use crate::{collective::*, config::UNSET};
pub use crate::{
    comm::Handle,
    config::{Given, MAGIC},
    end::*,
    group::{hfrGroupEnd, hfrGroupStart},
    memory::{hfrMemAlloc, hfrMemFree},
    message::*,
    redop::{hfrRedOpCreatePreMulSum, hfrRedOpDestroy},
    start::*,
    stream::Stream,
    value::{Code, Id},
};

use crate::{
    comm::{self, COMMS},
    fail::{self, Fail, Outcome},
    group,
};
use std::ffi::{c_char, c_int};

/// Runs the body of an exported function: what it comes to as a code; a failure's text is kept, and a panic is a failure.
pub fn run(what: &str, body: impl FnOnce() -> Result<(), (Code, String)>) -> Code {
    let code = fail::guard(what, || outcome(body()));
    group::noted_by_group(code)
}

/// The same on a communicator, which must live and whose last failure it becomes.
pub fn run_on(
    what: &str,
    handle: Handle,
    body: impl FnOnce() -> Result<(), (Code, String)>,
) -> Code {
    let code = comm::on(what, handle, |_| outcome(body()));
    group::noted_by_group(code)
}

fn outcome(body: Result<(), (Code, String)>) -> Outcome<Code> {
    match body {
        Ok(()) => Ok(Code::Success),
        Err((code, text)) => Err(Fail::new(code, text)),
    }
}

/// Ends a group of this thread, of which nothing is started.
pub fn forget_group(what: &str) -> Code {
    fail::guard(what, || group::forget().map(|()| Code::Success))
}

/// Says which device a communicator is for, until its first call shows it.
pub fn meant_for(handle: Handle, device: c_int) {
    if let Ok(comm) = COMMS.get(handle) {
        comm.meant_for(device);
    }
}

/// The text of the last failure of a communicator, or of this thread where there is no such communicator.
pub fn last_text(handle: Handle) -> String {
    COMMS
        .get(handle)
        .map_or_else(|_| fail::last(), |comm| comm.last())
}

/// A text as C has it, good until this thread shows another.
pub fn show(text: &str) -> *const c_char {
    fail::show(text)
}
