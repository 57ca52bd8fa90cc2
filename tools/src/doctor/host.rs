//! One host: what it has and what its files say, and how hosts of a job differ. It measures nothing. Invariant: a device that has vanished is
//! seen only by comparison, so what a host has is counted here even where no check is about it.

use super::{
    check::{Check, bytes},
    cpu, ethernet, infiniband, limits, memory, numa, pcie,
    pcie::Role,
    root::{Root, list},
};
use hfr_transport::shm::{Backing, Segment};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many there are of what; names as people read them.
pub type Inventory = BTreeMap<String, u64>;

/// What cannot be missing on one host of several without jobs suffering; of other things fewer are worth a look.
const VITAL: [&str; 2] = ["GPUs", "active RDMA ports"];
const MEMORY: &str = "memory";

/// A host and what was found there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Version of this program there.
    pub version: String,
    /// Ranks of the job on it.
    pub ranks: Vec<usize>,
    /// What it has.
    pub inventory: Inventory,
    /// What was found.
    pub checks: Vec<Check>,
}

/// What is the same for all processes of a host and differs between hosts; containers count as hosts.
pub fn identity(root: &Root) -> String {
    let boot = root
        .text("proc/sys/kernel/random/boot_id")
        .unwrap_or_default();
    format!("{} {boot}", name(root))
}

fn name(root: &Root) -> String {
    let own = || {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    };
    root.text("proc/sys/kernel/hostname").unwrap_or_else(own)
}

/// Looks at a host that has `ranks` ranks of the job, which may use `together` processors, where that is known; else as many as this process.
pub fn look(root: &Root, ranks: usize, together: Option<usize>) -> Host {
    let env = |name: &str| std::env::var(name).ok();
    let selector = hfr_transport::net::selector_from(&env).map(|(selector, _)| selector);
    // A recorded tree says nothing of what this kernel allows.
    let memfd = root.is_own().then(memfd);
    let rdma = infiniband::devices(root) > 0;
    let checks = [
        infiniband::checks(root),
        ethernet::checks(root, selector.as_deref()),
        pcie::checks(root),
        cpu::checks(root),
        numa::checks(root),
        memory::checks(root, memfd.as_ref()),
        limits::checks(root, rdma, ranks, together),
    ];
    Host {
        name: name(root),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ranks: Vec::new(),
        inventory: inventory(root),
        checks: checks.concat(),
    }
}

/// Tries to have shared memory that no mount bounds.
fn memfd() -> Result<(), String> {
    let segment = Segment::create_in("hfr-doctor", 1 << 20, Backing::Memfd);
    let reserved = segment.and_then(|segment| segment.reserve(0, 1 << 20));
    reserved.map_err(|error| error.to_string())
}

fn inventory(root: &Root) -> Inventory {
    let gpus = pcie::devices(root)
        .iter()
        .filter(|(_, role)| *role == Role::Gpu)
        .count();
    let online = list(
        &root
            .text("sys/devices/system/cpu/online")
            .unwrap_or_default(),
    )
    .len();
    let counts = [
        ("GPUs", gpus),
        ("active RDMA ports", infiniband::active(root)),
        ("interfaces with a link", ethernet::up(root)),
        ("processors", online),
        ("NUMA nodes", numa::count(root)),
    ];
    let mut all: Inventory = counts
        .map(|(name, count)| (name.to_owned(), count as u64))
        .into();
    all.insert(
        MEMORY.to_owned(),
        memory::meminfo(root, "MemTotal").unwrap_or(0),
    );
    all
}

/// What most hosts have, the larger where it is even.
fn usual<T: Ord + Clone>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts
        .into_iter()
        .max_by_key(|(value, count)| (*count, value.clone()))
        .map(|(value, _)| value)
}

/// What is missing on some hosts and there on most, and programs that differ.
pub fn compare(hosts: &[Host]) -> Vec<Check> {
    let mut found = Vec::new();
    if hosts.len() < 2 {
        return found;
    }
    for name in hosts[0].inventory.keys() {
        let count = |host: &Host| host.inventory.get(name).copied().unwrap_or(0);
        let Some(usual) = usual(hosts.iter().map(count)) else {
            continue;
        };
        let margin = if name == MEMORY { usual / 32 } else { 0 };
        for host in hosts.iter().filter(|host| count(host) + margin < usual) {
            let said = |count: u64| {
                if name == MEMORY {
                    bytes(count)
                } else {
                    count.to_string()
                }
            };
            let (has, others) = (said(count(host)), said(usual));
            let finding = format!("{name}: {has}, other hosts have {others}");
            let remedy = "find out which is missing (lspci, dmesg, the board's event log); take the host out of service until then";
            let what = ("hosts", &*host.name);
            found.push(if VITAL.contains(&&**name) {
                Check::fail(what, finding, remedy)
            } else {
                Check::warn(what, finding, remedy)
            });
        }
    }
    let version = usual(hosts.iter().map(|host| &host.version));
    for host in hosts.iter().filter(|host| Some(&host.version) != version) {
        found.push(Check::fail(
            ("hosts", &host.name),
            format!("hfr {} there, other hosts have another", host.version),
            "install the same version everywhere",
        ));
    }
    found.extend(links(hosts));
    found.extend(bandwidth(hosts));
    if found.is_empty() {
        found.push(Check::ok(
            ("hosts", ""),
            format!("{} hosts have the same", hosts.len()),
        ));
    }
    found
}

