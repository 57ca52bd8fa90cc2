//! The host's memory: shared memory, huge pages, and errors that ECC has seen. It reads `/proc` and sysfs; whether a segment can be made is
//! tried elsewhere and told here. Invariant: a small /dev/shm is a failure only where nothing can take its place.

use super::{
    check::{Check, bytes},
    root::Root,
};

/// Shared memory of a node: the slots of four plans, each at most 256 MiB; registered buffers come on top.
const SHARED: u64 = 1 << 30;

/// All checks of memory; `memfd` is whether shared memory without a mount could be had, where that was tried.
pub fn checks(root: &Root, memfd: Option<&Result<(), String>>) -> Vec<Check> {
    let mut found = vec![shared(root, memfd)];
    found.extend(huge(root));
    found.extend(corrected(root));
    found
}

/// A number of `/proc/meminfo` in bytes.
pub fn meminfo(root: &Root, name: &str) -> Option<u64> {
    let text = root.text("proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut words = line.split_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    Some(if words.next() == Some("kB") {
        number << 10
    } else {
        number
    })
}

/// The size of the file system at /dev/shm: `None` where nothing is mounted there, `u64::MAX` for no limit.
fn mounted(root: &Root) -> Option<u64> {
    let text = root.text("proc/self/mountinfo")?;
    // The last one lies on top.
    let mount = text
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some("/dev/shm"))?;
    let options = mount.split(' ').next_back()?;
    let size = options
        .split(',')
        .find_map(|option| option.strip_prefix("size="));
    // Without a size tmpfs takes half of the memory, and that is told in no file.
    size.map_or_else(|| Some(meminfo(root, "MemTotal")? / 2), tmpfs_size)
}

/// A tmpfs size as the kernel prints it.
fn tmpfs_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].chars().next() {
        Some('k' | 'K') => 10,
        Some('m' | 'M') => 20,
        Some('g' | 'G') => 30,
        _ => 0,
    };
    let number: u64 = digits.parse().ok()?;
    Some(if number == 0 {
        u64::MAX
    } else {
        number << shift
    })
}

fn shared(root: &Root, memfd: Option<&Result<(), String>>) -> Check {
    let what = ("shared-memory", "");
    let remedy =
        "make /dev/shm bigger (docker run --shm-size=8g, or mount -o remount,size=8G /dev/shm)";
    let mount = mounted(root);
    let said = match mount {
        None => "nothing is mounted at /dev/shm".to_owned(),
        Some(u64::MAX) => "/dev/shm without a limit".to_owned(),
        Some(size) => format!("/dev/shm has {}", bytes(size)),
    };
    let enough = mount.is_some_and(|size| size >= SHARED);
    let check = match memfd {
        Some(Err(why)) if !enough => Check::fail(
            what,
            format!(
                "{said}, a node needs {}, and memfd cannot take its place: {why}",
                bytes(SHARED)
            ),
            format!("{remedy}, or allow the system call memfd_create"),
        ),
        Some(Err(why)) => Check::ok(
            what,
            format!("{said}; memfd is refused ({why}) and not needed"),
        ),
        _ if !enough => Check::warn(
            what,
            format!(
                "{said}, {} is usual: trainers' data loaders and NCCL use it; hfr itself does with memfd",
                bytes(SHARED)
            ),
            remedy,
        ),
        Some(Ok(())) => Check::ok(what, format!("{said}, memfd works")),
        None => Check::ok(what, said),
    };
    check.figure("mounted_bytes", mount.unwrap_or(0) as f64)
}

fn huge(root: &Root) -> Vec<Check> {
    let mut found = Vec::new();
    if let Some(text) = root.text("sys/kernel/mm/transparent_hugepage/enabled") {
        let chosen = text
            .split(['[', ']'])
            .nth(1)
            .unwrap_or("unknown")
            .to_owned();
        let what = ("huge-pages", "transparent");
        found.push(if chosen == "never" {
            Check::warn(
                what,
                "never: large buffers lie on small pages, and copies miss the TLB",
                "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
            )
        } else {
            Check::ok(what, chosen)
        });
    }
    if let Some(text) = root.text("sys/kernel/mm/transparent_hugepage/shmem_enabled") {
        let what = ("huge-pages", "shared");
        found.push(if text.contains("[deny]") {
            Check::warn(
                what,
                "deny: slots and registered buffers lie on small pages, and calls on these take up to a third longer",
                "echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled (only who asks for huge pages gets them then)",
            )
        } else {
            Check::ok(what, "given to who asks for them, from Linux 6.1 on")
        });
    }
    let count = |name: &str| meminfo(root, name).unwrap_or(0);
    let size = count("Hugepagesize");
    let (reserved, free) = (
        count("HugePages_Total") * size,
        count("HugePages_Free") * size,
    );
    if reserved > 0 {
        let what = ("huge-pages", "reserved");
        let total = count("MemTotal");
        let said = format!("{}, {} of them free", bytes(reserved), bytes(free));
        let check = if free > total / 4 {
            Check::warn(
                what,
                format!("{said}: nobody else can use more than a quarter of the memory"),
                "give back what no program asks for (vm.nr_hugepages)",
            )
        } else {
            Check::ok(what, said)
        };
        found.push(check.figure("reserved_bytes", reserved as f64));
    }
    found
}

/// What the memory controllers have counted since their driver was loaded.
fn corrected(root: &Root) -> Option<Check> {
    let controllers = root.numbered("sys/devices/system/edac/mc", "mc");
    if controllers.is_empty() {
        return None;
    }
    let sum = |file: &str| -> u64 {
        controllers
            .iter()
            .filter_map(|(_, folder)| root.number::<u64>(&format!("{folder}/{file}")))
            .sum()
    };
    let (corrected, lost) = (sum("ce_count"), sum("ue_count"));
    let what = ("ecc", "");
    let said = format!("{corrected} corrected and {lost} uncorrected errors since the start");
    let remedy =
        "find the module with `ras-mc-ctl --error-count` or the board's event log, and replace it";
    let check = if lost > 0 {
        Check::fail(what, said, remedy)
    } else if corrected > 0 {
        Check::warn(what, said, remedy)
    } else {
        Check::ok(what, "no errors since the start")
    };
    Some(
        check
            .figure("corrected_count", corrected as f64)
            .figure("uncorrected_count", lost as f64),
    )
}
