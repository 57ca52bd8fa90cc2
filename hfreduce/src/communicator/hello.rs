//! What every rank tells all others first, and what it must have in common with them. It opens nothing. Invariant: a shape that comes from
//! here is the same on every rank.

use super::{
    connect::{memory, start},
    place, rdma,
};
use crate::{
    config::{Config, Wire},
    device,
    error::Error,
    plan::Shape,
    tuning::{Measured, Tuning},
};
use hfr_transport::shm::{Permit, random_token, unique_address};
use serde::{Deserialize, Serialize};

/// What every rank tells all others first.
#[derive(Clone, Serialize, Deserialize)]
pub struct Hello {
    /// Version, and a hash of the sources: ranks of two builds need not agree on what lies where.
    pub build: String,
    pub node: String,
    /// Ranks with equal hosts see one system, even where they claim different nodes.
    pub host: String,
    /// Containers of one machine have names of their own and may still run on the same CPUs.
    pub machine: String,
    pub pid: u32,
    pub cores: usize,
    pub wire: Wire,
    /// Whether this rank could use the verbs wire.
    pub verbs: bool,
    /// Where this rank gathers its node's descriptors, if it is the first of its node.
    pub meeting: String,
    pub token: [u8; 32],
    pub algorithm: Option<String>,
    pub slots: usize,
    pub heap: Option<usize>,
    pub gpu: bool,
    /// PCI address of the device that is current, in the driver's words.
    pub gpu_address: Option<String>,
    /// CPUs that the rank has inherited, as the kernel lists them; empty where they cannot be told.
    pub cpus: String,
    pub zone: Option<String>,
    /// What others need to read this rank's memory, if they may.
    pub permit: Option<Permit>,
    /// Rank 0's alone: all choose by one model.
    pub tuning: Option<Measured>,
}

pub fn hello(config: &Config, permit: Option<Permit>) -> Result<Hello, Error> {
    Ok(Hello {
        build: concat!(env!("CARGO_PKG_VERSION"), " of ", env!("HFR_SOURCES")).to_owned(),
        node: config.node.clone(),
        host: crate::launch::node_identity(&|_| None),
        machine: crate::launch::machine_identity(),
        pid: std::process::id(),
        cores: config.cores(),
        wire: config.wire,
        verbs: rdma::usable(config)?,
        meeting: unique_address("node").map_err(memory)?,
        token: random_token().map_err(memory)?,
        algorithm: config.algorithm.clone(),
        slots: config.slots,
        heap: config.heap,
        gpu: config.on_gpus(),
        gpu_address: device::current_address(),
        cpus: place::inherited(),
        zone: config.zone.clone(),
        permit,
        tuning: tuning(config)?,
    })
}

/// The figures that this rank brings for all: only rank 0 does, so that the file is needed in one place.
pub fn tuning(config: &Config) -> Result<Option<Measured>, Error> {
    let first = config.tuning.as_ref().filter(|_| config.rank == 0);
    first.map(Tuning::load).transpose()
}

/// Settings that must be the same everywhere.
pub fn agree(hellos: &[Hello]) -> Result<(), Error> {
    for (r, h) in hellos.iter().enumerate() {
        let first = &hellos[0];
        let differs = |what: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
            start(
                format!("rank 0 has {what} {a:?}, rank {r} has {b:?}"),
                "start all ranks with the same settings and build",
            )
        };
        if h.build != first.build {
            return Err(differs("build", &first.build, &h.build));
        }
        if h.wire != first.wire {
            return Err(differs("HFR_TRANSPORT", &first.wire, &h.wire));
        }
        if h.slots != first.slots {
            return Err(differs("slots", &first.slots, &h.slots));
        }
        if h.heap != first.heap {
            return Err(differs("heap", &first.heap, &h.heap));
        }
        if h.algorithm != first.algorithm {
            return Err(differs("HFR_ALGO", &first.algorithm, &h.algorithm));
        }
        if h.zone.is_some() != first.zone.is_some() {
            let has = |h: &Hello| {
                h.zone
                    .clone()
                    .map_or("none".to_owned(), |z| format!("`{z}`"))
            };
            return Err(start(
                format!(
                    "the zone of rank 0 is {}, that of rank {r} is {}",
                    has(first),
                    has(h)
                ),
                "set HFR_ZONE to the name of its zone on every rank, or on none",
            ));
        }
        let beside = hellos.iter().position(|o| o.node == h.node).unwrap_or(r);
        if h.zone != hellos[beside].zone {
            return Err(start(
                format!(
                    "ranks {beside} and {r} share node `{}` and claim two zones, {:?} and {:?}",
                    h.node, hellos[beside].zone, h.zone
                ),
                "set HFR_ZONE to the zone of the machine, the same for all of its ranks",
            ));
        }
    }
    Ok(())
}

/// Which ranks share a node. Ranks of one node must be consecutive.
pub fn nodes(hellos: &[Hello], rank: usize) -> Result<(Shape, usize), Error> {
    let mut names: Vec<&str> = Vec::new();
    let mut counts: Vec<usize> = Vec::new();
    for (r, hello) in hellos.iter().enumerate() {
        if names.last() == Some(&hello.node.as_str()) {
            counts[names.len() - 1] += 1;
        } else if names.contains(&hello.node.as_str()) {
            return Err(start(
                format!(
                    "the ranks of node `{}` are not consecutive: rank {r} is on it again after ranks of other nodes",
                    hello.node
                ),
                "number ranks node by node (mpirun --map-by slot, srun --distribution=block)",
            ));
        } else {
            names.push(&hello.node);
            counts.push(1);
        }
    }
    let first = |name: &&str| hellos.iter().find(|h| h.node == **name);
    let zone = |name: &&str| first(name).and_then(|h| h.zone.as_deref());
    let zones: Vec<_> = names.iter().map(zone).collect();
    let number = |zone: &Option<&str>| zones.iter().position(|z| z == zone).unwrap_or(0);
    let numbers: Vec<usize> = zones.iter().map(number).collect();
    let shape = Shape::new(&counts).in_zones(&numbers);
    let node = shape.node_of(rank);
    Ok((shape, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_builds_of_one_version_do_not_meet() {
        let ours = hello(&Config::new(0, 2, "", b""), None).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let sources = ours.build.strip_prefix(version).unwrap();
        assert!(
            sources.len() > 16,
            "no hash behind the version: {}",
            ours.build
        );
        assert!(agree(&[ours.clone(), ours.clone()]).is_ok());
        let mut theirs = ours.clone();
        theirs.build = format!("{version} of another");
        let refused = agree(&[ours.clone(), theirs]).unwrap_err().to_string();
        let told = format!(
            "rank 0 has build {:?}, rank 1 has \"{version} of another\"",
            ours.build
        );
        assert!(refused.starts_with(&told), "{refused}");
    }
}
