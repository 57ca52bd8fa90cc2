//! Turned trees: what every node sends, and that the shapes stay.

use hfr_topology::rotation::FOREST_LIMIT;
use hfr_topology::{double_tree, egress, forest, rotated};

#[test]
fn a_forest_reaches_the_bandwidth_bound() {
    for n in 3..=FOREST_LIMIT {
        let trees = forest(n);
        assert_eq!(trees.len(), n);
        let bound = 2.0 * (n - 1) as f64 / n as f64;
        for (v, sends) in egress(&trees, n).into_iter().enumerate() {
            // Both are one rounded division of whole numbers that are equal up to the same factor.
            assert!(
                (sends - bound).abs() < 1e-12,
                "n = {n}: {v} sends {sends}, the bound is {bound}"
            );
        }
    }
}

#[test]
fn a_forest_begins_with_the_double_tree_and_keeps_its_depth() {
    for n in (1..=20).chain([129, 256]) {
        let pair = double_tree(n);
        let trees = forest(n);
        assert_eq!(trees[..2], pair);
        assert!(trees.len() == 2 || trees.len() == n);
        assert!(trees.iter().all(|tree| tree.depth() == pair[0].depth()));
    }
}

#[test]
fn outside_the_limit_the_forest_is_the_double_tree() {
    for n in [1, 2, FOREST_LIMIT + 1, 64, 1250] {
        assert_eq!(forest(n), double_tree(n));
    }
    // What staying with it costs at most: just above the limit.
    let n = FOREST_LIMIT + 1;
    let most = egress(&forest(n), n).into_iter().fold(0.0, f64::max);
    assert!(most / (2.0 * (n - 1) as f64 / n as f64) < 1.07);
}

#[test]
fn the_trees_of_a_forest_differ() {
    for n in 3..=FOREST_LIMIT {
        let trees = forest(n);
        for (i, tree) in trees.iter().enumerate() {
            assert!(!trees[..i].contains(tree), "n = {n}: tree {i} comes twice");
        }
    }
}

#[test]
fn a_whole_turn_evens_out_any_trees_and_the_first_turn_is_no_turn() {
    for n in [5, 12, 37] {
        let pair = double_tree(n);
        let turned = rotated(n, &pair[1..], n);
        assert_eq!(turned[0], pair[1]);
        let egress = egress(&turned, n);
        assert!(egress.iter().all(|&sends| sends == egress[0]));
    }
}

#[test]
fn turns_are_evenly_spaced_and_go_upwards() {
    let roots: Vec<usize> = rotated(12, &double_tree(12), 4)
        .iter()
        .map(|tree| tree.root)
        .collect();
    assert_eq!(roots, [0, 11, 3, 2, 6, 5, 9, 8]);
}
