//! Network interfaces with a device behind them: link, speed against their sisters, duplex, and what they have counted. It reads sysfs alone.
//! Invariant: an interface that is switched off is no finding unless the settings name it.

use super::{check::Check, root::Root};
use hfr_transport::net::Selector;

const INTERFACES: &str = "sys/class/net";
/// Changes of the link since the start: a few are the start itself.
const CHANGES: u64 = 10;
/// One damaged packet in this many is more than a sound cable has.
const DAMAGED: u64 = 1_000_000;

struct Interface {
    name: String,
    on: bool,
    carrier: bool,
    /// Mbit/s, where the driver tells; virtual ones do not.
    speed: Option<u64>,
    half: bool,
    /// What sisters have in common: vendor and device.
    kind: String,
    /// Whether the settings choose it by name.
    chosen: bool,
}

fn interfaces(root: &Root, selector: Option<&str>) -> Vec<Interface> {
    let selector = selector
        .map(Selector::parse)
        .filter(|selector| !selector.excludes());
    let names = root.names(INTERFACES).into_iter();
    names
        .filter(|name| root.has(&format!("{INTERFACES}/{name}/device")))
        .map(|name| {
            let file = |file: &str| root.text(&format!("{INTERFACES}/{name}/{file}"));
            let flags = file("flags").unwrap_or_default();
            let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
            let speed = file("speed").and_then(|text| text.parse::<u64>().ok());
            let kind =
                ["vendor", "device"].map(|id| file(&format!("device/{id}")).unwrap_or_default());
            Interface {
                on: flags & 1 == 1,
                carrier: file("carrier").as_deref() == Some("1"),
                // An unknown speed is -1, or all ones where the kernel is older.
                speed: speed.filter(|speed| (1..1 << 31).contains(speed)),
                half: file("duplex").as_deref() == Some("half"),
                kind: kind.join(" "),
                chosen: selector
                    .as_ref()
                    .is_some_and(|selector| selector.allows(&name)),
                name,
            }
        })
        .collect()
}

/// Interfaces with a link, and how many.
pub fn up(root: &Root) -> usize {
    interfaces(root, None)
        .iter()
        .filter(|one| one.carrier)
        .count()
}

/// A check for each interface; `selector` is the setting that chooses among them.
pub fn checks(root: &Root, selector: Option<&str>) -> Vec<Check> {
    let all = interfaces(root, selector);
    let mut found = Vec::new();
    for one in &all {
        let check = state(root, one, &all);
        found.push(match one.speed {
            Some(speed) if one.carrier => check.figure("rate_gbit_s", speed as f64 / 1e3),
            _ => check,
        });
        if one.carrier {
            found.extend(counters(root, one));
        }
    }
    found
}

fn state(root: &Root, one: &Interface, all: &[Interface]) -> Check {
    let what = ("interface", &*one.name);
    if !one.on {
        return if one.chosen {
            let remedy = format!(
                "ip link set {} up, or choose another with HFR_SOCKET_IFNAME",
                one.name
            );
            Check::fail(what, "switched off, and the settings name it", remedy)
        } else {
            Check::ok(what, "switched off")
        };
    }
    if !one.carrier {
        let remedy = format!(
            "look at the cable at both ends and at the switch; if it is not to be used, ip link set {} down",
            one.name
        );
        let alone = !all.iter().any(|other| other.carrier);
        return if one.chosen || alone {
            Check::fail(what, "no link", remedy)
        } else {
            Check::warn(what, "no link", remedy)
        };
    }
    let gbits = |speed: u64| speed as f64 / 1e3;
    let said = one.speed.map_or("speed unknown".to_owned(), |speed| {
        format!("{} Gbit/s", gbits(speed))
    });
    if one.half {
        return Check::fail(
            what,
            format!("{said}, half duplex"),
            "let both ends negotiate, or set both to full duplex",
        );
    }
    let sister = |other: &&Interface| other.carrier && other.kind == one.kind;
    let best = all
        .iter()
        .filter(sister)
        .filter_map(|other| other.speed)
        .max();
    if let (Some(speed), Some(best)) = (one.speed, best)
        && speed < best
    {
        return Check::warn(
            what,
            format!("{said}, another of the same kind {}", gbits(best)),
            "if both are meant to be alike: look at the cable, and at the speed of the switch's port",
        );
    }
    let mtu: u64 = root
        .number(&format!("{INTERFACES}/{}/mtu", one.name))
        .unwrap_or(0);
    Check::ok(what, format!("up, {said}, MTU {mtu}"))
}

fn counters(root: &Root, one: &Interface) -> Option<Check> {
    let count = |file: &str| -> u64 {
        root.number(&format!("{INTERFACES}/{}/{file}", one.name))
            .unwrap_or(0)
    };
    let changes = count("carrier_changes");
    let (damaged, packets) = (
        count("statistics/rx_crc_errors"),
        count("statistics/rx_packets"),
    );
    let many = damaged.saturating_mul(DAMAGED) > packets;
    if changes <= CHANGES && !many {
        return None;
    }
    let check = Check::warn(
        ("interface-errors", &one.name),
        format!(
            "since the start: {changes} changes of the link, {damaged} damaged of {packets} packets"
        ),
        "clean or replace the cable or transceiver",
    );
    let check = check.figure("link_changes_count", changes as f64);
    Some(check.figure("damaged_count", damaged as f64))
}
