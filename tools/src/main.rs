//! The hfr program: starts jobs on this host (`run`), measures and checks collectives (`bench`), and shows, proves and simulates plans
//! (`plan`). Exit codes: 0 all right, 1 a wrong result or an error, 2 wrong arguments; `run` hands on the code of its command.

mod bench;
mod job;
mod launcher;
mod plan;
mod run;
mod size;

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
    /// Show, prove or simulate the plans of a group
    Plan(plan::Args),
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
        Command::Plan(args) => plan::run(&args),
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
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
