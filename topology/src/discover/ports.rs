//! Network ports, from `class/net` and `class/infiniband`. Interfaces made of software (bridges, loopback, one end of a pair) are none; RDMA
//! devices made of software are, because somebody made them to be used. It opens no device.

use super::{names, numbered, parsed, pci, read};
use crate::machine::{Port, Speaks};
use std::{fs, path::Path};

/// The ports, in the order of their devices and then by name.
pub fn ports(sysfs: &Path, index: &pci::Index) -> Vec<Port> {
    let net = sysfs.join("class/net");
    let device = |link: &Path| {
        let way = pci::way(&fs::read_link(link).ok()?);
        let address = way.last().copied()?;
        Some((address, *index.get(&address)?))
    };
    let mut found = Vec::new();
    for name in names(&net) {
        let folder = net.join(&name);
        // The kernel's numbers of kinds of interfaces (ARPHRD).
        let speaks = match read(&folder.join("type")).as_deref() {
            Some("1") => Speaks::Ethernet,
            Some("32") => Speaks::IpOverInfiniBand,
            _ => continue,
        };
        if let Some((address, device)) = device(&folder) {
            let port = Port {
                speaks,
                device: Some(device),
                // -1 where it has no link, or does not know.
                megabits: parsed(&folder.join("speed")),
                up: read(&folder.join("operstate")).is_some_and(|s| s == "up"),
                name: one_word(name),
            };
            found.push((Some(address), port));
        }
    }
    let rdma = sysfs.join("class/infiniband");
    for name in names(&rdma) {
        let folder = rdma.join(&name);
        let below = || {
            let parent = read(&folder.join("parent"))?;
            device(&net.join(parent))
        };
        let (address, device) = device(&folder).or_else(below).unzip();
        for (number, port) in numbered(&folder.join("ports"), "") {
            let native = read(&port.join("link_layer")).is_some_and(|l| l == "InfiniBand");
            let port = Port {
                name: one_word(format!("{name}:{number}")),
                speaks: if native {
                    Speaks::InfiniBand
                } else {
                    Speaks::Roce
                },
                device,
                megabits: rate(&port),
                // `4: ACTIVE`
                up: read(&port.join("state")).is_some_and(|s| s.starts_with('4')),
            };
            found.push((address, port));
        }
    }
    found.sort_by(|(a, p), (b, q)| (a, &p.name).cmp(&(b, &q.name)));
    found.into_iter().map(|(_, port)| port).collect()
}

/// `200 Gb/sec (4X HDR)`, or `2.5 Gb/sec (1X SDR)`.
fn rate(port: &Path) -> Option<u32> {
    let text = read(&port.join("rate"))?;
    let gigabits: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some((gigabits * 1000.0) as u32).filter(|m| *m > 0)
}

/// An interface may have nearly any name.
fn one_word(name: String) -> String {
    name.split_whitespace().collect::<Vec<_>>().join("_")
}
