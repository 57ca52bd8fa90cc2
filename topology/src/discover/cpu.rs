//! Processors and memory nodes, from `devices/system`. It knows no device. Invariant: every CPU that is online belongs to a core.

use super::{numbered, parsed, read};
use crate::machine::{Cache, Cpus, Numa, Socket};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// The memory nodes; a kernel without NUMA has one.
pub fn numa(sysfs: &Path, online: &Cpus) -> Vec<Numa> {
    let all = numbered(&sysfs.join("devices/system/node"), "node");
    let node = |(number, folder): (usize, PathBuf)| Numa {
        number,
        cpus: parsed::<Cpus>(&folder.join("cpulist"))
            .unwrap_or_default()
            .both(online),
        bytes: memory(&folder).unwrap_or(0),
        distances: distances(&folder).unwrap_or_default(),
    };
    let mut nodes: Vec<Numa> = all.into_iter().map(node).collect();
    if nodes.is_empty() {
        nodes.push(Numa {
            number: 0,
            cpus: online.clone(),
            bytes: 0,
            distances: Vec::new(),
        });
    }
    let count = nodes.len();
    for node in &mut nodes {
        // A node that came or went while it was read.
        if node.distances.len() != count {
            node.distances.clear();
        }
    }
    nodes
}

/// `Node 0 MemTotal:  16384 kB`, a kB being 1024 bytes.
fn memory(folder: &Path) -> Option<u64> {
    let text = read(&folder.join("meminfo"))?;
    let line = text.lines().find(|l| l.contains("MemTotal:"))?;
    let kilobytes: u64 = line.split_whitespace().rev().nth(1)?.parse().ok()?;
    Some(kilobytes << 10)
}

fn distances(folder: &Path) -> Option<Vec<u32>> {
    let text = read(&folder.join("distance"))?;
    text.split_whitespace().map(|d| d.parse().ok()).collect()
}

/// The packages and their cores. A system that does not tell has one package, and a core for each CPU.
pub fn sockets(sysfs: &Path, online: &Cpus) -> Vec<Socket> {
    let mut sockets: BTreeMap<usize, BTreeMap<usize, Cpus>> = BTreeMap::new();
    for cpu in online.iter() {
        let folder = sysfs.join(format!("devices/system/cpu/cpu{cpu}/topology"));
        let number = parsed(&folder.join("physical_package_id")).unwrap_or(0);
        // The second name is that of kernels before 5.7.
        let core = parsed(&folder.join("core_cpus_list"))
            .or_else(|| parsed(&folder.join("thread_siblings_list")))
            .map(|cpus: Cpus| cpus.both(online))
            .filter(|cpus| cpus.iter().any(|c| c == cpu))
            .unwrap_or_else(|| [cpu].into_iter().collect());
        let first = core.first().unwrap_or(cpu);
        sockets.entry(number).or_default().insert(first, core);
    }
    let socket = |(number, cores): (usize, BTreeMap<usize, Cpus>)| Socket {
        number,
        cores: cores.into_values().collect(),
    };
    sockets.into_iter().map(socket).collect()
}

/// The data caches. One CPU of each core is asked: large machines have hundreds.
pub fn caches(sysfs: &Path, online: &Cpus, sockets: &[Socket]) -> Vec<Cache> {
    let mut caches: BTreeMap<(u8, u64), BTreeSet<Cpus>> = BTreeMap::new();
    let cores = sockets.iter().flat_map(|s| &s.cores);
    for cpu in cores.filter_map(Cpus::first) {
        let folder = sysfs.join(format!("devices/system/cpu/cpu{cpu}/cache"));
        for (_, cache) in numbered(&folder, "index") {
            let instructions = read(&cache.join("type")).is_some_and(|t| t == "Instruction");
            let level = parsed(&cache.join("level"));
            let bytes = read(&cache.join("size")).and_then(|text| size(&text));
            let shared = parsed::<Cpus>(&cache.join("shared_cpu_list"));
            if let (Some(level), Some(bytes), Some(shared), false) =
                (level, bytes, shared, instructions)
            {
                let sharers = caches.entry((level, bytes)).or_default();
                sharers.insert(shared.both(online));
            }
        }
    }
    let cache = |((level, bytes), shared): ((u8, u64), BTreeSet<Cpus>)| {
        let mut shared: Vec<Cpus> = shared.into_iter().collect();
        shared.sort_by_key(Cpus::first);
        Cache {
            level,
            bytes,
            shared,
        }
    };
    caches.into_iter().map(cache).collect()
}

/// `32768K`.
fn size(text: &str) -> Option<u64> {
    match text.strip_suffix(['K', 'M']) {
        Some(digits) => {
            let shift = if text.ends_with('M') { 20 } else { 10 };
            digits.parse::<u64>().ok()?.checked_mul(1 << shift)
        }
        None => text.parse().ok(),
    }
}
