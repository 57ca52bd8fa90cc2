//! Every builder's plan is proved for every shape, and the counted costs are what the builders' texts promise.

use hfr_topology::double_tree;
use hfreduce::plan::{Collective, Plan, Shape, candidates};

fn prove(collective: Collective, shape: &Shape) {
    for plan in candidates(collective, shape) {
        let name = plan.name;
        if let Err(flaw) = plan.check() {
            panic!("{} by {name} on {shape}: {flaw}", collective.name());
        }
    }
}

#[test]
fn all_reduce_on_all_shapes_up_to_64_nodes_of_8() {
    for nodes in 1..=64 {
        for ranks in 1..=8 {
            let shape = Shape::uniform(nodes, ranks);
            for plan in [
                Plan::all_reduce_one_shot(&shape),
                Plan::all_reduce_trees(&shape, &double_tree(nodes)),
            ] {
                let name = plan.name;
                plan.check()
                    .unwrap_or_else(|flaw| panic!("{name} on {shape}: {flaw}"));
            }
        }
    }
}

#[test]
fn every_collective_on_small_and_uneven_shapes() {
    let mut shapes: Vec<Shape> = (1..=9)
        .flat_map(|n| (1..=8).map(move |l| Shape::uniform(n, l)))
        .collect();
    for uneven in [
        &[3, 5][..],
        &[5, 3],
        &[1, 8],
        &[8, 1, 1],
        &[2, 3, 1, 4, 7],
        &[1, 2, 3, 4, 5, 6],
    ] {
        shapes.push(Shape::new(uneven));
    }
    for shape in &shapes {
        let last = shape.ranks() as u32 - 1;
        for root in [0, last, last / 2] {
            let rooted = |c: &Collective| root == 0 || c.root().is_some();
            for collective in Collective::all(root).into_iter().filter(rooted) {
                prove(collective, shape);
            }
        }
    }
    prove(Collective::SendRecv, &Shape::uniform(1, 2));
    prove(Collective::SendRecv, &Shape::uniform(2, 1));
}

#[test]
fn large_groups() {
    prove(Collective::Barrier, &Shape::uniform(1024, 8));
    prove(Collective::Broadcast { root: 77 }, &Shape::uniform(256, 8));
    prove(Collective::Reduce { root: 77 }, &Shape::uniform(256, 8));
    let shape = Shape::uniform(1024, 8);
    let plan = Plan::all_reduce_trees(&shape, &double_tree(1024));
    let started = std::time::Instant::now();
    plan.check().expect("the double tree is right at any size");
    println!("1,024 x 8 proved in {:?}", started.elapsed());
}

#[test]
fn counted_costs_are_the_textbook_ones() {
    for nodes in 2..=16 {
        let shape = Shape::uniform(nodes, 4);
        let bound = 2.0 * (nodes as f64 - 1.0) / nodes as f64;
        let ring = Plan::all_reduce_ring(&shape).cost();
        let node_sent = |cost: &hfreduce::plan::Cost, node: usize| {
            let sent: usize = shape.ranks_of(node).map(|r| cost.ranks[r].sent).sum();
            sent as f64 / cost.pieces as f64
        };
        for node in 0..nodes {
            assert!(
                (node_sent(&ring, node) - bound).abs() < 1e-9,
                "ring of {nodes}"
            );
        }
        let tree = Plan::all_reduce_trees(&shape, &double_tree(nodes)).cost();
        let mean = (0..nodes).map(|n| node_sent(&tree, n)).sum::<f64>() / nodes as f64;
        assert!(
            (mean - bound).abs() < 1e-9,
            "double tree of {nodes}: {mean}"
        );
        assert_eq!(ring.hops, 2 * (nodes - 1));
        assert_eq!(tree.hops, 2 * (nodes as f64).log2().ceil() as usize);
    }
}
