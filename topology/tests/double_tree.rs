//! The properties of the double tree, for every small n and some large ones, and against the listing it was taken from.

use std::collections::BTreeSet;

use hfr_topology::{Tree, double_tree, egress};

/// The numbers of nodes that every property is checked for.
fn sizes() -> impl Iterator<Item = usize> {
    (2..=129).chain([180, 200, 256, 600, 1250])
}

fn ceil_log2(n: usize) -> usize {
    (0..).find(|&bits| 1 << bits >= n).unwrap()
}

/// Spans all labels from one root, without a cycle, with parents and children that agree and orders that respect them.
fn assert_tree(tree: &Tree, n: usize) {
    assert_eq!((tree.len(), tree.children.len()), (n, n));
    assert_eq!(
        (0..n)
            .filter(|&v| tree.parent[v].is_none())
            .collect::<Vec<_>>(),
        [tree.root]
    );
    for v in 0..n {
        assert!(
            tree.children[v].is_sorted_by(|a, b| a < b),
            "n = {n}: children of {v} do not ascend"
        );
        for &child in &tree.children[v] {
            assert_eq!(tree.parent[child], Some(v));
        }
        let mut at = v;
        let mut hops = 0;
        while let Some(up) = tree.parent[at] {
            (at, hops) = (up, hops + 1);
            assert!(hops < n, "n = {n}: the way up from {v} does not end");
        }
        assert_eq!(at, tree.root);
    }
    assert_eq!(tree.children.iter().map(Vec::len).sum::<usize>(), n - 1);

    let down = tree.top_down();
    let mut place = vec![usize::MAX; n];
    for (i, &v) in down.iter().enumerate() {
        place[v] = i;
    }
    assert_eq!(
        down.iter().copied().collect::<BTreeSet<_>>(),
        (0..n).collect()
    );
    assert!((0..n).all(|v| tree.parent[v].is_none_or(|up| place[up] < place[v])));
    let mut up = tree.bottom_up();
    up.reverse();
    assert_eq!(up, down);
}

#[test]
fn one_node_is_a_single_node_twice() {
    for tree in double_tree(1) {
        assert_tree(&tree, 1);
        assert_eq!((tree.root, tree.depth()), (0, 0));
    }
    assert_eq!(egress(&double_tree(1), 1), [0.0]);
}

#[test]
fn both_trees_span_and_are_rooted_where_they_should_be() {
    for n in sizes() {
        let [first, second] = double_tree(n);
        assert_tree(&first, n);
        assert_tree(&second, n);
        assert_eq!(first.root, 0);
        assert_eq!(second.root, if n % 2 == 0 { n - 1 } else { 1 });
    }
}

#[test]
fn depth_is_the_logarithm_rounded_up() {
    for n in sizes() {
        for tree in double_tree(n) {
            assert_eq!(tree.depth(), ceil_log2(n), "n = {n}");
            assert!((0..n).all(|v| tree.children[v].len() <= 2));
        }
    }
}

#[test]
fn nobody_is_a_leaf_twice_and_only_label_0_of_an_odd_n_is_interior_twice() {
    for n in sizes() {
        let [first, second] = double_tree(n);
        for v in 0..n {
            assert!(
                !(first.is_leaf(v) && second.is_leaf(v)),
                "n = {n}: {v} is a leaf in both"
            );
            let interior_twice = !first.is_leaf(v) && !second.is_leaf(v);
            assert_eq!(interior_twice, n % 2 == 1 && v == 0, "n = {n}, label {v}");
        }
    }
}

#[test]
fn egress_has_the_bound_as_its_mean_and_two_as_its_most() {
    for n in sizes() {
        let trees = double_tree(n);
        let egress = egress(&trees, n);
        // Halves are exact in f64, so the mean is compared as a sum: n times 2(n-1)/n.
        assert_eq!(egress.iter().sum::<f64>(), 2.0 * (n - 1) as f64, "n = {n}");
        let most = egress.iter().copied().fold(0.0, f64::max);
        let expected = match n {
            2 => 1.0,
            3 => 1.5,
            _ => 2.0,
        };
        assert_eq!(most, expected, "n = {n}");
    }
}

#[test]
fn nobody_has_more_than_four_peers() {
    for n in sizes() {
        let trees = double_tree(n);
        for v in 0..n {
            let peers: BTreeSet<usize> = trees
                .iter()
                .flat_map(|tree| tree.children[v].iter().copied().chain(tree.parent[v]))
                .collect();
            assert!(peers.len() <= 4, "n = {n}: {v} has {} peers", peers.len());
        }
    }
}

/// The listing of NCCL's first tree: (parent, children), computed from the top down, unlike ours.
fn listed(n: usize, r: usize) -> (Option<usize>, Vec<usize>) {
    let mut bit = 1;
    while bit < n && r & bit == 0 {
        bit <<= 1;
    }
    if r == 0 {
        return (None, if n > 1 { vec![bit >> 1] } else { vec![] });
    }
    let mut up = (r ^ bit) | (bit << 1);
    if up >= n {
        up = r ^ bit;
    }
    let mut low = bit >> 1;
    let mut children = Vec::new();
    if low > 0 {
        children.push(r - low);
    }
    while low > 0 && r + low >= n {
        low >>= 1;
    }
    if low > 0 {
        children.push(r + low);
    }
    (Some(up), children)
}

#[test]
fn both_trees_are_the_listed_ones() {
    for n in sizes() {
        let [first, second] = double_tree(n);
        for v in 0..n {
            assert_eq!(
                (first.parent[v], first.children[v].clone()),
                listed(n, v),
                "n = {n}, label {v}"
            );
            let (place, name): (_, Box<dyn Fn(usize) -> usize>) = if n % 2 == 0 {
                (n - 1 - v, Box::new(move |x| n - 1 - x))
            } else {
                ((v + n - 1) % n, Box::new(move |x| (x + 1) % n))
            };
            let (parent, children) = listed(n, place);
            let mut children: Vec<usize> = children.into_iter().map(&name).collect();
            children.sort_unstable();
            assert_eq!(
                (second.parent[v], second.children[v].clone()),
                (parent.map(&name), children),
                "n = {n}, label {v}"
            );
        }
    }
}

#[test]
fn the_drawn_trees_are_the_ones_returned() {
    let [first, second] = double_tree(8);
    assert_eq!(first.top_down(), [0, 4, 2, 6, 1, 3, 5, 7]);
    assert_eq!(second.top_down(), [7, 3, 1, 5, 0, 2, 4, 6]);
    let [first, second] = double_tree(7);
    assert_eq!(
        first.children,
        [
            vec![4],
            vec![],
            vec![1, 3],
            vec![],
            vec![2, 6],
            vec![],
            vec![5]
        ]
    );
    assert_eq!(
        second.children,
        [
            vec![6],
            vec![5],
            vec![],
            vec![2, 4],
            vec![],
            vec![0, 3],
            vec![]
        ]
    );
}
