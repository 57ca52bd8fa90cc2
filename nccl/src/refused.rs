//! Calls of NCCL's that this library does not do: those of kernels that communicate, and those that change a group without all of its ranks. Knows
//! nothing of communicators. Invariant: each is ncclInvalidUsage, with a text that says what to use in its place; nothing is written.

use interface::forward::{Code, Handle, run};
use std::ffi::{c_int, c_uint, c_void};

/// A call that is refused, and why.
macro_rules! refused {
    ($($name:ident($($argument:ident: $of:ty),* $(,)?), $why:expr;)*) => {$(
        /// Refused; the text says why.
        ///
        /// # Safety
        /// None needed: no argument is looked at.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($(_: $of),*) -> Code {
            run(stringify!($name), || Err((Code::InvalidUsage, $why.to_owned())))
        }
    )*};
}

const KERNELS: &str = "kernels cannot communicate over this library, which uses the GPU's copy engines and no kernel; use the \
                       calls that the host makes, or NCCL itself";

const SIGNALS: &str =
    "there are no signals between windows here; use ncclSend and ncclRecv, or NCCL itself";

const GROUPS: &str = "a group cannot be changed without all of its ranks here; destroy the communicator (ncclCommAbort after \
                      a failure), and make another with ncclCommInitRank";

refused! {
    ncclCommShrink(
        comm: Handle, excludeRanksList: *mut c_int, excludeRanksCount: c_int, newcomm: *mut Handle, config: *mut c_void,
        shrinkFlags: c_int,
    ), GROUPS;
    ncclCommGrow(
        comm: Handle, nRanks: c_int, uniqueId: *const c_void, rank: c_int, newcomm: *mut Handle, config: *mut c_void,
    ), GROUPS;
    ncclCommGetUniqueId(comm: Handle, uniqueId: *mut c_void), GROUPS;
    ncclCommRevoke(comm: Handle, revokeFlags: c_int), GROUPS;
    ncclPutSignal(
        localbuff: *const c_void, count: usize, datatype: c_int, peer: c_int, peerWin: *mut c_void, peerWinOffset: usize,
        sigIdx: c_int, ctx: c_int, flags: c_uint, comm: Handle, stream: *mut c_void,
    ), SIGNALS;
    ncclSignal(
        peer: c_int, sigIdx: c_int, ctx: c_int, flags: c_uint, comm: Handle, stream: *mut c_void,
    ), SIGNALS;
    ncclWaitSignal(nDesc: c_int, signalDescs: *mut c_void, comm: Handle, stream: *mut c_void), SIGNALS;
    ncclDevCommCreate(comm: Handle, requirements: *const c_void, outDevComm: *mut c_void), KERNELS;
    ncclDevCommDestroy(comm: Handle, devComm: *const c_void), KERNELS;
    ncclCommQueryProperties(comm: Handle, properties: *mut c_void), KERNELS;
    ncclGetLsaDevicePointer(win: *mut c_void, offset: usize, lsaRank: c_int, outPtr: *mut *mut c_void), KERNELS;
    ncclGetLsaMultimemDevicePointer(win: *mut c_void, offset: usize, outPtr: *mut *mut c_void), KERNELS;
    ncclGetMultimemDevicePointer(
        win: *mut c_void, offset: usize, multimem: *mut c_void, outPtr: *mut *mut c_void,
    ), KERNELS;
    ncclGetPeerDevicePointer(win: *mut c_void, offset: usize, peer: c_int, outPtr: *mut *mut c_void), KERNELS;
}
