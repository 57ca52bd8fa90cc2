//! `hfr run`: the launcher for a command of the user's. It knows only what to start.

use crate::launcher::{self, Job};
use anyhow::Result;
use std::ffi::OsString;

/// Arguments of `hfr run`.
#[derive(clap::Args)]
#[command(
    after_help = "Each process gets HFR_RANK, HFR_WORLD_SIZE, HFR_NODE, HFR_COMM_ID, HFR_COOKIE, and torchrun's RANK, WORLD_SIZE, \
LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.\nExample: hfr run --nodes 2 --ranks-per-node 4 -- ./train --epochs 3"
)]
pub struct Args {
    /// Nodes this host plays: ranks of one node share memory, nodes talk over the transport
    #[arg(long, default_value_t = 1, value_parser = positive)]
    nodes: usize,
    /// Ranks on each node
    #[arg(long, short = 'L', default_value_t = 2, value_parser = positive)]
    ranks_per_node: usize,
    /// How nodes talk to each other (HFR_TRANSPORT)
    #[arg(long, value_parser = ["auto", "local", "tcp", "verbs"])]
    transport: Option<String>,
    /// Seconds a collective may wait for other ranks (HFR_TIMEOUT)
    #[arg(long, value_parser = seconds)]
    timeout: Option<f64>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// A number of at least one.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=65_536) => Ok(number),
        _ => Err("not a number from 1 to 65536".to_owned()),
    }
}

/// A time in seconds, more than none.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds < 1e9 => Ok(seconds),
        _ => Err("not a number of seconds above 0".to_owned()),
    }
}

/// Runs the job and hands on its exit code.
pub fn run(args: Args) -> Result<i32> {
    launcher::run(&Job {
        nodes: args.nodes,
        ranks_per_node: args.ranks_per_node,
        transport: args.transport,
        timeout: args.timeout,
        command: args.command,
    })
}
