//! The reference is the library's own host path: the same call with the same inputs, on the host and on the device, gives the same bytes. It
//! knows every collective, type and operation, and nothing of streams but the one it makes.

use crate::say;
use hfr_tests::gpu::{OnDevice, UserStream};
use hfreduce::{Block, Blocks, Collective, Communicator, DType, Error, RawCall, ReduceOp};
use std::sync::Arc;

/// splitmix64.
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random elements of a type, none of them a NaN.
fn elements(dtype: DType, count: usize, seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * dtype.size());
    for i in 0..count {
        let r = random(seed.wrapping_mul(0x1_0001).wrapping_add(i as u64));
        let float = (r >> 40) as f32 / 65536.0 - 128.0;
        match dtype {
            DType::F64 => bytes.extend((f64::from(float) * 1.000_000_1).to_le_bytes()),
            DType::F32 => bytes.extend(float.to_le_bytes()),
            DType::F16 => bytes.extend(half::f16::from_f32(float).to_le_bytes()),
            DType::BF16 => bytes.extend(half::bf16::from_f32(float).to_le_bytes()),
            // Any byte without the highest exponents.
            DType::F8E4M3 | DType::F8E5M2 => bytes.push(r as u8 & 0xbf),
            other => bytes.extend(&r.to_le_bytes()[..other.size()]),
        }
    }
    bytes
}

/// One call's shape: bytes of input and output of this rank.
pub struct Shape {
    collective: Collective,
    input: usize,
    output: usize,
}

pub fn shapes(comm: &Communicator, count: usize, size: usize) -> Vec<Shape> {
    let (n, last) = (comm.size(), comm.size() as u32 - 1);
    let one = count * size;
    let make = |collective, input, output| Shape {
        collective,
        input,
        output,
    };
    vec![
        make(Collective::AllReduce, one, one),
        make(Collective::ReduceScatter, n * one, one),
        make(Collective::AllGather, one, n * one),
        make(Collective::Broadcast { root: last }, one, one),
        make(Collective::Reduce { root: 0 }, one, one),
        make(Collective::Gather { root: last }, one, n * one),
        make(Collective::Scatter { root: 0 }, n * one, one),
        make(Collective::AllToAll, n * one, n * one),
        make(Collective::AllToAllV, n * one, n * one),
        make(Collective::Barrier, 0, 0),
    ]
}

/// What makes a call out of addresses; all_to_all_v and some others have their shares in reverse order in memory.
fn call(
    comm: &Communicator,
    shape: &Shape,
    (dtype, op): (DType, ReduceOp),
    count: usize,
    (input, output): (*mut u8, *mut u8),
) -> RawCall {
    let reversed = |at: *mut u8| -> Vec<Block> {
        let place = |r: usize| at.wrapping_add((comm.size() - 1 - r) * count * dtype.size());
        (0..comm.size())
            .map(|r| Block {
                at: place(r),
                count,
            })
            .collect()
    };
    let blocks = (shape.collective == Collective::AllToAllV).then(|| {
        Arc::new(Blocks {
            input: reversed(input),
            output: reversed(output),
        })
    });
    RawCall {
        collective: shape.collective,
        dtype,
        op,
        count,
        input,
        output,
        blocks,
    }
}

/// Makes one call with host buffers and with device buffers; both give the same bytes. `only`: ranks whose bit is not set stay on the host.
pub fn compare(
    comm: &Communicator,
    shape: &Shape,
    kind: (DType, ReduceOp),
    count: usize,
    in_place: bool,
    only: u64,
) -> Result<(), Error> {
    let seed = (count * 977 + comm.rank() * 31 + shape.input) as u64;
    let stream = UserStream::default();
    let input = elements(kind.0, shape.input / kind.0.size(), seed);
    let mut host_in = input.clone();
    let mut host_out = vec![0xee; shape.output];
    let at = (host_in.as_mut_ptr(), host_out.as_mut_ptr());
    let at = if in_place { (at.0, at.0) } else { at };
    // SAFETY: the buffers have the call's lengths and live on.
    unsafe { comm.run(call(comm, shape, kind, count, at)) }?;
    if only >> comm.rank() & 1 == 0 {
        // The others make the same call with device buffers.
        let (mut again, mut out) = (input, vec![0xee; shape.output]);
        let at = (again.as_mut_ptr(), out.as_mut_ptr());
        let at = if in_place { (at.0, at.0) } else { at };
        // SAFETY: as above.
        unsafe { comm.run(call(comm, shape, kind, count, at)) }?;
        check(shape, kind, count, (&again, &out), (&host_in, &host_out));
        return Ok(());
    }
    let device_in = OnDevice::of(&input);
    let device_out = OnDevice::of(&vec![0xee; shape.output]);
    let at = if in_place {
        (device_in.at, device_in.at)
    } else {
        (device_in.at, device_out.at)
    };
    // SAFETY: the buffers have the call's lengths and live until the stream has come by.
    let enqueued = unsafe { comm.enqueue(call(comm, shape, kind, count, at), stream.handle()) }?;
    enqueued.block(stream.handle())?;
    stream.synchronize();
    enqueued.pending().wait()?;
    let device = (&device_in.get()[..], &device_out.get()[..]);
    check(shape, kind, count, device, (&host_in, &host_out));
    Ok(())
}

fn check(
    shape: &Shape,
    kind: (DType, ReduceOp),
    count: usize,
    device: (&[u8], &[u8]),
    host: (&[u8], &[u8]),
) {
    if device != host {
        say(&format!(
            "wrong: {} of {count} {:?} {:?} differs from the host's",
            shape.collective.name(),
            kind.0,
            kind.1
        ));
    }
}

/// Every collective, small and large, in and out of place, on all ranks' devices and on some ranks' only.
pub fn matrix(comm: &Communicator, largest: usize) -> Result<(), Error> {
    let kind = (DType::F32, ReduceOp::Sum);
    for count in [0, 1, 7, 1000, largest] {
        for shape in shapes(comm, count, 4) {
            let alike = shape.input == shape.output && shape.collective.reduces();
            for in_place in [false, true] {
                if in_place && !alike {
                    continue;
                }
                for only in [!0, 0xaaaa, 1] {
                    compare(comm, &shape, kind, count, in_place, only)?;
                }
            }
        }
    }
    Ok(())
}

/// Every type and operation that the host path has.
pub fn types(comm: &Communicator) -> Result<(), Error> {
    for dtype in DType::ALL {
        for op in ReduceOp::ALL {
            let shape = Shape {
                collective: Collective::AllReduce,
                input: 333 * dtype.size(),
                output: 333 * dtype.size(),
            };
            match compare(comm, &shape, (dtype, op), 333, false, !0) {
                // Refused on the host before anything has started: not a combination that there is.
                Err(error) if error.kind == hfreduce::Kind::InvalidArgument => {}
                other => other?,
            }
        }
    }
    Ok(())
}
