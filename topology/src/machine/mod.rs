//! A machine as far as communication depends on it: processors, memory nodes, and the tree of PCI devices with graphics processors and
//! network ports at its leaves.
//!
//! A value, whoever made it: `discover` from sysfs, `text` from a file, a test by hand. It knows no rank and no clock. Invariant of a
//! machine that passed [`Machine::check`], as all of those did: devices stand in depth-first order (a parent before its children), and
//! every index and address in it leads somewhere.

mod cpus;
mod text;
mod way;

pub use cpus::Cpus;
pub use way::{Meeting, Way};

use std::fmt;

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// What people call it.
    pub name: String,
    /// CPUs that the process which looked may use.
    pub allowed: Cpus,
    /// Memory nodes, by number; at least one.
    pub numa: Vec<Numa>,
    /// Processor packages.
    pub sockets: Vec<Socket>,
    /// Data caches, from the nearest level outwards.
    pub caches: Vec<Cache>,
    /// Host bridges, and below them what leads to a graphics processor or a network device.
    pub devices: Vec<Device>,
    /// Network ports, in the order of their devices' addresses and then by name.
    pub ports: Vec<Port>,
}

/// A memory node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numa {
    /// The kernel's number.
    pub number: usize,
    /// Its CPUs.
    pub cpus: Cpus,
    /// Its memory in bytes; 0 where that is not known, or where it has none.
    pub bytes: u64,
    /// The firmware's distances to all nodes in order, 10 being its own; empty where not known.
    pub distances: Vec<u32>,
}

/// A processor package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The kernel's number.
    pub number: usize,
    /// The CPUs of each core.
    pub cores: Vec<Cpus>,
}

/// All data caches of one level and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// 1 is the nearest.
    pub level: u8,
    /// Bytes of each.
    pub bytes: u64,
    /// The CPUs that share each.
    pub shared: Vec<Cpus>,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A host bridge: where a PCI tree meets the processor.
    Host,
    /// A root port, or a port of a switch.
    Bridge,
    /// A graphics processor.
    Gpu,
    /// A network device.
    Nic,
}

impl Kind {
    const ALL: [(Kind, &'static str); 4] = [
        (Kind::Host, "host"),
        (Kind::Bridge, "bridge"),
        (Kind::Gpu, "gpu"),
        (Kind::Nic, "nic"),
    ];
}

/// A PCI address, `domain:bus:device.function`, or `domain:bus` of a host bridge. Ordered as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device and function; none for a host bridge.
    pub slot: Option<(u8, u8)>,
}

/// A PCI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Where it is.
    pub address: Address,
    /// Index of the device above it; none for host bridges.
    pub parent: Option<usize>,
    /// What it is.
    pub kind: Kind,
    /// Vendor and model, by PCI's numbers; none for host bridges.
    pub model: Option<(u16, u16)>,
    /// Number of its memory node, where the firmware says so.
    pub numa: Option<usize>,
    /// Its link as it runs now, where the system tells: the one to the device above, or of a root port and a lower port of a switch the one below.
    pub link: Option<Link>,
    /// The most that its side of that link can do.
    pub most: Option<Link>,
}

/// A PCI Express link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Generation, 1 to 7. Graphics processors that are idle run at 1.
    pub generation: u8,
    /// Lanes.
    pub lanes: u8,
}

impl Link {
    /// Bytes per second, one way, that the link's coding leaves; packets' headers take some more.
    pub fn bytes_per_second(self) -> f64 {
        let lane = match self.generation {
            0 | 1 => 0.25e9,
            2 => 0.5e9,
            // From here on 128 of 130 bits are data; the 6th generation codes in fixed packets instead.
            known => 8e9 / 8.0 * 128.0 / 130.0 * f64::from(1u32 << (known - 3).min(8)),
        };
        lane * f64::from(self.lanes)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gen{}x{}", self.generation, self.lanes)
    }
}

/// What a network port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// RDMA over InfiniBand.
    InfiniBand,
    /// RDMA over Ethernet.
    Roce,
    /// Sockets over Ethernet.
    Ethernet,
    /// Sockets over InfiniBand.
    IpOverInfiniBand,
}

impl Speaks {
    const ALL: [(Speaks, &'static str); 4] = [
        (Speaks::InfiniBand, "infiniband"),
        (Speaks::Roce, "roce"),
        (Speaks::Ethernet, "ethernet"),
        (Speaks::IpOverInfiniBand, "ipoib"),
    ];

    /// Whether it takes verbs, and not sockets.
    pub fn is_rdma(self) -> bool {
        matches!(self, Speaks::InfiniBand | Speaks::Roce)
    }
}

impl fmt::Display for Speaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(&Speaks::ALL, *self))
    }
}

