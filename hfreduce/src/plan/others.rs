//! The other collectives' builders: reduce_scatter, all_gather, broadcast, reduce, barrier. Where data does not flow back to those who
//! wrote it (broadcast, reduce), tokens do, because the proof of slot reuse fails without them.

use super::{CellId, Collective, Piece, Plan, Shape};
use hfr_topology::Tree;

impl Plan {
    /// Reduce_scatter: each node adds its ranks' pieces of every block and sends the sum straight to the rank whose block it is, which adds the
    /// nodes' sums in node order behind its own node's inputs. Each node sends (n-1)/n of the input; 3 steps.
    pub fn reduce_scatter(shape: &Shape) -> Plan {
        let mut plan = Plan::new("direct", shape, Collective::ReduceScatter);
        plan.turns = 2;
        for rank in 0..shape.ranks() {
            let home = shape.node_of(rank);
            let block = rank as u32;
            let piece = Piece { block, part: 0 };
            let mut sums = Vec::new();
            for node in (0..shape.nodes()).filter(|&n| n != home) {
                let adder = plan.counterpart(rank, node);
                let terms = plan.take_all(node, piece);
                // Inputs come before sums, so either all nodes have one or none.
                let sum = match shape.widest() {
                    1 => terms[0],
                    _ => plan.reduce(adder, terms),
                };
                sums.push(plan.send(sum, rank));
            }
            let mut terms = plan.take_all(home, piece);
            terms.extend(sums);
            let total = plan.reduce(rank, terms);
            plan.give(rank, total, Piece { block: 0, part: 0 });
        }
        plan
    }

    /// All_gather: each rank shows its input to its node and sends it once to every other node, whose ranks read it there. Each rank sends (n-1)
    /// times its input; 2 steps.
    pub fn all_gather(shape: &Shape) -> Plan {
        let mut plan = Plan::new("direct", shape, Collective::AllGather);
        plan.turns = 2;
        for rank in 0..shape.ranks() {
            let shown = plan.take(rank, Piece { block: 0, part: 0 });
            let block = rank as u32;
            for node in 0..shape.nodes() {
                let receiver = plan.counterpart(rank, node);
                let here = plan.send(shown, receiver);
                plan.give_all(node, here, Piece { block, part: 0 });
            }
        }
        plan
    }

    /// All_gather inside a node, in which each rank waits until all others have read what it shows: where they can read it where it lies, it is
    /// never copied but by them. 3 steps.
    pub fn all_gather_single_copy(shape: &Shape) -> Plan {
        let mut plan = Plan::new("single_copy", shape, Collective::AllGather);
        let takes = 0..shape.ranks();
        let shown: Vec<_> = takes
            .map(|rank| plan.take(rank, Piece { block: 0, part: 0 }))
            .collect();
        plan.show(|from, _| shown[from]);
        plan
    }

    /// The rank of `node` that deals with `rank`: itself on its own node, otherwise the one with its local rank.
    fn counterpart(&self, rank: usize, node: usize) -> usize {
        if self.shape.node_of(rank) == node {
            return rank;
        }
        self.shape.first(node) + self.shape.local(rank) % self.shape.on(node)
    }

    /// Broadcast down trees whose root is the root rank's node, block b over tree b. Tokens climb back: a node tells its parent when all its
    /// ranks, and all nodes below, have what was sent.
    pub fn broadcast(shape: &Shape, root: usize, trees: &[Tree]) -> Plan {
        let mut plan = Plan::new("tree", shape, Collective::Broadcast { root: root as u32 });
        plan.blocks = if shape.nodes() == 1 {
            1
        } else {
            trees.len() as u32
        };
        for piece in plan.pieces() {
            let tree = &trees[piece.block as usize];
            let mut here = vec![CellId(0); shape.nodes()];
            let mut done: Vec<Vec<CellId>> = vec![Vec::new(); shape.nodes()];
            for node in tree.top_down() {
                here[node] = match tree.parent[node] {
                    None => plan.take(root, piece),
                    Some(up) => {
                        let receiver = plan.owner(node, piece);
                        plan.send(here[up], receiver)
                    }
                };
                for rank in shape.ranks_of(node) {
                    done[node].push(plan.give_and_tell(rank, here[node], piece));
                }
            }
            for node in tree.bottom_up() {
                let after = std::mem::take(&mut done[node]);
                let receiver = plan.cells[here[node].index()].home as usize;
                match tree.parent[node] {
                    None => plan.wait(root, after),
                    Some(up) => {
                        let sender = plan.cells[here[up].index()].home as usize;
                        let token = plan.signal(receiver, sender, after);
                        done[up].push(token);
                    }
                }
            }
        }
        plan
    }

