//! Limits, memory, processors and NUMA of the recorded node that are not as they should be. Invariant: each is found alone.

use super::*;
use crate::doctor::{limits, memory};

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
    let judged = |rdma| limits::checks(&tree.root(), rdma, 8, None)[0].outcome;
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
fn what_ranks_may_read_of_each_other_is_said() {
    let tree = Tree::new();
    for (scope, words) in [("0\n", "may read"), ("1\n", "ptrace_scope is 1")] {
        tree.write("proc/sys/kernel/yama/ptrace_scope", scope);
        let all = limits::checks(&tree.root(), false, 8, None);
        let check = all.iter().find(|check| check.check == "single-copy");
        let check = check.expect("it is looked at");
        assert!(check.finding.contains(words), "{check:?}");
        assert_eq!(check.outcome, Outcome::Ok, "never wrong");
    }
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
fn ranks_that_are_bound_have_enough_together() {
    let status = "CapEff:\t0000000000000000\nCpus_allowed_list:\t3\n";
    let tree = Tree::with(&[("proc/self/status", status)]);
    let cpuset = |together| {
        let all = limits::checks(&tree.root(), false, 8, together).into_iter();
        let mut cpuset = all.filter(|check| check.check == "cpuset");
        cpuset.next().expect("it is looked at").outcome
    };
    let outcomes = [None, Some(7), Some(8)].map(cpuset);
    assert_eq!(outcomes, [Outcome::Warn, Outcome::Warn, Outcome::Ok]);
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
    let deny = "always within_size advise never [deny] force";
    finds(
        &[("sys/kernel/mm/transparent_hugepage/shmem_enabled", deny)],
        "huge-pages",
        Outcome::Warn,
        &["registered buffers", "shmem_enabled"],
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
