//! `hfr plan`: shows, proves and simulates the plans a group can choose from. No process but this one takes part. Invariant: what is
//! shown or simulated was proved before.

use crate::{output::print, run::positive, size};
use anyhow::{Result, bail, ensure};
use clap::{Args as ClapArgs, Subcommand};
use hfr_transport::sim::Fault;
use hfreduce::{
    plan::{Checked, Collective, Plan, Shape, candidates},
    simulate::{Scenario, simulate},
};
use std::time::Instant;

/// Arguments of `hfr plan`.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print plans, stage by stage
    Show {
        #[command(flatten)]
        which: Which,
        /// As a graph for graphviz; wants --algorithm where there are several plans
        #[arg(long)]
        dot: bool,
    },
    /// Prove plans right for every input and every timing, and print what they cost
    Check {
        #[command(flatten)]
        which: Which,
    },
    /// Run plans with the real engine in virtual time from seeds, comparing every element
    Simulate {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
    },
}

#[derive(ClapArgs)]
struct Which {
    /// Nodes
    #[arg(long, default_value_t = 2, value_parser = positive)]
    nodes: usize,
    /// Ranks on each node
    #[arg(long, short = 'L', default_value_t = 4, value_parser = positive)]
    ranks_per_node: usize,
    /// Ranks of each node, for uneven groups: 3+5, or 2x4
    #[arg(long, value_parser = shape, conflicts_with_all = ["nodes", "ranks_per_node"])]
    shape: Option<Shape>,
    /// The zone of each node, by name: a,a,b,b
    #[arg(long, value_delimiter = ',')]
    zones: Vec<String>,
    /// all_reduce, reduce_scatter, all_gather, broadcast, reduce, barrier or all
    #[arg(long, short = 't', default_value = "all_reduce")]
    collective: String,
    /// Root of broadcast and reduce
    #[arg(long, short = 'r', default_value_t = 0)]
    root: u32,
    /// Only the plan of this name
    #[arg(long)]
    algorithm: Option<String>,
}

#[derive(ClapArgs)]
struct How {
    /// First seed; decides every choice of a run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, from the first on
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Elements (8 bytes each) of each call, per rank where buffers are shares; several with commas
    #[arg(long, default_value = "1000", value_delimiter = ',', value_parser = size::parse)]
    count: Vec<usize>,
    /// Bytes per piece, a multiple of 64
    #[arg(long, default_value = "512", value_parser = size::parse)]
    piece: usize,
    /// Chunks in flight
    #[arg(long, default_value_t = 2, value_parser = positive)]
    window: usize,
    /// Input and output are the same memory
    #[arg(long)]
    in_place: bool,
    /// Buffers lie in shared memory
    #[arg(long)]
    registered: bool,
    /// Buffers lie on devices, whose copies end late.
    #[arg(long)]
    on_devices: bool,
    /// Break the link between ranks A and B with its P-th put (from 1): A-B@P
    #[arg(long, value_parser = cut)]
    cut: Vec<Fault>,
    /// End rank R after E events of the wire: R@E
    #[arg(long, value_parser = drop_rank)]
    drop: Vec<Fault>,
}

fn shape(text: &str) -> Result<Shape, String> {
    let wrong = || format!("'{text}' is not a shape such as 3+5 or 2x4");
    let number = |part: &str| positive(part.trim()).map_err(|_| wrong());
    if let Some((nodes, ranks)) = text.split_once('x') {
        return Ok(Shape::uniform(number(nodes)?, number(ranks)?));
    }
    let ranks: Result<Vec<usize>, String> = text.split('+').map(number).collect();
    Ok(Shape::new(&ranks?))
}

fn cut(text: &str) -> Result<Fault, String> {
    let parsed = text.split_once('@').and_then(|(ranks, put)| {
        let (a, b) = ranks.split_once('-')?;
        Some(Fault::Cut {
            a: a.parse().ok()?,
            b: b.parse().ok()?,
            at_put: put.parse().ok()?,
        })
    });
    parsed.ok_or_else(|| format!("'{text}' is not A-B@P, such as 0-4@3"))
}

