//! Placement on the recorded machines, and what holds on all of them whatever the ranks bring.

use hfr_topology::{Cpus, Machine, Placement, Wish, machine::Way, place};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn fire_flyer() -> Machine {
    include_str!("machines/fire-flyer.txt")
        .parse()
        .expect("a machine")
}

fn dgx() -> Machine {
    include_str!("machines/dgx-like.txt")
        .parse()
        .expect("a machine")
}

fn single_socket() -> Machine {
    include_str!("machines/single-socket.txt")
        .parse()
        .expect("a machine")
}

fn vm() -> Machine {
    include_str!("machines/vm.txt").parse().expect("a machine")
}

/// Ranks that have inherited all CPUs; each with the graphics processor of its number, or none.
fn ranks(machine: &Machine, count: usize, gpus: bool) -> Vec<Wish> {
    (0..count)
        .map(|rank| Wish {
            gpu: gpus.then_some(rank),
            allowed: machine.allowed.clone(),
            sends: true,
        })
        .collect()
}

fn placed(machine: &Machine, ranks: &[Wish]) -> Placement {
    place(machine, ranks, &machine.best_ports())
}

fn ports(machine: &Machine, placement: &Placement) -> Vec<String> {
    let name = |rail: &usize| machine.ports[placement.rails[*rail]].name.clone();
    let list = |rails: &Vec<usize>| rails.iter().map(name).collect::<Vec<_>>().join("+");
    placement.ranks.iter().map(|r| list(&r.rails)).collect()
}

fn texts(all: impl IntoIterator<Item = Cpus>) -> Vec<String> {
    all.into_iter().map(|cpus| cpus.to_string()).collect()
}

#[test]
fn fire_flyer_has_one_adapter_for_all_and_eight_cores_for_each() {
    let machine = fire_flyer();
    let placement = placed(&machine, &ranks(&machine, 8, true));
    assert_eq!(ports(&machine, &placement), ["mlx5_0:1"; 8]);
    let numa: Vec<_> = placement.ranks.iter().map(|r| r.numa).collect();
    assert_eq!(numa, [0, 0, 0, 0, 1, 1, 1, 1].map(Some));
    let cpus = texts(placement.ranks.iter().map(|r| r.cpus.clone()));
    assert_eq!(cpus[0], "0-7,64-71");
    assert_eq!(cpus[5], "40-47,104-111");
    assert!(
        placement
            .ranks
            .iter()
            .all(|r| r.own && r.threads.as_ref() == Some(&r.cpus))
    );
    assert_eq!(
        (placement.interleaved.as_slice(), placement.common_sums()),
        (&[0, 1][..], Some(1))
    );
    let ways: Vec<_> = placement.ranks.iter().map(|r| r.way).collect();
    assert_eq!((ways[0], ways[4]), (Some(Way::Sys), Some(Way::Node)));
}

#[test]
fn dgx_gives_each_gpu_an_adapter_of_its_switch_and_leaves_the_slow_one_alone() {
    let machine = dgx();
    let placement = placed(&machine, &ranks(&machine, 8, true));
    let names: Vec<String> = (0..8).map(|n| format!("mlx5_{n}:1")).collect();
    assert_eq!(ports(&machine, &placement), names);
    assert!(placement.ranks.iter().all(|r| r.way == Some(Way::Pix)));
    let numa: Vec<_> = placement.ranks.iter().map(|r| r.numa).collect();
    assert_eq!(numa, [3, 3, 1, 1, 7, 7, 5, 5].map(Some));
    assert_eq!(placement.common_sums(), None);
    // Two ranks share a memory node of 16 cores, and neither touches the other's.
    let cpus = texts(placement.ranks.iter().map(|r| r.cpus.clone()));
    assert_eq!(
        (cpus[0].as_str(), cpus[1].as_str()),
        ("48-55,176-183", "56-63,184-191")
    );
}

