//! The launchers, in the order in which they are asked: which variables each sets for rank, world size and local rank. It
//! knows nothing of addresses.

use super::{Env, Error};

/// Whose variables were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Launcher {
    Explicit,
    Torchrun,
    OpenMpi,
    Mvapich,
    Pmi,
    Pmix,
    Slurm,
    Pals,
    Single,
}

impl Launcher {
    pub(super) fn name(self) -> &'static str {
        match self {
            Launcher::Explicit => "HFR_RANK and HFR_WORLD_SIZE",
            Launcher::Torchrun => "torchrun (RANK, WORLD_SIZE)",
            Launcher::OpenMpi => "Open MPI (OMPI_COMM_WORLD_*)",
            Launcher::Mvapich => "MVAPICH2 (MV2_COMM_WORLD_*)",
            Launcher::Pmi => "PMI (PMI_RANK, PMI_SIZE)",
            Launcher::Pmix => "PMIx (PMIX_RANK) and HFR_WORLD_SIZE",
            Launcher::Slurm => "Slurm (SLURM_PROCID, SLURM_NTASKS)",
            Launcher::Pals => "PALS (PALS_RANKID, PALS_SIZE)",
            Launcher::Single => "no launcher's variables, so a single rank",
        }
    }
}

/// What a launcher said.
pub(super) struct Found {
    pub(super) launcher: Launcher,
    pub(super) rank: usize,
    pub(super) world: usize,
    pub(super) local: Option<(usize, usize)>,
}