fn drop_rank(text: &str) -> Result<Fault, String> {
    let parsed = text.split_once('@').and_then(|(rank, event)| {
        Some(Fault::Drop {
            rank: rank.parse().ok()?,
            at_event: event.parse().ok()?,
        })
    });
    parsed.ok_or_else(|| format!("'{text}' is not R@E, such as 2@100"))
}

/// The collectives of this name; `all` is all of them.
///
/// # Errors
/// An unknown name.
pub fn collectives(name: &str, root: u32) -> Result<Vec<Collective>> {
    let all = Collective::all(root).to_vec();
    if name == "all" {
        return Ok(all);
    }
    let names: Vec<_> = all.iter().map(|collective| collective.name()).collect();
    let short = name.replace(['-', '_'], "");
    let found = all.into_iter().find(|c| c.name().replace('_', "") == short);
    match found {
        Some(collective) => Ok(vec![collective]),
        None => bail!(
            "no collective '{name}': there are {} and all",
            names.join(", ")
        ),
    }
}

impl Which {
    fn shape(&self) -> Result<Shape> {
        let uniform = || Shape::uniform(self.nodes, self.ranks_per_node);
        let shape = self.shape.clone().unwrap_or_else(uniform);
        if self.zones.is_empty() {
            return Ok(shape);
        }
        ensure!(
            self.zones.len() == shape.nodes(),
            "{} zones are named for {} nodes; name one for each",
            self.zones.len(),
            shape.nodes()
        );
        let number = |zone: &String| self.zones.iter().position(|z| z == zone).unwrap_or(0);
        let numbers: Vec<usize> = self.zones.iter().map(number).collect();
        Ok(shape.in_zones(&numbers))
    }

    fn plans(&self) -> Result<Vec<Plan>> {
        let shape = self.shape()?;
        ensure!(
            (self.root as usize) < shape.ranks(),
            "root {} is not among the {} ranks",
            self.root,
            shape.ranks()
        );
        let mut plans = Vec::new();
        for collective in collectives(&self.collective, self.root)? {
            plans.extend(candidates(collective, &shape));
        }
        if let Some(name) = &self.algorithm {
            let names: Vec<_> = plans.iter().map(|plan| plan.name).collect();
            plans.retain(|plan| plan.name == name);
            ensure!(
                !plans.is_empty(),
                "no plan '{name}' here: there are {}",
                names.join(", ")
            );
        }
        Ok(plans)
    }
}

/// Does what was asked; 1 when a plan is wrong.
pub fn run(args: &Args) -> Result<i32> {
    match &args.command {
        Command::Show { which, dot } => show(which, *dot),
        Command::Check { which } => check(which),
        Command::Simulate { which, how } => run_simulation(which, how),
    }
}

fn title(plan: &Plan) -> String {
    format!(
        "{} by {} on {}",
        plan.collective.name(),
        plan.name,
        plan.shape
    )
}

fn prove(plan: Plan) -> Result<Checked> {
    let title = title(&plan);
    match plan.check() {
        Ok(checked) => Ok(checked),
        Err(flaw) => bail!("{title}: {flaw}"),
    }
}

fn show(which: &Which, dot: bool) -> Result<i32> {
    let plans = which.plans()?;
    if dot && plans.len() > 1 {
        let names: Vec<_> = plans.iter().map(|plan| plan.name).collect();
        bail!(
            "a graph is of one plan: choose with --algorithm among {}",
            names.join(", ")
        );
    }
    for plan in plans {
        let checked = prove(plan)?;
        let plan = checked.plan();
        print(&if dot { plan.dot() } else { plan.text() });
    }
    Ok(0)
}

