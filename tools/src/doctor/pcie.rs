//! PCIe links of GPUs and network devices: what they run at, against what device and slot can do together. It reads sysfs and knows no driver.
//! Invariant: a virtual function, or a link whose speed the kernel does not tell, is no finding.

use super::{check::Check, root::Root};

const DEVICES: &str = "sys/bus/pci/devices";
/// Vendors whose display and accelerator devices are GPUs that compute: NVIDIA and AMD. The others' are mostly a board's console.
const GPU_VENDORS: [&str; 2] = ["0x10de", "0x1002"];
/// Corrected errors are repeated transfers: some are ordinary, thousands are a bad contact.
const CORRECTED: u64 = 1000;

/// What a device is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Computes.
    Gpu,
    /// Ethernet or InfiniBand.
    Nic,
}

/// Speed in GT/s and number of lanes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Link {
    speed: f64,
    lanes: u32,
}

impl Link {
    /// Payload in Gbit/s: 8b/10b up to 5 GT/s, 128b/130b above.
    fn gbits(self) -> f64 {
        let coding = if self.speed > 5.0 { 128.0 / 130.0 } else { 0.8 };
        self.speed * f64::from(self.lanes) * coding
    }
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} GT/s x{}", self.speed, self.lanes)
    }
}

/// Every GPU and NIC, by address.
pub fn devices(root: &Root) -> Vec<(String, Role)> {
    let role = |address: &String| {
        let file = |name: &str| root.text(&format!("{DEVICES}/{address}/{name}"));
        let (class, vendor) = (file("class")?, file("vendor").unwrap_or_default());
        if root.has(&format!("{DEVICES}/{address}/physfn")) {
            return None;
        }
        match class.get(..6)? {
            "0x0300" | "0x0302" | "0x0380" | "0x1200" if GPU_VENDORS.contains(&&*vendor) => {
                Some(Role::Gpu)
            }
            // 0x0c06 is how InfiniBand was announced before it had a class of its own, 0x0207.
            "0x0200" | "0x0207" | "0x0280" | "0x0c06" => Some(Role::Nic),
            _ => None,
        }
    };
    let all = root.names(DEVICES);
    all.into_iter()
        .filter_map(|address| Some((address.clone(), role(&address)?)))
        .collect()
}

/// A check for each link that can be read.
pub fn checks(root: &Root) -> Vec<Check> {
    let mut found = Vec::new();
    for (address, role) in devices(root) {
        let subject = subject(root, &address, role);
        found.extend(link(root, &address, role, &subject));
        found.extend(errors(root, &address, &subject));
    }
    found
}

/// The address, and the names under which people know it.
fn subject(root: &Root, address: &str, role: Role) -> String {
    if role == Role::Gpu {
        return format!("GPU {address}");
    }
    let names =
        ["infiniband", "net"].map(|kind| root.names(&format!("{DEVICES}/{address}/{kind}")));
    let names = names.concat();
    if names.is_empty() {
        return format!("NIC {address}");
    }
    format!("NIC {address} ({})", names.join(", "))
}

fn read(root: &Root, address: &str, which: &str) -> Option<Link> {
    let file = |name: &str| format!("{DEVICES}/{address}/{which}_link_{name}");
    // A device that is off says "Unknown", 0 lanes, or 255.
    let speed = root.number(&file("speed"))?;
    let lanes = root.number(&file("width"))?;
    (speed > 0.0 && (1..=32).contains(&lanes)).then_some(Link { speed, lanes })
}

/// What the device above can do: a port of the CPU or of a switch. None where there is none, as in most virtual machines.
fn slot(root: &Root, address: &str) -> Option<Link> {
    let way = root.link(&format!("{DEVICES}/{address}"));
    let above = way.len().checked_sub(2).and_then(|at| way.get(at))?;
    read(root, above, "max")
}

fn link(root: &Root, address: &str, role: Role, subject: &str) -> Option<Check> {
    let what = ("pcie", subject);
    let (now, able) = (read(root, address, "current")?, read(root, address, "max")?);
    let slot = slot(root, address).unwrap_or(able);
    let both = Link {
        speed: able.speed.min(slot.speed),
        lanes: able.lanes.min(slot.lanes),
    };
    let check = if now.lanes < both.lanes {
        Check::fail(
            what,
            format!("runs at {now}, device and slot can do {both}"),
            "reseat the card and its riser or cable, and look at the slot's bifurcation in the firmware",
        )
    } else if now.speed < both.speed && role == Role::Gpu {
        Check::warn(
            what,
            format!("runs at {now}, device and slot can do {both}"),
            "an idle GPU slows its link down: look again while it works; if it stays, reseat the card",
        )
    } else if now.speed < both.speed {
        Check::fail(
            what,
            format!("runs at {now}, device and slot can do {both}"),
            "reseat the card and its riser or cable, and look at the slot's speed in the firmware",
        )
    } else if both.lanes < able.lanes {
        Check::warn(
            what,
            format!("runs at {now}, all that its slot has; the device could do {able}"),
            "move it to a slot with all lanes",
        )
    } else if both.speed < able.speed {
        Check::ok(
            what,
            format!("{now}, all that its slot can do (the device: {able})"),
        )
    } else {
        Check::ok(what, now.to_string())
    };
    let check = check.figure("now_gbit_s", now.gbits());
    Some(check.figure("able_gbit_s", both.gbits()))
}

/// What the device has reported of its link since the start of the machine.
fn errors(root: &Root, address: &str, subject: &str) -> Option<Check> {
    let total = |kind: &str| {
        let text = root.text(&format!("{DEVICES}/{address}/aer_dev_{kind}"))?;
        let line = text.lines().find(|line| line.starts_with("TOTAL_ERR"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let lost = total("fatal").unwrap_or(0) + total("nonfatal").unwrap_or(0);
    let corrected = total("correctable").unwrap_or(0);
    if lost == 0 && corrected < CORRECTED {
        return None;
    }
    let check = Check::warn(
        ("pcie-errors", subject),
        format!("{lost} uncorrected and {corrected} corrected errors since the start"),
        "reseat the card and its riser; if the number grows, replace them (dmesg names the kind of error)",
    );
    let check = check.figure("uncorrected_count", lost as f64);
    Some(check.figure("corrected_count", corrected as f64))
}

/// Gbit/s that the link of a device can carry now.
pub fn carries(root: &Root, device: &str) -> Option<f64> {
    let way = root.link(device);
    Some(read(root, way.last()?, "current")?.gbits())
}
