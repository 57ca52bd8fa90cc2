//! `hfr tune`: measures how fast this machine is with each plan in pieces of several sizes, fits the model that plans are chosen by, measures again what
//! that changes, and writes the model to a file if it helps. Outside a job it starts one on this host; inside one it is a rank. Invariants: all ranks
//! make the same calls, since what one decides follows from what all know; only rank 0 prints and writes.

mod grid;
mod outcome;
mod sample;

use crate::{job, launcher, output::print, run::seconds};
use anyhow::{Context, Result, ensure};
use grid::{Cell, Combination, Grid};
use hfreduce::{
    Communicator, Config,
    plan::{Model, fit, misfit},
    tuning::{Measured, Tuning},
};
use outcome::{Outcome, Row};
use sample::{Way, sample};
use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Arguments of `hfr tune`.
#[derive(clap::Args)]
#[command(
    after_help = "Within a job (torchrun, mpirun, srun, hfr run) this joins it, which is how a cluster is measured; otherwise it starts --nodes x \
--ranks-per-node processes here.\nThe file is for HFR_TUNING, in the environment of rank 0. Nothing is written where the measured model is no better than \
what is used without it."
)]
pub struct Args {
    /// The file to write
    #[arg(
        short = 'o',
        long,
        value_name = "FILE",
        default_value = "hfr-tuning.json"
    )]
    output: PathBuf,
    /// How long to measure, once the ranks are connected
    #[arg(long, default_value = "20", value_parser = seconds)]
    seconds: f64,
    #[command(flatten)]
    start: launcher::Size,
}

/// The part of the time for the plans and pieces; the rest is for what the fit changes.
const FIRST: f64 = 0.7;

/// Starts a job, or takes part in one. Returns the exit code.
///
/// # Errors
/// A job that cannot start; a failure of the group; too little time; a file that cannot be written.
pub fn run(args: &Args) -> Result<i32> {
    if job::inside()? {
        return take_part(args);
    }
    ensure!(args.start.ranks() > 1, "one rank alone has nothing to tune");
    args.start.run(None)
}

fn take_part(args: &Args) -> Result<i32> {
    let join = "cannot join the job";
    let mut config = Config::from_env().context(join)?;
    // All plans are asked, with buffers on the host.
    config.algorithm = None;
    config.gpu = Some(false);
    // A file that is not there yet, or is no good any more, is what this is to write.
    if config.tuning.as_ref().is_some_and(|t| t.load().is_err()) {
        config.tuning = None;
    }
    let group = Communicator::connect(&config).context(join)?;
    let rank = group.rank();
    tune(args, &group).with_context(|| format!("rank {rank}"))?;
    Ok(0)
}

/// A group of the same ranks that goes by this model.
fn going_by(group: &Communicator, model: Model, plan: Option<&str>) -> Result<Communicator> {
    let shape = group.shape();
    let measured = Measured::new(model, shape, group.transport(), now());
    let child = group.split_with(Some(0), group.rank() as i64, |config| {
        config.tuning = Some(Tuning::Measured(measured));
        config.algorithm = plan.map(str::to_owned);
    })?;
    child.context("a rank with a color got no group")
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn tune(args: &Args, group: &Communicator) -> Result<()> {
    ensure!(group.size() > 1, "one rank alone has nothing to tune");
    let began = Instant::now();
    let until = |part: f64| began + Duration::from_secs_f64(args.seconds * part);
    let short = || format!("{} seconds are too few: raise --seconds", args.seconds);
    let usual = Model::usual(group.model().cores, group.transport(), false);
    let usual = usual.for_shape(group.shape());
    let grid = Grid::new(&usual, group.shape())?;
    let forced = forced(group, &grid, &usual)?;
    let way = |cell: &Cell| {
        let expected = grid.seconds(cell.combination, cell.bytes);
        Way::new(&forced[cell.combination], cell.bytes, expected)
    };
    let mut ways: Vec<Way> = grid.cells.iter().map(way).collect();
    sample(group, &mut ways, until(FIRST))?;
    let cells = grid.whole(&ways);
    ensure!(!cells.is_empty(), short());

    // Rank 0's fit is everyone's: the library hands it on.
    let samples = grid.samples(&cells);
    let fitted = if group.rank() == 0 {
        fit(&usual, group.shape(), &grid.costs, &samples)
    } else {
        usual
    };
    let tuned = going_by(group, fitted, None)?;
    let rows = compare(group, &tuned, &forced, (&grid, &cells), until(1.0))?;
    ensure!(!rows.is_empty(), short());
    if group.rank() > 0 {
        return Ok(());
    }
    let outcome = Outcome { grid: &grid, rows };
    print(&outcome.table(group));
    let off = |model| misfit(model, group.shape(), &grid.costs, &samples);
    let (old, new) = ((&usual, off(&usual)), (tuned.model(), off(tuned.model())));
    print(&outcome::figures(old, new));
    if let Some(why) = outcome.no_use() {
        print(&format!("{why} Nothing is written.\n"));
        return Ok(());
    }
    let file = args.output.display();
    Measured::new(*tuned.model(), group.shape(), group.transport(), now())
        .write(&args.output)
        .with_context(|| format!("cannot write {file}"))?;
    print(&format!(
        "Written to {file}; use it with HFR_TUNING={file}\n"
    ));
    Ok(())
}

/// A group for each combination, which has no other choice.
fn forced(group: &Communicator, grid: &Grid, usual: &Model) -> Result<Vec<Communicator>> {
    let force = |c: &Combination| {
        let model = Model {
            piece: (c.piece, c.piece),
            ..*usual
        };
        going_by(group, model, Some(grid.plans[c.plan].name))
    };
    grid.combinations.iter().map(force).collect()
}

/// Measures, in turns, what each size takes on `group`, on `tuned` where that chooses otherwise, and by the fastest combination of `cells`.
fn compare(
    group: &Communicator,
    tuned: &Communicator,
    forced: &[Communicator],
    (grid, cells): (&Grid, &[Cell]),
    until: Instant,
) -> Result<Vec<Row>> {
    let (mut rows, mut ways) = (Vec::new(), Vec::new());
    for best in grid.best(cells) {
        let before = grid.choice(group.model(), best.bytes);
        let after = grid.choice(tuned.model(), best.bytes);
        rows.push(Row::new(best, before, after, ways.len()));
        let mut groups = vec![group, &forced[best.combination]];
        if after != before {
            groups.insert(1, tuned);
        }
        let way = |group| Way::new(group, best.bytes, best.seconds);
        ways.extend(groups.into_iter().map(way));
    }
    sample(group, &mut ways, until)?;
    rows.retain_mut(|row| row.measured(&ways));
    Ok(rows)
}
