//! Where the ranks of a machine have their place: memory node, cores, and network ports. A pure function of the machine and of what the ranks
//! bring, so that all ranks of a machine compute the same.
//!
//! The rules, after the Fire-Flyer paper (section IV-D1) and what NCCL's users expect:
//! - a rank is on the memory node of its graphics processor; ranks without one are dealt to the nodes by cores, neighbours together;
//! - the cores of a node are dealt to its ranks whole, and only inside the CPUs that a rank has inherited: ranks that a launcher has bound
//!   already share with those alone that have the same CPUs;
//! - a rank sends over the nearest port, the one with fewest ranks among equally near ones; a port that nobody is nearest to is one more
//!   for a rank that is, so that large messages can be striped;
//! - equal positions among the ports of two machines are one rail, on which peers speak where both have it;
//! - what ranks bring lies interleaved over all memory nodes, sums near the port.
//!
//! It binds nothing itself. Invariant: a rank's CPUs are some of those it has inherited, and never none of them.

use crate::machine::{Cpus, Machine, Way};
use std::collections::BTreeMap;

/// What a rank brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Number of its graphics processor, as [`Machine::gpus`] counts.
    pub gpu: Option<usize>,
    /// CPUs that it has inherited.
    pub allowed: Cpus,
    /// Whether it sends over the ports: one of another node that is played on the same machine has ports of its own.
    pub sends: bool,
}

/// The places of all ranks of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Indices of the ports in use; the position is the rail.
    pub rails: Vec<usize>,
    /// By local rank.
    pub ranks: Vec<Place>,
    /// Numbers of the memory nodes that what ranks bring is interleaved over.
    pub interleaved: Vec<usize>,
}

/// The place of a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of its graphics processor.
    pub gpu: Option<usize>,
    /// Number of its memory node.
    pub numa: Option<usize>,
    /// The CPUs of its share of cores.
    pub cpus: Cpus,
    /// Whether nobody else has them.
    pub own: bool,
    /// Where threads that work for the rank run best; none, where that is everywhere it may run.
    pub threads: Option<Cpus>,
    /// The rails it uses, its main one first. A message that is large enough is striped over all of them.
    pub rails: Vec<usize>,
    /// The way from its graphics processor, or its memory node, to its main port.
    pub way: Option<Way>,
    /// Number of the memory node near its main port: for sums, and for what other machines send.
    pub sums: Option<usize>,
}

/// A thread that is bound has no way out when others sit on its CPU: a share with fewer cores than this is not bound to.
const LEAST_CORES: usize = 2;

/// Places ranks. `ports` are the indices of the ports to use; [`Machine::best_ports`] where nothing else is asked for.
///
/// # Panics
/// When a port or a graphics processor is not there.
pub fn place(machine: &Machine, ranks: &[Wish], ports: &[usize]) -> Placement {
    let numa = nodes(machine, ranks);
    let cpus = shares(machine, ranks, &numa);
    let gpus = machine.gpus();
    let way = |rank: usize, rail: usize| {
        let port = &machine.ports[ports[rail]];
        match (ranks[rank].gpu, port.device) {
            (Some(gpu), Some(device)) => machine.way(gpus[gpu], device),
            _ => machine.between(numa[rank], machine.numa_of_port(ports[rail])),
        }
    };
    // Between memory nodes those of one socket are nearer.
    let far = |rank: usize, rail: usize| {
        let port = machine.numa_of_port(ports[rail]);
        (way(rank, rail), machine.distance(numa[rank], port))
    };
    let rails = rails(ranks, ports.len(), &far);
    let places = ranks.iter().zip(cpus).zip(rails).enumerate();
    let placed = places.map(|(rank, ((wish, share), rails))| {
        let main = rails.first().copied();
        Place {
            gpu: wish.gpu,
            numa: numa[rank],
            threads: threads(machine, wish, numa[rank], &share),
            cpus: share.cpus,
            own: share.own,
            way: main.map(|rail| way(rank, rail)),
            sums: main.and_then(|rail| machine.numa_of_port(ports[rail])),
            rails,
        }
    });
    Placement {
        ranks: placed.collect(),
        rails: ports.to_vec(),
        interleaved: machine
            .numa
            .iter()
            .filter(|n| n.bytes > 0 || machine.numa.len() == 1)
            .map(|n| n.number)
            .collect(),
    }
}

impl Placement {
    /// The memory node for the sums of all ranks that send, if it is one.
    pub fn common_sums(&self) -> Option<usize> {
        let mut senders = self.ranks.iter().filter(|rank| !rank.rails.is_empty());
        let first = senders.next()?.sums;
        first.filter(|_| senders.all(|rank| rank.sums == first))
    }
}

impl Machine {
    /// The ports that a job uses if nobody says otherwise: those that are up and the fastest of their kind, RDMA before sockets. A slower one
    /// would hold up what is striped over it.
    pub fn best_ports(&self) -> Vec<usize> {
        let up: Vec<usize> = (0..self.ports.len())
            .filter(|p| self.ports[*p].up)
            .collect();
        let rdma = up.iter().any(|p| self.ports[*p].speaks.is_rdma());
        let of_kind = up
            .into_iter()
            .filter(|p| self.ports[*p].speaks.is_rdma() == rdma);
        let of_kind: Vec<usize> = of_kind.collect();
        let fastest = of_kind.iter().map(|p| self.ports[*p].megabits).max();
        of_kind
            .into_iter()
            .filter(|p| Some(self.ports[*p].megabits) == fastest)
            .collect()
    }
}