#[test]
fn between_memory_nodes_those_of_one_socket_are_nearer() {
    let mut machine = dgx();
    // Without GPUs: a rank on each of the 8 memory nodes, of which 3, 1, 7 and 5 have two adapters each.
    let placement = placed(&machine, &ranks(&machine, 8, false));
    for (rank, place) in placement.ranks.iter().enumerate() {
        assert_eq!(place.numa, Some(rank));
        let port = placement.rails[place.rails[0]];
        let near = machine.numa_of_port(port).expect("known");
        assert_eq!(
            rank / 4,
            near / 4,
            "rank {rank} sends over memory node {near}"
        );
    }
    for numa in &mut machine.numa {
        numa.distances.clear();
    }
    let placement = placed(&machine, &ranks(&machine, 8, false));
    let ways = placement.ranks.iter().map(|r| r.way);
    assert_eq!(ways.filter(|w| *w == Some(Way::Node)).count(), 4);
}

#[test]
fn ports_that_nobody_is_nearest_to_are_used_for_stripes() {
    let machine = dgx();
    // Two ranks, on the first switch: each has one adapter of it, and the six others are dealt out evenly.
    let placement = placed(&machine, &ranks(&machine, 2, true));
    assert_eq!(
        ports(&machine, &placement),
        [
            "mlx5_0:1+mlx5_2:1+mlx5_4:1+mlx5_6:1",
            "mlx5_1:1+mlx5_3:1+mlx5_5:1+mlx5_7:1"
        ]
    );
    // A single rank has all, the near ones first.
    let placement = placed(&machine, &ranks(&machine, 1, true));
    assert_eq!(placement.ranks[0].rails, [0, 1, 2, 3, 4, 5, 6, 7]);
    // Sixteen share: two each.
    let mut many = ranks(&machine, 8, true);
    many.extend(ranks(&machine, 8, true));
    let placement = placed(&machine, &many);
    for rail in 0..8 {
        assert_eq!(
            placement.ranks.iter().filter(|r| r.rails == [rail]).count(),
            2,
            "rail {rail}"
        );
    }
}

#[test]
fn ranks_without_gpus_are_dealt_to_the_nodes_in_order() {
    let machine = fire_flyer();
    let placement = placed(&machine, &ranks(&machine, 4, false));
    let numa: Vec<_> = placement.ranks.iter().map(|r| r.numa).collect();
    assert_eq!(numa, [0, 0, 1, 1].map(Some));
    let odd = placed(&machine, &ranks(&machine, 3, false));
    let numa: Vec<_> = odd.ranks.iter().map(|r| r.numa).collect();
    assert_eq!(
        numa,
        [0, 1, 1].map(Some),
        "the middle one is on the first core of the second node"
    );
    assert_eq!(odd.ranks[0].cpus.to_string(), "0-31,64-95");
}

#[test]
fn ranks_of_another_node_leave_the_ports_alone() {
    let machine = dgx();
    let ports = machine.best_ports();
    let mut wishes = ranks(&machine, 4, false);
    for other in [0, 3] {
        wishes[other].sends = false;
    }
    let placement = place(&machine, &wishes, &ports[..2]);
    let rails: Vec<usize> = placement.ranks.iter().map(|r| r.rails.len()).collect();
    assert_eq!(rails, [0, 1, 1, 0]);
    assert_eq!(placement.ranks[0].sums, None);
    assert_eq!(placement.common_sums(), placement.ranks[1].sums);
    assert!(placement.common_sums().is_some());
    // One sender has both, all cores being dealt as before.
    wishes[1].sends = false;
    let alone = place(&machine, &wishes, &ports[..2]);
    assert_eq!(alone.ranks[2].rails.len(), 2);
    let cpus = |placement: &Placement| texts(placement.ranks.iter().map(|r| r.cpus.clone()));
    assert_eq!(cpus(&alone), cpus(&placement));
}

#[test]
fn what_a_launcher_has_bound_stays_bound() {
    let machine = fire_flyer();
    let bound = |text: &str| Wish {
        gpu: None,
        allowed: text.parse().expect("CPUs"),
        sends: true,
    };
    // Each with CPUs of its own: nothing is divided.
    let placement = placed(
        &machine,
        &[bound("0-3"), bound("4-7"), bound("32-35"), bound("36")],
    );
    let cpus = texts(placement.ranks.iter().map(|r| r.cpus.clone()));
    assert_eq!(cpus, ["0-3", "4-7", "32-35", "36"]);
    let numa: Vec<_> = placement.ranks.iter().map(|r| r.numa).collect();
    assert_eq!(numa, [0, 0, 1, 1].map(Some));
    assert!(placement.ranks.iter().all(|r| r.threads.is_none()));
    // A processor far from the inherited CPUs: those are what there is.
    let far = Wish {
        gpu: Some(7),
        ..bound("0-3")
    };
    let placement = placed(&machine, &[far]);
    assert_eq!(placement.ranks[0].cpus.to_string(), "0-3");
    assert_eq!(
        (placement.ranks[0].numa, &placement.ranks[0].threads),
        (Some(1), &None)
    );
    // Fewer cores than ranks: they share all of them.
    let placement = placed(&machine, &[bound("0,1"), bound("0,1"), bound("0,1")]);
    assert!(
        placement
            .ranks
            .iter()
            .all(|r| r.cpus.to_string() == "0-1" && !r.own && r.threads.is_none())
    );
    // CPUs that the description lacks, as of another machine.
    let placement = placed(&machine, &[bound("200-203")]);
    assert_eq!(placement.ranks[0].cpus.to_string(), "200-203");
}