/// A network port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Interface, or RDMA device and port (`mlx5_0:1`).
    pub name: String,
    /// What it speaks.
    pub speaks: Speaks,
    /// Index of its PCI device; none for a port made of software.
    pub device: Option<usize>,
    /// Megabits per second, where the port tells.
    pub megabits: Option<u32>,
    /// Whether it has a link.
    pub up: bool,
}

fn word<T: Copy + PartialEq>(all: &[(T, &'static str)], value: T) -> &'static str {
    all.iter().find(|(v, _)| *v == value).map_or("", |(_, w)| w)
}

impl Machine {
    /// The indices of the graphics processors, in the order of their addresses: their numbers, and CUDA's under
    /// `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    pub fn gpus(&self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.devices.len())
            .filter(|d| self.devices[*d].kind == Kind::Gpu)
            .collect();
        all.sort_by_key(|d| self.devices[*d].address);
        all
    }

    /// The number of the memory node of a device: what it says itself, or a device above it, or the only one there is.
    pub fn numa_of(&self, device: usize) -> Option<usize> {
        let mut at = Some(device);
        while let Some(d) = at {
            // A number that the kernel does not list is as good as none.
            if let Some(number) = self.devices[d].numa
                && self.numa.iter().any(|n| n.number == number)
            {
                return Some(number);
            }
            at = self.devices[d].parent;
        }
        self.only_numa()
    }

    /// The number of the memory node of a port, as [`Machine::numa_of`].
    pub fn numa_of_port(&self, port: usize) -> Option<usize> {
        match self.ports[port].device {
            Some(device) => self.numa_of(device),
            None => self.only_numa(),
        }
    }

    fn only_numa(&self) -> Option<usize> {
        match self.numa.as_slice() {
            [one] => Some(one.number),
            _ => None,
        }
    }

    /// The memory node with this number.
    pub fn numa(&self, number: usize) -> Option<&Numa> {
        self.numa.iter().find(|n| n.number == number)
    }

    /// All cores, those of one outermost cache side by side.
    pub fn cores(&self) -> Vec<Cpus> {
        let mut cores: Vec<Cpus> = self
            .sockets
            .iter()
            .flat_map(|s| s.cores.iter().cloned())
            .collect();
        let outermost = self.caches.last();
        cores.sort_by_key(|core| {
            let cache = outermost.and_then(|c| c.shared.iter().find(|s| core.within(s)));
            (cache.and_then(Cpus::first), core.first())
        });
        cores
    }

    /// The link that a device has for its bytes: as many lanes as it has now, at the speed that both ends can do, because idle devices lower
    /// their speed and never their lanes.
    pub fn link(&self, device: usize) -> Option<Link> {
        let d = &self.devices[device];
        let (now, most) = (d.link?, d.most.or(d.link)?);
        let above = d.parent.and_then(|up| self.devices[up].most);
        let generation = above.map_or(most.generation, |a| a.generation.min(most.generation));
        Some(Link {
            generation: generation.max(now.generation),
            lanes: now.lanes,
        })
    }

    /// What a wrong machine has wrong.
    ///
    /// # Errors
    /// The first thing that does not fit, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.numa.is_empty() {
            return Err("a machine has at least one memory node".to_owned());
        }
        if !self.numa.is_sorted_by(|a, b| a.number < b.number) {
            return Err("memory nodes do not ascend".to_owned());
        }
        for numa in &self.numa {
            if !numa.distances.is_empty() && numa.distances.len() != self.numa.len() {
                return Err(format!(
                    "memory node {} has {} distances for {} nodes",
                    numa.number,
                    numa.distances.len(),
                    self.numa.len()
                ));
            }
        }
        let mut path: Vec<usize> = Vec::new();
        for (d, device) in self.devices.iter().enumerate() {
            let says = |what: &str| Err(format!("device {} {what}", device.address));
            if self.devices[..d]
                .iter()
                .any(|o| o.address == device.address)
            {
                return says("is there twice");
            }
            if (device.kind == Kind::Host) != device.parent.is_none() {
                return says("is no host bridge below nothing or one below another device");
            }
            if (device.kind == Kind::Host) != device.address.slot.is_none() {
                return says("has an address that does not fit its kind");
            }
            // Depth first: the parent is on the path to the device before.
            let at = path.iter().position(|p| Some(*p) == device.parent);
            match (device.parent, at) {
                (None, _) => path.clear(),
                (Some(_), Some(at)) => path.truncate(at + 1),
                (Some(_), None) => return says("does not stand behind its parent"),
            }
            path.push(d);
            let leads = |up: usize| matches!(self.devices[up].kind, Kind::Host | Kind::Bridge);
            if device.parent.is_some_and(|up| !leads(up)) {
                return says("hangs below a device that is no bridge");
            }
        }
        for port in &self.ports {
            if port.device.is_some_and(|d| d >= self.devices.len()) {
                return Err(format!("port {} has a device that is not there", port.name));
            }
        }
        Ok(())
    }
}