/// Cores of a machine that a rank may use, whole or what is allowed of them.
fn cores(machine: &Machine, allowed: &Cpus, within: Option<usize>) -> Vec<Cpus> {
    let node = within.and_then(|number| machine.numa(number));
    let mine = |core: Cpus| {
        let core = core.both(allowed);
        node.map_or(core.clone(), |n| core.both(&n.cpus))
    };
    let cores = machine.cores().into_iter().map(mine);
    cores.filter(|core| !core.is_empty()).collect()
}

/// Ranks that have inherited the same CPUs, with their positions among those.
fn groups(ranks: &[Wish]) -> Vec<(usize, usize)> {
    let mut seen: BTreeMap<&Cpus, usize> = BTreeMap::new();
    let positions: Vec<usize> = ranks
        .iter()
        .map(|r| {
            let count = seen.entry(&r.allowed).or_default();
            *count += 1;
            *count - 1
        })
        .collect();
    let sizes = ranks.iter().map(|r| seen[&r.allowed]);
    positions.into_iter().zip(sizes).collect()
}

/// The memory node of each rank.
fn nodes(machine: &Machine, ranks: &[Wish]) -> Vec<Option<usize>> {
    let gpus = machine.gpus();
    let groups = groups(ranks);
    let node = |(wish, &(position, size)): (&Wish, &(usize, usize))| {
        if let Some(gpu) = wish.gpu {
            return machine.numa_of(gpus[gpu]);
        }
        // The core in the middle of the rank's part of all cores, taken node by node, says which node.
        let by_node: Vec<(usize, usize)> = machine
            .numa
            .iter()
            .map(|n| {
                (
                    n.number,
                    cores(machine, &wish.allowed, Some(n.number)).len(),
                )
            })
            .collect();
        let all: usize = by_node.iter().map(|(_, cores)| cores).sum();
        let middle = (2 * position + 1) * all / (2 * size);
        let mut before = 0;
        by_node.into_iter().find_map(|(number, cores)| {
            before += cores;
            (middle < before).then_some(number)
        })
    };
    ranks.iter().zip(&groups).map(node).collect()
}

/// CPUs that a rank has, and whether they are its own.
struct Share {
    cpus: Cpus,
    own: bool,
    cores: usize,
}

/// Deals the cores out.
fn shares(machine: &Machine, ranks: &[Wish], numa: &[Option<usize>]) -> Vec<Share> {
    let sharers = |rank: usize| {
        (0..ranks.len())
            .filter(move |r| numa[*r] == numa[rank] && ranks[*r].allowed == ranks[rank].allowed)
    };
    let share = |rank: usize| {
        let (position, size) = (
            sharers(rank).take_while(|r| *r != rank).count(),
            sharers(rank).count(),
        );
        let allowed = &ranks[rank].allowed;
        let near = cores(machine, allowed, numa[rank]);
        // The node may have no CPU, or none that the rank may use: then they are dealt without regard to nodes, and shared.
        let strange = near.is_empty();
        let all = if strange {
            cores(machine, allowed, None)
        } else {
            near
        };
        if strange || all.len() < size {
            let cpus: Cpus = all.iter().collect();
            return Share {
                // CPUs that the machine's description does not have at all.
                cpus: if cpus.is_empty() {
                    allowed.clone()
                } else {
                    cpus
                },
                own: size == 1 && !strange,
                cores: all.len(),
            };
        }
        let part = position * all.len() / size..(position + 1) * all.len() / size;
        let cores = part.len();
        Share {
            cpus: all[part].iter().collect(),
            own: true,
            cores,
        }
    };
    (0..ranks.len()).map(share).collect()
}

/// A rank's share if it is large enough, else all of its memory node; nothing, if that is all it may use.
fn threads(machine: &Machine, wish: &Wish, numa: Option<usize>, share: &Share) -> Option<Cpus> {
    let near = || {
        let node = machine.numa(numa?)?.cpus.both(&wish.allowed);
        (!node.is_empty()).then_some(node)
    };
    let best = if share.own && share.cores >= LEAST_CORES {
        Some(share.cpus.clone())
    } else {
        near()
    };
    best.filter(|cpus| cpus.len() < wish.allowed.len())
}

/// The rails of each rank, its main one first.
fn rails<Far: Ord>(
    ranks: &[Wish],
    ports: usize,
    far: &dyn Fn(usize, usize) -> Far,
) -> Vec<Vec<usize>> {
    let mut users = vec![0usize; ports];
    let mut rails: Vec<Vec<usize>> = Vec::with_capacity(ranks.len());
    for (rank, wish) in ranks.iter().enumerate() {
        let nearest = (0..ports)
            .filter(|_| wish.sends)
            .min_by_key(|rail| (far(rank, *rail), users[*rail], *rail));
        if let Some(rail) = nearest {
            users[rail] += 1;
        }
        rails.push(nearest.into_iter().collect());
    }
    let senders = || (0..ranks.len()).filter(|rank| ranks[*rank].sends);
    for rail in (0..ports).filter(|r| users[*r] == 0) {
        let nearest = senders().min_by_key(|rank| (far(*rank, rail), rails[*rank].len(), *rank));
        if let Some(rank) = nearest {
            rails[rank].push(rail);
        }
    }
    rails
}
