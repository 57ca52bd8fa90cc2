//! Limits of the process: locked memory, open files, other processes' memory, the processors it may use and how much of their time. It reads `/proc/self` and the cgroup's
//! files. Invariant: a limit is judged by what a rank needs, and the need is in the message.

use super::{
    check::{Check, bytes},
    root::{Root, list},
};

/// Memory that RDMA locks: the slots of the plans in use, each at most 256 MiB of a node; a job seldom uses more than four.
const LOCKED: u64 = 4 * (256 << 20);
/// Sockets and files of a rank in a large job: two per node it talks to, a few for control, and the trainer's own.
const FILES: u64 = 4096;
/// CAP_IPC_LOCK, as a bit of the effective capabilities: who has it may lock what he likes.
const MAY_LOCK: u32 = 14;

/// All checks of limits; `ranks` is how many of the job's ranks share this host, and `together` how many processors these may use, where it is known.
pub fn checks(root: &Root, rdma: bool, ranks: usize, together: Option<usize>) -> Vec<Check> {
    let mut found = vec![memlock(root, rdma)];
    found.extend(files(root));
    found.push(single_copy(root));
    let allowed = together.unwrap_or_else(|| allowed(root));
    found.extend(processors(root, allowed, ranks));
    found.extend(quota(root, allowed));
    found
}

/// The soft limit of a name in `/proc/self/limits`; `u64::MAX` for none.
fn soft(root: &Root, name: &str) -> Option<u64> {
    let text = root.text("proc/self/limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The value of a name in `/proc/self/status`.
fn status(root: &Root, name: &str) -> Option<String> {
    let text = root.text("proc/self/status")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

fn memlock(root: &Root, rdma: bool) -> Check {
    let what = ("memlock", "");
    let Some(limit) = soft(root, "Max locked memory") else {
        return Check::warn(
            what,
            "the limit cannot be read",
            "mount /proc, or see `ulimit -l`",
        );
    };
    if limit == u64::MAX {
        return Check::ok(what, "no limit");
    }
    let held = u64::from_str_radix(&status(root, "CapEff").unwrap_or_default(), 16).unwrap_or(0);
    let said = bytes(limit);
    let check = if limit >= LOCKED {
        Check::ok(what, said)
    } else if held >> MAY_LOCK & 1 == 1 {
        Check::ok(
            what,
            format!("{said}, which does not bind a process with CAP_IPC_LOCK"),
        )
    } else if !rdma {
        Check::ok(
            what,
            format!("{said}; without an RDMA device nothing is locked"),
        )
    } else {
        Check::fail(
            what,
            format!("{said}, and RDMA needs {} per rank or more", bytes(LOCKED)),
            format!(
                "set it to unlimited, or {LOCKED} bytes at least: memlock in /etc/security/limits.d, LimitMEMLOCK of slurmd or the \
                 container's daemon, docker run --ulimit memlock=-1"
            ),
        )
    };
    check
        .figure("limit_bytes", limit as f64)
        .figure("needed_bytes", LOCKED as f64)
}

fn files(root: &Root) -> Option<Check> {
    let limit = soft(root, "Max open files")?;
    let what = ("open-files", "");
    let check = if limit == u64::MAX {
        Check::ok(what, "no limit")
    } else if limit >= FILES {
        Check::ok(what, limit.to_string())
    } else {
        Check::warn(
            what,
            format!("{limit}; a rank of a large job may need {FILES}"),
            format!("ulimit -n {FILES}, or LimitNOFILE of what starts the job"),
        )
    };
    Some(check.figure("limit_count", limit as f64))
}

/// Whether the kernel lets processes of one user read each other's memory, as ranks of a node do where they need not add anything. Many systems do not,
/// for good reasons, so this is never wrong.
fn single_copy(root: &Root) -> Check {
    let what = ("single-copy", "");
    let scope = root.text("proc/sys/kernel/yama/ptrace_scope");
    let scope: u32 = scope.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let said = match scope {
        0 => {
            "ranks of a user may read each other's memory, unless a container's seccomp forbids it"
                .to_owned()
        }
        scope => format!(
            "kernel.yama.ptrace_scope is {scope}: without CAP_SYS_PTRACE ranks do not read each other's memory, and all_gather, all_to_all and broadcast within a host \
             copy twice; `hfr bench` says what is so"
        ),
    };
    Check::ok(what, said).figure("ptrace_scope_count", f64::from(scope))
}

/// How many processors this process may run on.
fn allowed(root: &Root) -> usize {
    list(&status(root, "Cpus_allowed_list").unwrap_or_default()).len()
}

fn processors(root: &Root, allowed: usize, ranks: usize) -> Option<Check> {
    let online = list(&root.text("sys/devices/system/cpu/online")?).len();
    if allowed == 0 {
        return None;
    }
    let what = ("cpuset", "");
    let said = format!("{allowed} of {online} processors");
    // Bound on purpose, as launchers do it, ranks have fewer than the machine and yet enough.
    let check = if allowed < ranks {
        Check::warn(
            what,
            format!("{said} for {ranks} ranks"),
            "give the job as many cores as it has ranks, or see how the launcher binds (mpirun --bind-to none, srun --cpus-per-task)",
        )
    } else {
        Check::ok(what, said)
    };
    Some(check.figure("allowed_count", allowed as f64))
}

/// The least number of processors' worth of time that the cgroups on the way up allow.
fn least_quota(root: &Root) -> Option<f64> {
    let groups = root.text("proc/self/cgroup")?;
    let mut least: Option<f64> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let first = match controllers {
            "" => "sys/fs/cgroup",
            list if list.split(',').any(|name| name == "cpu") => "sys/fs/cgroup/cpu",
            _ => continue,
        };
        for folder in std::path::Path::new(path.trim_start_matches('/')).ancestors() {
            let folder = format!("{first}/{}", folder.display());
            let share = quota_of(root, folder.trim_end_matches('/'));
            least = [least, share].into_iter().flatten().reduce(f64::min);
        }
    }
    least
}

/// Version 2 has both numbers in one file, version 1 has two files.
fn quota_of(root: &Root, folder: &str) -> Option<f64> {
    let (quota, period) = match root.text(&format!("{folder}/cpu.max")) {
        Some(text) => {
            let (quota, period) = text.split_once(' ')?;
            (
                quota.parse::<f64>().ok()?,
                period.trim().parse::<f64>().ok()?,
            )
        }
        None => {
            let number = |name: &str| root.number::<f64>(&format!("{folder}/cpu.cfs_{name}_us"));
            (number("quota")?, number("period")?)
        }
    };
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

fn quota(root: &Root, allowed: usize) -> Option<Check> {
    let quota = least_quota(root)?;
    let what = ("cpu-quota", "");
    let said = format!("time of {quota:.2} processors");
    let check = if quota < allowed as f64 {
        Check::warn(
            what,
            format!(
                "{said} for {allowed} that may be used: who has used up his share is stopped, and all ranks wait for him"
            ),
            "take the quota away (cpu.max, docker --cpus, resources.limits.cpu) and give whole cores instead",
        )
    } else {
        Check::ok(what, said)
    };
    Some(check.figure("quota_cpus", quota))
}