#[test]
fn a_share_of_one_core_is_not_bound_to_but_its_node_is() {
    let machine = fire_flyer();
    let placement = placed(&machine, &ranks(&machine, 64, false));
    assert_eq!(placement.ranks[0].cpus.to_string(), "0,64");
    assert_eq!(
        placement.ranks[0]
            .threads
            .as_ref()
            .expect("its node")
            .to_string(),
        "0-31,64-95"
    );
    let one = single_socket();
    let placement = placed(&one, &ranks(&one, 16, false));
    assert!(placement.ranks.iter().all(|r| r.own && r.threads.is_none()));
}

#[test]
fn where_nothing_is_known_cores_and_ports_are_still_dealt() {
    let machine = vm();
    let placement = placed(&machine, &ranks(&machine, 3, true));
    assert_eq!(ports(&machine, &placement), ["eth0"; 3]);
    let cpus = texts(placement.ranks.iter().map(|r| r.cpus.clone()));
    assert_eq!(cpus, ["0-4", "5-9", "10-15"]);
    assert_eq!(
        (placement.ranks[0].numa, placement.common_sums()),
        (None, None)
    );
    // The port without a cable is no port, and a machine without ports has no rails.
    let mut machine = single_socket();
    assert_eq!(
        ports(&machine, &placed(&machine, &ranks(&machine, 2, true))),
        ["enp3s0f0"; 2]
    );
    // Nor is one that lost its link and still tells its speed.
    machine.ports[1].megabits = machine.ports[0].megabits;
    assert_eq!(machine.best_ports(), [0]);
    machine.ports[1].up = true;
    assert_eq!(machine.best_ports(), [0, 1]);
    machine.ports.clear();
    let placement = placed(&machine, &ranks(&machine, 2, true));
    assert!(
        placement
            .ranks
            .iter()
            .all(|r| r.rails.is_empty() && r.way.is_none() && r.sums.is_none())
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Nobody leaves what it has inherited, nobody is without CPUs, shares that are called own are, and every port is used.
    #[test]
    fn shares_are_inside_what_was_inherited(
        which in 0usize..4,
        wishes in proptest::collection::vec((proptest::option::of(0usize..2), 0usize..5), 1..20),
        sets in proptest::collection::vec(proptest::collection::btree_set(0usize..256, 1..40), 5),
    ) {
        let machine = [fire_flyer(), dgx(), single_socket(), vm()][which].clone();
        let wishes: Vec<Wish> = wishes
            .into_iter()
            .map(|(gpu, set)| Wish { gpu, allowed: sets[set].iter().copied().collect(), sends: true })
            .collect();
        let placement = placed(&machine, &wishes);
        for (rank, (wish, place)) in wishes.iter().zip(&placement.ranks).enumerate() {
            prop_assert!(!place.cpus.is_empty() && place.cpus.within(&wish.allowed));
            if let Some(threads) = &place.threads {
                prop_assert!(!threads.is_empty() && threads.within(&wish.allowed));
            }
            for (other, its) in wishes.iter().zip(&placement.ranks).skip(rank + 1) {
                let same = wish.allowed == other.allowed && place.numa == its.numa;
                prop_assert!(!same || !place.own || place.cpus.both(&its.cpus).is_empty());
            }
        }
        let used: BTreeSet<usize> = placement.ranks.iter().flat_map(|r| r.rails.iter().copied()).collect();
        prop_assert_eq!(used.len(), placement.rails.len());
    }
}
