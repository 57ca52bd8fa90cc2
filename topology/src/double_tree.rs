//! The double binary tree: two binary trees over the same labels, each of which carries half of the data.
//!
//! After Sanders, Speck, Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan" (Parallel Computing
//! 35, 2009), in the form NCCL 2.4 made known ("Massively Scale Your Deep Learning Training with NCCL 2.4"). A node that adds
//! and forwards in one tree is a leaf in the other, so every node's link is busy in both directions and no link is busy
//! twice. Invariant: both trees span all labels with depth ceil(log2 n), and for n >= 2 nobody is a leaf in both.

use crate::tree::Tree;

/// The two trees over `n` labels. For n = 1 both are the single node 0.
///
/// The first tree hangs each label by its lowest set bit: the more zeros a label ends in, the higher it hangs. Label 0 ends in
/// nothing but zeros and is the root, with a single child. Where a label's place in the full tree lies beyond the last label,
/// the next place to its left is taken.
///
/// The second tree is the first in a mirror (label x becomes n-1-x) when n is even, and the first shifted by one (x becomes
/// x+1, the last becomes 0) when n is odd. Odd labels are leaves of the first tree; both moves make them even places.
///
/// ```text
///   n = 8, first tree             second tree (mirror)
///
///   0                                                   7
///    \_______                                   _______/
///            4                                 3
///        ___/ \___                         ___/ \___
///       2         6                       1         5
///      / \       / \                     / \       / \
///     1   3     5   7                   0   2     4   6
///
///   n = 7, first tree             second tree (shift)
///
///   0                                 1
///    \_______                          \_______
///            4                                 5
///        ___/ \___                         ___/ \___
///       2         6                       3         0
///      / \       /                       / \       /
///     1   3     5                       2   4     6
/// ```
///
/// Children are listed in ascending order of label, in both trees.
///
/// # Panics
/// When `n` is 0.
pub fn double_tree(n: usize) -> [Tree; 2] {
    assert!(n > 0, "a tree needs at least one node");
    let first = Tree::from_parents((0..n).map(|v| parent_by_bits(n, v)).collect());
    let names: Vec<usize> = (0..n)
        .map(|v| {
            if n.is_multiple_of(2) {
                n - 1 - v
            } else {
                (v + 1) % n
            }
        })
        .collect();
    let second = first.relabel(&names);
    [first, second]
}

/// The parent of `v` in the first tree.
///
/// ```text
///   v           = 0 1 1 0     lowest set bit: 0 0 1 0
///   clear it      0 1 0 0     the neighbour place to the left, one level up or more
///   set the next  0 1 0 0     one level up exactly: 6 hangs under 4
///
///   v           = 0 0 1 0     clear it, set the next: 0 1 0 0, so 2 hangs under 4
/// ```
fn parent_by_bits(n: usize, v: usize) -> Option<usize> {
    if v == 0 {
        return None;
    }
    let bit = v & v.wrapping_neg();
    let left = v ^ bit;
    let up = left | (bit << 1);
    // With fewer labels than places, `up` may be missing; `left` never is, for it is smaller than `v`.
    Some(if up < n { up } else { left })
}
