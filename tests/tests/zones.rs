//! Zones: plans of groups whose nodes lie in several zones are proved, simulated and run, cross between zones as rarely as can be, and ranks
//! that do not agree on zones do not start.

use hfr_tests::ranks;
use hfreduce::{
    Communicator, Config, ReduceOp, Wire,
    plan::{Act, Collective, Plan, Shape, candidates},
    simulate::{Scenario, simulate},
};
use std::{sync::Barrier, time::Duration};

/// Ranks per node, and the zones of the nodes: in order, mixed, uneven, a zone of one node, more zones.
const GROUPS: [(&[usize], &[usize]); 7] = [
    (&[2, 2], &[0, 1]),
    (&[2, 2, 2, 2], &[0, 0, 1, 1]),
    (&[1, 2, 1, 2, 1], &[5, 3, 5, 3, 5]),
    (&[3, 1, 2], &[0, 1, 1]),
    (&[1, 1, 1, 1, 1, 1, 1], &[0, 1, 2, 0, 1, 2, 0]),
    (&[2; 9], &[0, 0, 0, 0, 0, 1, 1, 1, 1]),
    (&[1; 6], &[0, 1, 2, 3, 4, 5]),
];

fn shapes() -> impl Iterator<Item = Shape> {
    GROUPS
        .iter()
        .map(|(ranks, zones)| Shape::new(ranks).in_zones(zones))
}

/// Ordered pairs of nodes in different zones between which a plan moves pieces, each with how many.
fn crossings(plan: &Plan) -> Vec<((usize, usize), usize)> {
    let zone = plan.shape.zone();
    let mut found = std::collections::BTreeMap::new();
    for stage in &plan.stages {
        let (Act::Put { .. }, Some(to)) = (&stage.act, stage.to) else {
            continue;
        };
        let from = plan.shape.node_of(stage.worker as usize);
        let to = plan.cells[to.index()].node as usize;
        if zone[from] != zone[to] {
            *found.entry((from, to)).or_insert(0) += 1;
        }
    }
    found.into_iter().collect()
}

fn named(shape: &Shape, name: &str) -> Plan {
    let plans = candidates(Collective::AllReduce, shape);
    let names: Vec<_> = plans.iter().map(|p| p.name).collect();
    let at = names.iter().position(|n| *n == name);
    let at = at.unwrap_or_else(|| panic!("{shape}: {name} is none of {names:?}"));
    plans.into_iter().nth(at).expect("found")
}

#[test]
fn every_plan_of_every_zoned_group_is_proved() {
    for shape in shapes() {
        let last = shape.ranks() as u32 - 1;
        for root in 0..=last {
            for collective in Collective::all(root) {
                if root > 0 && collective.root().is_none() {
                    continue;
                }
                for plan in candidates(collective, &shape) {
                    let name = plan.name;
                    if let Err(flaw) = plan.check() {
                        panic!("{} by {name} on {shape}: {flaw}", collective.name());
                    }
                }
            }
        }
    }
    let zones: Vec<usize> = (0..180).map(|node| node * 2 / 180).collect();
    let shape = Shape::uniform(180, 8).in_zones(&zones);
    named(&shape, "zoned_trees")
        .check()
        .expect("right at any size");
}

#[test]
fn each_tree_crosses_once_up_and_once_down() {
    for shape in shapes() {
        let plan = named(&shape, "zoned_trees");
        let crossings = crossings(&plan);
        let pieces = (plan.blocks * plan.parts) as usize;
        let crossed: usize = crossings.iter().map(|(_, pieces)| pieces).sum();
        assert_eq!(
            crossed,
            2 * (shape.zones() - 1) * pieces,
            "{shape}: {crossings:?}"
        );
        // One pair of nodes per tree and boundary, both ways.
        let pairs = crossings.len();
        assert!(
            pairs <= 4 * (shape.zones() - 1) && pairs.is_multiple_of(2),
            "{shape}: {crossings:?}"
        );
        for collective in [
            Collective::Broadcast { root: 1 },
            Collective::Reduce { root: 1 },
        ] {
            for plan in candidates(collective, &shape) {
                let crossed: usize = self::crossings(&plan)
                    .iter()
                    .map(|(_, pieces)| pieces)
                    .sum();
                let pieces = (plan.blocks * plan.parts) as usize;
                assert_eq!(
                    crossed,
                    (shape.zones() - 1) * pieces,
                    "{} on {shape}",
                    collective.name()
                );
            }
        }
    }
    // Two halves of plainly numbered nodes cross four times as often without zones.
    let zones: Vec<usize> = (0..16).map(|node| node / 8).collect();
    let zoned = named(&Shape::uniform(16, 1).in_zones(&zones), "zoned_trees");
    let mut plain = named(&Shape::uniform(16, 1), "double_tree");
    plain.shape = plain.shape.clone().in_zones(&zones);
    assert_eq!((crossings(&zoned).len(), crossings(&plain).len()), (4, 8));
}

