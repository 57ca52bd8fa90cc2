//! A machine and its ranks' places as text for people. It decides nothing.

use hfr_topology::{
    Machine, Placement,
    machine::{Device, Kind, Link, Port},
};
use std::fmt::Write;

/// Those who make what is of interest here, by PCI's numbers.
const MAKERS: [(u16, &str); 9] = [
    (0x1000, "Broadcom"),
    (0x1002, "AMD"),
    (0x1022, "AMD"),
    (0x10de, "NVIDIA"),
    (0x14e4, "Broadcom"),
    (0x15b3, "NVIDIA networking"),
    (0x1af4, "virtio"),
    (0x1d0f, "Amazon"),
    (0x8086, "Intel"),
];

/// All of it.
pub fn text(machine: &Machine, placement: &Placement) -> String {
    let mut text = processors(machine);
    text += &tree(machine);
    text += &ways(machine);
    text += &meetings(machine);
    text += &places(machine, placement);
    text += &rails(machine, placement);
    text
}

fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(shift, _)| bytes >> shift > 0);
    match unit {
        Some((shift, unit)) if bytes.is_multiple_of(1 << shift) => {
            format!("{} {unit}", bytes >> shift)
        }
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn numbers<T: ToString>(all: impl IntoIterator<Item = T>, between: &str) -> String {
    let texts: Vec<String> = all.into_iter().map(|n| n.to_string()).collect();
    texts.join(between)
}

fn processors(machine: &Machine) -> String {
    let cores = machine.cores();
    let cpus: usize = cores.iter().map(hfr_topology::Cpus::len).sum();
    let mut text = format!(
        "{}: {}, {}, {}, of which {} may be used ({})\n",
        if machine.name.is_empty() {
            "machine"
        } else {
            &machine.name
        },
        count(machine.sockets.len(), "socket"),
        count(cores.len(), "core"),
        count(cpus, "CPU"),
        machine.allowed.len(),
        machine.allowed
    );
    for n in &machine.numa {
        let _ = write!(
            text,
            "  memory node {}: {}, CPUs {}",
            n.number,
            size(n.bytes),
            n.cpus
        );
        if n.distances.len() > 1 {
            let _ = write!(text, ", distances {}", numbers(&n.distances, " "));
        }
        text += "\n";
    }
    let caches = machine.caches.iter();
    let each = caches.map(|c| format!("L{} {} x {}", c.level, size(c.bytes), c.shared.len()));
    let caches: Vec<String> = each.collect();
    if !caches.is_empty() {
        let _ = writeln!(text, "  caches: {}", caches.join(", "));
    }
    text
}

fn maker(device: &Device) -> String {
    let Some((vendor, model)) = device.model else {
        return String::new();
    };
    let name = MAKERS.iter().find(|(v, _)| *v == vendor);
    let name = name.map_or(String::new(), |(_, name)| format!("{name} "));
    format!(" ({name}{vendor:04x}:{model:04x})")
}

fn link(device: &Device) -> String {
    let rate = |link: Link| format!("{link} {:.1} GB/s", link.bytes_per_second() / 1e9);
    match (device.link, device.most) {
        (Some(now), Some(most)) if now != most => format!(" {} of {}", rate(now), rate(most)),
        (Some(now), _) => format!(" {}", rate(now)),
        (None, _) => String::new(),
    }
}

fn port(port: &Port) -> String {
    let speed = port.megabits.map_or(String::new(), |m| {
        format!(", {} Gbit/s", f64::from(m) / 1000.0)
    });
    let state = if port.up { "up" } else { "down" };
    format!("port {}: {}{speed}, {state}", port.name, port.speaks)
}

fn tree(machine: &Machine) -> String {
    let mut text = String::from("\n");
    let gpus = machine.gpus();
    let mut depth = vec![0; machine.devices.len()];
    for (d, device) in machine.devices.iter().enumerate() {
        depth[d] = device.parent.map_or(0, |up| depth[up] + 1);
        let what = match device.kind {
            Kind::Host => "host bridge".to_owned(),
            Kind::Bridge => "bridge".to_owned(),
            Kind::Nic => "network".to_owned(),
            Kind::Gpu => {
                let number = gpus.iter().position(|g| *g == d).unwrap_or(0);
                format!("GPU {number}")
            }
        };
        let leaf = matches!(device.kind, Kind::Gpu | Kind::Nic);
        let near = match machine.numa_of(d) {
            Some(number) if leaf => format!(", memory node {number}"),
            None if leaf => ", memory node not known".to_owned(),
            _ => String::new(),
        };
        let indent = 2 + 2 * depth[d];
        let (maker, link) = (maker(device), link(device));
        let _ = writeln!(
            text,
            "{:indent$}{} {what}{maker}{link}{near}",
            "", device.address
        );
        for one in machine.ports.iter().filter(|p| p.device == Some(d)) {
            let _ = writeln!(text, "{:indent$}  {}", "", port(one));
        }
    }
    for one in machine.ports.iter().filter(|p| p.device.is_none()) {
        let _ = writeln!(text, "  {}", port(one));
    }
    text
}

/// Graphics processors and network devices by the names that people know, with their indices.
fn ends(machine: &Machine) -> Vec<(String, usize)> {
    let gpus = machine.gpus().into_iter().enumerate();
    let mut ends: Vec<(String, usize)> = gpus.map(|(n, d)| (format!("GPU{n}"), d)).collect();
    for (d, device) in machine.devices.iter().enumerate() {
        if device.kind == Kind::Nic {
            ends.push((nic(machine, d), d));
        }
    }
    ends
}

/// The name of a network device: its first RDMA port's, or its first interface's, or its address.
fn nic(machine: &Machine, device: usize) -> String {
    let ports = || machine.ports.iter().filter(|p| p.device == Some(device));
    let first = ports()
        .find(|p| p.speaks.is_rdma())
        .or_else(|| ports().next());
    let name = first.and_then(|p| p.name.split(':').next());
    name.map_or_else(
        || machine.devices[device].address.to_string(),
        str::to_owned,
    )
}

fn ways(machine: &Machine) -> String {
    let ends = ends(machine);
    if ends.len() < 2 {
        return String::new();
    }
    let widest = ends
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut text = format!("\n  {:widest$}", "way");
    for (name, _) in &ends {
        let _ = write!(text, " {name:>widest$}");
    }
    text += "\n";
    for (name, a) in &ends {
        let _ = write!(text, "  {name:widest$}");
        for (_, b) in &ends {
            let _ = write!(text, " {:>widest$}", machine.way(*a, *b).to_string());
        }
        text += "\n";
    }
    text
}

fn meetings(machine: &Machine) -> String {
    let ends = ends(machine);
    let name = |d: &usize| {
        ends.iter()
            .find(|(_, e)| e == d)
            .map_or("", |(name, _)| name)
    };
    let mut text = String::new();
    for meeting in machine.meetings() {
        let who = numbers(meeting.devices.iter().map(name), ", ");
        let what = if meeting.host {
            "host bridge"
        } else {
            "the link of bridge"
        };
        let ceiling = match (meeting.ceiling, meeting.host) {
            (Some(bytes), _) => format!("{:.1} GB/s each way", bytes / 1e9),
            (None, true) => "what that bridge can carry, which is to be measured".to_owned(),
            (None, false) => "it does not tell its speed".to_owned(),
        };
        let _ = writeln!(text, "  {who} share {what} {}: {ceiling}", meeting.at);
    }
    if text.is_empty() {
        text
    } else {
        format!("\nShared on the way to the processor\n{text}")
    }
}

fn places(machine: &Machine, placement: &Placement) -> String {
    let mut rows =
        vec![["rank", "GPU", "memory", "CPUs", "threads on", "network"].map(str::to_owned)];
    let or_none = |n: Option<usize>| n.map_or("-".to_owned(), |n| n.to_string());
    for (rank, place) in placement.ranks.iter().enumerate() {
        let names = place
            .rails
            .iter()
            .map(|r| &machine.ports[placement.rails[*r]].name);
        let way = place.way.map_or(String::new(), |way| format!(" ({way})"));
        let shared = if place.own { "" } else { " shared" };
        let threads = place
            .threads
            .as_ref()
            .map_or("any".to_owned(), ToString::to_string);
        rows.push([
            rank.to_string(),
            or_none(place.gpu),
            or_none(place.numa),
            format!("{}{shared}", place.cpus),
            threads,
            if place.rails.is_empty() {
                "-".to_owned()
            } else {
                numbers(names, "+") + &way
            },
        ]);
    }
    let mut text = format!("\nPlaces of {}\n", count(placement.ranks.len(), "rank"));
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|r| r[column].len()).max().unwrap_or(0));
    for row in &rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, " {cell:width$} ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn rails(machine: &Machine, placement: &Placement) -> String {
    let mut text = String::from("\n");
    for (rail, port) in placement.rails.iter().enumerate() {
        let port = &machine.ports[*port];
        let ranks = placement.ranks.iter().enumerate();
        let users = ranks
            .filter(|(_, p)| p.rails.contains(&rail))
            .map(|(rank, _)| rank);
        let users: hfr_topology::Cpus = users.collect();
        let _ = writeln!(text, "  rail {rail}: {}, for ranks {users}", port.name);
    }
    let over = numbers(&placement.interleaved, ", ");
    let _ = writeln!(
        text,
        "  what ranks bring lies interleaved over memory nodes {over}"
    );
    let sums = match placement.common_sums() {
        Some(node) => format!("on memory node {node}, near the network"),
        None if placement.ranks.iter().any(|r| r.sums.is_some()) => {
            "interleaved, like the ports".to_owned()
        }
        None => "where the system puts them".to_owned(),
    };
    let _ = writeln!(text, "  sums, and what other machines send, lie {sums}");
    text
}
