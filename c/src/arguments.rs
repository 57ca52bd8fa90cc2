//! What is checked of a call's arguments: its memory, its sizes, its root or peer. Knows no exported function. Invariant: what passes has sizes
//! that fit the address space, ranks that are some, and no NULL where memory is needed.

use crate::{
    fail::{Fail, Outcome},
    group::Call,
};
use hfr::{Collective, Communicator, DType, RawCall, ReduceOp};
use std::{
    ffi::{c_int, c_void},
    ptr::{null, null_mut},
};

/// The memory of a call.
pub struct Memory {
    pub input: *const c_void,
    pub output: *mut c_void,
    pub count: usize,
    pub dtype: DType,
}

impl Memory {
    /// The call, once it is seen that its sizes fit and that nothing is NULL that is needed.
    pub fn call(
        self,
        on: &Communicator,
        collective: Collective,
        op: ReduceOp,
        needs: [bool; 2],
    ) -> Outcome<Call> {
        let Memory {
            input,
            output,
            count,
            dtype,
        } = self;
        fits(count, dtype, on.size())?;
        for (name, null, needed) in [
            ("sendbuff", input.is_null(), needs[0]),
            ("recvbuff", output.is_null(), needs[1]),
        ] {
            if null && needed && count > 0 {
                return Err(null_buffer(name, count));
            }
        }
        Ok(Call::Collective(RawCall {
            collective,
            dtype,
            op,
            count,
            // What a rank does not need may be anything: nobody is to look where it lies.
            input: if needs[0] { input.cast() } else { null() },
            output: if needs[1] { output.cast() } else { null_mut() },
            blocks: None,
        }))
    }
}

/// Memory is needed where there is none.
pub fn null_buffer(name: &str, count: usize) -> Fail {
    Fail::argument(format!(
        "{name} is NULL and {count} elements of it are needed; pass the buffer"
    ))
}

/// `times` blocks of `count` elements fit the address space.
pub fn fits(count: usize, dtype: DType, times: usize) -> Outcome<()> {
    let bytes = count
        .checked_mul(dtype.size())
        .and_then(|b| b.checked_mul(times));
    match bytes {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(Fail::argument(format!(
            "{times} times {count} elements of {dtype} are more than memory can hold; counts are elements, not bytes"
        ))),
    }
}

/// A root or a peer.
pub fn rank_of(what: &str, number: c_int, on: &Communicator) -> Outcome<u32> {
    match u32::try_from(number) {
        Ok(rank) if (rank as usize) < on.size() => Ok(rank),
        _ => Err(Fail::argument(format!(
            "{what} {number} in a group of {} ranks; ranks go from 0 to {}",
            on.size(),
            on.size() - 1
        ))),
    }
}
