//! How far two devices of a machine are from each other, and what they share on the way: pure questions to the tree. It measures nothing;
//! where a ceiling is known it is that of a link's coding, and a host bridge's own is for a benchmark to find.

use super::{Address, Kind, Machine};
use std::fmt;

/// The way between two devices, the shortest first. The names are those of `nvidia-smi topo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// One device.
    Same,
    /// Below one switch.
    Pix,
    /// Over several switches, below one root port.
    Pxb,
    /// Over one host bridge.
    Phb,
    /// Between host bridges of one memory node.
    Node,
    /// Between memory nodes, or not known to be shorter.
    Sys,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Same => "X",
            Way::Pix => "PIX",
            Way::Pxb => "PXB",
            Way::Phb => "PHB",
            Way::Node => "NODE",
            Way::Sys => "SYS",
        })
    }
}

/// A place where the ways of several devices to the processor meet: what they move together, they share there.
#[derive(Clone, Debug, PartialEq)]
pub struct Meeting {
    /// The host bridge, or the upper port of a switch.
    pub at: Address,
    /// Whether it is a host bridge.
    pub host: bool,
    /// Graphics processors and network devices below it.
    pub devices: Vec<usize>,
    /// Bytes per second, one way, that its link upwards can carry. None for host bridges: their ceiling is to be measured.
    pub ceiling: Option<f64>,
}

impl Machine {
    /// A device and all above it, up to the host bridge.
    fn upwards(&self, device: usize) -> Vec<usize> {
        std::iter::successors(Some(device), |d| self.devices[*d].parent).collect()
    }

    /// The way between two devices.
    pub fn way(&self, a: usize, b: usize) -> Way {
        if a == b {
            return Way::Same;
        }
        let (up_a, up_b) = (self.upwards(a), self.upwards(b));
        let Some(common) = up_a.iter().find(|d| up_b.contains(d)) else {
            return self.between(self.numa_of(a), self.numa_of(b));
        };
        if self.devices[*common].kind == Kind::Host {
            return Way::Phb;
        }
        // Functions of one device meet in the port right above them; devices of one switch in its upper port, one further up.
        let near = |up: &[usize]| up.iter().position(|d| d == common) <= Some(2);
        if near(&up_a) && near(&up_b) {
            Way::Pix
        } else {
            Way::Pxb
        }
    }

    /// The way between what is on two memory nodes.
    pub fn between(&self, a: Option<usize>, b: Option<usize>) -> Way {
        match (a, b) {
            (Some(a), Some(b)) if a == b => Way::Node,
            _ => Way::Sys,
        }
    }

    /// The firmware's distance between two memory nodes, 10 being none; where it says nothing, more than any.
    pub fn distance(&self, a: Option<usize>, b: Option<usize>) -> u32 {
        let listed = || {
            let from = self.numa(a?)?;
            let to = self.numa.iter().position(|n| Some(n.number) == b)?;
            from.distances.get(to).copied()
        };
        listed().unwrap_or(u32::MAX)
    }

    /// Where ways to the processor meet, in the devices' order.
    pub fn meetings(&self) -> Vec<Meeting> {
        let leaves: Vec<Vec<usize>> = (0..self.devices.len())
            .filter(|d| matches!(self.devices[*d].kind, Kind::Gpu | Kind::Nic))
            .map(|d| self.upwards(d))
            .collect();
        let meets = |at: usize| {
            let below: Vec<&Vec<usize>> = leaves.iter().filter(|up| up.contains(&at)).collect();
            // A port with a single way below it is part of that way.
            let step = |up: &&Vec<usize>| up.iter().rev().skip_while(|d| **d != at).nth(1).copied();
            let mut steps: Vec<_> = below.iter().map(step).collect();
            steps.dedup();
            if steps.len() < 2 || !matches!(self.devices[at].kind, Kind::Host | Kind::Bridge) {
                return None;
            }
            let host = self.devices[at].kind == Kind::Host;
            Some(Meeting {
                at: self.devices[at].address,
                host,
                devices: below.iter().map(|up| up[0]).collect(),
                ceiling: self
                    .link(at)
                    .filter(|_| !host)
                    .map(|l| l.bytes_per_second()),
            })
        };
        (0..self.devices.len()).filter_map(meets).collect()
    }
}
