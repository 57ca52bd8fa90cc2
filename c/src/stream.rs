//! Streams: which calls are put on one, which run on the host, and which mixture of memory and stream makes no sense. Knows calls only by where their
//! buffers are. Invariant: a communicator whose process has no use for CUDA asks nobody about memory, so that calls on the host cost what they
//! did without.

use crate::{
    comm::Comm,
    fail::{Fail, Outcome},
};
use hfr::device::{self, Memory};
use std::ffi::c_void;

/// `hfrStream_t`.
pub type Stream = *mut c_void;

/// Where a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// On the host, while its caller waits or goes on.
    Host,
    /// Behind the work of a stream, whose later work waits for it.
    On(device::Stream),
}

/// The buffers that a call reads and writes; null where it has none, or none of it.
pub type Sides = [*const u8; 2];

/// What the sides are called.
const NAMES: [&str; 2] = ["sendbuff", "recvbuff"];

/// The way of a call with these buffers.
pub fn way(comm: &Comm, stream: Stream, sides: Sides) -> Outcome<Way> {
    if stream.is_null() && !comm.asks() {
        return Ok(Way::Host);
    }
    let mut found = [None; 2];
    for (at, found) in sides.into_iter().zip(&mut found) {
        if !at.is_null() {
            *found = Some(device::memory_of(at)?);
        }
    }
    let way = choose(stream, found, device::in_use)?;
    if way != Way::Host {
        comm.ask_from_now_on();
    }
    Ok(way)
}

/// The way of a call by where its buffers are.
fn choose(
    stream: Stream,
    sides: [Option<Memory>; 2],
    in_use: impl FnOnce() -> bool,
) -> Outcome<Way> {
    let on_device = sides.contains(&Some(Memory::Device));
    let host = sides.iter().position(|side| *side == Some(Memory::Host));
    match (stream.is_null(), host) {
        (true, None) if !on_device => Ok(Way::Host),
        (true, Some(_)) if !on_device => Ok(Way::Host),
        (true, Some(side)) => Err(Fail::argument(format!(
            "{} is ordinary host memory and the other buffer is device memory; put both on the device, or pin the host's \
             (cudaMallocHost)",
            NAMES[side]
        ))),
        (false, Some(side)) => Err(Fail::argument(format!(
            "the stream is not NULL and {} is ordinary host memory; pass NULL for buffers in host memory, and with a stream \
             device memory or pinned memory",
            NAMES[side]
        ))),
        (false, None) if sides == [None; 2] && !in_use() => Err(Fail::argument(
            "the stream is not NULL and this process does not use CUDA; pass NULL",
        )),
        (_, None) => Ok(Way::On(device::Stream::new(stream))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream's address; nobody looks there.
    const STREAM: Stream = std::ptr::without_provenance_mut(0x50);

    fn choice(stream: Stream, sides: [Option<Memory>; 2], in_use: bool) -> Outcome<Way> {
        choose(stream, sides, || in_use)
    }

    #[test]
    fn device_memory_goes_on_the_stream_and_host_memory_does_not() {
        let null = std::ptr::null_mut();
        let (device, pinned, host) = (
            Some(Memory::Device),
            Some(Memory::Pinned),
            Some(Memory::Host),
        );
        for (stream, sides, on) in [
            (null, [host, host], false),
            (null, [pinned, host], false),
            (null, [pinned, pinned], false),
            (null, [None, None], false),
            (null, [device, device], true),
            (null, [device, None], true),
            (null, [pinned, device], true),
            (STREAM, [device, device], true),
            (STREAM, [pinned, pinned], true),
            (STREAM, [None, pinned], true),
            (STREAM, [None, None], true),
        ] {
            let way = choice(stream, sides, true).expect("a way");
            let expected = if on {
                Way::On(device::Stream::new(stream))
            } else {
                Way::Host
            };
            assert_eq!(way, expected, "{stream:p} {sides:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let null = std::ptr::null_mut();
        for (stream, sides, in_use, word) in [
            (
                STREAM,
                [Some(Memory::Host), Some(Memory::Host)],
                true,
                "sendbuff is ordinary",
            ),
            (
                STREAM,
                [Some(Memory::Device), Some(Memory::Host)],
                true,
                "recvbuff is ordinary",
            ),
            (
                null,
                [Some(Memory::Device), Some(Memory::Host)],
                true,
                "the other buffer is device memory",
            ),
            (STREAM, [None, None], false, "does not use CUDA"),
        ] {
            let fail = choice(stream, sides, in_use).expect_err(word);
            assert!(fail.text.contains(word), "{} lacks {word}", fail.text);
        }
    }
}
