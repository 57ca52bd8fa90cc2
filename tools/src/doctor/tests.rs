//! Recorded trees: a healthy node, and the same with one thing broken, which must be found, alone, with what to do. Nothing here depends on the
//! machine that runs it, but that it can make files. Invariant: each tree is gone afterwards.

use super::{
    check::{Check, Outcome},
    ethernet, host, limits, memory,
    root::Root,
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

const NODE: &str = include_str!("trees/node.txt");
/// Where the parts of the recorded node lie.
const NIC: &str = "sys/devices/pci0000:20/0000:20:01.1/0000:21:00.0";
const NIC_PORT: &str = "sys/devices/pci0000:20/0000:20:01.1";
const GPU: &str = "sys/devices/pci0000:00/0000:00:01.1/0000:01:00.0";
const ETHERNET: &str = "sys/devices/pci0000:80/0000:80:01.1/0000:81:00.0/net";

/// A folder with the recorded node.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left over: {error}", self.0.display());
        }
    }
}

impl Tree {
    fn new() -> Tree {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = format!("hfr-doctor-{}-{number}", std::process::id());
        let tree = Tree(std::env::temp_dir().join(folder));
        let mut file: Option<(&str, String)> = None;
        for line in NODE.lines().chain(["== end"]) {
            let (begins, links) = (line.strip_prefix("== "), line.strip_prefix("-> "));
            if begins.is_some() || links.is_some() {
                if let Some((path, text)) = file.take() {
                    tree.write(path, &text);
                }
                file = begins.map(|path| (path, String::new()));
            } else if let Some((_, text)) = &mut file {
                text.push_str(line);
                text.push('\n');
            }
            if let Some((path, target)) = links.and_then(|link| link.split_once(' ')) {
                let path = tree.0.join(path);
                fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
                symlink(target, path).expect("a link");
            }
        }
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("a file");
    }

    /// The recorded node with other contents of some files.
    fn with(changes: &[(&str, &str)]) -> Tree {
        let tree = Tree::new();
        for (path, text) in changes {
            assert!(
                tree.0.join(path).exists(),
                "{path} is not in the tree, so a change of it tests nothing"
            );
            tree.write(path, text);
        }
        tree
    }

    fn root(&self) -> Root {
        Root::new(&self.0)
    }

    /// What is not well.
    fn ill(&self) -> Vec<Check> {
        let all = host::look(&self.root(), 8).checks;
        assert!(all.len() > 15, "nearly nothing was looked at: {all:?}");
        all.into_iter()
            .filter(|check| check.outcome > Outcome::Ok)
            .collect()
    }
}

/// The recorded node with `changes` has one thing wrong, and these words are in what is said of it.
fn finds(changes: &[(&str, &str)], check: &str, outcome: Outcome, words: &[&str]) {
    let ill = Tree::with(changes).ill();
    let short: Vec<(&str, Outcome)> = ill
        .iter()
        .map(|check| (&*check.check, check.outcome))
        .collect();
    assert_eq!(short, [(check, outcome)], "{changes:?}: {ill:?}");
    let said = super::report::line(&ill[0]);
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    assert!(!ill[0].remedy.is_empty(), "nothing to do: {said}");
}

#[test]
fn a_healthy_node_passes_and_is_counted() {
    let tree = Tree::new();
    assert_eq!(tree.ill(), []);
    let host = host::look(&tree.root(), 8);
    assert_eq!(host.name, "fire01");
    let counts = [
        "GPUs",
        "active RDMA ports",
        "interfaces with a link",
        "processors",
        "NUMA nodes",
    ];
    let counts = counts.map(|name| host.inventory[name]);
    assert_eq!(counts, [2, 2, 1, 8, 2]);
    let port = host
        .checks
        .iter()
        .find(|check| check.check == "port")
        .expect("a port");
    assert_eq!(port.figures["rate_gbit_s"], 200.0);
}

#[test]
fn degraded_pcie_links_are_found() {
    let gpu = format!("{GPU}/current_link_speed");
    finds(
        &[(&gpu, "2.5 GT/s PCIe")],
        "pcie",
        Outcome::Warn,
        &["GPU 0000:01:00.0", "2.5 GT/s x16", "idle"],
    );
    let gpu = format!("{GPU}/current_link_width");
    finds(
        &[(&gpu, "4")],
        "pcie",
        Outcome::Fail,
        &["GPU 0000:01:00.0", "x4", "reseat"],
    );
    // The port's rate does not fit through such a link either, and both are said.
    for (file, text, carries, runs) in [
        (
            "current_link_width",
            "8",
            "carries 126",
            "16 GT/s x8, device and slot can do 16 GT/s x16",
        ),
        (
            "current_link_speed",
            "2.5 GT/s PCIe",
            "carries 32",
            "2.5 GT/s x16, device and slot can do 16 GT/s x16",
        ),
    ] {
        let ill = Tree::with(&[(&format!("{NIC}/{file}"), text)]).ill();
        let names: Vec<(&str, Outcome)> = ill
            .iter()
            .map(|check| (&*check.check, check.outcome))
            .collect();
        assert_eq!(
            names,
            [("port", Outcome::Warn), ("pcie", Outcome::Fail)],
            "{ill:?}"
        );
        assert!(
            ill[0].finding.contains(carries) && ill[1].finding.contains(runs),
            "{ill:?}"
        );
        assert_eq!(ill[1].subject, "NIC 0000:21:00.0 (mlx5_0)");
    }
}

