//! The all_reduce builders. Each reads as its algorithm; the proof in `check` is what makes them trustworthy, not the reading.
//! Which block an element belongs to depends on its position in the buffer alone, so the order of addition does too.

use super::{CellId, Collective, Piece, Plan, Shape};
use hfr_topology::{Tree, ring::ring};

impl Plan {
    /// All pieces of a buffer that the plan divides.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let (blocks, parts) = (self.blocks, self.parts);
        (0..parts)
            .flat_map(|part| (0..blocks).map(move |block| Piece { block, part }))
            .collect()
    }

    /// Divides the buffer into `blocks` by position, and each of them into so many parts that every rank of a node owns as many
    /// shards as every other.
    pub(super) fn divide(&mut self, blocks: usize) {
        let widest = self.shape.widest();
        self.blocks = blocks as u32;
        self.parts = (lcm(blocks, widest) / blocks) as u32;
    }

    /// Every rank of `node` takes `piece`, in rank order.
    pub(super) fn take_all(&mut self, node: usize, piece: Piece) -> Vec<CellId> {
        self.shape
            .ranks_of(node)
            .map(|rank| self.take(rank, piece))
            .collect()
    }

    /// The sum of `terms`, which is the one term where there is no other: a rank that is alone on its node has nothing to add before it sends.
    fn sum(&mut self, worker: usize, terms: Vec<CellId>) -> CellId {
        match terms[..] {
            [one] => one,
            _ => self.reduce(worker, terms),
        }
    }

    /// The owner of `piece` on `node` adds its ranks' inputs and the sums of the nodes below it, first those that are inputs themselves.
    pub(super) fn climb(
        &mut self,
        tree: &Tree,
        node: usize,
        piece: Piece,
        sum: &[CellId],
    ) -> CellId {
        let owner = self.owner(node, piece);
        let mut terms = self.take_all(node, piece);
        let is_sum = |child: &usize| !tree.children[*child].is_empty() || self.shape.on(*child) > 1;
        let mut below = tree.children[node].clone();
        below.sort_by_key(is_sum);
        for child in below {
            terms.push(self.send(sum[child], owner));
        }
        match tree.parent[node] {
            Some(_) => self.sum(owner, terms),
            None => self.reduce(owner, terms),
        }
    }

    /// Every rank of `node` is given `piece` from `cell`.
    pub(super) fn give_all(&mut self, node: usize, cell: CellId, piece: Piece) {
        for rank in self.shape.ranks_of(node) {
            self.give(rank, cell, piece);
        }
    }

    /// HFReduce's all_reduce: node sums up a tree and totals down again, block b over tree b (two trees: the double binary tree, so that
    /// every node's link is busy both ways). With one node there is nothing to climb and it is the all_reduce inside a node.
    /// Per rank: about 2 log2(nodes) + 3 steps; per node 2 (n-1)/n of the buffer sent on average.
    pub fn all_reduce_trees(shape: &Shape, trees: &[Tree]) -> Plan {
        let name = match (shape.nodes(), trees.len()) {
            (1, _) => "inside_node",
            _ if shape.zones() > 1 => "zoned_trees",
            (_, 0..=2) => "double_tree",
            _ => "rotated_trees",
        };
        let mut plan = Plan::new(name, shape, Collective::AllReduce);
        plan.divide(if shape.nodes() == 1 { 1 } else { trees.len() });
        for piece in plan.pieces() {
            let tree = &trees[piece.block as usize];
            let mut sum = vec![CellId(0); shape.nodes()];
            for node in tree.bottom_up() {
                sum[node] = plan.climb(tree, node, piece, &sum);
            }
            for node in tree.top_down() {
                if let Some(up) = tree.parent[node] {
                    let owner = plan.owner(node, piece);
                    sum[node] = plan.send(sum[up], owner);
                }
                plan.give_all(node, sum[node], piece);
            }
        }
        plan
    }

    /// All_reduce by a ring of nodes: block b starts behind node b, collects one node's sum per step until it is complete at node b, and
    /// travels round once more. Each node sends exactly 2 (n-1)/n of the buffer, in 2 (n-1) steps.
    pub fn all_reduce_ring(shape: &Shape) -> Plan {
        let nodes = shape.nodes();
        let ring = ring(nodes);
        let mut plan = Plan::new("ring", shape, Collective::AllReduce);
        plan.divide(nodes);
        for piece in plan.pieces() {
            let mut carried = None;
            for node in ring.reduce_path(piece.block as usize) {
                let owner = plan.owner(node, piece);
                let mut terms = plan.take_all(node, piece);
                terms.extend(carried.map(|cell| plan.send(cell, owner)));
                carried = Some(plan.sum(owner, terms));
            }
            let mut cell = carried.expect("a ring has a node");
            for node in ring.gather_path(piece.block as usize) {
                let owner = plan.owner(node, piece);
                cell = plan.send(cell, owner);
                plan.give_all(node, cell, piece);
            }
        }
        plan
    }

    /// All_reduce for small messages: everybody shows what it has, and everybody adds all of it. One step inside a node; between nodes the first
    /// rank of each node adds its node and shows the sum to all other nodes: three steps. Nobody hears back inside a chunk, so a
    /// slot rests for a second window.
    pub fn all_reduce_one_shot(shape: &Shape) -> Plan {
        let mut plan = Plan::new("one_shot", shape, Collective::AllReduce);
        plan.turns = 2;
        let piece = Piece { block: 0, part: 0 };
        let shown: Vec<_> = (0..shape.nodes())
            .map(|node| plan.take_all(node, piece))
            .collect();
        if shape.nodes() == 1 {
            for rank in shape.ranks_of(0) {
                let sum = plan.reduce(rank, shown[0].clone());
                plan.give(rank, sum, piece);
            }
            return plan;
        }
        let sums: Vec<_> = (0..shape.nodes())
            .map(|node| plan.reduce(shape.first(node), shown[node].clone()))
            .collect();
        for node in 0..shape.nodes() {
            let here: Vec<_> = sums
                .iter()
                .map(|&sum| plan.send(sum, shape.first(node)))
                .collect();
            for rank in shape.ranks_of(node) {
                let total = plan.reduce(rank, here.clone());
                plan.give(rank, total, piece);
            }
        }
        plan
    }
}

fn lcm(a: usize, b: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
}
