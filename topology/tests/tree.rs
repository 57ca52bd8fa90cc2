//! Trees in general, on random ones: orders, depth, relabelling, and what is refused.

use hfr_topology::Tree;
use proptest::prelude::*;

/// A random tree: label v > 0 hangs under a random smaller one, then all labels are shuffled.
fn tree_and_names() -> impl Strategy<Value = (Vec<Option<usize>>, Vec<usize>)> {
    (1usize..40).prop_flat_map(|n| {
        let parents: Vec<_> = (0..n)
            .map(|v| {
                if v == 0 {
                    Just(None).boxed()
                } else {
                    (0..v).prop_map(Some).boxed()
                }
            })
            .collect();
        (parents, Just((0..n).collect::<Vec<_>>()).prop_shuffle())
    })
}

proptest! {
    #[test]
    fn orders_respect_parents_and_relabelling_keeps_the_shape((parents, names) in tree_and_names()) {
        let n = parents.len();
        let tree = Tree::from_parents(parents.clone());
        let named = tree.relabel(&names);
        prop_assert_eq!(named.root, names[tree.root]);
        prop_assert_eq!(named.depth(), tree.depth());
        for v in 0..n {
            prop_assert_eq!(named.parent[names[v]], parents[v].map(|up| names[up]));
            prop_assert_eq!(named.degree(names[v]), tree.degree(v));
        }

        let mut place = vec![None; n];
        for (i, v) in named.bottom_up().into_iter().enumerate() {
            prop_assert!(place[v].replace(i).is_none());
        }
        for v in 0..n {
            prop_assert!(named.parent[v].is_none_or(|up| place[v] < place[up]));
        }

        let mut back = vec![0; n];
        for (v, &name) in names.iter().enumerate() {
            back[name] = v;
        }
        prop_assert_eq!(named.relabel(&back), tree);
    }
}

#[test]
fn depth_counts_edges() {
    assert_eq!(Tree::from_parents(vec![None]).depth(), 0);
    assert_eq!(
        Tree::from_parents(vec![Some(2), Some(0), None, Some(1), Some(2)]).depth(),
        3
    );
}

#[test]
#[should_panic(expected = "without a parent")]
fn two_roots_are_refused() {
    Tree::from_parents(vec![None, Some(0), None]);
}

#[test]
#[should_panic(expected = "one label without a parent")]
fn no_root_is_refused() {
    Tree::from_parents(vec![Some(1), Some(0)]);
}

#[test]
#[should_panic(expected = "2 of 3 labels hang in a cycle")]
fn a_cycle_is_refused() {
    Tree::from_parents(vec![None, Some(2), Some(1)]);
}

#[test]
#[should_panic(expected = "there are only 2 labels")]
fn a_parent_that_does_not_exist_is_refused() {
    Tree::from_parents(vec![None, Some(2)]);
}

#[test]
#[should_panic(expected = "used twice")]
fn a_name_used_twice_is_refused() {
    Tree::from_parents(vec![None, Some(0), Some(0)]).relabel(&[0, 1, 1]);
}