#[test]
fn a_slot_is_not_the_cards_fault() {
    let slot = [
        (format!("{NIC_PORT}/max_link_width"), "8"),
        (format!("{NIC}/current_link_width"), "8"),
    ];
    let slot: Vec<(&str, &str)> = slot.iter().map(|(path, text)| (&**path, *text)).collect();
    let ill = Tree::with(&slot).ill();
    let said: Vec<(&str, Outcome)> = ill
        .iter()
        .map(|check| (&*check.check, check.outcome))
        .collect();
    assert_eq!(
        said,
        [("port", Outcome::Warn), ("pcie", Outcome::Warn)],
        "{ill:?}"
    );
    assert!(ill[1].finding.contains("all that its slot has"), "{ill:?}");
}

#[test]
fn errors_of_a_pcie_link_are_found() {
    let tree = Tree::new();
    tree.write(
        &format!("{GPU}/aer_dev_fatal"),
        "DLP 0\nTOTAL_ERR_FATAL 2\n",
    );
    tree.write(
        &format!("{NIC}/aer_dev_correctable"),
        "RxErr 30\nTOTAL_ERR_COR 30\n",
    );
    let ill = tree.ill();
    assert_eq!(ill.len(), 1, "{ill:?}");
    assert_eq!(
        (&*ill[0].check, ill[0].figures["uncorrected_count"]),
        ("pcie-errors", 2.0)
    );
}

#[test]
fn ports_that_are_down_or_slow_are_found() {
    let port = format!("{NIC}/infiniband/mlx5_0/ports/1");
    let (state, physical) = (format!("{port}/state"), format!("{port}/phys_state"));
    let rate = format!("{port}/rate");
    let down = [(&*state, "1: DOWN"), (&*physical, "2: Polling")];
    finds(
        &down,
        "port",
        Outcome::Fail,
        &["mlx5_0/1", "DOWN (physically Polling)", "cable"],
    );
    let down = [(&*state, "1: DOWN"), (&*physical, "3: Disabled")];
    finds(&down, "port", Outcome::Fail, &["switched off"]);
    finds(
        &[(&state, "2: INIT")],
        "port",
        Outcome::Fail,
        &["INIT", "subnet manager"],
    );
    finds(
        &[(&rate, "100 Gb/sec (4X EDR)")],
        "port",
        Outcome::Fail,
        &["100 Gbit/s", "200"],
    );
    finds(
        &[(&rate, "50 Gb/sec (1X HDR)")],
        "port",
        Outcome::Fail,
        &["one lane"],
    );
    let flaps = format!("{port}/counters/link_downed");
    finds(
        &[(&flaps, "17")],
        "port-errors",
        Outcome::Warn,
        &["mlx5_0/1", "link_downed 17"],
    );
}

#[test]
fn the_other_port_of_a_device_that_works_may_be_down() {
    let tree = Tree::new();
    let port = format!("{NIC}/infiniband/mlx5_0/ports/2");
    for (file, text) in [
        ("state", "1: DOWN"),
        ("phys_state", "3: Disabled"),
        ("rate", "10 Gb/sec (4X SDR)"),
    ] {
        tree.write(&format!("{port}/{file}"), text);
    }
    let ill = tree.ill();
    assert_eq!((ill.len(), ill[0].outcome), (1, Outcome::Warn), "{ill:?}");
    assert!(ill[0].finding.contains("mlx5_0/1 is up"), "{ill:?}");
}

