//! The shape of a group: how many ranks each node has, and which nodes are of one zone. Ranks are numbered node by node; a group whose ranks are not is
//! renumbered before it comes here. Invariant: at least one node, at least one rank on each.

/// Nodes and their ranks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// `first[i]` is the first rank of node i; the last entry is the number of ranks.
    first: Vec<usize>,
    /// By node, its zone, numbered as they first occur. All 0 where zones are not known.
    zone: Vec<usize>,
}

impl Shape {
    /// A group with `ranks_per_node[i]` ranks on node i.
    ///
    /// # Panics
    /// When there is no node, or a node without ranks.
    pub fn new(ranks_per_node: &[usize]) -> Shape {
        assert!(
            !ranks_per_node.is_empty() && !ranks_per_node.contains(&0),
            "a group has at least one node, and every node at least one rank: {ranks_per_node:?}"
        );
        let mut first = vec![0];
        for &n in ranks_per_node {
            first.push(first[first.len() - 1] + n);
        }
        Shape {
            zone: vec![0; ranks_per_node.len()],
            first,
        }
    }

    /// `nodes` nodes with `ranks` ranks each.
    pub fn uniform(nodes: usize, ranks: usize) -> Shape {
        Shape::new(&vec![ranks; nodes])
    }

    /// The same group with node i in zone `zones[i]`: nodes with equal numbers have much bandwidth between them, others little.
    ///
    /// # Panics
    /// When there is not one zone for each node.
    pub fn in_zones(mut self, zones: &[usize]) -> Shape {
        assert!(
            zones.len() == self.nodes(),
            "{} zones for {} nodes",
            zones.len(),
            self.nodes()
        );
        let mut known: Vec<usize> = Vec::new();
        for zone in zones {
            if !known.contains(zone) {
                known.push(*zone);
            }
        }
        let number = |zone: &usize| known.iter().position(|k| k == zone).unwrap_or(0);
        self.zone = zones.iter().map(number).collect();
        self
    }

    /// The zone of each node, numbered as they first occur.
    pub fn zone(&self) -> &[usize] {
        &self.zone
    }

    /// Number of zones; 1 where they are not known.
    pub fn zones(&self) -> usize {
        self.zone.iter().max().map_or(1, |last| last + 1)
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.first.len() - 1
    }

    /// Number of ranks in all.
    pub fn ranks(&self) -> usize {
        self.first[self.nodes()]
    }

    /// Ranks on `node`.
    pub fn on(&self, node: usize) -> usize {
        self.first[node + 1] - self.first[node]
    }

    /// First rank of `node`.
    pub fn first(&self, node: usize) -> usize {
        self.first[node]
    }

    /// The ranks of `node`.
    pub fn ranks_of(&self, node: usize) -> std::ops::Range<usize> {
        self.first[node]..self.first[node + 1]
    }

    /// The node of `rank`.
    pub fn node_of(&self, rank: usize) -> usize {
        self.first.partition_point(|&f| f <= rank) - 1
    }

    /// The local rank of `rank` on its node.
    pub fn local(&self, rank: usize) -> usize {
        rank - self.first[self.node_of(rank)]
    }

    /// The most ranks that any node has.
    pub fn widest(&self) -> usize {
        (0..self.nodes()).map(|n| self.on(n)).max().unwrap_or(1)
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let widest = self.widest();
        if (0..self.nodes()).all(|n| self.on(n) == widest) {
            write!(f, "{}x{widest}", self.nodes())?;
        } else {
            for n in 0..self.nodes() {
                write!(f, "{}{}", if n == 0 { "" } else { "+" }, self.on(n))?;
            }
        }
        if self.zones() > 1 {
            write!(f, " in {} zones", self.zones())?;
        }
        Ok(())
    }
}
