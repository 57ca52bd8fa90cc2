//! `hfr doctor`: is this host, or this job, fit to communicate? What the kernel's files say of links, limits and processors; what cores and memory
//! do; in a job, how every pair of nodes gets on and whether the sums are right. Invariants: only rank 0 prints the report; a job that fails
//! on the way still gets its report, with that failure in it.

mod check;
mod cores;
mod cpu;
mod ethernet;
mod host;
mod infiniband;
mod limits;
mod memory;
mod numa;
mod outliers;
mod pairs;
mod pcie;
mod report;
mod root;
mod rounds;
mod selftest;

use crate::{
    job::{self, Job},
    launcher,
    output::print,
};
use anyhow::{Context, Result};
use check::{Check, Outcome};
use host::Host;
use report::Report;
use root::Root;
use std::path::PathBuf;

/// Arguments of `hfr doctor`.
#[derive(clap::Args)]
#[command(
    after_help = "Within a job (torchrun, mpirun, srun, hfr run) this joins it and looks at all its hosts; otherwise it looks at this host and tests \
itself with ranks on it.\nExit code: 0 healthy (warnings included, unless --strict), 1 warnings with --strict, 2 a failure, or something that kept \
it from looking.\nExample: srun -N 16 --ntasks-per-node 8 hfr doctor --json"
)]
pub struct Args {
    /// Measure less: some partners of each node, smaller messages, fewer sums
    #[arg(long, conflicts_with = "look")]
    quick: bool,
    /// Only read what the kernel says of this host: measure nothing and join no job
    #[arg(long)]
    look: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Warnings too make the exit code other than 0
    #[arg(long)]
    strict: bool,
    /// Folder with the sys and proc to read, such as a host's in a container
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
}

/// Looks, and says what was found. Returns the exit code; an error is one too, so that no scheduler takes it for a warning.
pub fn run(args: &Args) -> i32 {
    match examine(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hfr: {error:#}");
            2
        }
    }
}

fn examine(args: &Args) -> Result<i32> {
    let root = Root::new(&args.root);
    anyhow::ensure!(
        root.has("proc") && root.has("sys"),
        "{} has no proc and sys: give the folder that stands for /",
        args.root.display()
    );
    if args.look {
        let report = Report {
            hosts: vec![host::look(&root, 1, None)],
            ..Report::default()
        };
        return Ok(tell(args, &report));
    }
    if !job::inside()? {
        return alone(args);
    }
    match Job::join(false) {
        Ok(job) => take_part(args, &root, &job),
        Err(error) => no_job(args, &root, &error),
    }
}

/// Starts a job on this host: a sum needs several ranks, and starting them is part of what may be broken.
fn alone(args: &Args) -> Result<i32> {
    let cpus = cores::union([&cores::own()[..]].into_iter()).len();
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = vec![program.into_os_string(), "doctor".into()];
    let flags = [
        ("--quick", args.quick),
        ("--json", args.json),
        ("--strict", args.strict),
    ];
    command.extend(
        flags
            .into_iter()
            .filter(|flag| flag.1)
            .map(|flag| flag.0.into()),
    );
    command.extend(["--root".into(), args.root.clone().into_os_string()]);
    launcher::run(&launcher::Job {
        nodes: 1,
        ranks_per_node: cpus.clamp(2, 4),
        transport: None,
        timeout: None,
        command,
    })
}

fn tell(args: &Args, report: &Report) -> i32 {
    if args.json {
        print(&format!("{}\n", report.json(args.strict)));
    } else {
        print(&report.text());
    }
    report.exit_code(args.strict)
}

/// What can be said by a rank whose job does not come about: the reason, and this host.
fn no_job(args: &Args, root: &Root, error: &anyhow::Error) -> Result<i32> {
    let host = host::look(root, 1, None);
    let remedy = "mend what is said there and what fails on the hosts, then look again";
    let failure = Check::fail(("job", ""), format!("{error:#}"), remedy);
    let own = job::launch()?.rank;
    if own == 0 {
        let report = Report {
            hosts: vec![host],
            job: vec![failure],
            ..Report::default()
        };
        return Ok(tell(args, &report));
    }
    let broken = host
        .checks
        .iter()
        .filter(|check| check.outcome == Outcome::Fail);
    for check in broken.chain([&failure]) {
        eprint!("rank {own} on {}: {}", host.name, report::line(check));
    }
    Ok(2)
}