#[test]
fn interfaces_without_a_link_are_found() {
    let file = |name: &str| format!("{ETHERNET}/eth0/{name}");
    finds(
        &[(&file("carrier"), "0")],
        "interface",
        Outcome::Fail,
        &["eth0", "no link", "cable"],
    );
    finds(
        &[(&file("duplex"), "half")],
        "interface",
        Outcome::Fail,
        &["half duplex"],
    );
    finds(
        &[(&file("carrier_changes"), "40")],
        "interface-errors",
        Outcome::Warn,
        &["40 changes"],
    );
    finds(
        &[(&file("statistics/rx_crc_errors"), "5000")],
        "interface-errors",
        Outcome::Warn,
        &["5000 damaged"],
    );

    let tree = Tree::with(&[(&format!("{ETHERNET}/eth1/flags"), "0x1003")]);
    let state = |selector| ethernet::checks(&tree.root(), selector)[1].clone();
    assert_eq!(state(None).outcome, Outcome::Warn, "eth0 has a link");
    assert_eq!(
        state(Some("=eth1")).outcome,
        Outcome::Fail,
        "the settings name it"
    );
    assert_eq!(
        state(Some("^eth0")).outcome,
        Outcome::Warn,
        "they name another"
    );
    tree.write(&format!("{ETHERNET}/eth1/carrier"), "1");
    tree.write(&format!("{ETHERNET}/eth1/speed"), "1000");
    let slow = state(None);
    assert_eq!(slow.outcome, Outcome::Warn);
    assert!(
        slow.finding
            .contains("1 Gbit/s, another of the same kind 10"),
        "{slow:?}"
    );
}

#[test]
fn an_interface_that_is_off_matters_only_if_it_is_named() {
    let tree = Tree::new();
    let states = |selector| {
        let all = ethernet::checks(&tree.root(), selector).into_iter();
        all.map(|check| check.outcome).collect::<Vec<_>>()
    };
    assert_eq!(states(None), [Outcome::Ok, Outcome::Ok]);
    assert_eq!(states(Some("eth1")), [Outcome::Ok, Outcome::Fail]);
}

#[test]
fn processors_that_run_slowly_are_found() {
    let cpu = |number: usize, file: &str| format!("sys/devices/system/cpu/cpu{number}/{file}");
    let (two, three) = (
        cpu(2, "cpufreq/scaling_governor"),
        cpu(3, "cpufreq/scaling_governor"),
    );
    finds(
        &[(&two, "powersave"), (&three, "powersave")],
        "governor",
        Outcome::Warn,
        &["powersave on 2-3", "cpupower"],
    );
    let capped = cpu(5, "cpufreq/scaling_max_freq");
    finds(
        &[(&capped, "1500000")],
        "frequency",
        Outcome::Warn,
        &["processors 5 may run at 1500 MHz of 2500"],
    );
    finds(
        &[("sys/devices/system/cpu/cpufreq/boost", "0")],
        "frequency",
        Outcome::Warn,
        &["turbo"],
    );
    let hot = cpu(7, "thermal_throttle/core_throttle_count");
    finds(
        &[(&hot, "12")],
        "throttling",
        Outcome::Warn,
        &["processors 7", "12 times", "fans"],
    );
    finds(
        &[("sys/devices/system/cpu/online", "0-5")],
        "processors",
        Outcome::Warn,
        &["6-7 are switched off"],
    );
}

/// Limits with another value for locked memory.
fn locked(value: &str) -> String {
    format!(
        "Max open files            1048576 1048576 files\nMax locked memory         {value} {value} bytes\n"
    )
}

#[test]
fn a_small_memlock_limit_is_found_with_the_number_that_is_needed() {
    let small = locked("65536");
    finds(
        &[("proc/self/limits", &small)],
        "memlock",
        Outcome::Fail,
        &["64 KiB", "1 GiB", "1073741824", "limits.d"],
    );
}

#[test]
fn a_small_memlock_limit_binds_only_who_locks() {
    let tree = Tree::with(&[("proc/self/limits", &locked("65536"))]);
    let judged = |rdma| limits::checks(&tree.root(), rdma, 8)[0].outcome;
    assert_eq!([judged(true), judged(false)], [Outcome::Fail, Outcome::Ok]);
    tree.write(
        "proc/self/status",
        "CapEff:\t0000000000004000\nCpus_allowed_list:\t0-7\n",
    );
    assert_eq!(judged(true), Outcome::Ok, "CAP_IPC_LOCK");
    tree.write("proc/self/limits", &locked("1073741824"));
    tree.write("proc/self/status", "CapEff:\t0000000000000000\n");
    assert_eq!(judged(true), Outcome::Ok, "exactly as much as is needed");
}

