//! The real engine under the simulator: every collective on many shapes, seeds, buffers and windows, each element compared. Under miri
//! (`ci/miri.sh`) a few of them run with every memory access checked.

use hfreduce::{
    plan::{Collective, Piece, Plan, Shape, TakeAlias, candidates},
    simulate::{Failure, Scenario, simulate},
};

fn collectives(shape: &Shape) -> Vec<Collective> {
    let last = shape.ranks() as u32 - 1;
    let mut all = Collective::all(last).to_vec();
    // Another root than the last.
    all.push(Collective::Reduce { root: last / 2 });
    all.push(Collective::Gather { root: 0 });
    if shape.ranks() == 2 {
        all.push(Collective::SendRecv);
    }
    all
}

fn run(shape: &Shape, collective: Collective, scenario: &Scenario) {
    for plan in candidates(collective, shape) {
        let name = plan.name;
        // Of two nodes the ring has the trees' stages, and miri is slow.
        if cfg!(miri) && name == "ring" && shape.nodes() == 2 {
            continue;
        }
        let checked = plan.check().unwrap_or_else(|f| panic!("{name}: {f}"));
        if let Err(failure) = simulate(&checked, scenario) {
            panic!(
                "{} by {name} on {shape}, {scenario:?}: {failure}",
                collective.name()
            );
        }
    }
}

#[test]
fn every_collective_everywhere() {
    let shapes: Vec<Shape> = if cfg!(miri) {
        vec![Shape::new(&[1, 2]), Shape::uniform(2, 2)]
    } else {
        [
            &[1][..],
            &[2],
            &[3],
            &[8],
            &[1, 1],
            &[2, 2],
            &[4, 4],
            &[3, 5],
            &[1, 1, 1],
            &[2, 2, 2],
            &[2, 3, 1, 4],
            &[1; 8],
            &[2; 5],
            &[8, 8],
        ]
        .iter()
        .map(|s| Shape::new(s))
        .collect()
    };
    for (number, shape) in (3..).zip(&shapes) {
        // Miri has a node of one and one of two, and beside that what is divided among two ranks on each node.
        let most = if cfg!(miri) && shape.ranks() > 3 {
            2
        } else {
            usize::MAX
        };
        for (turn, collective) in (number..).zip(collectives(shape)).take(most) {
            // Miri is slow: there each seed, and the settings that go with it, is somebody's.
            let seeds = if cfg!(miri) { turn..turn + 1 } else { 0..24 };
            for seed in seeds {
                let scenario = Scenario {
                    seed,
                    counts: if cfg!(miri) {
                        vec![20, 1]
                    } else {
                        vec![0, 1, 2, 3, 700, 64, 257, 5, 1025]
                    },
                    piece: if seed % 3 == 0 { 64 } else { 256 },
                    window: 1 + seed as usize / 3 % 3,
                    in_place: seed & 1 == 1,
                    registered: seed & 2 == 2,
                    devices: [0, !0, 0x5a5a, 1][seed as usize / 4 % 4],
                    gathers: seed % 5 != 4,
                    reach: !cfg!(miri) && seed % 7 < 4,
                    withdrawn: None,
                    faults: Vec::new(),
                };
                run(shape, collective, &scenario);
            }
        }
    }
}

/// Without the second turn the one-shot plan has a race that the proof refuses; the simulator, given a plan with the proof
/// satisfied, never shows it. This pins both sides: the proof's verdict is not idle.
#[test]
fn the_proof_refuses_what_would_race() {
    let mut plan = Plan::all_reduce_one_shot(&Shape::uniform(1, 3));
    plan.turns = 1;
    let flaw = plan.check().expect_err("one turn is not enough");
    assert!(flaw.to_string().contains("may be overwritten"), "{flaw}");
}

#[test]
fn a_cut_link_is_an_error_and_not_a_wrong_result() {
    let shape = Shape::uniform(2, 2);
    let plan = candidates(Collective::AllReduce, &shape).remove(1);
    let checked = plan.check().expect("the plan is right");
    let mut errors = 0;
    for at in 0..if cfg!(miri) { 3 } else { 6 } {
        let scenario = Scenario {
            seed: at,
            counts: vec![if cfg!(miri) { 60 } else { 2000 }; 2],
            piece: if cfg!(miri) {
                64
            } else {
                Scenario::default().piece
            },
            faults: vec![hfr_transport::sim::Fault::Cut {
                a: 0,
                b: 2,
                at_put: at,
            }],
            ..Scenario::default()
        };
        match simulate(&checked, &scenario) {
            Err(Failure::Fault { .. }) => errors += 1,
            Err(Failure::Stuck(_)) => panic!("a cut link must be told, not waited for"),
            Err(wrong) => panic!("{wrong}"),
            Ok(_) => {}
        }
    }
    assert!(errors > 0, "no seed met the cut");
}

