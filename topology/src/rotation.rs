//! Rotation: more trees of the same shape under other labels, so that no node sends more than its share.
//!
//! In one double tree a node with three neighbours in one tree and one in the other sends 2.0 bytes per byte of the buffer,
//! while the mean is 2(n-1)/n. When the buffer is cut into more blocks and each block's tree is turned by some labels, every
//! node takes the busy places for its share of the blocks only. It knows nothing of blocks beyond "each tree carries
//! 1/len of the buffer". Invariant: turning changes labels, never shapes, so depths stay the same.

use crate::double_tree::double_tree;
use crate::tree::Tree;

/// The largest n for which [`forest`] turns the trees, and so the largest number of trees it returns.
///
/// Above it the double tree alone is within n/(n-1), less than 7 %, of the bound, and turning would cost each node a
/// connection to nearly every other node.
pub const FOREST_LIMIT: usize = 16;

/// Each of `trees` in `turns` evenly spaced rotations: in turn k all labels are moved up by floor(k n / turns), modulo n.
///
/// Returns `turns * trees.len()` trees, turn by turn; the first turn is `trees` itself. With `turns` = n each label takes each
/// place of each tree once, so the egress is even whatever the trees are.
///
/// # Panics
/// When a tree is not over `n` labels.
pub fn rotated(n: usize, trees: &[Tree], turns: usize) -> Vec<Tree> {
    let mut all = Vec::with_capacity(turns * trees.len());
    for turn in 0..turns {
        let by = turn * n / turns;
        let names: Vec<usize> = (0..n).map(|v| (v + by) % n).collect();
        all.extend(trees.iter().map(|tree| tree.relabel(&names)));
    }
    all
}

/// The trees that carry an all-reduce over `n` nodes, each with 1/len of the buffer; the first two are the double tree.
///
/// For 3 <= n <= [`FOREST_LIMIT`] there are n of them, and every node sends exactly 2(n-1)/n bytes per byte of the buffer,
/// which is the bound. An even share needs n to divide 2(n-1) times the number of trees, so at least n/2 trees; n of them
/// do it whatever their shape. For other n it is the double tree: at n <= 2 it is even already, above the limit nearly.
///
/// ```text
///   n even: both trees, turned by 0, 2, 4, ... : n/2 turns of two trees. Turning by two keeps a label in even places or in
///           odd ones; the mirror takes even places to odd ones, so the second tree fills the places that the first leaves out.
///   n odd:  one tree, turned by 0, 1, 2, ... : n turns. The second tree of the double tree IS the first turned by one.
/// ```
///
/// The price is neighbours: at most 4 in the double tree, up to n-1 here.
///
/// # Panics
/// When `n` is 0.
pub fn forest(n: usize) -> Vec<Tree> {
    let pair = double_tree(n);
    if !(3..=FOREST_LIMIT).contains(&n) {
        return pair.into();
    }
    if n.is_multiple_of(2) {
        rotated(n, &pair, n / 2)
    } else {
        rotated(n, &pair[..1], n)
    }
}

/// For each label, the bytes it sends in an all-reduce per byte of the buffer, when each of `trees` carries 1/len of it:
/// up to its parent and down to its children, once each.
///
/// # Panics
/// When a tree is not over `n` labels.
pub fn egress(trees: &[Tree], n: usize) -> Vec<f64> {
    let mut sends = vec![0usize; n];
    for tree in trees {
        assert!(
            tree.len() == n,
            "a tree over {} labels among trees over {n}",
            tree.len()
        );
        for (v, sends) in sends.iter_mut().enumerate() {
            *sends += tree.degree(v);
        }
    }
    sends
        .into_iter()
        .map(|sends| sends as f64 / trees.len() as f64)
        .collect()
}
