//! What each collective means, by blocks: of which input an output block is made, and which lies under which when a call is in place. It knows
//! no stage; the checker holds plans against it.

use super::{Collective, Plan};

impl Plan {
    /// The block of the input that lies where block `block` of `rank`'s output lies when a call is in place.
    pub fn input_under(&self, rank: u32, block: u32) -> Option<u32> {
        match self.collective {
            Collective::ReduceScatter => Some(rank),
            Collective::AllGather => (block == rank).then_some(0),
            Collective::Gather { root } => (rank == root && block == rank).then_some(0),
            Collective::Scatter { root } => (rank == root).then_some(rank),
            Collective::Barrier
            | Collective::AllToAll
            | Collective::AllToAllV
            | Collective::SendRecv => None,
            Collective::AllReduce | Collective::Broadcast { .. } | Collective::Reduce { .. } => {
                Some(block)
            }
        }
    }

    /// The block of the output that lies where block `block` of `rank`'s input lies when a call is in place.
    pub fn output_over(&self, rank: u32, block: u32) -> Option<u32> {
        match self.collective {
            Collective::ReduceScatter => (block == rank).then_some(0),
            Collective::AllGather => Some(rank),
            Collective::Gather { root } => (rank == root).then_some(rank),
            Collective::Scatter { root } => (rank == root && block == rank).then_some(0),
            Collective::Barrier
            | Collective::AllToAll
            | Collective::AllToAllV
            | Collective::SendRecv => None,
            Collective::AllReduce | Collective::Broadcast { .. } | Collective::Reduce { .. } => {
                Some(block)
            }
        }
    }

    /// The input block that output block `block` of `rank` is made of, and whose: `None` is everybody's.
    pub(super) fn wanted(&self, rank: u32, block: u32) -> Option<(u32, Option<u32>)> {
        match self.collective {
            Collective::AllReduce => Some((block, None)),
            Collective::ReduceScatter => Some((rank, None)),
            Collective::AllGather => Some((0, Some(block))),
            Collective::Broadcast { root } => Some((block, Some(root))),
            Collective::Reduce { root } => (rank == root).then_some((block, None)),
            Collective::Barrier => None,
            Collective::AllToAll | Collective::AllToAllV => Some((rank, Some(block))),
            Collective::Gather { root } => (rank == root).then_some((0, Some(block))),
            Collective::Scatter { root } => Some((rank, Some(root))),
            Collective::SendRecv => (rank == 1).then_some((block, Some(0))),
        }
    }
}
