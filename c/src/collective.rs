//! The collectives and messages, as C has them: each checks what a C caller can get wrong and makes one call of it. Knows nothing of groups or
//! blocking. Invariant: a call that leaves here has a type, an operation, a root that are some, sizes that fit the address space, and no
//! NULL where memory is needed.

use crate::{
    comm::{Comm, Handle},
    fail::{Fail, Outcome},
    group::{Call, Stream, call},
    redop::operation,
    value::{self, Code},
};
use hfr::{Block, Blocks, Collective, Communicator, DType, RawCall, ReduceOp};
use std::{
    ffi::{c_int, c_void},
    sync::Arc,
};

/// The memory of a call.
struct Memory {
    input: *const c_void,
    output: *mut c_void,
    count: usize,
    dtype: DType,
}

impl Memory {
    /// The call, once it is seen that its sizes fit and that nothing is NULL that is needed.
    fn call(
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
            input: input.cast(),
            output: output.cast(),
            blocks: None,
        }))
    }
}

fn null_buffer(name: &str, count: usize) -> Fail {
    Fail::argument(format!(
        "{name} is NULL and {count} elements of it are needed; pass the buffer"
    ))
}

/// `times` blocks of `count` elements fit the address space.
fn fits(count: usize, dtype: DType, times: usize) -> Outcome<()> {
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

fn rank_of(what: &str, number: c_int, on: &Communicator) -> Outcome<u32> {
    match u32::try_from(number) {
        Ok(rank) if (rank as usize) < on.size() => Ok(rank),
        _ => Err(Fail::argument(format!(
            "{what} {number} in a group of {} ranks; ranks go from 0 to {}",
            on.size(),
            on.size() - 1
        ))),
    }
}

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
        let op = operation(comm, op, dtype)?;
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
        let op = operation(comm, op, dtype)?;
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
        let op = operation(comm, op, dtype)?;
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

/// Sends to a rank.
///
/// # Safety
/// Buffers as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrSend(
    sendbuff: *const c_void,
    count: usize,
    datatype: c_int,
    peer: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let make = |_: &Comm, on: &Communicator| {
        let dtype = value::dtype(datatype)?;
        let to = rank_of("peer", peer, on)? as usize;
        fits(count, dtype, 1)?;
        if sendbuff.is_null() && count > 0 {
            return Err(null_buffer("sendbuff", count));
        }
        let from = sendbuff.cast();
        Ok(Call::Send {
            dtype,
            count,
            from,
            to,
        })
    };
    // SAFETY: the caller's promise.
    unsafe { call("hfrSend", comm, stream, make) }
}

/// Receives from a rank.
///
/// # Safety
/// Buffers as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrRecv(
    recvbuff: *mut c_void,
    count: usize,
    datatype: c_int,
    peer: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let make = |_: &Comm, on: &Communicator| {
        let dtype = value::dtype(datatype)?;
        let from = rank_of("peer", peer, on)? as usize;
        fits(count, dtype, 1)?;
        if recvbuff.is_null() && count > 0 {
            return Err(null_buffer("recvbuff", count));
        }
        let into = recvbuff.cast();
        Ok(Call::Recv {
            dtype,
            count,
            into,
            from,
        })
    };
    // SAFETY: the caller's promise.
    unsafe { call("hfrRecv", comm, stream, make) }
}

/// The blocks of one side of an all-to-all, where they lie.
///
/// # Safety
/// `counts` and `displacements` are NULL or good for a number per rank.
unsafe fn blocks(
    name: &str,
    base: *mut c_void,
    counts: *const usize,
    displacements: *const usize,
    dtype: DType,
    ranks: usize,
) -> Outcome<Vec<Block>> {
    if counts.is_null() || displacements.is_null() {
        return Err(Fail::argument(format!(
            "{name}'s counts or displacements are NULL; pass an array of {ranks} numbers for each"
        )));
    }
    let block = |rank: usize| {
        // SAFETY: not NULL, and then good for `ranks` numbers, as the caller promises.
        let (count, first) = unsafe { (counts.add(rank).read(), displacements.add(rank).read()) };
        let end = first.checked_add(count).unwrap_or(usize::MAX);
        fits(end, dtype, 1)?;
        if base.is_null() && count > 0 {
            return Err(null_buffer(name, count));
        }
        let at = base.cast::<u8>().wrapping_add(first * dtype.size());
        Ok(Block { at, count })
    };
    (0..ranks).map(block).collect()
}

/// Blocks that are written must not share a byte.
fn apart(blocks: &[Block], dtype: DType) -> Outcome<()> {
    let mut by_place: Vec<usize> = (0..blocks.len()).filter(|r| blocks[*r].count > 0).collect();
    by_place.sort_by_key(|r| blocks[*r].at.addr());
    for pair in by_place.windows(2) {
        let (first, second) = (&blocks[pair[0]], &blocks[pair[1]]);
        let room = second.at.addr() - first.at.addr();
        if room < first.count * dtype.size() {
            return Err(Fail::argument(format!(
                "the blocks from ranks {} and {} overlap in recvbuff; give each a place of its own",
                pair[0], pair[1]
            )));
        }
    }
    Ok(())
}

/// As `hfrAlltoAll`, with blocks of any length, anywhere.
///
/// # Safety
/// Buffers and arrays as the header has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrAlltoAllv(
    sendbuff: *const c_void,
    sendcounts: *const usize,
    sdispls: *const usize,
    recvbuff: *mut c_void,
    recvcounts: *const usize,
    rdispls: *const usize,
    datatype: c_int,
    comm: Handle,
    stream: Stream,
) -> Code {
    let make = |_: &Comm, on: &Communicator| {
        let (dtype, ranks) = (value::dtype(datatype)?, on.size());
        // SAFETY: the caller's promise.
        let input = unsafe {
            blocks(
                "sendbuff",
                sendbuff.cast_mut(),
                sendcounts,
                sdispls,
                dtype,
                ranks,
            )
        }?;
        // SAFETY: the caller's promise.
        let output = unsafe { blocks("recvbuff", recvbuff, recvcounts, rdispls, dtype, ranks) }?;
        apart(&output, dtype)?;
        Ok(Call::Collective(RawCall {
            collective: Collective::AllToAllV,
            dtype,
            op: ReduceOp::Sum,
            count: 0,
            input: sendbuff.cast(),
            output: recvbuff.cast(),
            blocks: Some(Arc::new(Blocks { input, output })),
        }))
    };
    // SAFETY: the caller's promise.
    unsafe { call("hfrAlltoAllv", comm, stream, make) }
}