#[test]
fn one_zone_is_as_none() {
    for zones in [&[0, 0, 0][..], &[7, 7, 7]] {
        let zoned = Shape::new(&[2, 1, 2]).in_zones(zones);
        assert_eq!(
            (zoned.clone(), zoned.to_string()),
            (Shape::new(&[2, 1, 2]), "2+1+2".to_owned())
        );
    }
    let names = |shape: &Shape| -> Vec<&str> {
        let plans = candidates(Collective::AllReduce, shape);
        plans.iter().map(|p| p.name).collect()
    };
    let plain = names(&Shape::uniform(4, 2));
    assert_eq!(plain, ["one_shot", "double_tree", "ring", "rotated_trees"]);
    let zoned = Shape::uniform(4, 2).in_zones(&[0, 1, 0, 1]);
    assert_eq!(
        (names(&zoned), zoned.to_string()),
        (vec!["one_shot", "zoned_trees"], "4x2 in 2 zones".to_owned())
    );
}

#[test]
fn zoned_plans_are_right_in_every_order_of_events() {
    for shape in shapes() {
        let root = shape.ranks() as u32 - 1;
        for collective in [
            Collective::AllReduce,
            Collective::Broadcast { root },
            Collective::Reduce { root },
            Collective::Barrier,
        ] {
            for plan in candidates(collective, &shape) {
                let name = plan.name;
                let checked = plan.check().unwrap_or_else(|f| panic!("{name}: {f}"));
                for seed in 0..12 {
                    let scenario = Scenario {
                        seed,
                        counts: vec![0, 1, 3, 700, 64, 257],
                        piece: if seed % 3 == 0 { 64 } else { 256 },
                        window: 1 + seed as usize % 3,
                        in_place: seed & 1 == 1,
                        ..Scenario::default()
                    };
                    if let Err(failure) = simulate(&checked, &scenario) {
                        panic!(
                            "{} by {name} on {shape}, {scenario:?}: {failure}",
                            collective.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn groups_in_zones_run_and_their_parts_too() {
    for wire in [Wire::Local, Wire::Tcp] {
        let (nodes, zones) = ([2, 1, 2], ["east", "west", "east"]);
        let place = |config: &mut Config| {
            let node: usize = config.node["node ".len()..].parse().expect("a number");
            config.zone = Some(zones[node].to_owned());
            config.algorithm = Some("zoned_trees".to_owned());
        };
        ranks(&nodes, wire, place, |comm: Communicator| {
            let rank = comm.rank() as i64;
            for count in [1usize, 7, 1000, 70_000] {
                let mut buffer: Vec<i64> =
                    (0..count as i64).map(|i| (i + 3) * (rank + 1)).collect();
                comm.all_reduce(&mut buffer, ReduceOp::Sum)
                    .expect("all_reduce");
                assert!(
                    (0..).zip(&buffer).all(|(i, x)| *x == (i + 3) * 15),
                    "count {count}"
                );
                let mut sent: Vec<i64> = (0..count as i64).map(|i| i ^ (rank << 20)).collect();
                comm.broadcast(&mut sent, 2).expect("broadcast");
                assert!(
                    (0..).zip(&sent).all(|(i, x)| *x == i ^ (2 << 20)),
                    "count {count}"
                );
            }
            // All of one zone: there is no such plan any more, and the error says which there are.
            let east = comm.rank() != 2;
            let part = comm
                .split(Some(u32::from(east)), 0)
                .expect("split")
                .expect("a part");
            let error = part.all_reduce(&mut [1i64, 2], ReduceOp::Sum);
            match error {
                Ok(()) => assert!(
                    !east,
                    "a part of several nodes of one zone has no zoned trees"
                ),
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        text.contains("zoned_trees") && text.contains("double_tree") == east,
                        "{text}"
                    );
                }
            }
        });
    }
}

/// What every rank is told when the zones are these.
fn refused(nodes: &[usize], zones: &[Option<&str>]) -> Vec<String> {
    let rendezvous = format!("127.0.0.1:{}", hfr_tests::free_port());
    let owner: Vec<usize> = (0..nodes.len())
        .flat_map(|node| vec![node; nodes[node]])
        .collect();
    let gate = Barrier::new(owner.len());
    std::thread::scope(|s| {
        let threads: Vec<_> = (0..owner.len())
            .map(|rank| {
                let mut config = Config::new(rank, owner.len(), &rendezvous, b"zones");
                config.node = format!("node {}", owner[rank]);
                config.zone = zones[rank].map(str::to_owned);
                config.connect_timeout = Duration::from_secs(20);
                let gate = &gate;
                s.spawn(move || {
                    gate.wait();
                    let error = Communicator::connect(&config)
                        .err()
                        .expect("zones that do not fit");
                    error.to_string()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .collect()
    })
}

#[test]
fn ranks_that_do_not_agree_on_zones_do_not_start() {
    for text in refused(&[1, 1, 1], &[Some("east"), Some("west"), None]) {
        let says = "the zone of rank 0 is `east`, that of rank 2 is none";
        assert!(text.contains(says) && text.contains("HFR_ZONE"), "{text}");
    }
    for text in refused(&[2, 1], &[Some("east"), Some("west"), Some("west")]) {
        assert!(
            text.contains("ranks 0 and 1 share node `node 0` and claim two zones"),
            "{text}"
        );
    }
}
