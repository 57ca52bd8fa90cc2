//! Machines as texts and as trees: any machine survives being written and read, wrong texts are refused by line, and the recorded machines
//! have the ways and meetings that their builders gave them.

use hfr_topology::machine::{
    Address, Cache, Cpus, Device, Kind, Link, Machine, Numa, Port, Socket, Speaks, Way,
};
use proptest::prelude::*;

const RECORDED: [(&str, &str); 5] = [
    ("fire-flyer", include_str!("machines/fire-flyer.txt")),
    ("dgx-like", include_str!("machines/dgx-like.txt")),
    ("single-socket", include_str!("machines/single-socket.txt")),
    ("vm", include_str!("machines/vm.txt")),
    ("two-cpus", include_str!("machines/two-cpus.txt")),
];

fn recorded(name: &str) -> Machine {
    let (_, text) = RECORDED.iter().find(|(n, _)| *n == name).expect("recorded");
    text.parse().unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn cpus() -> impl Strategy<Value = Cpus> {
    proptest::collection::btree_set(0usize..300, 0..12).prop_map(|set| set.into_iter().collect())
}

fn some_cpus() -> impl Strategy<Value = Vec<Cpus>> {
    proptest::collection::vec(cpus(), 0..5)
}

fn link() -> impl Strategy<Value = Option<Link>> {
    proptest::option::of(
        (1u8..8, 1u8..33).prop_map(|(generation, lanes)| Link { generation, lanes }),
    )
}

/// What a device needs beside its place: how far the way goes back, whether it is a leaf of which kind, and its facts.
type Seed = (
    usize,
    usize,
    Option<(u16, u16)>,
    Option<usize>,
    Option<Link>,
    Option<Link>,
);

fn seeds() -> impl Strategy<Value = Vec<Seed>> {
    let model = proptest::option::of(any::<(u16, u16)>());
    let numa = proptest::option::of(0usize..4);
    proptest::collection::vec((0usize..4, 0usize..3, model, numa, link(), link()), 0..20)
}

fn devices(seeds: Vec<Seed>) -> Vec<Device> {
    let mut path: Vec<usize> = Vec::new();
    let mut all: Vec<Device> = Vec::new();
    let mut kinds = Vec::new();
    for (i, (back, kind, model, numa, link, most)) in seeds.into_iter().enumerate() {
        path.truncate(path.len().saturating_sub(back));
        let parent = path.last().copied();
        let address = Address {
            domain: i as u32 * 4099,
            bus: (i * 7) as u8,
            slot: parent.map(|_| ((i % 32) as u8, (i % 8) as u8)),
        };
        path.push(i);
        kinds.push([Kind::Bridge, Kind::Gpu, Kind::Nic][kind]);
        all.push(Device {
            address,
            parent,
            kind: Kind::Host,
            model,
            numa,
            link,
            most,
        });
    }
    for i in 0..all.len() {
        let leaf = all.iter().all(|d| d.parent != Some(i));
        if all[i].parent.is_some() {
            all[i].kind = if leaf { kinds[i] } else { Kind::Bridge };
        }
    }
    all
}

fn machines() -> impl Strategy<Value = Machine> {
    let numa = proptest::collection::vec((cpus(), any::<u64>(), any::<bool>(), 10u32..255), 1..5);
    let sockets = proptest::collection::vec((0usize..9, some_cpus()), 0..3);
    let caches = proptest::collection::vec((1u8..5, any::<u64>(), some_cpus()), 0..4);
    let ports = proptest::collection::vec(
        (
            "[a-z][a-z0-9_:.]{0,9}",
            0usize..4,
            any::<proptest::sample::Index>(),
            proptest::option::of(1u32..900_000),
            any::<bool>(),
        ),
        0..5,
    );
    (
        ("[a-z0-9-]{0,8}( [a-z0-9]{1,5})?", cpus()),
        numa,
        sockets,
        caches,
        seeds(),
        ports,
    )
        .prop_map(|((name, allowed), numa, sockets, caches, seeds, ports)| {
            let devices = devices(seeds);
            let nodes = numa.len();
            let numa = numa.into_iter().enumerate();
            let ports = ports.into_iter();
            Machine {
                name: name.trim().to_owned(),
                allowed,
                numa: numa
                    .map(|(number, (cpus, bytes, known, far))| Numa {
                        number: 3 * number,
                        cpus,
                        bytes,
                        distances: if known { vec![far; nodes] } else { Vec::new() },
                    })
                    .collect(),
                sockets: sockets
                    .into_iter()
                    .map(|(number, cores)| Socket { number, cores })
                    .collect(),
                caches: caches
                    .into_iter()
                    .map(|(level, bytes, shared)| Cache {
                        level,
                        bytes,
                        shared,
                    })
                    .collect(),
                ports: ports
                    .map(|(name, speaks, device, megabits, up)| Port {
                        name,
                        speaks: [
                            Speaks::InfiniBand,
                            Speaks::Roce,
                            Speaks::Ethernet,
                            Speaks::IpOverInfiniBand,
                        ][speaks],
                        device: (!devices.is_empty()).then(|| device.index(devices.len())),
                        megabits,
                        up,
                    })
                    .collect(),
                devices,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_machine_survives_being_written_and_read(machine in machines()) {
        prop_assert_eq!(machine.check(), Ok(()));
        let text = machine.to_string();
        let again: Machine = text.parse().map_err(|e| TestCaseError::fail(format!("{e} in\n{text}")))?;
        prop_assert_eq!(&again, &machine, "{}", text);
    }

    /// Whatever is done to a text, reading it ends, in a machine that is consistent or in words.
    #[test]
    fn spoilt_texts_are_refused_or_make_sense(machine in machines(), at in any::<proptest::sample::Index>(), with in "[ a-z0-9:-]{0,3}") {
        let text = machine.to_string();
        let at = at.index(text.len());
        let spoilt = format!("{}{with}{}", &text[..at], &text[(at + 2).min(text.len())..]);
        match spoilt.parse::<Machine>() {
            Ok(machine) => prop_assert_eq!(machine.check(), Ok(())),
            Err(words) => prop_assert!(!words.is_empty()),
        }
    }
}

#[test]
fn recorded_machines_are_written_as_they_were_recorded() {
    for (name, text) in RECORDED {
        let plain: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(
            recorded(name).to_string().lines().collect::<Vec<_>>(),
            plain,
            "{name}"
        );
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let good = recorded("vm").to_string();
    for (from, to, says) in [
        (
            "hfreduce machine 1",
            "hfreduce machine 9",
            "the first line is not",
        ),
        (
            "allowed 0-15",
            "allowed 0-x",
            "line 3: '0-x' is no list of CPUs",
        ),
        (
            "numa 1 cpus",
            "numa 1 bytes",
            "line 5: the word 'cpus' is missing",
        ),
        (
            "  device 0000:00:03.0 nic",
            "  device 0000:00:03.9 nic",
            "line 9: '0000:00:03.9' is no PCI address",
        ),
        (
            "  device 0000:00:03.0 nic",
            "    device 0000:00:03.0 nic",
            "line 9: it is indented by more than one level",
        ),
        (
            "gpu 10de:2330",
            "cpu 10de:2330",
            "the kind 'cpu' is none of host, bridge, gpu, nic",
        ),
        (
            "device 0000:00:05.0",
            "device 0000:00:04.0",
            "device 0000:00:04.0 is there twice",
        ),
        (
            "at 0000:00:03.0",
            "at 0000:00:13.0",
            "no device 0000:00:13.0 stands above",
        ),
        (
            "ethernet at",
            "ethernet by",
            "the state 'by' is none of up, down",
        ),
        (" up", " up up", "'up' is too much"),
        ("numa 1 cpus", "numa 0 cpus", "memory nodes do not ascend"),
        (
            "bytes 34359738368\nsocket 0",
            "bytes 34359738368 distances 10\nsocket 0",
            "memory node 1 has 1 distances for 2 nodes",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        let error = good.replacen(from, to, 1).parse::<Machine>().expect_err(to);
        assert!(error.contains(says), "{error}: should say {says}");
    }
}

/// The way between two graphics processors, or one and a port by name.
fn way(machine: &Machine, gpu: usize, other: Result<usize, &str>) -> Way {
    let gpus = machine.gpus();
    let device = |name: &str| {
        machine
            .ports
            .iter()
            .find(|p| p.name == name)
            .and_then(|p| p.device)
    };
    let other = other.map_or_else(|name| device(name).expect(name), |g| gpus[g]);
    machine.way(gpus[gpu], other)
}

#[test]
fn on_the_fire_flyer_two_gpus_meet_in_one_host_bridge() {
    let machine = recorded("fire-flyer");
    assert_eq!(machine.gpus().len(), 8);
    for (a, b, expected) in [
        (0, 1, Way::Node),
        (3, 4, Way::Sys),
        (5, 6, Way::Phb),
        (4, 5, Way::Node),
        (6, 6, Way::Same),
    ] {
        assert_eq!(way(&machine, a, Ok(b)), expected, "GPUs {a} and {b}");
        assert_eq!(way(&machine, b, Ok(a)), expected, "GPUs {b} and {a}");
    }
    assert_eq!(way(&machine, 0, Err("mlx5_0:1")), Way::Sys);
    assert_eq!(way(&machine, 7, Err("mlx5_0:1")), Way::Node);
    let meetings = machine.meetings();
    let [only] = meetings.as_slice() else {
        panic!("{meetings:?}");
    };
    let gpus = machine.gpus();
    assert_eq!(only.devices, [gpus[5], gpus[6]]);
    assert_eq!(
        (only.at.to_string().as_str(), only.host, only.ceiling),
        ("0000:a0", true, None)
    );
}

#[test]
fn switches_share_their_upper_link() {
    let machine = recorded("dgx-like");
    assert_eq!(way(&machine, 0, Ok(1)), Way::Pix);
    assert_eq!(way(&machine, 0, Err("mlx5_1:1")), Way::Pix);
    assert_eq!(way(&machine, 1, Ok(2)), Way::Sys);
    let meetings = machine.meetings();
    assert_eq!(meetings.len(), 4);
    for meeting in &meetings {
        assert_eq!((meeting.devices.len(), meeting.host), (4, false));
        let ceiling = meeting.ceiling.expect("a link");
        assert!((31.4e9..31.6e9).contains(&ceiling), "{ceiling}");
    }
    // Two switches one below the other: the ways meet in the upper one.
    let text = "hfreduce machine 1\nnuma 0 cpus 0 bytes 1\ndevice 0000:00 host\n  device 0000:00:01.0 bridge\n    device 0000:01:00.0 bridge\n      \
                device 0000:02:00.0 bridge\n        device 0000:03:00.0 gpu\n      device 0000:02:01.0 bridge\n        device 0000:04:00.0 bridge\n          \
                device 0000:05:00.0 bridge\n            device 0000:06:00.0 gpu\n";
    let deep: Machine = text.parse().expect("a machine");
    assert_eq!(way(&deep, 0, Ok(1)), Way::Pxb);
    assert_eq!(deep.meetings().len(), 1);
    assert_eq!(deep.meetings()[0].at.to_string(), "0000:01:00.0");
}

#[test]
fn unknown_places_are_taken_as_far_and_idle_links_at_their_best() {
    let vm = recorded("vm");
    let gpus = vm.gpus();
    assert_eq!(vm.numa_of(gpus[0]), None);
    assert_eq!((way(&vm, 0, Ok(1)), vm.link(gpus[0])), (Way::Phb, None));
    let box_ = recorded("single-socket");
    let gpus = box_.gpus();
    // The first card idles at generation 1; the second has half its lanes and keeps those.
    let link = |generation, lanes| Some(Link { generation, lanes });
    assert_eq!(
        (box_.link(gpus[0]), box_.link(gpus[1])),
        (link(4, 16), link(4, 8))
    );
    // One memory node: whatever does not say where it is, is there.
    let mut silent = box_.clone();
    for device in &mut silent.devices {
        device.numa = None;
    }
    assert_eq!(silent.numa_of(gpus[0]), Some(0));
    // A device that says nothing is where the port above it is.
    let mut inherits = recorded("fire-flyer");
    let gpus = inherits.gpus();
    inherits.devices[gpus[7]].numa = None;
    assert_eq!(inherits.numa_of(gpus[7]), Some(1));
    // A number that no node has is no number.
    let mut wrong = recorded("fire-flyer");
    for device in &mut wrong.devices {
        device.numa = Some(77);
    }
    let gpus = wrong.gpus();
    assert_eq!(
        (wrong.numa_of(gpus[0]), wrong.way(gpus[0], gpus[1])),
        (None, Way::Sys)
    );
}
