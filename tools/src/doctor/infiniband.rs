//! Ports of RDMA devices: whether they are up, at how many lanes, as fast as their sisters, and what they have counted. It reads sysfs and
//! opens no device. Invariant: a port that is down is a failure unless another port of the same device is up.

use super::{check::Check, pcie, root::Root};

const DEVICES: &str = "sys/class/infiniband";

/// What a port counts, and how much of it is still ordinary. The first break of a link is mostly the machine's own start.
const COUNTERS: [(&str, u64); 5] = [
    ("link_downed", 1),
    ("link_error_recovery", 1),
    ("symbol_error", 1000),
    ("port_rcv_errors", 1000),
    ("local_link_integrity_errors", 0),
];

struct Port {
    /// Such as `mlx5_0/1`.
    name: String,
    folder: String,
    device: String,
    /// What the same kind of device has in common.
    kind: String,
    state: String,
    physical: String,
    gbits: f64,
    lanes: u32,
}

impl Port {
    fn active(&self) -> bool {
        self.state.contains("ACTIVE")
    }
}

/// How many ports are up.
pub fn active(root: &Root) -> usize {
    ports(root).iter().filter(|port| port.active()).count()
}

/// How many devices there are.
pub fn devices(root: &Root) -> usize {
    root.names(DEVICES).len()
}

fn ports(root: &Root) -> Vec<Port> {
    let mut found = Vec::new();
    for device in root.names(DEVICES) {
        let folder = format!("{DEVICES}/{device}/ports");
        for number in root.names(&folder) {
            let folder = format!("{folder}/{number}");
            let file = |name: &str| root.text(&format!("{folder}/{name}")).unwrap_or_default();
            let rate = file("rate");
            let lanes = rate
                .split_once('(')
                .and_then(|(_, rest)| rest.split_once('X'));
            let first = rate.split_whitespace().next();
            found.push(Port {
                name: format!("{device}/{number}"),
                kind: root
                    .text(&format!("{DEVICES}/{device}/hca_type"))
                    .unwrap_or_default(),
                device: device.clone(),
                state: file("state"),
                physical: file("phys_state"),
                gbits: first.and_then(|word| word.parse().ok()).unwrap_or(0.0),
                lanes: lanes
                    .and_then(|(lanes, _)| lanes.trim().parse().ok())
                    .unwrap_or(0),
                folder,
            });
        }
    }
    found
}

/// A check for each port.
pub fn checks(root: &Root) -> Vec<Check> {
    let ports = ports(root);
    let mut found = Vec::new();
    for port in &ports {
        found.push(state(root, port, &ports).figure("rate_gbit_s", port.gbits));
        found.extend(counters(root, port));
    }
    found
}

fn state(root: &Root, port: &Port, all: &[Port]) -> Check {
    let what = ("port", &*port.name);
    if !port.active() {
        return down(port, all);
    }
    let sister = |other: &&Port| other.active() && other.kind == port.kind && !port.kind.is_empty();
    let best = all
        .iter()
        .filter(sister)
        .map(|other| other.gbits)
        .fold(0.0, f64::max);
    // A driver of the kernel alone (rxe, siw) has no device on any bus, and no lanes that a cable could spoil.
    if port.lanes == 1 && root.has(&format!("{DEVICES}/{}/device", port.device)) {
        return Check::fail(
            what,
            format!("runs on one lane, at {} Gbit/s", port.gbits),
            "clean or replace the cable, and look at the port of the switch",
        );
    }
    if port.gbits < best {
        return Check::fail(
            what,
            format!("{} Gbit/s, other ports of the same kind {best}", port.gbits),
            "clean or replace the cable, and compare the speeds that the port of the switch allows",
        );
    }
    match pcie::carries(root, &format!("{DEVICES}/{}/device", port.device)) {
        Some(slot) if slot < port.gbits => Check::warn(
            what,
            format!("{} Gbit/s, but its PCIe link carries {slot:.0}", port.gbits),
            "see the check pcie: move it to a faster slot if that is all the slot can do",
        ),
        _ => Check::ok(
            what,
            format!("up, {} Gbit/s on {} lanes", port.gbits, port.lanes),
        ),
    }
}

fn down(port: &Port, all: &[Port]) -> Check {
    let name = |text: &str| text.split(':').next_back().unwrap_or("").trim().to_owned();
    let (state, physical) = (name(&port.state), name(&port.physical));
    let remedy = if state == "INIT" || state == "ARMED" {
        "the cable is well and no subnet manager answers: start one, or look at the one that runs"
    } else if physical == "Disabled" {
        "it is switched off: `rdma link` shows it, `ibportstate` or the driver's tools switch it on"
    } else {
        "no signal: look at the cable at both ends and at the port of the switch"
    };
    let finding = format!("{state} (physically {physical})");
    let what = ("port", &*port.name);
    let other = all
        .iter()
        .find(|other| other.device == port.device && other.active());
    match other {
        Some(other) => Check::warn(
            what,
            format!("{finding}, while {} is up", other.name),
            remedy,
        ),
        None => Check::fail(what, finding, remedy),
    }
}

fn counters(root: &Root, port: &Port) -> Option<Check> {
    let mut seen = Vec::new();
    for (name, ordinary) in COUNTERS {
        let value: u64 = root
            .number(&format!("{}/counters/{name}", port.folder))
            .unwrap_or(0);
        if value > ordinary {
            seen.push((name, value));
        }
    }
    if seen.is_empty() {
        return None;
    }
    let text: Vec<String> = seen
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let check = Check::warn(
        ("port-errors", &port.name),
        format!("since the counters' last reset: {}", text.join(", ")),
        "clean or replace the cable or transceiver; `perfquery -x -r` resets the counters, so that new errors show",
    );
    let count = |check: Check, (name, value): &(&str, u64)| {
        check.figure(&format!("{name}_count"), *value as f64)
    };
    Some(seen.iter().fold(check, count))
}
