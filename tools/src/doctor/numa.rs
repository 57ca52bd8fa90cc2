//! NUMA: nodes, their memory, distances, and settings that move pages under a running job. It reads sysfs. Invariant: a machine with one
//! node has nothing to be placed wrongly.

use super::{
    check::{Check, bytes},
    pcie::{self, Role},
    root::{Root, list},
};

const NODES: &str = "sys/devices/system/node";

struct Node {
    number: usize,
    processors: usize,
    memory: u64,
    distances: Vec<u32>,
}

fn nodes(root: &Root) -> Vec<Node> {
    let read = |(number, folder): (usize, String)| {
        let file = |name: &str| root.text(&format!("{folder}/{name}")).unwrap_or_default();
        let memory = file("meminfo");
        let total = memory.lines().find_map(|line| line.split_once("MemTotal:"));
        let kib = total.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok());
        Node {
            number,
            processors: list(&file("cpulist")).len(),
            memory: kib.unwrap_or(0) << 10,
            distances: file("distance")
                .split_whitespace()
                .filter_map(|d| d.parse().ok())
                .collect(),
        }
    };
    root.numbered(NODES, "node").into_iter().map(read).collect()
}

/// How many nodes there are.
pub fn count(root: &Root) -> usize {
    root.numbered(NODES, "node").len()
}

/// All checks of NUMA.
pub fn checks(root: &Root) -> Vec<Check> {
    let nodes = nodes(root);
    let mut found = Vec::new();
    if nodes.len() < 2 {
        return found;
    }
    found.push(memory(&nodes));
    found.extend(distances(&nodes));
    found.push(balancing(root));
    found.extend(reclaim(root));
    found.extend(homeless(root));
    found
}

fn memory(nodes: &[Node]) -> Check {
    let what = ("numa", "memory");
    let with: Vec<&Node> = nodes.iter().filter(|node| node.processors > 0).collect();
    let most = with.iter().map(|node| node.memory).max().unwrap_or(0);
    // The kernel keeps some of the first node's for itself.
    let short = with.iter().find(|node| node.memory < most - most / 8);
    let total = nodes.len();
    match short {
        Some(node) if node.memory == 0 => Check::warn(
            what,
            format!("node {} has processors and no memory", node.number),
            "put memory modules beside that processor: everything its ranks touch is remote",
        ),
        Some(node) => Check::warn(
            what,
            format!(
                "node {} has {}, another {}",
                node.number,
                bytes(node.memory),
                bytes(most)
            ),
            "a memory module is missing or was switched off: see the board's event log",
        ),
        None => Check::ok(what, format!("{total} nodes, {} each", bytes(most))),
    }
}

fn distances(nodes: &[Node]) -> Option<Check> {
    let what = ("numa", "distances");
    if nodes.iter().any(|node| node.distances.len() != nodes.len()) {
        return None;
    }
    let at = |from: usize, to: usize| nodes[from].distances[to];
    for (from, to) in (0..nodes.len()).flat_map(|a| (0..nodes.len()).map(move |b| (a, b))) {
        if from != to && at(from, to) <= at(from, from) {
            return Some(Check::warn(
                what,
                format!(
                    "nodes {} and {} are told to be as near as one",
                    nodes[from].number, nodes[to].number
                ),
                "the firmware's table is wrong: update it, since placement goes by it",
            ));
        }
    }
    let rows: Vec<String> = nodes
        .iter()
        .map(|n| {
            n.distances
                .iter()
                .map(u32::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    Some(Check::ok(what, rows.join(" / ")))
}

fn balancing(root: &Root) -> Check {
    let what = ("numa", "balancing");
    match root.number::<u32>("proc/sys/kernel/numa_balancing") {
        Some(0) | None => Check::ok(what, "off"),
        Some(_) => Check::warn(
            what,
            "on: the kernel unmaps pages to see who touches them, and moves what hfr has placed",
            "sysctl kernel.numa_balancing=0",
        ),
    }
}

fn reclaim(root: &Root) -> Option<Check> {
    let mode = root.number::<u32>("proc/sys/vm/zone_reclaim_mode")?;
    (mode != 0).then(|| {
        Check::warn(
            ("numa", "reclaim"),
            "a node that runs out of memory throws its page cache away before it takes another node's memory",
            "sysctl vm.zone_reclaim_mode=0",
        )
    })
}

/// Devices whose node the firmware does not tell.
fn homeless(root: &Root) -> Option<Check> {
    let unknown = |(address, _): &(String, Role)| {
        root.number::<i32>(&format!("sys/bus/pci/devices/{address}/numa_node")) == Some(-1)
    };
    let names: Vec<String> = pcie::devices(root)
        .into_iter()
        .filter(unknown)
        .map(|(address, _)| address)
        .collect();
    (!names.is_empty()).then(|| {
        Check::warn(
            ("numa", "devices"),
            format!("the firmware does not say which node these are on: {}", names.join(", ")),
            "update the firmware, or in a virtual machine give the guest the host's NUMA layout; ranks cannot be placed near them",
        )
    })
}