fn check(which: &Which) -> Result<i32> {
    let mut code = 0;
    for plan in which.plans()? {
        let title = title(&plan);
        let (cost, started) = (plan.cost(), Instant::now());
        match plan.check() {
            Ok(_) => {
                let took = started.elapsed().as_secs_f64() * 1e3;
                print(&format!("{title}: proved in {took:.2} ms\n  {cost}\n"));
            }
            Err(flaw) => {
                print(&format!("{title}: WRONG: {flaw}\n"));
                code = 1;
            }
        }
    }
    Ok(code)
}

fn run_simulation(which: &Which, how: &How) -> Result<i32> {
    ensure!(
        how.piece > 0 && how.piece.is_multiple_of(64),
        "a piece of {} bytes is not a multiple of 64 above 0",
        how.piece
    );
    let ranks = which.shape()?.ranks();
    let faults: Vec<Fault> = how.cut.iter().chain(&how.drop).copied().collect();
    for fault in &faults {
        let largest = match *fault {
            Fault::Cut { a, b, .. } => a.max(b),
            Fault::Drop { rank, .. } => rank,
            Fault::Delay { from, to, .. } => from.max(to),
        };
        ensure!(
            largest < ranks,
            "rank {largest} of a fault is not among the {ranks} ranks"
        );
    }
    let mut code = 0;
    for plan in which.plans()? {
        let checked = prove(plan)?;
        let title = title(checked.plan());
        let (mut compared, mut slowest) = (0, 0);
        let mut failed = 0;
        for seed in how.seed..how.seed.saturating_add(how.seeds) {
            let scenario = Scenario {
                seed,
                counts: how.count.clone(),
                piece: how.piece,
                window: how.window,
                in_place: how.in_place,
                registered: how.registered,
                devices: if how.on_devices { !0 } else { 0 },
                gathers: seed % 2 == 0,
                reach: seed % 4 < 2,
                withdrawn: None,
                faults: faults.clone(),
            };
            match simulate(&checked, &scenario) {
                Ok(outcome) => {
                    compared += outcome.compared;
                    slowest = slowest.max(outcome.nanoseconds);
                    if how.seeds == 1 {
                        print(&format!(
                            "{title}, seed {seed}: {} events\n",
                            outcome.events
                        ));
                    }
                }
                Err(failure) => {
                    print(&format!("{title}, seed {seed}: FAILED: {failure}\n"));
                    failed += 1;
                }
            }
        }
        let right = how.seeds - failed;
        print(&format!(
            "{title}: {right} of {} seeds right, {compared} elements compared, slowest {:.1} us of virtual time\n",
            how.seeds,
            slowest as f64 / 1e3
        ));
        code |= i32::from(failed > 0);
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_faults_are_read() {
        assert_eq!(shape("3+5"), Ok(Shape::new(&[3, 5])));
        assert_eq!(shape("2x4"), Ok(Shape::uniform(2, 4)));
        assert!(shape("3+0").is_err() && shape("x").is_err() && shape("").is_err());
        assert_eq!(
            cut("0-4@3"),
            Ok(Fault::Cut {
                a: 0,
                b: 4,
                at_put: 3
            })
        );
        assert!(cut("0@3").is_err());
        assert_eq!(
            drop_rank("2@100"),
            Ok(Fault::Drop {
                rank: 2,
                at_event: 100
            })
        );
        assert!(drop_rank("2").is_err());
    }

    #[test]
    fn collectives_by_name() {
        assert_eq!(collectives("all", 3).expect("all").len(), 10);
        let reduce = collectives("reduce", 3).expect("reduce");
        assert_eq!(reduce, [Collective::Reduce { root: 3 }]);
        assert_eq!(
            collectives("allreduce", 0).expect("as nccl spells it"),
            [Collective::AllReduce]
        );
        let error = collectives("gossip", 0).expect_err("unknown").to_string();
        assert!(
            error.contains("gossip") && error.contains("all_gather"),
            "{error}"
        );
    }
}