    /// Reduce up trees whose root is the root rank's node, block b over tree b. A rank waits until its input was added; a parent tells
    /// each child when its sum was.
    pub fn reduce_to(shape: &Shape, root: usize, trees: &[Tree]) -> Plan {
        let mut plan = Plan::new("tree", shape, Collective::Reduce { root: root as u32 });
        plan.divide(if shape.nodes() == 1 { 1 } else { trees.len() });
        for piece in plan.pieces() {
            let tree = &trees[piece.block as usize];
            let mut sum = vec![CellId(0); shape.nodes()];
            for node in tree.bottom_up() {
                let owner = plan.owner(node, piece);
                sum[node] = plan.climb(tree, node, piece, &sum);
                for &child in &tree.children[node] {
                    let sender = plan.owner(child, piece);
                    let token = plan.signal(owner, sender, vec![sum[node]]);
                    plan.wait(sender, vec![token]);
                }
                for rank in shape.ranks_of(node).filter(|&r| r != owner) {
                    plan.wait(rank, vec![sum[node]]);
                }
                if tree.parent[node].is_none() {
                    let token = plan.give_and_tell(root, sum[node], piece);
                    plan.wait(owner, vec![token]);
                }
            }
        }
        plan
    }

    /// Reduce inside a node by the root alone: it reads what all show and tells them when it has. 2 steps.
    pub fn reduce_at_root(shape: &Shape, root: usize) -> Plan {
        let mut plan = Plan::new("at_root", shape, Collective::Reduce { root: root as u32 });
        let piece = Piece { block: 0, part: 0 };
        let terms = plan.take_all(shape.node_of(root), piece);
        let sum = plan.reduce(root, terms);
        plan.give(root, sum, piece);
        for rank in (0..shape.ranks()).filter(|&rank| rank != root) {
            plan.wait(rank, vec![sum]);
        }
        plan
    }

    /// Barrier: everybody raises a token; inside a node all wait for all. Between nodes the first rank of each node gathers its node's
    /// tokens and its children's up a tree, and the root's word comes down again.
    pub fn barrier(shape: &Shape, tree: &Tree) -> Plan {
        let mut plan = Plan::new("tree", shape, Collective::Barrier);
        let mut here: Vec<Vec<CellId>> = (0..shape.nodes())
            .map(|node| {
                shape
                    .ranks_of(node)
                    .map(|rank| plan.signal(rank, rank, Vec::new()))
                    .collect()
            })
            .collect();
        if shape.nodes() == 1 {
            for rank in shape.ranks_of(0) {
                plan.wait(rank, here[0].clone());
            }
            return plan;
        }
        let mut all = vec![CellId(0); shape.nodes()];
        for node in tree.bottom_up() {
            let after = std::mem::take(&mut here[node]);
            match tree.parent[node] {
                Some(up) => {
                    let token = plan.signal(shape.first(node), shape.first(up), after);
                    here[up].push(token);
                }
                None => all[node] = plan.signal(shape.first(node), shape.first(node), after),
            }
        }
        for node in tree.top_down() {
            if let Some(up) = tree.parent[node] {
                all[node] = plan.signal(shape.first(up), shape.first(node), vec![all[up]]);
            }
            for rank in shape.ranks_of(node) {
                plan.wait(rank, vec![all[node]]);
            }
        }
        plan
    }
}
