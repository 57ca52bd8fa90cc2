//! Processors: governor, limits of frequency, throttling, and cores that are switched off. It reads sysfs; nothing is measured here.
//! Invariant: processors with the same finding share one line.

use super::{
    check::Check,
    root::{Root, list},
};

const CPUS: &str = "sys/devices/system/cpu";

/// All checks of processors.
pub fn checks(root: &Root) -> Vec<Check> {
    let mut found = vec![governor(root)];
    found.extend(frequency(root));
    found.extend(turbo(root));
    found.push(throttling(root));
    found.extend(offline(root));
    found
}

/// Numbers as `0-3,7`.
fn ranges(numbers: &[usize]) -> String {
    let mut text: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match text.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => text.push((number, number)),
        }
    }
    let one = |(first, last): &(usize, usize)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    text.iter().map(one).collect::<Vec<_>>().join(",")
}

fn governor(root: &Root) -> Check {
    let what = ("governor", "");
    let mut slow: Vec<(String, Vec<usize>)> = Vec::new();
    let mut known = 0;
    for (cpu, folder) in root.numbered(CPUS, "cpu") {
        let Some(governor) = root.text(&format!("{folder}/cpufreq/scaling_governor")) else {
            continue;
        };
        known += 1;
        if governor == "performance" {
            continue;
        }
        match slow.iter_mut().find(|(name, _)| *name == governor) {
            Some((_, cpus)) => cpus.push(cpu),
            None => slow.push((governor, vec![cpu])),
        }
    }
    if slow.is_empty() {
        let said = if known == 0 {
            "not in the system's hands"
        } else {
            "performance"
        };
        return Check::ok(what, said);
    }
    let said: Vec<String> = slow
        .iter()
        .map(|(name, cpus)| format!("{name} on {}", ranges(cpus)))
        .collect();
    let count: usize = slow.iter().map(|(_, cpus)| cpus.len()).sum();
    let check = Check::warn(
        what,
        format!(
            "{}: a core that wakes up for a message starts slowly",
            said.join(", ")
        ),
        "cpupower frequency-set -g performance",
    );
    check.figure("slow_count", count as f64)
}

/// Processors that may not run as fast as they can.
fn frequency(root: &Root) -> Option<Check> {
    let mut capped = Vec::new();
    let (mut allowed, mut able) = (u64::MAX, 0);
    for (cpu, folder) in root.numbered(CPUS, "cpu") {
        let khz = |name: &str| root.number::<u64>(&format!("{folder}/cpufreq/{name}"));
        let (Some(most), Some(hardware)) = (khz("scaling_max_freq"), khz("cpuinfo_max_freq"))
        else {
            continue;
        };
        if most < hardware {
            capped.push(cpu);
            allowed = allowed.min(most);
        }
        able = able.max(hardware);
    }
    if able == 0 {
        return None;
    }
    let what = ("frequency", "");
    if capped.is_empty() {
        return Some(
            Check::ok(what, format!("up to {} MHz", able / 1000))
                .figure("most_mhz", able as f64 / 1e3),
        );
    }
    let check = Check::warn(
        what,
        format!(
            "processors {} may run at {} MHz of {}",
            ranges(&capped),
            allowed / 1000,
            able / 1000
        ),
        format!("cpupower frequency-set -u {able}"),
    );
    Some(check.figure("most_mhz", allowed as f64 / 1e3))
}

fn turbo(root: &Root) -> Option<Check> {
    let off = root.number::<u32>(&format!("{CPUS}/intel_pstate/no_turbo")) == Some(1)
        || root.number::<u32>(&format!("{CPUS}/cpufreq/boost")) == Some(0);
    off.then(|| {
        Check::warn(
            ("frequency", "turbo"),
            "switched off",
            "echo 1 > /sys/devices/system/cpu/cpufreq/boost, or 0 to intel_pstate/no_turbo, unless that is meant so",
        )
    })
}

fn throttling(root: &Root) -> Check {
    let what = ("throttling", "");
    let mut hot = Vec::new();
    let mut times = 0;
    for (cpu, folder) in root.numbered(CPUS, "cpu") {
        let count = |name: &str| {
            root.number::<u64>(&format!("{folder}/thermal_throttle/{name}_throttle_count"))
        };
        let seen = count("core")
            .unwrap_or(0)
            .max(count("package").unwrap_or(0));
        if seen > 0 {
            hot.push(cpu);
            times = times.max(seen);
        }
    }
    if hot.is_empty() {
        return Check::ok(what, "none seen since the start");
    }
    let check = Check::warn(
        what,
        format!(
            "processors {} were slowed down by heat or power, up to {times} times since the start",
            ranges(&hot)
        ),
        "look at fans, dust, air inlet temperature and power limits",
    );
    check.figure("throttled_count", times as f64)
}

fn offline(root: &Root) -> Option<Check> {
    let present = list(&root.text(&format!("{CPUS}/present"))?);
    let online = list(&root.text(&format!("{CPUS}/online"))?);
    let off: Vec<usize> = present
        .into_iter()
        .filter(|cpu| !online.contains(cpu))
        .collect();
    (!off.is_empty()).then(|| {
        Check::warn(
            ("processors", ""),
            format!("{} are switched off", ranges(&off)),
            "echo 1 > /sys/devices/system/cpu/cpuN/online, unless that is meant so",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn neighbours_are_one_range() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(ranges(&[]), "");
    }
}
