//! What goes from rank to rank: messages, and the all-to-all with blocks of any length. Knows nothing of groups or blocking. Invariant: a call that
//! leaves here has a type and ranks that are some, and no two blocks that are written share a byte.

use crate::{
    arguments::{fits, null_buffer, rank_of},
    comm::{Comm, Handle},
    fail::{Fail, Outcome},
    group::{Call, call},
    stream::Stream,
    value::{self, Code},
};
use hfr::{Block, Blocks, Collective, Communicator, DType, RawCall, ReduceOp};
use std::{
    ffi::{c_int, c_void},
    sync::Arc,
};

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
        let end = first.saturating_add(count);
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