#[test]
fn few_open_files_processors_and_quotas_are_found() {
    let limits = "Max open files            1024 4096 files\nMax locked memory         unlimited unlimited bytes\n";
    finds(
        &[("proc/self/limits", limits)],
        "open-files",
        Outcome::Warn,
        &["1024", "ulimit -n"],
    );
    let status = "CapEff:\t0000000000000000\nCpus_allowed_list:\t0-1,4\n";
    finds(
        &[("proc/self/status", status)],
        "cpuset",
        Outcome::Warn,
        &["3 of 8 processors for 8 ranks"],
    );
    let quota = "sys/fs/cgroup/slurm/job_7/cpu.max";
    finds(
        &[(quota, "250000 100000")],
        "cpu-quota",
        Outcome::Warn,
        &["2.50 processors for 8"],
    );
    let old = Tree::with(&[("proc/self/cgroup", "4:cpu,cpuacct:/job\n0::/\n")]);
    old.write("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "400000");
    old.write("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000");
    let ill = old.ill();
    assert!(
        ill.len() == 1 && ill[0].finding.contains("4.00 processors"),
        "{ill:?}"
    );
}

#[test]
fn a_small_dev_shm_is_found() {
    let small = "26 22 0:23 / /dev/shm rw - tmpfs shm rw,size=65536k\n";
    finds(
        &[("proc/self/mountinfo", small)],
        "shared-memory",
        Outcome::Warn,
        &["64 MiB", "--shm-size"],
    );
    let tree = Tree::with(&[("proc/self/mountinfo", small)]);
    let judge = |memfd: Result<(), String>| memory::checks(&tree.root(), Some(&memfd))[0].clone();
    let refused = || Err("not permitted".to_owned());
    assert_eq!(judge(Ok(())).outcome, Outcome::Warn);
    let none = judge(refused());
    assert_eq!(none.outcome, Outcome::Fail, "nothing can take its place");
    assert!(
        none.finding.contains("64 MiB") && none.finding.contains("not permitted"),
        "{none:?}"
    );
    tree.write("proc/self/mountinfo", &small.replace("65536k", "2g"));
    assert_eq!(judge(refused()).outcome, Outcome::Ok);
    tree.write(
        "proc/self/mountinfo",
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
    );
    assert_eq!(
        judge(refused()).outcome,
        Outcome::Fail,
        "nothing is mounted"
    );
    // Half of the memory where no size is told; the mount on top counts.
    tree.write(
        "proc/self/mountinfo",
        &format!("{small}27 22 0:24 / /dev/shm rw - tmpfs shm rw\n"),
    );
    assert_eq!(
        judge(Ok(())).figures["mounted_bytes"],
        527_600_000.0 * 512.0
    );
}

#[test]
fn memory_that_makes_errors_is_found() {
    let mc = "sys/devices/system/edac/mc/mc0";
    finds(
        &[(&format!("{mc}/ce_count"), "3")],
        "ecc",
        Outcome::Warn,
        &["3 corrected"],
    );
    finds(
        &[(&format!("{mc}/ue_count"), "1")],
        "ecc",
        Outcome::Fail,
        &["1 uncorrected", "replace"],
    );
}

#[test]
fn huge_pages_that_are_missing_or_wasted_are_found() {
    let never = "always madvise [never]";
    finds(
        &[("sys/kernel/mm/transparent_hugepage/enabled", never)],
        "huge-pages",
        Outcome::Warn,
        &["never"],
    );
    let reserved = "MemTotal: 527600000 kB\nHugePages_Total: 100000\nHugePages_Free: 100000\nHugepagesize: 2048 kB\n";
    finds(
        &[("proc/meminfo", reserved)],
        "huge-pages",
        Outcome::Warn,
        &["195.3 GiB", "vm.nr_hugepages"],
    );
}

#[test]
fn numa_that_spoils_placement_is_found() {
    finds(
        &[("proc/sys/kernel/numa_balancing", "1")],
        "numa",
        Outcome::Warn,
        &["balancing", "sysctl"],
    );
    finds(
        &[("proc/sys/vm/zone_reclaim_mode", "1")],
        "numa",
        Outcome::Warn,
        &["reclaim"],
    );
    let node = |file: &str| format!("sys/devices/system/node/node1/{file}");
    finds(
        &[(&node("meminfo"), "Node 1 MemTotal: 197000000 kB\n")],
        "numa",
        Outcome::Warn,
        &["node 1 has 187.9 GiB"],
    );
    finds(
        &[(&node("meminfo"), "Node 1 MemTotal: 0 kB\n")],
        "numa",
        Outcome::Warn,
        &["no memory"],
    );
    finds(
        &[(&node("distance"), "10 10")],
        "numa",
        Outcome::Warn,
        &["nodes 1 and 0"],
    );
    let homeless = format!("{NIC}/numa_node");
    finds(
        &[(&homeless, "-1")],
        "numa",
        Outcome::Warn,
        &["0000:21:00.0", "firmware"],
    );
}

#[test]
fn a_bare_tree_is_no_error() {
    let tree = Tree::new();
    fs::remove_dir_all(tree.0.join("sys")).expect("it is there");
    let host = host::look(&tree.root(), 1);
    assert!(
        host.checks
            .iter()
            .all(|check| check.outcome < Outcome::Fail),
        "{:?}",
        host.checks
    );
    let nothing = host::look(&Root::new(Path::new("/no/such/folder")), 1);
    assert!(!nothing.checks.is_empty());
}
