//! `hfr topo`: what this machine is, how far its devices are from each other, and where the ranks of a job have their place. It reads the
//! system or a description, and changes nothing; what it shows is what the library goes by, because both ask the same functions.

mod show;

use crate::{output::print, run::positive};
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
        Some(path) if path == Path::new("-") => {
            print(&machine.to_string());
        }
        Some(path) => fs::write(path, machine.to_string())
            .with_context(|| format!("cannot write the description to {}", path.display()))?,
        None => {
            let placement = placement(&machine, args)?;
            print(&show::text(&machine, &placement));
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
            sends: true,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }

    fn recorded(name: &str, more: &[&str]) -> Result<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("topology");
        let path = folder.join(format!("tests/machines/{name}.txt"));
        let path = path.to_string_lossy();
        let line = ["topo", "--load", &path]
            .into_iter()
            .chain(more.iter().copied());
        let args = Alone::try_parse_from(line)?.args;
        let machine = load(args.load.as_deref().expect("named above"))?;
        Ok(show::text(&machine, &placement(&machine, &args)?))
    }

    #[test]
    fn a_machine_is_shown_with_ways_shares_and_places() {
        let text = recorded("fire-flyer", &[]).expect("shown");
        for line in [
            "fire-flyer: 2 sockets, 64 cores, 128 CPUs, of which 128 may be used (0-127)",
            "  memory node 1: 256 GiB, CPUs 32-63,96-127, distances 32 10",
            "      0000:a4:00.0 GPU 6 (NVIDIA 10de:20f1) gen4x16 31.5 GB/s, memory node 1",
            "        port mlx5_0:1: infiniband, 200 Gbit/s, up",
            "  GPU5      SYS    SYS    SYS    SYS   NODE      X    PHB   NODE   NODE",
            "  GPU5, GPU6 share host bridge 0000:a0: what that bridge can carry, which is to be measured",
            "  5     5    1       40-47,104-111  40-47,104-111  mlx5_0:1 (NODE)",
            "  sums, and what other machines send, lie on memory node 1, near the network",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
        }
        let text = recorded("dgx-like", &["--gpus", "6,0"]).expect("shown");
        for line in [
            "  GPU0, mlx5_0, GPU1, mlx5_1 share the link of bridge 0000:01:00.0: 31.5 GB/s each way",
            "  rail 7: mlx5_7:1, for ranks 0",
            "  sums, and what other machines send, lie interleaved, like the ports",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
        }
    }

    #[test]
    fn what_is_not_there_is_said() {
        for (name, more, says) in [
            (
                "vm",
                &["--gpus", "0,3"][..],
                "GPU 3 is not among the 3 of this machine",
            ),
            (
                "vm",
                &["--gpus", "0,1", "--ranks", "3"],
                "2 GPUs are named for 3 ranks",
            ),
            (
                "vm",
                &["--ports", "mlx5"],
                "no port that is up matches 'mlx5'; this machine has: eth0",
            ),
            (
                "single-socket",
                &["--ports", "=enp3s0f1"],
                "no port that is up matches",
            ),
            ("nowhere", &[], "cannot read the description"),
        ] {
            let error = recorded(name, more).expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_description_of_this_machine_is_written_and_read() {
        let path = std::env::temp_dir().join(format!("hfr-topo-{}.txt", std::process::id()));
        let text = path.to_string_lossy();
        let args = Alone::try_parse_from(["topo", "--dump", &text])
            .expect("arguments")
            .args;
        assert_eq!(run(&args).expect("written"), 0);
        let machine = load(&path);
        fs::remove_file(&path).expect("it was written");
        let machine = machine.expect("read");
        assert_eq!(
            machine.allowed.to_string().parse(),
            allowed(Path::new("/sys")).ok_or("none".to_owned())
        );
    }
}
