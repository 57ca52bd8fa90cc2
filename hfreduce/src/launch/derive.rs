//! Where the ranks meet and by what secret, when nobody said so: derived from what every rank of a job can see alike. It
//! knows no socket, and gives an address only where all ranks derive the same one.

use super::hydra::PROXY;
use super::sources::{Found, Launcher, number};
use super::{Env, Error};

/// Derived ports lie in 20000..30000: above the well-known ones, below the range that Linux hands out by itself.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// torchrun's own store has `MASTER_PORT`.
const BESIDE_MASTER: u16 = 5;

const COMM_IDS: [&str; 2] = ["HFR_COMM_ID", "NCCL_COMM_ID"];

/// What names a job, each the same on all of its ranks.
const MPI_JOBS: [&str; 4] = [
    "PMIX_NAMESPACE",
    "OMPI_MCA_ess_base_jobid",
    "PMI_JOBID",
    "PALS_APID",
];

/// The rendezvous the user named, and the variable.
pub(super) fn comm_id(env: Env) -> Result<Option<(String, &'static str)>, Error> {
    for name in COMM_IDS {
        if let Some(text) = env(name) {
            let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
                let bare = host
                    .strip_prefix('[')
                    .and_then(|host| host.strip_suffix(']'));
                let host_fits = match bare {
                    Some(inside) => inside.contains(':'),
                    None => !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']),
                };
                host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            if !is_address {
                return Err(Error(format!(
                    "{name}='{text}' is not host:port (an IPv6 address stands in brackets; the port is 1 to 65535)"
                )));
            }
            return Ok(Some((text, name)));
        }
    }
    Ok(None)
}

/// The rendezvous of a job with more than one rank, and from what.
pub(super) fn rendezvous(env: Env, found: &Found) -> Result<(String, &'static str), Error> {
    match found.launcher {
        Launcher::Torchrun => torchrun(env),
        Launcher::Slurm => slurm(env),
        Launcher::OpenMpi | Launcher::Mvapich | Launcher::Pmi | Launcher::Pals => mpi(env, found),
        Launcher::Explicit | Launcher::Pmix | Launcher::Single => {
            Err(unknown(found, "does not tell where rank 0 is"))
        }
    }
}

fn unknown(found: &Found, why: &str) -> Error {
    Error(format!(
        "no rendezvous for {} ranks: {} {why}; set HFR_COMM_ID=host:port on every rank, with rank 0's host and a free port of it",
        found.world,
        found.launcher.name()
    ))
}

fn torchrun(env: Env) -> Result<(String, &'static str), Error> {
    let missing = |name: &str| {
        Error(format!(
            "RANK and WORLD_SIZE are set, but {name} is not: set it, or HFR_COMM_ID=host:port"
        ))
    };
    let host = env("MASTER_ADDR").ok_or_else(|| missing("MASTER_ADDR"))?;
    let port = number(env, "MASTER_PORT")?.ok_or_else(|| missing("MASTER_PORT"))?;
    let port = u16::try_from(port).ok().filter(|&port| port > 0);
    let port = port.and_then(|port| port.checked_add(BESIDE_MASTER)).ok_or_else(|| {
        let text = env("MASTER_PORT").unwrap_or_default();
        Error(format!("MASTER_PORT={text} leaves no port {BESIDE_MASTER} above it: set HFR_COMM_ID=host:port"))
    })?;
    Ok((join(&host, port), "MASTER_ADDR and MASTER_PORT + 5"))
}

fn slurm(env: Env) -> Result<(String, &'static str), Error> {
    let missing = |name: &str| {
        Error(format!(
            "SLURM_PROCID is set, but {name} is not: set HFR_COMM_ID=host:port"
        ))
    };
    let list = env("SLURM_STEP_NODELIST").ok_or_else(|| missing("SLURM_STEP_NODELIST"))?;
    let job = slurm_job(env).ok_or_else(|| missing("SLURM_JOB_ID"))?;
    let host = first_host(&list).ok_or_else(|| {
        Error(format!(
            "SLURM_STEP_NODELIST='{list}' is not a list of hosts like node[003-005,7],b1"
        ))
    })?;
    Ok((
        join(&host, port_of(&job)),
        "first of SLURM_STEP_NODELIST, port from the job and step id",
    ))
}