/// An all_gather of two ranks that tell each other when they have been given the other's share, and if `told` when their own, too.
fn shown(told: bool) -> Plan {
    let piece = |block| Piece { block, part: 0 };
    let mut plan = Plan::new("shown", &Shape::uniform(1, 2), Collective::AllGather);
    let shares = [0, 1].map(|rank| plan.take(rank, piece(0)));
    let theirs =
        [0, 1].map(|rank| plan.give_and_tell(rank, shares[1 - rank], piece(1 - rank as u32)));
    for rank in [0, 1] {
        let own = plan.give_and_tell(rank, shares[rank], piece(rank as u32));
        let all = [theirs[rank], own];
        plan.wait(1 - rank, all[..1 + usize::from(told)].to_vec());
    }
    plan
}

#[test]
fn two_ranks_change_slots_only_where_both_are_done() {
    let pairs = |plan: Plan| plan.check().expect("a right plan").facts().partner.len();
    assert_eq!((pairs(shown(true)), pairs(shown(false))), (2, 0));
    let one_shot = |ranks| Plan::all_reduce_one_shot(&Shape::uniform(1, ranks));
    assert_eq!((pairs(one_shot(2)), pairs(one_shot(3))), (2, 0));
    let seeds = if cfg!(miri) { 2 } else { 200 };
    for plan in [shown(true), shown(false), one_shot(2)] {
        let checked = plan.check().expect("a right plan");
        for seed in 0..seeds {
            let scenario = Scenario {
                seed,
                counts: if cfg!(miri) {
                    vec![70, 5, 90]
                } else {
                    vec![700, 5, 900]
                },
                piece: if cfg!(miri) {
                    64
                } else {
                    Scenario::default().piece
                },
                in_place: seed % 2 == 0,
                ..Scenario::default()
            };
            let done = simulate(&checked, &scenario);
            let name = checked.plan().name;
            assert!(done.is_ok(), "{name}, {scenario:?}: {done:?}");
        }
    }
}

/// An all_reduce of two nodes of one rank that send each other what they have: nobody hears that it has arrived, and the sum of both is written where
/// the own input lay.
fn exchanged() -> Plan {
    let piece = Piece { block: 0, part: 0 };
    let mut plan = Plan::new("exchanged", &Shape::new(&[1, 1]), Collective::AllReduce);
    plan.turns = 2;
    let own = [0, 1].map(|rank| plan.take(rank, piece));
    let away = [0, 1].map(|rank| plan.send(own[1 - rank], rank));
    for rank in [0, 1] {
        let terms = match rank {
            0 => vec![own[0], away[0]],
            _ => vec![away[1], own[1]],
        };
        let sum = plan.reduce(rank, terms);
        plan.give(rank, sum, piece);
    }
    plan
}

#[test]
fn what_is_sent_from_a_buffer_is_not_overwritten_before() {
    let sent = |plan: &Plan| {
        let facts = plan.clone().check().expect("a right plan").facts().clone();
        facts
            .alias
            .values()
            .filter(|a| **a == TakeAlias::Sent)
            .count()
    };
    let nodes = Shape::new(&[1, 1]);
    // Both send half of what they have, and hear of it again before they are given that half.
    let trees = candidates(Collective::AllReduce, &nodes).remove(1);
    let gather = candidates(Collective::AllGather, &nodes).remove(0);
    let plans = [(exchanged(), 0), (trees, 2), (gather, 2)];
    for (plan, expected) in plans {
        assert_eq!(sent(&plan), expected, "{}", plan.name);
        let checked = plan.check().expect("a right plan");
        for seed in 0..if cfg!(miri) { 2 } else { 200 } {
            let scenario = Scenario {
                seed,
                counts: if cfg!(miri) {
                    vec![20, 5]
                } else {
                    vec![70, 5, 90]
                },
                piece: 64,
                in_place: true,
                ..Scenario::default()
            };
            let done = simulate(&checked, &scenario);
            let name = checked.plan().name;
            assert!(done.is_ok(), "{name}, {scenario:?}: {done:?}");
        }
    }
}

/// An all_reduce of one rank and two, whose sum the first of the two takes off the wire for each of them.
fn read_by_another() -> Plan {
    let piece = Piece { block: 0, part: 0 };
    let shape = Shape::new(&[1, 2]);
    let mut plan = Plan::new("read_by_another", &shape, Collective::AllReduce);
    plan.turns = 2;
    let own = [0, 1, 2].map(|rank| plan.take(rank, piece));
    let theirs = plan.reduce(1, vec![own[1], own[2]]);
    let away = plan.send(theirs, 0);
    let sum = plan.reduce(0, vec![own[0], away]);
    plan.give(0, sum, piece);
    let back = [plan.send(sum, 1), plan.send(sum, 1)];
    plan.give(1, back[0], piece);
    let given = plan.give_and_tell(2, back[1], piece);
    plan.wait(1, vec![given]);
    plan
}