/// Links that are slower than the link of the same name on most hosts: what a link can do, no file tells.
fn links(hosts: &[Host]) -> Vec<Check> {
    let rates = |host: &Host| {
        let rate = |check: &Check| {
            let rate = check.figures.get("rate_gbit_s").copied()?;
            Some((format!("{} {}", check.check, check.subject), rate))
        };
        host.checks
            .iter()
            .filter_map(rate)
            .collect::<BTreeMap<_, _>>()
    };
    let all: Vec<(&Host, BTreeMap<String, f64>)> =
        hosts.iter().map(|host| (host, rates(host))).collect();
    let mut found = Vec::new();
    for (host, rates) in &all {
        for (link, rate) in rates {
            // Rates are whole Mbit/s.
            let others = all
                .iter()
                .filter_map(|(_, rates)| Some((rates.get(link)? * 1e3) as u64));
            let usual = usual(others).map_or(0.0, |usual| usual as f64 / 1e3);
            if *rate < usual {
                let check = Check::fail(
                    ("hosts", &host.name),
                    format!("{link}: {rate} Gbit/s, on other hosts {usual}"),
                    "look at its cable, and at the speed of the switch's port",
                );
                found.push(
                    check
                        .figure("rate_gbit_s", *rate)
                        .figure("usual_gbit_s", usual),
                );
            }
        }
    }
    found
}

/// Hosts whose memory is slower than the others'.
fn bandwidth(hosts: &[Host]) -> Vec<Check> {
    let read = |host: &Host| {
        let measured = host
            .checks
            .iter()
            .find(|check| check.check == "memory-bandwidth");
        measured.and_then(|check| check.figures.get("read_gb_s").copied())
    };
    let mut all: Vec<f64> = hosts.iter().filter_map(read).collect();
    all.sort_by(|a, b| b.total_cmp(a));
    let Some(middle) = all.get(all.len().saturating_sub(1) / 2).copied() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (host, own) in hosts.iter().filter_map(|host| Some((host, read(host)?))) {
        let finding =
            format!("memory is read at {own:.1} GB/s, the middle of all hosts is {middle:.1}");
        let remedy = "look at its memory modules (missing, slow, in the wrong slots), at throttling and at other programs";
        let what = ("hosts", &*host.name);
        let check = if own < middle / 2.0 {
            Check::fail(what, finding, remedy)
        } else if own < middle * 0.8 {
            Check::warn(what, finding, remedy)
        } else {
            continue;
        };
        found.push(check.figure("read_gb_s", own).figure("middle_gb_s", middle));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Host, compare};
    use crate::doctor::check::{Check, Outcome};

    fn host(name: &str, gpus: u64, memory: u64, read: f64) -> Host {
        let measured = Check::ok(("memory-bandwidth", ""), "").figure("read_gb_s", read);
        Host {
            name: name.to_owned(),
            version: "1".to_owned(),
            ranks: vec![0],
            inventory: [("GPUs".to_owned(), gpus), ("memory".to_owned(), memory)].into(),
            checks: vec![measured],
        }
    }

    fn found(hosts: &[Host]) -> Vec<(Outcome, String, String)> {
        let all = compare(hosts).into_iter();
        all.map(|check| (check.outcome, check.subject, check.finding))
            .collect()
    }

    #[test]
    fn a_missing_device_is_seen_by_comparison() {
        let hosts = [
            host("a", 8, 1 << 39, 300.0),
            host("b", 7, (1 << 39) - 5, 310.0),
            host("c", 8, 1 << 39, 290.0),
        ];
        let found = found(&hosts);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].0, &*found[0].1), (Outcome::Fail, "b"));
        assert!(
            found[0].2.contains("GPUs: 7, other hosts have 8"),
            "{found:?}"
        );
    }

    #[test]
    fn missing_and_slow_memory_are_named() {
        let hosts = [
            host("a", 8, 1 << 39, 300.0),
            host("b", 8, 1 << 38, 140.0),
            host("c", 8, 1 << 39, 230.0),
        ];
        let mut found = found(&hosts);
        found.sort_by_key(|one| (one.1.clone(), one.0));
        let short: Vec<(Outcome, &str)> = found.iter().map(|one| (one.0, &*one.1)).collect();
        assert_eq!(
            short,
            [(Outcome::Warn, "b"), (Outcome::Warn, "b")],
            "{found:?}"
        );
        let hosts = [host("a", 8, 1 << 39, 300.0), host("b", 8, 1 << 39, 140.0)];
        assert_eq!(
            self::found(&hosts)[0].0,
            Outcome::Fail,
            "of two the better one counts"
        );
    }

    #[test]
    fn a_link_that_is_slower_than_elsewhere_is_named() {
        let rates = [25.0, 10.0, 25.0];
        let hosts: Vec<Host> = ["a", "b", "c"]
            .into_iter()
            .zip(rates)
            .map(|(name, rate)| {
                let mut host = host(name, 8, 1 << 39, 300.0);
                host.checks
                    .push(Check::ok(("interface", "eth0"), "").figure("rate_gbit_s", rate));
                host
            })
            .collect();
        let found = found(&hosts);
        assert_eq!(
            found,
            [(
                Outcome::Fail,
                "b".to_owned(),
                "interface eth0: 10 Gbit/s, on other hosts 25".to_owned()
            )]
        );
    }

    #[test]
    fn equal_hosts_and_one_alone_are_well() {
        let hosts = [host("a", 8, 1 << 39, 300.0), host("b", 8, 1 << 39, 299.0)];
        assert_eq!(found(&hosts)[0].0, Outcome::Ok);
        assert!(found(&hosts[..1]).is_empty());
        let mut odd = hosts.to_vec();
        odd[0].version = "2".to_owned();
        odd.push(odd[1].clone());
        assert_eq!(
            found(&odd)[0],
            (
                Outcome::Fail,
                "a".to_owned(),
                "hfr 2 there, other hosts have another".to_owned()
            )
        );
    }
}