/// Two steps of one job may run at once, so the step counts.
fn slurm_job(env: Env) -> Option<String> {
    let job = env("SLURM_JOB_ID").or_else(|| env("SLURM_JOBID"))?;
    Some(format!(
        "{job}.{}",
        env("SLURM_STEP_ID").unwrap_or_default()
    ))
}

fn mpi(env: Env, found: &Found) -> Result<(String, &'static str), Error> {
    if !found.all_local() {
        return Err(unknown(
            found,
            "does not tell where rank 0 is, and not all ranks are on this host",
        ));
    }
    let Some((name, job)) = MPI_JOBS
        .into_iter()
        .chain([PROXY])
        .find_map(|name| Some((name, env(name)?)))
    else {
        return Err(unknown(found, "gives the job no id to derive a port from"));
    };
    let from = match name {
        "PMIX_NAMESPACE" => "all ranks are local, port from PMIX_NAMESPACE",
        "OMPI_MCA_ess_base_jobid" => "all ranks are local, port from OMPI_MCA_ess_base_jobid",
        "PMI_JOBID" => "all ranks are local, port from PMI_JOBID",
        PROXY => "all ranks are local, port from hydra's proxy process",
        _ => "all ranks are local, port from PALS_APID",
    };
    Ok((join("127.0.0.1", port_of(&job)), from))
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The same port on every rank, different ones for most jobs (FNV-1a).
fn port_of(job: &str) -> u16 {
    let hash = job.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of FNV are its weakest.
    PORTS.start + ((hash >> 20) % PORTS.len() as u64) as u16
}

/// The first host of a list as Slurm writes it: `node[003-005,7],b1` begins with `node003`.
pub(super) fn first_host(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list.trim();
    while let Some(next) = rest.chars().next() {
        match next {
            ',' => break,
            '[' => {
                let (inside, after) = rest[1..].split_once(']')?;
                let first = inside.split([',', '-']).next()?;
                if first.is_empty() || !first.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
                host.push_str(first);
                rest = after;
            }
            ']' | ' ' => return None,
            _ => {
                host.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    (!host.is_empty()).then_some(host)
}

/// The job's secret and where it is from. Only values that every rank of a job has alike may go in.
pub(super) fn cookie(env: Env, found: &Found, rendezvous: Option<&str>) -> (Vec<u8>, &'static str) {
    if let Some(cookie) = env("HFR_COOKIE") {
        return (cookie.into_bytes(), "HFR_COOKIE");
    }
    let values = |names: &[&str]| {
        let each = names
            .iter()
            .map(|name| format!("{name}={}", env(name).unwrap_or_default()));
        each.collect::<Vec<_>>().join(" ")
    };
    let (job, from) = match found.launcher {
        Launcher::Torchrun => (
            values(&["TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"]),
            "torchrun's run id and master address (weaker than HFR_COOKIE)",
        ),
        Launcher::Slurm => (
            slurm_job(env).unwrap_or_default(),
            "the Slurm job and step id (weaker than HFR_COOKIE)",
        ),
        Launcher::OpenMpi | Launcher::Mvapich | Launcher::Pmi | Launcher::Pmix | Launcher::Pals => {
            let mut names = MPI_JOBS.to_vec();
            // Each host has a proxy of its own.
            names.extend(found.all_local().then_some(PROXY));
            (values(&names), "the MPI job id (weaker than HFR_COOKIE)")
        }
        Launcher::Explicit | Launcher::Single => {
            // The host may be spelled differently by different ranks, the port may not.
            let port = rendezvous
                .and_then(|text| text.rsplit_once(':'))
                .map_or("", |(_, port)| port);
            (
                format!("port {port}"),
                "the rendezvous port alone (set HFR_COOKIE to keep others out)",
            )
        }
    };
    (format!("hfreduce {job}").into_bytes(), from)
}
