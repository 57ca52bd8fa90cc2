//! Who am I: finds a process's rank, the world size and the rendezvous in the environment its launcher gave it. Pure: the
//! environment is a function that is passed in, and nothing is connected or looked up. Invariant: a `Launch` never contradicts
//! itself; what the environment leaves open or says twice is an error that names the variable, never a guess.
//!
//! Order: `HFR_*`, torchrun, Open MPI, MVAPICH2, PMI, PMIx, Slurm, PALS, and at last a single rank. `HFR_COMM_ID=host:port`
//! (or `NCCL_COMM_ID`) and `HFR_COOKIE` hold with every one of them.

mod derive;
mod hydra;
mod node;
mod sources;

pub use hydra::with_proxy;
pub use node::{machine_identity, node_identity};

/// A lookup of environment variables; an empty value counts as not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment does not say who this process is, or contradicts itself. A sentence that names the variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// What a process was told by its launcher.
#[derive(Clone, PartialEq, Eq)]
pub struct Launch {
    /// This process's rank, below `world`.
    pub rank: usize,
    /// How many ranks there are; at least 1.
    pub world: usize,
    /// Rank on this host and number of ranks there, where the launcher tells.
    pub local: Option<(usize, usize)>,
    /// `host:port` where rank 0 listens; always there when `world` is above 1.
    pub rendezvous: Option<String>,
    /// Which launcher's variables were used.
    pub source: &'static str,
    /// The job's secret: `HFR_COOKIE`, or else derived from the job's identifiers. The derived one keeps jobs apart that
    /// meet by accident; it keeps out nobody who can read or guess those identifiers.
    pub cookie: Vec<u8>,
    /// Where the cookie and the rendezvous come from, for `describe`.
    origin: Origin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Origin {
    rendezvous: &'static str,
    cookie: &'static str,
}

impl std::fmt::Debug for Launch {
    /// Without the cookie: this ends up in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Launch({})", self.describe())
    }
}

impl Launch {
    /// Reads the environment.
    ///
    /// # Errors
    /// A value that is no number, ranks outside their world, a missing half of a pair, a rendezvous that cannot be derived:
    /// each with the variables and what to set.
    pub fn from_env(env: Env) -> Result<Launch, Error> {
        let env: Env = &|name| {
            env(name)
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
        };
        let found = sources::discover(env)?;
        found.check()?;
        let (rendezvous, from) = match derive::comm_id(env)? {
            Some((address, variable)) => (Some(address), variable),
            None if found.world == 1 => (None, "none needed"),
            None => {
                let (address, from) = derive::rendezvous(env, &found)?;
                (Some(address), from)
            }
        };
        let (cookie, secret) = derive::cookie(env, &found, rendezvous.as_deref());
        Ok(Launch {
            rank: found.rank,
            world: found.world,
            local: found.local,
            rendezvous,
            source: found.launcher.name(),
            cookie,
            origin: Origin {
                rendezvous: from,
                cookie: secret,
            },
        })
    }

    /// One line: what was understood, and from where. Does not show the cookie.
    pub fn describe(&self) -> String {
        let Launch {
            rank,
            world,
            source,
            origin,
            ..
        } = self;
        let local = match self.local {
            Some((rank, size)) => format!("local rank {rank} of {size}"),
            None => "local rank unknown".to_owned(),
        };
        let place = self.rendezvous.as_deref().unwrap_or("no rendezvous");
        format!(
            "rank {rank} of {world} ({local}) from {source}; rendezvous {place} ({}); secret from {}",
            origin.rendezvous, origin.cookie
        )
    }
}

#[cfg(test)]
mod tests;
