//! How much memory may still be taken: by the machine, and by the cgroups (version 1 and 2) this process lives in. Pages of
//! a segment are charged to the cgroup when they are allocated, and running over its limit is a SIGKILL and no error;
//! so whoever allocates asks here first. It is a forecast: others may take the memory in between.

use std::fs;
use std::path::Path;

/// The tightest limit found, and how much of it is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Headroom {
    /// Bytes that may still be taken.
    pub bytes: u64,
    /// Who sets the limit, for a person.
    pub limit: String,
    /// What a person can do when it is too small.
    pub remedy: &'static str,
}

const MORE_CGROUP: &str = "give the job more memory (docker run --memory=..., slurm --mem=..., kubernetes \
     resources.limits.memory) or lower the window, the chunk size or the number of ranks per node";
const MORE_MACHINE: &str =
    "free memory on this node, or lower the window, the chunk size or the number of ranks per node";

/// The tightest limit that holds for this process; `None` where the system tells nothing.
pub(crate) fn now() -> Option<Headroom> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").ok();
    cgroups(&groups, Path::new("/sys/fs/cgroup"))
        .into_iter()
        .chain(machine.as_deref().and_then(meminfo))
        .min_by_key(|headroom| headroom.bytes)
}

/// What `/proc/meminfo` says can be taken without swapping out others, and the free swap.
fn meminfo(text: &str) -> Option<Headroom> {
    let kib = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let bytes = (kib("MemAvailable")? + kib("SwapFree").unwrap_or(0)) * 1024;
    Some(Headroom {
        bytes,
        limit: "this node's memory".into(),
        remedy: MORE_MACHINE,
    })
}

/// Every memory limit on the way from this process's cgroup up to the root of the hierarchy mounted at `mount`.
fn cgroups(groups: &str, mount: &Path) -> Vec<Headroom> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (root, files) = match controllers {
            "" => (mount.to_path_buf(), &V2),
            list if list.split(',').any(|name| name == "memory") => (mount.join("memory"), &V1),
            _ => continue,
        };
        // Inside a container the path may be that of the host and the container's own group be mounted as the root:
        // every folder that exists counts, so both are covered.
        for folder in Path::new(path.trim_start_matches('/')).ancestors() {
            found.extend(group(&root.join(folder), files));
        }
    }
    found
}

/// Names of the files of one cgroup version: limit, usage, and what of `memory.stat` the kernel gives back under pressure.
struct Files {
    limit: &'static str,
    usage: &'static str,
    reclaimable: [&'static str; 2],
}

const V2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: ["inactive_file", "active_file"],
};
const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: ["total_inactive_file", "total_active_file"],
};

fn group(folder: &Path, files: &Files) -> Option<Headroom> {
    let number = |name: &str| {
        fs::read_to_string(folder.join(name))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    // "max" does not parse: no limit. Version 1 says "no limit" with a number near 2^63, which is never the tightest.
    let limit = number(files.limit)?;
    let usage = number(files.usage)?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let reclaimable: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| files.reclaimable.contains(name))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum();
    Some(Headroom {
        bytes: limit.saturating_sub(usage.saturating_sub(reclaimable)),
        limit: format!(
            "the cgroup's memory limit of {limit} bytes ({})",
            folder.join(files.limit).display()
        ),
        remedy: MORE_CGROUP,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_on_the_way_up_counts_and_page_cache_does_not() {
        let mount = std::env::temp_dir().join(format!("hfr-headroom-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let file = mount.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("a/memory.max", "1000000\n");
        write("a/memory.current", "900000\n");
        write(
            "a/memory.stat",
            "anon 5\ninactive_file 300000\nactive_file 50000\n",
        );
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "1\n");
        write("memory/old/memory.limit_in_bytes", "7000\n");
        write("memory/old/memory.usage_in_bytes", "6000\n");
        let found = cgroups("4:cpu:/x\n0::/a/b\n", &mount);
        assert_eq!(found.iter().map(|h| h.bytes).collect::<Vec<_>>(), [450000]);
        let both = cgroups("3:cpu,memory:/old\n0::/a/b\n", &mount);
        assert_eq!(both.iter().map(|h| h.bytes).min(), Some(1000));
        assert!(cgroups("", &mount).is_empty());
        fs::remove_dir_all(&mount).unwrap();
    }

    #[test]
    fn meminfo_adds_what_is_available_and_free_swap() {
        let text = "MemTotal: 900 kB\nMemAvailable:    40 kB\nSwapFree:  2 kB\n";
        assert_eq!(meminfo(text).unwrap().bytes, 42 * 1024);
        assert_eq!(meminfo("MemTotal: 1 kB\n"), None);
    }
}
