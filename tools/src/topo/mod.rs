//! `hfr topo`: what this machine is, how far its devices are from each other, and where the ranks of a job have their place. It reads the
//! system or a description, and changes nothing; what it shows is what the library goes by, because both ask the same functions.

mod show;

use crate::run::positive;
use anyhow::{Context, Result, anyhow, ensure};
use clap::Args as ClapArgs;
use hfr_topology::{Cpus, Machine, Placement, Wish, place};
use hfr_transport::net::Selector;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Arguments of `hfr topo`.
#[derive(ClapArgs)]
#[command(
    after_help = "Ways, as nvidia-smi names them: PIX below one switch, PXB over several switches, PHB over one host bridge, NODE \
between host bridges of one memory node, SYS between memory nodes.\nExample: hfr topo --dump node7.txt; elsewhere: hfr topo --load node7.txt --ranks 8"
)]
pub struct Args {
    /// Folder that looks like /sys
    #[arg(long, default_value = "/sys")]
    sysfs: PathBuf,
    /// Take the machine from this description instead
    #[arg(long, conflicts_with = "sysfs")]
    load: Option<PathBuf>,
    /// Write the machine's description to this file (- for the standard output) and show nothing
    #[arg(long)]
    dump: Option<PathBuf>,
    /// Ranks on the machine; as many as there are GPUs, if not given, and at least one
    #[arg(long, value_parser = positive)]
    ranks: Option<usize>,
    /// The GPU of each rank, by number, such as 0,1,4,5; the ranks' own numbers, if not given, as far as there are GPUs
    #[arg(long, value_delimiter = ',')]
    gpus: Option<Vec<usize>>,
    /// Ports to use, as NCCL_IB_HCA and NCCL_SOCKET_IFNAME name them (mlx5, =eth0, ^lo); the fastest that are up, if not given
    #[arg(long)]
    ports: Option<String>,
}

/// Shows the machine, or writes it down.
pub fn run(args: &Args) -> Result<i32> {
    let machine = match &args.load {
        Some(path) => load(path)?,
        None => Machine::discover(&args.sysfs, &host_name(), allowed(&args.sysfs).as_ref())
            .map_err(|e| anyhow!("{e}; name another folder with --sysfs"))?,
    };
    match &args.dump {
        Some(path) if path == Path::new("-") => print!("{machine}"),
        Some(path) => fs::write(path, machine.to_string())
            .with_context(|| format!("cannot write the description to {}", path.display()))?,
        None => {
            let placement = placement(&machine, args)?;
            print!("{}", show::text(&machine, &placement));
        }
    }
    Ok(0)
}

fn load(path: &Path) -> Result<Machine> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the description {}", path.display()))?;
    text.parse().map_err(|e| anyhow!("{}: {e}", path.display()))
}

fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// The CPUs that this process may use, if the folder is this machine's.
fn allowed(sysfs: &Path) -> Option<Cpus> {
    let set = rustix::thread::sched_getaffinity(None).ok()?;
    let all = 0..rustix::thread::CpuSet::MAX_CPU;
    (sysfs == Path::new("/sys")).then(|| all.filter(|c| set.is_set(*c)).collect())
}

fn placement(machine: &Machine, args: &Args) -> Result<Placement> {
    let there = machine.gpus().len();
    let ranks = match (args.ranks, &args.gpus) {
        (Some(ranks), _) => ranks,
        (None, Some(gpus)) => gpus.len(),
        (None, None) => there.max(1),
    };
    if let Some(gpus) = &args.gpus {
        ensure!(
            gpus.len() == ranks,
            "{} GPUs are named for {ranks} ranks; name one for each",
            gpus.len()
        );
        if let Some(wrong) = gpus.iter().find(|g| **g >= there) {
            return Err(anyhow!(
                "GPU {wrong} is not among the {there} of this machine, which count from 0"
            ));
        }
    }
    let gpu = |rank: usize| match &args.gpus {
        Some(gpus) => Some(gpus[rank]),
        None => (ranks <= there).then_some(rank),
    };
    let wishes: Vec<Wish> = (0..ranks)
        .map(|rank| Wish {
            gpu: gpu(rank),
            allowed: machine.allowed.clone(),
        })
        .collect();
    let ports = match &args.ports {
        None => machine.best_ports(),
        Some(text) => {
            let selector = Selector::parse(text);
            let chosen =
                |p: &usize| machine.ports[*p].up && selector.allows(&machine.ports[*p].name);
            let chosen: Vec<usize> = (0..machine.ports.len()).filter(chosen).collect();
            let names: Vec<&str> = machine.ports.iter().map(|p| p.name.as_str()).collect();
            ensure!(
                !chosen.is_empty(),
                "no port that is up matches '{text}'; this machine has: {}",
                names.join(", ")
            );
            chosen
        }
    };
    Ok(place(machine, &wishes, &ports))
}
