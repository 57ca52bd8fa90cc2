//! How a communicator begins: from the environment, or at a meeting place. Knows no collective. Invariant: arguments are refused before anybody
//! is waited for, and signals are honoured while the other ranks are.

use crate::{
    error::{invalid, raise},
    inner::interruptible,
    pending::seconds,
    unique_id, world,
};
use hfreduce::{Communicator, Config, Error};
use pyo3::prelude::*;

/// Seconds for an operation, and for all ranks to come.
type Timeouts = (Option<f64>, Option<f64>);

fn settings(
    py: Python<'_>,
    config: Result<Config, Error>,
    (timeout, connect): Timeouts,
    gpu: Option<bool>,
) -> PyResult<Config> {
    let mut config = config.map_err(|error| raise(py, &error))?;
    if let Some(timeout) = timeout {
        config.timeout = seconds(py, config.rank, "init", timeout)?;
    }
    if let Some(timeout) = connect {
        config.connect_timeout = seconds(py, config.rank, "init", timeout)?;
    }
    config.gpu = gpu.or(config.gpu);
    Ok(config)
}

/// The job that the environment describes.
pub fn from_env(py: Python<'_>, timeouts: Timeouts, gpu: Option<bool>) -> PyResult<Communicator> {
    let config = settings(py, Config::from_env(), timeouts, gpu)?;
    interruptible(py, move || world::join(&config))
}

/// The group that meets at a place.
pub fn at(
    py: Python<'_>,
    id: &[u8],
    (rank, world): (i64, i64),
    timeouts: Timeouts,
    gpu: Option<bool>,
) -> PyResult<Communicator> {
    let id = unique_id::parse(py, id)?;
    let whole = |what: &str, number: i64, from: i64| match usize::try_from(number) {
        Ok(whole) if number >= from => Ok(whole),
        _ => {
            let why = format!("{what} {number}; it is a whole number from {from} on");
            Err(invalid(py, 0, "join", &why))
        }
    };
    let (rank, world) = (whole("rank", rank, 0)?, whole("world", world, 1)?);
    if rank >= world {
        let why = format!("rank {rank} in a world of {world}");
        return Err(invalid(py, rank, "join", &why));
    }
    let config = settings(py, Config::of_rank(rank, world), timeouts, gpu)?;
    interruptible(py, move || Communicator::join(&id, &config))
}
