//! Double trees over zones: parts of a network with much bandwidth inside and little between them.
//!
//! A double tree over plainly numbered nodes crosses between two halves four times or more. Here each zone has a double tree
//! of its own, and the zones are joined root to root. It knows the zones' sizes and nothing of their links. Invariant: each
//! tree has exactly `zones - 1` edges that leave a zone, which is the least that can connect them.

use crate::double_tree::double_tree;
use crate::tree::Tree;

/// The double tree over zones of the given sizes. Labels are consecutive by zone: zone 0 has `0..zone_sizes[0]`, and so on.
///
/// Inside each zone there is [`double_tree`]; the roots are joined by the double tree over the zones. So a zone whose root
/// forwards to two other zones in one tree is (nearly always) a leaf among the zones in the other.
///
/// ```text
///   sizes 4, 3: first tree              second tree
///
///        zone 0          zone 1              zone 0          zone 1
///        0 ------------- 4                   3 ------------- 5 (root)
///         \               \                 /                 \
///          2               6               1                   4
///         / \             /               / \                 /
///        1   3           5               0   2               6
/// ```
///
/// Depth: at most that of the deepest zone, plus ceil(log2 of the number of zones). Children of a zone's root: its one child
/// inside the zone and at most two other zones. One zone gives plainly [`double_tree`].
///
/// # Panics
/// When there is no zone, or one of size 0.
pub fn zoned_double_tree(zone_sizes: &[usize]) -> [Tree; 2] {
    let over_zones = double_tree(zone_sizes.len());
    let in_zones: Vec<[Tree; 2]> = zone_sizes.iter().map(|&size| double_tree(size)).collect();
    [0, 1].map(|which| {
        let inner: Vec<&Tree> = in_zones.iter().map(|pair| &pair[which]).collect();
        join(&over_zones[which], &inner)
    })
}

/// The double tree over nodes whose zones are `zone[node]`, in whatever order: [`zoned_double_tree`] over the zones as they first occur, with
/// its labels given to their nodes. Where all nodes are of one zone it is plainly [`double_tree`].
///
/// With a `root`, both trees have that node as their root: the tree over the zones is turned to its zone, and the tree in that zone to it.
///
/// # Panics
/// When there is no node, or not this root.
pub fn double_tree_of_zones(zone: &[usize], root: Option<usize>) -> [Tree; 2] {
    let mut zones: Vec<(usize, Vec<usize>)> = Vec::new();
    for (node, &zone) in zone.iter().enumerate() {
        match zones.iter_mut().find(|(z, _)| *z == zone) {
            Some((_, nodes)) => nodes.push(node),
            None => zones.push((zone, vec![node])),
        }
    }
    let place = root.map(|root| {
        let find = |(z, (_, nodes)): (usize, &(usize, Vec<usize>))| {
            Some((z, nodes.iter().position(|node| *node == root)?))
        };
        let found = zones.iter().enumerate().find_map(find);
        found.unwrap_or_else(|| panic!("the root {root} is no node of {}", zone.len()))
    });
    let names: Vec<usize> = zones.iter().flat_map(|(_, nodes)| nodes.clone()).collect();
    [0, 1].map(|which| {
        let tree = |n: usize| double_tree(n)[which].clone();
        let mut over = tree(zones.len());
        let mut inner: Vec<Tree> = zones.iter().map(|(_, nodes)| tree(nodes.len())).collect();
        if let Some((z, v)) = place {
            over = over.turned_to(z);
            inner[z] = inner[z].turned_to(v);
        }
        join(&over, &inner.iter().collect::<Vec<_>>()).relabel(&names)
    })
}

/// One tree out of one per zone: the root of zone z hangs under the root of the zone above z in `over_zones`.
fn join(over_zones: &Tree, zones: &[&Tree]) -> Tree {
    let mut first_label = Vec::with_capacity(zones.len());
    let mut n = 0;
    for zone in zones {
        first_label.push(n);
        n += zone.len();
    }
    let mut parent = Vec::with_capacity(n);
    for (z, zone) in zones.iter().enumerate() {
        let above = over_zones.parent[z].map(|up| first_label[up] + zones[up].root);
        parent.extend(zone.parent.iter().map(|up| match *up {
            Some(up) => Some(first_label[z] + up),
            None => above,
        }));
    }
    Tree::from_parents(parent)
}
