//! What moves data: collectives, messages, groups, operations. Knows nothing of communicators. Invariant: arguments go on as they came, in NCCL's
//! order, which is that of the package `c`.

use interface::forward::*;
use std::ffi::{c_int, c_void};

/// Exported functions that are another's under a second name.
macro_rules! forward {
    ($($(#[$doc:meta])* $name:ident => $to:ident($($argument:ident: $of:ty),* $(,)?);)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// As NCCL's documentation has it.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $of),*) -> Code {
            // SAFETY: the caller's promise is the same.
            unsafe { $to($($argument),*) }
        }
    )*};
}
pub(crate) use forward;

forward! {
    /// Reduces, with the result on every rank.
    ncclAllReduce => hfrAllReduce(
        sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, op: c_int, comm: Handle, stream: Stream,
    );
    /// Reduces, with the result at the root.
    ncclReduce => hfrReduce(
        sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, op: c_int, root: c_int, comm: Handle,
        stream: Stream,
    );
    /// Reduces, and leaves each rank its block.
    ncclReduceScatter => hfrReduceScatter(
        sendbuff: *const c_void, recvbuff: *mut c_void, recvcount: usize, datatype: c_int, op: c_int, comm: Handle, stream: Stream,
    );
    /// Gives every rank every rank's input.
    ncclAllGather => hfrAllGather(
        sendbuff: *const c_void, recvbuff: *mut c_void, sendcount: usize, datatype: c_int, comm: Handle, stream: Stream,
    );
    /// Gives every rank the root's buffer.
    ncclBroadcast => hfrBroadcast(
        sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, root: c_int, comm: Handle, stream: Stream,
    );
    /// The same in place.
    ncclBcast => hfrBcast(buff: *mut c_void, count: usize, datatype: c_int, root: c_int, comm: Handle, stream: Stream);
    /// Gives every rank a block and gets one from each.
    ncclAlltoAll => hfrAlltoAll(
        sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, comm: Handle, stream: Stream,
    );
    /// The root gets every rank's input.
    ncclGather => hfrGather(
        sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, root: c_int, comm: Handle, stream: Stream,
    );
    /// Every rank gets a block of the root's.
    ncclScatter => hfrScatter(
        sendbuff: *const c_void, recvbuff: *mut c_void, count: usize, datatype: c_int, root: c_int, comm: Handle, stream: Stream,
    );
    /// Sends to a rank.
    ncclSend => hfrSend(sendbuff: *const c_void, count: usize, datatype: c_int, peer: c_int, comm: Handle, stream: Stream);
    /// Receives from a rank.
    ncclRecv => hfrRecv(recvbuff: *mut c_void, count: usize, datatype: c_int, peer: c_int, comm: Handle, stream: Stream);
    /// Begins a group.
    ncclGroupStart => hfrGroupStart();
    /// Ends a group.
    ncclGroupEnd => hfrGroupEnd();
    /// Makes a sum with a factor.
    ncclRedOpCreatePreMulSum => hfrRedOpCreatePreMulSum(
        op: *mut c_int, scalar: *mut c_void, datatype: c_int, residence: c_int, comm: Handle,
    );
    /// Forgets an operation.
    ncclRedOpDestroy => hfrRedOpDestroy(op: c_int, comm: Handle);
}

/// Ends a group without starting it; there is no estimate of its time.
///
/// # Safety
/// None needed: nothing is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGroupSimulateEnd(_simInfo: *mut c_void) -> Code {
    const WHAT: &str = "ncclGroupSimulateEnd";
    match forget_group(WHAT) {
        Code::Success => run(WHAT, || {
            Err((
                Code::InvalidUsage,
                "there is no estimate of a group's time; the group was ended and nothing of it started (hfr plan show prints \
                 the cost of plans)"
                    .to_owned(),
            ))
        }),
        failure => failure,
    }
}
