//! Zoned double trees: how often they cross, how deep they are, how many neighbours a zone's root has.

use hfr_topology::{Tree, double_tree, zoned_double_tree};

/// For each label, its zone.
fn zone_of(sizes: &[usize]) -> Vec<usize> {
    sizes
        .iter()
        .enumerate()
        .flat_map(|(zone, &size)| vec![zone; size])
        .collect()
}

/// The edges (child, parent) that leave a zone.
fn crossings(tree: &Tree, zones: &[usize]) -> Vec<(usize, usize)> {
    (0..tree.len())
        .filter_map(|v| tree.parent[v].map(|up| (v, up)))
        .filter(|&(v, up)| zones[v] != zones[up])
        .collect()
}

fn ceil_log2(n: usize) -> usize {
    (0..).find(|&bits| 1 << bits >= n).unwrap()
}

#[test]
fn one_zone_is_the_plain_double_tree() {
    for n in 1..=40 {
        assert_eq!(zoned_double_tree(&[n]), double_tree(n));
    }
}

#[test]
fn two_zones_are_joined_root_to_root_by_one_edge_per_tree() {
    for a in (1..=33).chain([600, 625]) {
        for b in (1..=33).chain([90, 600, 650]) {
            let zones = zone_of(&[a, b]);
            let (pair_a, pair_b) = (double_tree(a), double_tree(b));
            for (which, tree) in zoned_double_tree(&[a, b]).iter().enumerate() {
                assert_eq!(tree.top_down().len(), a + b);
                let roots = [pair_a[which].root, a + pair_b[which].root];
                let crossings = crossings(tree, &zones);
                assert_eq!(crossings.len(), 1, "zones of {a} and {b}");
                assert!(
                    crossings[0] == (roots[0], roots[1]) || crossings[0] == (roots[1], roots[0])
                );
                let larger = pair_a[which].depth().max(pair_b[which].depth());
                assert!(
                    (larger..=larger + 1).contains(&tree.depth()),
                    "zones of {a} and {b}: depth {}",
                    tree.depth()
                );
                assert!(
                    (0..a + b).all(|v| tree.degree(v) <= 3),
                    "zones of {a} and {b}"
                );
            }
        }
    }
}

#[test]
fn many_zones_cross_as_rarely_as_can_be_and_stay_shallow() {
    let equal = (1..=20).map(|zones| vec![7; zones]);
    let mixed = (1..=20).map(|zones| {
        (0..zones)
            .map(|z| 1 + (z * z * 5 + 3) % 17)
            .collect::<Vec<_>>()
    });
    for sizes in equal.chain(mixed) {
        let zones = zone_of(&sizes);
        for (which, tree) in zoned_double_tree(&sizes).iter().enumerate() {
            assert_eq!(
                crossings(tree, &zones).len(),
                sizes.len() - 1,
                "zones {sizes:?}"
            );
            let deepest = sizes
                .iter()
                .map(|&size| double_tree(size)[which].depth())
                .max()
                .unwrap();
            assert!(
                tree.depth() <= deepest + ceil_log2(sizes.len()),
                "zones {sizes:?}: depth {}",
                tree.depth()
            );
            assert!(
                (0..tree.len()).all(|v| tree.children[v].len() <= 3),
                "zones {sizes:?}"
            );
        }
    }
}

#[test]
fn inside_a_zone_the_trees_are_the_zone_s_own() {
    let sizes = [5, 12, 8];
    let zones = zone_of(&sizes);
    for (which, tree) in zoned_double_tree(&sizes).iter().enumerate() {
        let mut first = 0;
        for (zone, &size) in sizes.iter().enumerate() {
            let inner = &double_tree(size)[which];
            for v in 0..size {
                let up = tree.parent[first + v]
                    .filter(|&up| zones[up] == zone)
                    .map(|up| up - first);
                assert_eq!(up, inner.parent[v]);
            }
            first += size;
        }
    }
}

#[test]
fn the_drawn_trees_are_the_ones_returned() {
    let [first, second] = zoned_double_tree(&[4, 3]);
    assert_eq!(
        first.parent,
        [None, Some(2), Some(0), Some(2), Some(0), Some(6), Some(4)]
    );
    assert_eq!(
        second.parent,
        [Some(1), Some(3), Some(1), Some(5), Some(5), None, Some(4)]
    );
}

#[test]
#[should_panic(expected = "at least one node")]
fn an_empty_zone_is_refused() {
    zoned_double_tree(&[3, 0]);
}
