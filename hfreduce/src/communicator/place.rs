//! This rank's place on its machine: which CPUs its threads run on, and where the node's sums lie. What the machine is comes from the system or
//! from a file; where who has its place is `hfr_topology`'s to say. Only the library's own threads that work for calls are bound, and only
//! inside the CPUs that the process has inherited: a caller's threads are the caller's, and those of the control plane sleep, and must run
//! when a rank's cores are busy. Invariant: all ranks of a machine with one description find places that fit together.

use super::{connect::start, hello::Hello};
use crate::{
    config::{Config, Place},
    error::Error,
};
use hfr_topology::{Cpus, Machine, Wish, machine::Address, place};
use hfr_transport::shm::Placement;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::{
    path::Path,
    sync::{Once, OnceLock},
};

/// The CPUs that this thread may use, as text; empty where the system has more than can be asked for.
pub fn inherited() -> String {
    let Ok(set) = sched_getaffinity(None) else {
        return String::new();
    };
    let cpus: Cpus = (0..CpuSet::MAX_CPU).filter(|c| set.is_set(*c)).collect();
    cpus.to_string()
}

/// How many ranks, this one among them, run on CPUs that this rank may use: its node's, and those of other nodes that are containers of this
/// machine or emulated on it, but not those that a launcher has bound elsewhere. Where CPUs cannot be told, all of the machine count.
pub fn sharing(hellos: &[Hello], rank: usize) -> usize {
    let cpus = |hello: &Hello| hello.cpus.parse::<Cpus>().unwrap_or_default();
    let (mine, own) = (&hellos[rank], cpus(&hellos[rank]));
    let shares = |other: &&Hello| {
        let theirs = cpus(other);
        let unknown = own.is_empty() || theirs.is_empty();
        other.machine == mine.machine && (unknown || !own.both(&theirs).is_empty())
    };
    hellos.iter().filter(shares).count()
}

/// Runs this thread on these CPUs from now on. They were this process's when they were chosen; if they no longer are, it stays where it is.
pub fn run_on(cpus: &[usize]) {
    let mut set = CpuSet::new();
    for cpu in cpus.iter().filter(|c| **c < CpuSet::MAX_CPU) {
        set.set(*cpu);
    }
    if let Err(why) = sched_setaffinity(None, &set) {
        tracing::debug!("a thread stays on all CPUs: {why}");
    }
}

/// Finds the place of this rank among those of its host. `ports` are the names of the network ports that its node uses. A place that is known
/// already keeps those of its ports that are among them.
pub fn find(config: &Config, hellos: &[Hello], ports: &[String]) -> Result<Place, Error> {
    if let Some(place) = &config.place {
        let mut place = place.clone();
        place.ports.retain(|(name, _)| ports.contains(name));
        return Ok(place);
    }
    let mine = &hellos[config.rank];
    let Some(machine) = machine(config)? else {
        return Ok(Place::default());
    };
    let gpus = machine.gpus();
    let wish = |hello: &Hello| {
        let address = hello
            .gpu_address
            .as_ref()
            .and_then(|a| a.parse::<Address>().ok());
        let known = |d: &usize| Some(machine.devices[*d].address) == address;
        Wish {
            gpu: gpus.iter().position(known),
            allowed: hello.cpus.parse().unwrap_or_default(),
            sends: hello.node == mine.node,
        }
    };
    let local: Vec<usize> = (0..hellos.len())
        .filter(|r| hellos[*r].host == mine.host)
        .collect();
    let wishes: Vec<Wish> = local.iter().map(|r| wish(&hellos[*r])).collect();
    let mut used: Vec<usize> = (0..machine.ports.len())
        .filter(|p| ports.contains(&machine.ports[*p].name))
        .collect();
    // A slower port would hold up what is divided among several; whoever names ports means them.
    if config.infiniband.hca.is_none() {
        let fastest = used.iter().map(|p| machine.ports[*p].megabits).max();
        used.retain(|p| Some(machine.ports[*p].megabits) == fastest);
    }
    let placement = place(&machine, &wishes, &used);
    let number = local.iter().position(|r| *r == config.rank).unwrap_or(0);
    let seat = &placement.ranks[number];
    let threads = seat.threads.as_ref().filter(|_| config.affinity);
    let port = |rail: &usize| (machine.ports[placement.rails[*rail]].name.clone(), *rail);
    let place = Place {
        threads: threads.map(|cpus| cpus.iter().collect()),
        // One rank sets the rule for all sums of a node.
        sums: match placement.common_sums() {
            Some(node) => Some(Placement::Near(node)),
            None => seat.sums.map(|_| Placement::Interleaved),
        },
        ports: seat.rails.iter().map(port).collect(),
    };
    report(config, &machine, threads, &place);
    Ok(place)
}

/// The machine as the file says, or the system; none, where neither does.
fn machine(config: &Config) -> Result<Option<Machine>, Error> {
    static FOUND: OnceLock<Option<Machine>> = OnceLock::new();
    if let Some(path) = &config.topology {
        let wrong = |cause: String| {
            start(
                format!(
                    "the description of this machine in {}: {cause}",
                    path.display()
                ),
                "write one with `hfr topo --dump FILE`, or unset HFR_TOPO_FILE",
            )
        };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        return text.parse().map(Some).map_err(wrong);
    }
    let discover = || match Machine::discover(Path::new("/sys"), "", None) {
        Ok(machine) => Some(machine),
        Err(why) => {
            tracing::debug!("threads and pages stay where the system puts them: {why}");
            None
        }
    };
    Ok(FOUND.get_or_init(discover).clone())
}

/// Says once in a process where its first rank has its place, and why.
fn report(config: &Config, machine: &Machine, threads: Option<&Cpus>, place: &Place) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let threads = match threads {
            Some(cpus) => format!("threads on CPUs {cpus} (HFR_AFFINITY=off leaves them alone)"),
            None if !config.affinity => "threads left alone (HFR_AFFINITY=off)".to_owned(),
            None => "threads on all inherited CPUs, none of which is nearer".to_owned(),
        };
        let ports: Vec<String> = place
            .ports
            .iter()
            .map(|(name, rail)| format!("{name} (rail {rail})"))
            .collect();
        let ports = ports.join(", ");
        let sums = match place.sums {
            Some(Placement::Near(node)) => format!("sums on memory node {node}, near {ports}"),
            Some(Placement::Interleaved) => {
                format!("sums over all memory nodes, like the ports; this rank uses {ports}")
            }
            None => "sums where the system puts them".to_owned(),
        };
        tracing::info!(
            "rank {} on a machine of {} memory nodes and {} GPUs: {threads}; {sums}",
            config.rank,
            machine.numa.len(),
            machine.gpus().len()
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::communicator::hello::hello;

    #[test]
    fn ranks_share_cores_where_their_cpus_overlap_on_one_machine() {
        let rank = |machine: &str, cpus: &str| {
            let mut one = hello(&Config::new(0, 1, "", b""), None).unwrap();
            one.machine = machine.to_owned();
            one.cpus = cpus.to_owned();
            one
        };
        let hellos = [
            rank("a", "0-3"),
            rank("a", "3-4"),
            rank("a", "4"),
            rank("b", "0-3"),
            rank("a", ""),
        ];
        let counts = [0, 1, 2, 3, 4].map(|r| sharing(&hellos, r));
        assert_eq!(counts, [3, 4, 3, 1, 4], "what cannot be told counts as all");
        let bound = ["0", "1", "2"].map(|cpus| rank("a", cpus));
        assert!((0..3).all(|r| sharing(&bound, r) == 1));
    }
}
