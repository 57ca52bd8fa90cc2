//! `hfr bench`: measures collectives over a range of sizes and compares every element, with the flags and the table of nccl-tests.
//! Outside a job it starts one on this host; inside one it is a rank. Invariant: only rank 0 prints, and a wrong element on any rank
//! makes the exit code 1 on all.

mod cases;
mod ceilings;
mod measure;
mod overlap;
mod report;
mod stages;
mod table;
pub mod values;

use crate::{
    gpu,
    job::{self, Call, Job},
    launcher,
    run::{positive, seconds},
    size,
};
use anyhow::{Context, Result, ensure};
use cases::{Asked, Case, Growth, Tensors, calls, cases};
use hfreduce::plan::Collective;
use measure::{How, Memory, measure};
use report::Report;
use std::path::PathBuf;

/// Arguments of `hfr bench`.
#[derive(clap::Args)]
#[command(
    after_help = "Within a job (torchrun, mpirun, srun, hfr run) this joins it; otherwise it starts --nodes x --ranks-per-node \
processes here.\nExit code: 0 when all is right, 1 when an element was wrong or a rank failed."
)]
pub struct Args {
    /// all_reduce, reduce_scatter, all_gather, broadcast, reduce, barrier or all
    #[arg(value_name = "COLLECTIVE", conflicts_with = "collective")]
    which: Option<String>,
    /// The same, as a flag
    #[arg(short = 't', long)]
    collective: Option<String>,
    /// Smallest size in bytes (K, M, G are 1024-based)
    #[arg(short = 'b', long, default_value = "16", value_parser = size::parse)]
    min_bytes: usize,
    /// Largest size
    #[arg(short = 'e', long, default_value = "64M", value_parser = size::parse)]
    max_bytes: usize,
    /// Each size is this many times the one before
    #[arg(short = 'f', long, default_value_t = 4.0, value_parser = factor)]
    factor: f64,
    /// Each size is this many bytes more than the one before
    #[arg(short = 'i', long, conflicts_with = "factor", value_parser = size::parse)]
    step: Option<usize>,
    /// Element types: double, float, half, bfloat16, f8e4m3, f8e5m2, int8, uint8, int32, uint32, int64, uint64 or all
    #[arg(short = 'd', long, default_value = "float", value_delimiter = ',')]
    datatype: Vec<String>,
    /// Operations: sum, prod, min, max, avg, mulsum or mulsum:FACTOR, band, bor, bxor or all
    #[arg(short = 'o', long, default_value = "sum", value_delimiter = ',')]
    op: Vec<String>,
    /// Where buffers are: in the host's memory, or on GPUs (local rank r uses GPU r modulo their number)
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Instead of sizes: so many tensors of one size, all in flight at once, as in HFReduce's own bench (46x4M); all_reduce only
    #[arg(long, value_name = "NxSIZE", conflicts_with_all = ["min_bytes", "max_bytes", "factor", "step"], value_parser = Tensors::parse)]
    tensors: Option<Tensors>,
    /// Instead of the table: what a bf16 matrix product on the GPU and an all_reduce of the largest size cost each other
    #[arg(long, conflicts_with = "tensors")]
    overlap: bool,
    /// Rows of that product's square matrices
    #[arg(long, default_value_t = 8192, requires = "overlap", value_parser = clap::value_parser!(u32).range(16..=65536))]
    matrix: u32,
    /// Root of broadcast and reduce
    #[arg(short = 'r', long, default_value_t = 0)]
    root: u32,
    /// Timed iterations [default: what fits a quarter of a second, from 2 to 20]
    #[arg(short = 'n', long, value_parser = positive)]
    iters: Option<usize>,
    /// Iterations before those
    #[arg(short = 'w', long, default_value_t = 5)]
    warmup_iters: usize,
    /// Compare every element (1) or not (0)
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    check: u8,
    /// Buffers in registered (shared) memory (1) or ordinary memory (0)
    #[arg(short = 'R', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    registered: u8,
    /// Time of all ranks: 0 rank 0's, 1 mean, 2 shortest, 3 longest
    #[arg(short = 'a', long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=3))]
    average: u8,
    /// Also write JSON lines to this file: a header, then a line per figure
    #[arg(short = 'J', long, value_name = "FILE")]
    json_file: Option<PathBuf>,
    /// Print JSON lines and no table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    start: launcher::Size,
    /// Seconds a collective may wait for other ranks, outside a job
    #[arg(long, value_parser = seconds)]
    timeout: Option<f64>,
}

/// Where buffers are.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Device {
    Cpu,
    Cuda,
}

impl Device {
    fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
        }
    }
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if factor > 1.0 && factor < 1e6 => Ok(factor),
        _ => Err("not a factor above 1".to_owned()),
    }
}