/// What comes from another node for one rank alone is received in its output: in place, where its input is nobody's any more.
#[test]
fn what_lands_in_an_output_is_read_nowhere_else() {
    let family = |collective, nodes: &[usize]| candidates(collective, &Shape::new(nodes));
    let all_reduce = |nodes: &[usize], n| family(Collective::AllReduce, nodes).remove(n);
    // Each rank's half of two, and every rank's part but its own of others; with a second rank on each node, others read what comes, too.
    let plans = [
        (all_reduce(&[1, 1], 0), 0),
        (all_reduce(&[1, 1], 1), 2),
        (all_reduce(&[1; 4], 1), 6),
        (all_reduce(&[2, 2], 1), 0),
        (exchanged(), 0),
        (read_by_another(), 1),
        (family(Collective::AllGather, &[1, 1, 1]).remove(0), 6),
        (
            family(Collective::Broadcast { root: 0 }, &[1, 1, 1]).remove(0),
            4,
        ),
    ];
    for (plan, expected) in plans {
        let name = format!("{} by {}", plan.collective.name(), plan.name);
        let checked = plan.check().expect("a right plan");
        assert_eq!(checked.facts().lands.len(), expected, "{name}");
        // Miri is slow: the two trees between two ranks have all of it.
        if cfg!(miri) && (expected != 2 || checked.plan().shape.ranks() != 2) {
            continue;
        }
        for seed in if cfg!(miri) { 1..2 } else { 0..100 } {
            let scenario = Scenario {
                seed,
                counts: if cfg!(miri) {
                    vec![20, 5]
                } else {
                    vec![70, 5, 90]
                },
                piece: 64,
                window: 1 + seed as usize % 3,
                in_place: seed % 4 != 0,
                gathers: seed % 5 != 4,
                ..Scenario::default()
            };
            let done = simulate(&checked, &scenario);
            assert!(done.is_ok(), "{name}, {scenario:?}: {done:?}");
        }
    }
}

/// Who shows its memory hears from all who read it before its call is over: the simulator writes over it then.
#[test]
#[cfg_attr(
    miri,
    ignore = "reads memory by a call of the system that miri does not know"
)]
fn what_is_shown_is_not_taken_back_before_it_was_read() {
    let shape = Shape::uniform(1, 3);
    let family = |collective| candidates(collective, &shape);
    let root = 1;
    let cases = [
        (family(Collective::AllGather).remove(0), 0),
        (family(Collective::AllGather).remove(1), 3),
        (family(Collective::AllToAll).remove(0), 0),
        (family(Collective::AllToAll).remove(1), 6),
        (family(Collective::Broadcast { root }).remove(0), 1),
        (family(Collective::Reduce { root }).remove(0), 2),
        (family(Collective::Gather { root }).remove(0), 2),
        (family(Collective::Scatter { root }).remove(0), 2),
    ];
    for (plan, expected) in cases {
        let name = format!("{} by {}", plan.collective.name(), plan.name);
        let checked = plan.check().expect("a right plan");
        let shared = checked.facts().alias.values();
        let shared = shared.filter(|a| **a == TakeAlias::Shared).count();
        assert_eq!(shared, expected, "{name}");
        for seed in 0..100 {
            let scenario = Scenario {
                seed,
                counts: vec![70, 5, 90],
                piece: 64,
                in_place: seed % 2 == 0,
                reach: true,
                devices: [0, 2, 5][seed as usize % 3],
                ..Scenario::default()
            };
            let done = simulate(&checked, &scenario);
            assert!(done.is_ok(), "{name}, {scenario:?}: {done:?}");
        }
    }
}

/// A rank that gives its buffers back although others still read them says so before: nobody takes what it read then for good.
#[test]
fn memory_that_was_withdrawn_is_an_error_and_not_a_wrong_result() {
    let shape = Shape::uniform(1, 3);
    for collective in [Collective::AllGather, Collective::Reduce { root: 0 }] {
        let found = candidates(collective, &shape).into_iter().find(|plan| {
            let checked = plan.clone().check().expect("a right plan");
            let mut all = checked.facts().alias.values();
            all.any(|alias| *alias == TakeAlias::Shared)
        });
        let checked = found.expect("a plan that shows").check().expect("right");
        // In its own memory, or in registered memory.
        for reach in [true, false] {
            if cfg!(miri) && reach {
                continue;
            }
            let scenario = Scenario {
                reach,
                registered: !reach,
                withdrawn: Some(2),
                counts: vec![40],
                piece: 64,
                ..Scenario::default()
            };
            match simulate(&checked, &scenario) {
                Err(Failure::Fault { rank, fault }) => {
                    assert_ne!(rank, 2);
                    let said = fault.contains("rank 2") && fault.contains("no longer shown");
                    assert!(said, "{fault}");
                }
                other => panic!("{}, {scenario:?}: {other:?}", collective.name()),
            }
        }
    }
}
