//! The ring: its steps are played out on sets of contributions, and its paths must agree with its steps.

use std::collections::BTreeSet;

use hfr_topology::ring::ring;

#[test]
fn neighbours_are_each_other_s_inverse_and_go_round_once() {
    for n in 1..=40 {
        let ring = ring(n);
        let mut at = 0;
        let mut seen = BTreeSet::new();
        while seen.insert(at) {
            assert_eq!(ring.prev(ring.next(at)), at);
            at = ring.next(at);
        }
        assert_eq!((at, seen.len(), ring.len(), ring.steps()), (0, n, n, n - 1));
    }
}

/// Plays both phases: `held[label][block]` are the labels whose parts are in that label's copy of the block.
#[test]
fn played_step_by_step_every_label_ends_with_every_part() {
    for n in 1..=17 {
        let ring = ring(n);
        let mut held: Vec<Vec<BTreeSet<usize>>> = (0..n)
            .map(|label| vec![BTreeSet::from([label]); n])
            .collect();
        for step in 0..ring.steps() {
            let before = held.clone();
            for (label, before) in before.iter().enumerate() {
                let block = ring.reduce_block(label, step);
                assert_eq!(before[block].len(), step + 1);
                for &part in &before[block] {
                    assert!(
                        held[ring.next(label)][block].insert(part),
                        "a part is added twice"
                    );
                }
            }
        }
        for (label, blocks) in held.iter().enumerate() {
            assert_eq!(
                blocks[label].len(),
                n,
                "label {label} of {n} does not own the sum of its block"
            );
        }
        for step in 0..ring.steps() {
            let before = held.clone();
            for (label, before) in before.iter().enumerate() {
                let block = ring.gather_block(label, step);
                assert_eq!(
                    before[block].len(),
                    n,
                    "n = {n}: label {label} passes on an unfinished block"
                );
                held[ring.next(label)][block] = before[block].clone();
            }
        }
        assert!(held.iter().flatten().all(|parts| parts.len() == n));
    }
}

#[test]
fn paths_are_what_the_steps_do() {
    for n in 1..=17 {
        let ring = ring(n);
        for block in 0..n {
            let reduce: Vec<usize> = ring.reduce_path(block).collect();
            let gather: Vec<usize> = ring.gather_path(block).collect();
            assert_eq!((reduce.len(), gather.len()), (n, n));
            assert_eq!((reduce[n - 1], gather[0]), (block, block));
            for step in 0..ring.steps() {
                assert_eq!(ring.next(reduce[step]), reduce[step + 1]);
                assert_eq!(ring.next(gather[step]), gather[step + 1]);
                assert_eq!(ring.reduce_block(reduce[step], step), block);
                assert_eq!(ring.gather_block(gather[step], step), block);
            }
        }
    }
}

#[test]
fn the_drawn_table_is_the_one_returned() {
    let ring = ring(4);
    let reduce: Vec<usize> = (0..3).map(|step| ring.reduce_block(0, step)).collect();
    let gather: Vec<usize> = (0..3).map(|step| ring.gather_block(2, step)).collect();
    assert_eq!((reduce, gather), (vec![3, 2, 1], vec![2, 1, 0]));
}