/// Launchers that differ in nothing but their names: rank, size, and pairs of local rank and size.
type Names = (
    Launcher,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const TORCHRUN: Names = (
    Launcher::Torchrun,
    "RANK",
    "WORLD_SIZE",
    &[("LOCAL_RANK", "LOCAL_WORLD_SIZE")],
);

const MPI: [Names; 3] = [
    (
        Launcher::OpenMpi,
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        &[("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")],
    ),
    (
        Launcher::Mvapich,
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        &[("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE")],
    ),
    (
        Launcher::Pmi,
        "PMI_RANK",
        "PMI_SIZE",
        &[
            ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
            ("PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
        ],
    ),
];

const PALS: Names = (
    Launcher::Pals,
    "PALS_RANKID",
    "PALS_SIZE",
    &[("PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE")],
);

/// Asks one launcher after the other.
pub(super) fn discover(env: Env) -> Result<Found, Error> {
    if let Some(found) = explicit(env)? {
        return Ok(found);
    }
    // Plain words like RANK may belong to anybody; only both together are torchrun's.
    if env(TORCHRUN.1).is_some() && env(TORCHRUN.2).is_some() {
        return named(env, &TORCHRUN);
    }
    if let Some(names) = MPI.iter().find(|names| env(names.1).is_some()) {
        return named(env, names);
    }
    let in_step = is_slurm_step(env);
    if !in_step && let Some(rank) = number(env, "PMIX_RANK")? {
        return pmix(env, rank);
    }
    if in_step {
        return slurm(env);
    }
    if env(PALS.1).is_some() {
        return named(env, &PALS);
    }
    single(env)
}

fn explicit(env: Env) -> Result<Option<Found>, Error> {
    let pair = (number(env, "HFR_RANK")?, number(env, "HFR_WORLD_SIZE")?);
    let (rank, world) = match pair {
        (Some(rank), Some(world)) => (rank, world),
        (Some(_), None) => return Err(half("HFR_RANK", "HFR_WORLD_SIZE")),
        // PMIx tells the rank but not the size, so it is completed by this one.
        (None, Some(_)) if env("PMIX_RANK").is_none() => {
            return Err(half("HFR_WORLD_SIZE", "HFR_RANK"));
        }
        (None, _) => return Ok(None),
    };
    Ok(Some(Found {
        launcher: Launcher::Explicit,
        rank,
        world,
        local: None,
    }))
}

fn named(env: Env, (launcher, rank, size, locals): &Names) -> Result<Found, Error> {
    let world = number(env, size)?.ok_or_else(|| half(rank, size))?;
    let rank = number(env, rank)?.ok_or_else(|| half(size, rank))?;
    let mut local = None;
    for (rank, size) in *locals {
        local = local.or(number(env, rank)?.zip(number(env, size)?));
    }
    Ok(Found {
        launcher: *launcher,
        rank,
        world,
        local,
    })
}

fn pmix(env: Env, rank: usize) -> Result<Found, Error> {
    let world = number(env, "HFR_WORLD_SIZE")?.ok_or_else(|| {
        Error(
            "PMIX_RANK is set, but PMIx does not tell how many ranks there are: set HFR_WORLD_SIZE"
                .into(),
        )
    })?;
    Ok(Found {
        launcher: Launcher::Pmix,
        rank,
        world,
        local: None,
    })
}

/// A batch script has `SLURM_PROCID=0` and `SLURM_NTASKS=n` too, but is one process; only `srun` makes a step.
fn is_slurm_step(env: Env) -> bool {
    let step = env("SLURM_STEP_ID").is_some() || env("SLURM_STEP_NODELIST").is_some();
    step && env("SLURM_PROCID").is_some()
}

fn slurm(env: Env) -> Result<Found, Error> {
    let rank = number(env, "SLURM_PROCID")?.unwrap_or_default();
    let world = match number(env, "SLURM_STEP_NUM_TASKS")? {
        Some(world) => world,
        None => number(env, "SLURM_NTASKS")?.ok_or_else(|| half("SLURM_PROCID", "SLURM_NTASKS"))?,
    };
    let local = match (number(env, "SLURM_LOCALID")?, number(env, "SLURM_NODEID")?) {
        (Some(local), Some(node)) => tasks_on(env, node)?.map(|size| (local, size)),
        _ => None,
    };
    Ok(Found {
        launcher: Launcher::Slurm,
        rank,
        world,
        local,
    })
}

/// How many tasks the step has on its n-th node, from a list like `4(x2),3`.
fn tasks_on(env: Env, node: usize) -> Result<Option<usize>, Error> {
    let name = "SLURM_STEP_TASKS_PER_NODE";
    let Some(list) = env(name) else {
        return Ok(None);
    };
    let wrong = || Error(format!("{name}='{list}' is not a list like 4(x2),3"));
    let mut before = 0;
    for item in list.split(',') {
        let (tasks, repeat) = match item.split_once("(x") {
            Some((tasks, repeat)) => (tasks, repeat.strip_suffix(')').ok_or_else(wrong)?),
            None => (item, "1"),
        };
        let tasks: usize = tasks.parse().map_err(|_| wrong())?;
        let repeat: usize = repeat.parse().map_err(|_| wrong())?;
        before = repeat.checked_add(before).ok_or_else(wrong)?;
        if node < before {
            return Ok(Some(tasks));
        }
    }
    Err(Error(format!(
        "SLURM_NODEID={node} has no entry in {name}='{list}'"
    )))
}

/// Nobody said anything: one rank. A lone half of torchrun's pair would be silently wrong, so it is refused.
fn single(env: Env) -> Result<Found, Error> {
    match (number(env, TORCHRUN.1)?, number(env, TORCHRUN.2)?) {
        (None, None | Some(1)) | (Some(0), None) => {}
        (Some(_), _) => return Err(half(TORCHRUN.1, TORCHRUN.2)),
        (None, _) => return Err(half(TORCHRUN.2, TORCHRUN.1)),
    }
    Ok(Found {
        launcher: Launcher::Single,
        rank: 0,
        world: 1,
        local: Some((0, 1)),
    })
}

fn half(present: &str, absent: &str) -> Error {
    Error(format!(
        "{present} is set, but {absent} is not: set both, or neither"
    ))
}

pub(super) fn number(env: Env, name: &str) -> Result<Option<usize>, Error> {
    let Some(text) = env(name) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(Error(format!(
            "{name}='{text}' is not a number of 0 or more"
        ))),
    }
}

impl Found {
    /// Whether the launcher says that all ranks are on this host.
    pub(super) fn all_local(&self) -> bool {
        self.local.is_some_and(|(_, size)| size == self.world)
    }

    /// Ranks lie inside their worlds.
    pub(super) fn check(&self) -> Result<(), Error> {
        let Found { rank, world, .. } = self;
        let source = self.launcher.name();
        if rank >= world {
            return Err(Error(format!(
                "rank {rank} does not exist in a world of {world} ranks (ranks begin with 0); both from {source}"
            )));
        }
        match self.local {
            Some((local, size)) if local >= size => Err(Error(format!(
                "local rank {local} does not exist among {size} local ranks; both from {source}"
            ))),
            Some((_, size)) if size > *world => Err(Error(format!(
                "{size} local ranks cannot be in a world of {world}; both from {source}"
            ))),
            _ => Ok(()),
        }
    }
}
