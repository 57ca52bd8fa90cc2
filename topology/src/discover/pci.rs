//! The tree of PCI devices, from where the links in `bus/pci/devices` point. Kept are graphics processors, network devices, and what leads to
//! them. It knows no port. Invariant: a device stands behind the one it hangs below.

use super::{names, parsed, read};
use crate::machine::{Address, Device, Kind, Link};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// By address, the index of a device.
pub type Index = BTreeMap<Address, usize>;

/// The host bridge and the devices on the way to a device's folder, as its path names them: `.../pci0000:00/0000:00:01.1/0000:01:00.0`.
pub fn way(path: &Path) -> Vec<Address> {
    let parts = path.iter().filter_map(|part| part.to_str());
    let mut way: Vec<Address> = Vec::new();
    for part in parts {
        match part.strip_prefix("pci").unwrap_or(part).parse() {
            // Bridges of other kinds (a controller with a domain of its own) begin anew.
            Ok(at @ Address { slot: None, .. }) if part.starts_with("pci") => way = vec![at],
            Ok(at @ Address { slot: Some(_), .. }) if !way.is_empty() => way.push(at),
            _ => {}
        }
    }
    way
}

/// The devices, depth first in the order of their addresses.
pub fn devices(sysfs: &Path) -> (Vec<Device>, Index) {
    let folder = sysfs.join("bus/pci/devices");
    let mut ways: BTreeSet<Vec<Address>> = BTreeSet::new();
    for name in names(&folder) {
        let wanted = matches!(kind(&folder.join(&name)), Some(Kind::Gpu | Kind::Nic));
        if let (true, Ok(target)) = (wanted, fs::read_link(folder.join(&name))) {
            let way = way(&target);
            for end in 1..=way.len() {
                ways.insert(way[..end].to_vec());
            }
        }
    }
    let (mut devices, mut index) = (Vec::new(), Index::new());
    // A way sorts right before those that go on from it.
    for way in ways {
        let Some((&address, above)) = way.split_last() else {
            continue;
        };
        let parent = above.last().and_then(|up| index.get(up).copied());
        index.insert(address, devices.len());
        devices.push(device(&folder, address, parent));
    }
    (devices, index)
}

fn device(folder: &Path, address: Address, parent: Option<usize>) -> Device {
    let folder = folder.join(address.to_string());
    let host = address.slot.is_none();
    let hex = |file: &str| {
        let text = read(&folder.join(file))?;
        u16::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    Device {
        address,
        parent,
        kind: if host {
            Kind::Host
        } else {
            kind(&folder).unwrap_or(Kind::Bridge)
        },
        model: hex("vendor").zip(hex("device")),
        // -1 where the firmware does not say.
        numa: parsed(&folder.join("numa_node")),
        link: link(&folder, "current"),
        most: link(&folder, "max"),
    }
}

/// What a device is, if it is of interest for itself: PCI's class, without the programming interface.
fn kind(folder: &Path) -> Option<Kind> {
    let text = read(&folder.join("class"))?;
    let class = u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()? >> 8;
    let vendor = read(&folder.join("vendor")).unwrap_or_default();
    match class {
        // A virtual function without an interface is a spare that nobody uses.
        0x0200 | 0x0207 | 0x0280 => {
            let spare = folder.join("physfn").exists()
                && !folder.join("net").exists()
                && !folder.join("infiniband").exists();
            (!spare).then_some(Kind::Nic)
        }
        // Only those who make processors for computing: a server's own screen and a virtual machine's are of these classes, too.
        0x0300 | 0x0380 => matches!(vendor.as_str(), "0x10de" | "0x1002").then_some(Kind::Gpu),
        0x0302 | 0x1200 => Some(Kind::Gpu),
        _ => None,
    }
}

/// `16.0 GT/s PCIe` and `16`. Virtual machines say `Unknown` and 0, 63 or 255.
fn link(folder: &Path, which: &str) -> Option<Link> {
    let speed = read(&folder.join(format!("{which}_link_speed")))?;
    let generation = match speed.split_whitespace().next()? {
        "2.5" => 1,
        "5" | "5.0" => 2,
        "8" | "8.0" => 3,
        "16" | "16.0" => 4,
        "32" | "32.0" => 5,
        "64" | "64.0" => 6,
        "128" | "128.0" => 7,
        _ => return None,
    };
    let lanes = parsed(&folder.join(format!("{which}_link_width")))?;
    matches!(lanes, 1..=32).then_some(Link { generation, lanes })
}
