//! The collectives, as C has them: each checks what a C caller can get wrong and makes one call of it. Knows nothing of groups or blocking.
//! Invariant: a call that leaves here has a type, an operation, a root that are some, and arguments that `arguments` has passed.

use crate::{
    arguments::{Memory, rank_of},
    comm::{Comm, Handle},
    group::call,
    redop::operation,
    stream::Stream,
    value::{self, Code},
};
use hfr::{Collective, Communicator, DType, ReduceOp};
use std::ffi::{c_int, c_void};

/// Reduces, with the result on every rank.
///
/// # Safety
/// Buffers as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrAllReduce(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    op: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let make = |comm: &Comm, on: &Communicator| {
        let dtype = value::dtype(datatype)?;
        let op = operation(comm, op, dtype, stream)?;
        let memory = Memory {
            input: sendbuff,
            output: recvbuff,
            count,
            dtype,
        };
        memory.call(on, Collective::AllReduce, op, [true, true])
    };
    // SAFETY: the caller's promise.
    unsafe { call("hfrAllReduce", comm, stream, make) }
}

/// Reduces, and leaves each rank its block.
///
/// # Safety
/// Buffers as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrReduceScatter(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    recvcount: usize,
    datatype: c_int,
    op: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let make = |comm: &Comm, on: &Communicator| {
        let dtype = value::dtype(datatype)?;
        let op = operation(comm, op, dtype, stream)?;
        let memory = Memory {
            input: sendbuff,
            output: recvbuff,
            count: recvcount,
            dtype,
        };
        memory.call(on, Collective::ReduceScatter, op, [true, true])
    };
    // SAFETY: the caller's promise.
    unsafe { call("hfrReduceScatter", comm, stream, make) }
}

/// Gives every rank every rank's input.
///
/// # Safety
/// Buffers as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrAllGather(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    sendcount: usize,
    datatype: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let make = |_: &Comm, on: &Communicator| {
        let memory = Memory {
            input: sendbuff,
            output: recvbuff,
            count: sendcount,
            dtype: value::dtype(datatype)?,
        };
        memory.call(on, Collective::AllGather, ReduceOp::Sum, [true, true])
    };
    // SAFETY: the caller's promise.
    unsafe { call("hfrAllGather", comm, stream, make) }
}

/// A collective with a root that moves blocks or buffers: one of the buffers is needed at the root alone.
///
/// # Safety
/// Buffers as the header has them.
#[allow(
    clippy::too_many_arguments,
    reason = "C's arguments, and what they are for"
)]
unsafe fn rooted(
    what: &'static str,
    collective: fn(u32) -> Collective,
    needs: fn(bool) -> [bool; 2],
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    root: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let make = |_: &Comm, on: &Communicator| {
        let dtype = value::dtype(datatype)?;
        let root = rank_of("root", root, on)?;
        let memory = Memory {
            input: sendbuff,
            output: recvbuff,
            count,
            dtype,
        };
        let needs = needs(root as usize == on.rank());
        memory.call(on, collective(root), ReduceOp::Sum, needs)
    };
    // SAFETY: the caller's promise.
    unsafe { call(what, comm, stream, make) }
}

/// Gives every rank the root's buffer.
///
/// # Safety
/// Buffers as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrBroadcast(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    root: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let of = |root| Collective::Broadcast { root };
    // SAFETY: the caller's promise.
    unsafe {
        rooted(
            "hfrBroadcast",
            of,
            |root| [root, true],
            sendbuff,
            recvbuff,
            count,
            datatype,
            root,
            comm,
            stream,
        )
    }
}

/// Gives every rank the root's buffer, in place.
///
/// # Safety
/// Buffers as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrBcast(
    buff: *mut c_void,
    count: usize,
    datatype: c_int,
    root: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let of = |root| Collective::Broadcast { root };
    // SAFETY: the caller's promise.
    unsafe {
        rooted(
            "hfrBcast",
            of,
            |_| [true, true],
            buff,
            buff,
            count,
            datatype,
            root,
            comm,
            stream,
        )
    }
}

/// Reduces, with the result at the root.
///
/// # Safety
/// Buffers as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrReduce(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    op: c_int,
    root: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let make = |comm: &Comm, on: &Communicator| {
        let dtype = value::dtype(datatype)?;
        let op = operation(comm, op, dtype, stream)?;
        let root = rank_of("root", root, on)?;
        let memory = Memory {
            input: sendbuff,
            output: recvbuff,
            count,
            dtype,
        };
        let needs = [true, root as usize == on.rank()];
        memory.call(on, Collective::Reduce { root }, op, needs)
    };
    // SAFETY: the caller's promise.
    unsafe { call("hfrReduce", comm, stream, make) }
}

/// Gives every rank a block and gets one from each.
///
/// # Safety
/// Buffers as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrAlltoAll(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let make = |_: &Comm, on: &Communicator| {
        let memory = Memory {
            input: sendbuff,
            output: recvbuff,
            count,
            dtype: value::dtype(datatype)?,
        };
        memory.call(on, Collective::AllToAll, ReduceOp::Sum, [true, true])
    };
    // SAFETY: the caller's promise.
    unsafe { call("hfrAlltoAll", comm, stream, make) }
}

/// The root gets every rank's input.
///
/// # Safety
/// Buffers as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrGather(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    root: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let of = |root| Collective::Gather { root };
    // SAFETY: the caller's promise.
    unsafe {
        rooted(
            "hfrGather",
            of,
            |root| [true, root],
            sendbuff,
            recvbuff,
            count,
            datatype,
            root,
            comm,
            stream,
        )
    }
}

/// Every rank gets a block of the root's.
///
/// # Safety
/// Buffers as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrScatter(
    sendbuff: *const c_void,
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    root: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let of = |root| Collective::Scatter { root };
    // SAFETY: the caller's promise.
    unsafe {
        rooted(
            "hfrScatter",
            of,
            |root| [root, true],
            sendbuff,
            recvbuff,
            count,
            datatype,
            root,
            comm,
            stream,
        )
    }
}

/// Waits for all ranks.
///
/// # Safety
/// None needed: `comm` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrBarrier(comm: Handle, stream: Stream) -> Code {
    let make = |_: &Comm, on: &Communicator| {
        let memory = Memory {
            input: std::ptr::null(),
            output: std::ptr::null_mut(),
            count: 0,
            dtype: DType::U8,
        };
        memory.call(on, Collective::Barrier, ReduceOp::Sum, [false, false])
    };
    // SAFETY: there are no buffers.
    unsafe { call("hfrBarrier", comm, stream, make) }
}
