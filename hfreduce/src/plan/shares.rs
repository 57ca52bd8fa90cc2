//! Builders that move the ranks' shares without adding anything: all_to_all, gather, scatter, and the channel of two ranks. Every share goes
//! straight from the rank that has it to the rank that wants it. Where nothing flows back to a sender, tokens do, because the proof of
//! slot reuse fails without them.

use super::{CellId, Collective, Piece, Plan, Shape};

impl Plan {
    /// All_to_all: each rank shows its block for every rank of its node, and sends those for the ranks of other nodes to them. Each rank sends
    /// its input once; 2 or 3 steps. Every rank hears from every other, so a slot that rests for a second window needs no tokens.
    ///
    /// Source of the pattern: the direct (pairwise) exchange of MPI's all-to-all.
    pub fn all_to_all(shape: &Shape, collective: Collective) -> Plan {
        let mut plan = Plan::new("direct", shape, collective);
        plan.turns = 2;
        for from in 0..shape.ranks() {
            // Starting behind oneself: not all ranks write to rank 0 first.
            for to in (0..shape.ranks()).map(|i| (from + i) % shape.ranks()) {
                let here = plan.share(from, to as u32, to);
                let block = from as u32;
                plan.give(to, here, Piece { block, part: 0 });
            }
        }
        plan
    }

    /// All_to_all inside a node, in which each rank waits until all others have read what it shows them: where they can read it where it lies, it is
    /// never copied but by them. 3 steps.
    pub fn all_to_all_single_copy(shape: &Shape, collective: Collective) -> Plan {
        let mut plan = Plan::new("single_copy", shape, collective);
        let ranks = shape.ranks();
        let mut shown = Vec::new();
        for from in 0..ranks {
            shown.extend((0..ranks).map(|to| plan.share(from, to as u32, to)));
        }
        plan.show(|from, to| shown[from * ranks + to]);
        plan
    }

    /// Gather: each rank sends its input to the root, which tells it when it has been taken over. 3 steps.
    pub fn gather(shape: &Shape, root: usize) -> Plan {
        let mut plan = Plan::new("direct", shape, Collective::Gather { root: root as u32 });
        for from in 0..shape.ranks() {
            let here = plan.share(from, 0, root);
            let block = from as u32;
            plan.hand_over(from, root, here, Piece { block, part: 0 });
        }
        plan
    }

    /// Scatter: the root sends each rank its block, and hears when it has been taken over. 3 steps.
    pub fn scatter(shape: &Shape, root: usize) -> Plan {
        let mut plan = Plan::new("direct", shape, Collective::Scatter { root: root as u32 });
        for to in 0..shape.ranks() {
            let here = plan.share(root, to as u32, to);
            plan.hand_over(root, to, here, Piece { block: 0, part: 0 });
        }
        plan
    }

    /// A channel: rank 1 of a group of two gets what rank 0 has, and says so. 3 steps.
    pub fn send_recv(shape: &Shape) -> Plan {
        let mut plan = Plan::new("direct", shape, Collective::SendRecv);
        let here = plan.share(0, 0, 1);
        plan.hand_over(0, 1, here, Piece { block: 0, part: 0 });
        plan
    }

    /// `from` takes a block of its input, and sends it to where `to` can read it.
    fn share(&mut self, from: usize, block: u32, to: usize) -> CellId {
        let taken = self.take(from, Piece { block, part: 0 });
        self.send(taken, to)
    }

    /// In a group of one node, every rank is given block `from` of what `cell(from, to)` holds, and `from` is not done before all have it. Each begins
    /// with itself and goes on with the ranks behind, so that not all read of one.
    pub(super) fn show(&mut self, cell: impl Fn(usize, usize) -> CellId) {
        let ranks = self.shape.ranks();
        let mut told = vec![Vec::new(); ranks];
        for distance in 0..ranks {
            for to in 0..ranks {
                let from = (to + distance) % ranks;
                let block = from as u32;
                let piece = Piece { block, part: 0 };
                if from == to {
                    self.give(to, cell(from, to), piece);
                } else {
                    told[from].push(self.give_and_tell(to, cell(from, to), piece));
                }
            }
        }
        for (from, told) in told.into_iter().enumerate() {
            self.wait(from, told);
        }
    }

    /// `to` is given `cell`, and `from` is not done before it knows.
    fn hand_over(&mut self, from: usize, to: usize, cell: CellId, piece: Piece) {
        if from == to {
            return self.give(to, cell, piece);
        }
        let told = self.give_and_tell(to, cell, piece);
        let token = if self.shape.node_of(from) == self.shape.node_of(to) {
            told
        } else {
            self.signal(to, from, vec![told])
        };
        self.wait(from, vec![token]);
    }
}