impl Args {
    fn cases(&self, ranks: usize) -> Result<Vec<Case>> {
        let flag = self.collective.as_deref();
        ensure!(
            0 < self.min_bytes && self.min_bytes <= self.max_bytes,
            "no size from {} to {} bytes: -b is at least 1, and -e at least -b",
            self.min_bytes,
            self.max_bytes
        );
        let cuda = self.device == Device::Cuda;
        ensure!(
            cuda || !self.overlap,
            "--overlap is about GPUs: add --device cuda"
        );
        ensure!(
            !cuda || self.registered == 0,
            "-R 1 is about host memory, and --device cuda about the device's: take one of them"
        );
        let cases = cases(&Asked {
            collective: self.which.as_deref().or(flag).unwrap_or("all_reduce"),
            dtypes: &self.datatype,
            ops: &self.op,
            root: self.root,
            ranks,
            check: self.check == 1,
        })?;
        let all_reduce =
            |case: &Case| matches!(case, Case::Run(Collective::AllReduce, ..) | Case::Skip(_));
        ensure!(
            (self.tensors.is_none() && !self.overlap) || cases.iter().all(all_reduce),
            "--tensors and --overlap are about all_reduce alone"
        );
        Ok(cases)
    }

    /// What can be said before any rank starts: wrong arguments, and what is missing here.
    fn check(&self, ranks: usize) -> Result<()> {
        self.cases(ranks)?;
        if self.device == Device::Cuda {
            gpu::count()?;
        }
        if self.overlap {
            gpu::ensure_cublas()?;
        }
        Ok(())
    }

    fn calls(&self, case: &Case, ranks: usize) -> Vec<Call> {
        let growth = self.step.map_or(Growth::Factor(self.factor), Growth::Step);
        match *case {
            Case::Skip(_) => Vec::new(),
            Case::Run(collective, dtype, op) if self.tensors.is_some() => {
                let tensors = self.tensors.iter();
                tensors.map(|t| t.call((collective, dtype, op))).collect()
            }
            Case::Run(collective, dtype, op) => calls(
                (collective, dtype, op),
                ranks,
                self.min_bytes,
                self.max_bytes,
                growth,
            ),
        }
    }
}

/// Starts a job, or takes part in one. Returns the exit code.
///
/// # Errors
/// Wrong arguments; a job that cannot start; a failure of the group.
pub fn run(args: &Args) -> Result<i32> {
    if job::inside()? {
        return take_part(args);
    }
    // Said once here and not by every rank.
    args.check(args.start.ranks())?;
    args.start.run(args.timeout)
}

fn take_part(args: &Args) -> Result<i32> {
    let job = Job::join(args.device == Device::Cuda)?;
    let rank = job.group().rank();
    measure_all(args, &job).with_context(|| format!("rank {rank}"))
}

fn measure_all(args: &Args, job: &Job) -> Result<i32> {
    let ranks = job.group().size();
    let cases = args.cases(ranks)?;
    let calls: Vec<Vec<Call>> = cases.iter().map(|case| args.calls(case, ranks)).collect();
    let longest = calls.iter().flatten().map(|call| {
        let (i, o) = call.lengths(ranks);
        i.max(o)
    });
    let longest = longest.max().unwrap_or(0);
    ensure_room(job, longest)?;
    let mut memory = Memory {
        input: job.buffer(longest, args.registered == 1)?,
        output: job.buffer(longest, args.registered == 1)?,
    };
    let how = How {
        iterations: args.iters,
        warm_up: args.warmup_iters,
        check: args.check == 1,
        combine: args.average,
    };
    let mut report = Report::new(args, job, &cases, calls.iter().map(Vec::len).sum())?;
    if args.overlap {
        let largest = calls.iter().filter_map(|calls| calls.last());
        for call in largest {
            let found = overlap::overlap(job, call, &mut memory, args.matrix as usize)?;
            report.overlap(&found)?;
        }
        return Ok(report.end());
    }
    if let Some(gpu) = job.gpu() {
        report.ceilings(ceilings::measure(job, gpu, longest)?)?;
    }
    for (case, calls) in cases.iter().zip(&calls) {
        report.case(case);
        for call in calls {
            let mut ways = vec![measure(job, call, &mut memory, false, &how)?];
            if call.has_in_place() {
                ways.push(measure(job, call, &mut memory, true, &how)?);
            }
            report.row(call, &ways)?;
            if report.deserted(job)? {
                return Ok(report.end());
            }
        }
    }
    Ok(report.end())
}

/// Refuses buffers that the devices have no room for, on all ranks before any of them takes memory.
fn ensure_room(job: &Job, bytes: usize) -> Result<()> {
    let Some(gpu) = job.gpu() else { return Ok(()) };
    let owners = ceilings::owners(job)?;
    let (free, all) = gpu.room()?;
    let own = owners[job.group().rank()];
    let ranks = owners.iter().filter(|owner| **owner == own).count();
    let each = bytes
        .saturating_add(ceilings::copy_bytes(bytes))
        .saturating_mul(2);
    let needed = each.saturating_mul(ranks);
    let fits = job.gather(&[f64::from(u8::from(needed <= free))])?;
    ensure!(
        needed <= free,
        "{each} bytes for each of the {ranks} ranks on GPU {} are more than the {free} bytes that are free there (of {all}): \
take a smaller -e, or fewer ranks on a GPU",
        gpu.ordinal()
    );
    let other = fits.iter().position(|fits| fits[0] == 0.0);
    ensure!(
        other.is_none(),
        "the GPU of rank {} has no room for the buffers: take a smaller -e, or fewer ranks on a GPU",
        other.unwrap_or(0)
    );
    Ok(())
}