fn take_part(args: &Args, root: &Root, job: &Job) -> Result<i32> {
    let group = job.group();
    let mut report = Report {
        transport: group.transport().to_owned(),
        ranks: group.size(),
        nodes: group.nodes(),
        ..Report::default()
    };
    let failure = look_at_all(args, root, job, &mut report).err();
    if let Some(error) = &failure {
        if report.hosts.is_empty() {
            report.hosts.push(host::look(root, 1, None));
        }
        report.job.push(Check::fail(
            ("job", ""),
            format!("{error:#}"),
            "the rank named there or its host has failed: look at it, and run again without it",
        ));
    }
    match (group.rank(), failure) {
        (0, _) => Ok(tell(args, &report)),
        (rank, Some(error)) => Err(error.context(format!("rank {rank}"))),
        _ => Ok(report.exit_code(args.strict)),
    }
}

/// All ranks do this alike, and all end with the same report.
fn look_at_all(args: &Args, root: &Root, job: &Job, report: &mut Report) -> Result<()> {
    report.hosts = hosts(args, root, job)?;
    report.job = host::compare(&report.hosts);
    let group = job.group();
    if group.nodes() > 1 {
        report.pairs = pairs::measure(group, args.quick)?;
        let nodes = pairs::by_node(group)?;
        let hosts = &report.hosts;
        let name = |rank: usize| {
            let node = nodes
                .iter()
                .position(|ranks| ranks.contains(&rank))
                .unwrap_or(0);
            let host = hosts.iter().find(|host| host.ranks.contains(&rank));
            format!(
                "rank {rank} (node {node} on {})",
                host.map_or("?", |host| &host.name)
            )
        };
        report.job.extend(outliers::judge(&report.pairs, &name));
    }
    report.job.push(selftest::run(job, args.quick)?);
    Ok(())
}

/// Looks at every host of the job, on its first rank, and measures it, all hosts at once.
fn hosts(args: &Args, root: &Root, job: &Job) -> Result<Vec<Host>> {
    let group = job.group();
    let identities = texts(job, host::identity(root).as_bytes())?;
    let mut masks = vec![0u8; cores::MASK * group.size()];
    group.all_gather(&cores::own(), &mut masks)?;
    let own = &identities[group.rank()];
    let ranks: Vec<usize> = (0..group.size())
        .filter(|rank| identities[*rank] == *own)
        .collect();
    let mut said = Vec::new();
    if ranks[0] == group.rank() {
        let cpus = cores::union(
            ranks
                .iter()
                .map(|rank| &masks[rank * cores::MASK..][..cores::MASK]),
        );
        // What a launcher gives to each rank, all of them have together.
        let together = root.is_own().then_some(cpus.len());
        let mut host = host::look(root, ranks.len(), together);
        host.checks.extend(cores::measure(root, &cpus, args.quick));
        host.ranks = ranks;
        said = serde_json::to_vec(&host)?;
    }
    let all = texts(job, &said)?;
    let read = |text: &Vec<u8>| {
        serde_json::from_slice(text)
            .context("a host's report cannot be read: are all of the same version?")
    };
    all.iter()
        .filter(|text| !text.is_empty())
        .map(read)
        .collect()
}

/// Every rank's `own`, of any length.
fn texts(job: &Job, own: &[u8]) -> Result<Vec<Vec<u8>>> {
    let group = job.group();
    let mut lengths = vec![0u64; group.size()];
    group.all_gather(&[own.len() as u64], &mut lengths)?;
    let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
    let mut all = vec![0u8; lengths.iter().sum()];
    group.all_gather_v(own, &mut all, &lengths)?;
    let mut rest = &all[..];
    let mut take = |length: &usize| {
        let (text, behind) = rest.split_at(*length);
        rest = behind;
        text.to_vec()
    };
    Ok(lengths.iter().map(&mut take).collect())
}

#[cfg(test)]
mod tests;
