//! A call as its fellow ranks see it: what is compared before data is touched. The header of a slot is this, plus where the bytes lie.
//! Invariant: `Header` and the slot's stamp are one cache line without padding, so that it can cross the wire as it is.

use crate::{dtype::DType, op::ReduceOp, plan::Collective};
use bytemuck::{Pod, Zeroable};

/// What all ranks must agree on.
#[derive(Clone, Copy, PartialEq, Eq, Pod, Zeroable, Debug, Default)]
#[repr(C)]
pub struct Call {
    /// Number of the call in its communicator, from 1.
    pub sequence: u64,
    /// Elements (per rank, where the buffer is one share per rank).
    pub count: u64,
    /// Global rank of the root, or `u32::MAX`.
    pub root: u32,
    /// The collective, see [`Call::collective_name`].
    pub collective: u8,
    /// `DType` as a number.
    pub dtype: u8,
    /// 1 + `ReduceOp::code`, or 0 where nothing is reduced.
    pub op: u8,
    /// 1 where shares differ in length.
    pub uneven: u8,
    /// Bits of the factor of a premultiplied sum, as `f64`: any rank of a node may multiply, so all use one factor. A message's tag. A number that
    /// stands for the lengths of uneven shares. 0 otherwise.
    pub factor: u64,
}

/// The collectives' names by their number in a [`Call`].
const NAMES: [&str; 11] = [
    "all_reduce",
    "reduce_scatter",
    "all_gather",
    "broadcast",
    "reduce",
    "barrier",
    "all_to_all",
    "all_to_all_v",
    "gather",
    "scatter",
    "send_recv",
];

impl Call {
    /// The number under which a call carries `collective`.
    pub fn code(collective: Collective) -> u8 {
        match collective {
            Collective::AllReduce => 0,
            Collective::ReduceScatter => 1,
            Collective::AllGather => 2,
            Collective::Broadcast { .. } => 3,
            Collective::Reduce { .. } => 4,
            Collective::Barrier => 5,
            Collective::AllToAll => 6,
            Collective::AllToAllV => 7,
            Collective::Gather { .. } => 8,
            Collective::Scatter { .. } => 9,
            Collective::SendRecv => 10,
        }
    }

    /// The collective's name.
    pub fn collective_name(&self) -> &'static str {
        NAMES.get(self.collective as usize).unwrap_or(&"unknown")
    }

    /// Bytes of one share (or of the whole buffer, where it is not shared out).
    pub fn bytes(&self) -> u64 {
        self.count * DType::from_code(self.dtype).map_or(0, |d| d.size() as u64)
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} #{}", self.collective_name(), self.sequence)?;
        if self.collective == Call::code(Collective::Barrier) {
            return Ok(());
        }
        let dtype = DType::from_code(self.dtype).map_or("unknown", |d| d.name());
        write!(f, " of {} {dtype}", self.count)?;
        if let Some(op) = ReduceOp::ALL.iter().find(|op| op.code() + 1 == self.op) {
            write!(f, " {}", op.name())?;
            // Records of past calls do not keep it.
            if self.factor != 0 && self.uneven == 0 {
                write!(f, ":{}", f64::from_bits(self.factor))?;
            }
        }
        let message = self.collective == Call::code(Collective::SendRecv);
        if self.uneven != 0 {
            write!(f, " (lengths of shares differ, in sum {:x})", self.factor)?;
        } else if message && self.factor != 0 {
            write!(f, " tag {}", self.factor)?;
        }
        if self.root != u32::MAX {
            write!(f, " root {}", self.root)?;
        }
        Ok(())
    }
}

/// What stands in the first cache line of a slot, before its stamp.
#[derive(Clone, Copy, Pod, Zeroable, Debug, Default)]
#[repr(C)]
pub struct Header {
    /// The call the bytes belong to.
    pub call: Call,
    /// Where the bytes lie: 0 in this slot, behind the header; [`Header::WITHIN`] in the header; 1 + their offset in the segment; with the bit
    /// [`Header::SHOWN`] at that address of the memory of the rank that wrote the slot.
    pub data: u64,
    /// Where the rank that took this piece wants the result: 0 nowhere in the segment, otherwise 1 + the offset.
    pub output: u64,
    /// Bit l: local rank l has been given this cell already.
    pub given: u64,
}

impl Header {
    /// The bit of `data` that says that the rest is an address; no process has one so high.
    pub const SHOWN: u64 = 1 << 63;
    /// `data` of a header that has the bytes within, in the place of `output` and `given`: whoever reads the stamp has them with it, without waiting for
    /// another line. No segment is so long.
    pub const WITHIN: u64 = 1 << 62;
    /// Bytes that have room there.
    pub const ROOM: usize = 2 * size_of::<u64>();
    /// Where the room is, from the header's first byte.
    pub const ROOM_AT: usize = std::mem::offset_of!(Header, output);

    /// What it says, but for the bytes it has within.
    pub fn words(self) -> Header {
        match self.data {
            Header::WITHIN => Header {
                output: 0,
                given: 0,
                ..self
            },
            _ => self,
        }
    }
}

const _: () = assert!(size_of::<Header>() == crate::layout::STAMP);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_collective_has_the_number_of_its_name() {
        for collective in Collective::all(3).into_iter().chain([Collective::SendRecv]) {
            let call = Call {
                collective: Call::code(collective),
                ..Call::default()
            };
            assert_eq!(call.collective_name(), collective.name());
        }
    }
}
