//! The hfr program: starts jobs on this host (`run`), measures and checks collectives (`bench`), fits the model that plans are chosen by (`tune`), shows, proves and simulates plans (`plan`), shows
//! the machine and its ranks' places (`topo`), and looks whether hosts and jobs are fit (`doctor`). Exit codes: 0 all right, 1 a wrong result
//! or an error, 2 wrong arguments; `run` hands on the code of its command, and `doctor` has codes of its own.

mod bench;
mod doctor;
mod gpu;
mod job;
mod launcher;
mod output;
mod plan;
mod run;
mod size;
mod topo;
mod tune;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(
    name = "hfr",
    version,
    about = "All-reduce on the CPU: run jobs, measure and check, look at plans"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a command as several ranks on this host
    Run(run::Args),
    /// Measure and check collectives, with the flags and the table of nccl-tests
    Bench(bench::Args),
    /// Measure this machine and write the figures that plans are chosen by (HFR_TUNING)
    Tune(tune::Args),
    /// Show, prove or simulate the plans of a group
    Plan(plan::Args),
    /// Show this machine, how far its devices are from each other, and where ranks have their place
    Topo(topo::Args),
    /// Look whether this host, or this job, is fit: links, limits, memory, pairs of nodes, correct sums
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("HFR_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let outcome = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Bench(args) => bench::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Topo(args) => topo::run(&args),
        Command::Doctor(args) => Ok(doctor::run(&args)),
    };
    match outcome {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            eprintln!("hfr: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_read_as_nccl_tests_has_them() {
        let takes = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(takes(
            "hfr bench -b 8 -e 128M -f 2 -d half,float -o all -r 3 -n 20 -w 5 -c 0 -a 3 -R 1 -J out.json"
        ));
        assert!(takes(
            "hfr bench reduce_scatter -i 1M --json --nodes 2 --ranks-per-node 4"
        ));
        assert!(takes(
            "hfr run --nodes 2 -L 4 --timeout 9.5 -- prog --flag -x"
        ));
        assert!(takes(
            "hfr plan simulate --shape 3+5 --cut 0-4@3 --drop 2@9 --count 10,2K"
        ));
        assert!(takes(
            "hfr topo --load a.txt --ranks 8 --gpus 0,1,2 --ports ^eth"
        ));
        assert!(takes("hfr plan check --shape 2x2 --zones east,west"));
        assert!(takes("hfr tune --nodes 2 -L 2 -o a.json --seconds 2.5"));
        assert!(takes("hfr doctor --quick --json --strict --root /host"));
        for wrong in [
            "hfr topo --load a.txt --sysfs /sys",
            "hfr bench -f 2 -i 1M",
            "hfr bench -c 2",
            "hfr bench -a 4",
            "hfr bench -f 1",
            "hfr bench reduce -t all_gather",
            "hfr run --nodes 2",
            "hfr run --transport carrier -- prog",
            "hfr plan check --shape 2x2 --nodes 2",
            "hfr tune --seconds 0",
            "hfr doctor --look --quick",
        ] {
            assert!(!takes(wrong), "'{wrong}' was accepted");
        }
    }
}
