//! The job that the environment describes. Its one meeting place serves one group, so the first `init` makes a group that is kept to the
//! process's end, and programs get groups split from it: as many as they like, one after the other or at once. They all meet in rank 0's
//! process, which so stays their meeting place whatever rank 0's program has closed. Knows no Python. Invariant: the kept groups' calls
//! are made here alone, so all ranks that call `init` as often agree.

use hfreduce::{Collective, Communicator, Config, DType, Error, Kind, RawCall, ReduceOp, UniqueId};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The job's group, and one more for each other pair of timeouts that was asked for since, as splitting keeps them.
static WORLDS: Mutex<Vec<World>> = Mutex::new(Vec::new());

struct World {
    timeouts: (Duration, Duration),
    group: Communicator,
}

/// Joins the job's ranks in a new group.
///
/// # Errors
/// What joining meets; the loss of a rank since the first time.
pub fn join(config: &Config) -> Result<Communicator, Error> {
    if config.world == 1 {
        return Communicator::connect(config);
    }
    let timeouts = (config.timeout, config.connect_timeout);
    let mut worlds = WORLDS.lock().unwrap_or_else(PoisonError::into_inner);
    if !worlds.iter().any(|world| world.timeouts == timeouts) {
        let group = match worlds.first() {
            None => Communicator::connect(config)?,
            Some(first) => again(&first.group, config)?,
        };
        worlds.push(World { timeouts, group });
    }
    let world = worlds.iter().find(|world| world.timeouts == timeouts);
    let group = &world.expect("made above").group;
    let made = group.split(Some(0), config.rank as i64)?;
    Ok(made.expect("every rank has a color"))
}

/// All ranks of a group in another, with other settings.
fn again(group: &Communicator, config: &Config) -> Result<Communicator, Error> {
    let mut bytes = [0u8; 128];
    let mut failed = None;
    if config.rank == 0 {
        match create(config) {
            Ok(id) => bytes = id.to_bytes(),
            Err(error) => failed = Some(error),
        }
    }
    group.broadcast(&mut bytes, 0)?;
    match failed {
        Some(error) => Err(error),
        None if bytes == [0; 128] => {
            let cause = "rank 0 could not make a meeting place";
            Err(Error::new(Kind::Start, cause, "see its own error"))
        }
        None => Communicator::join(&UniqueId::from_bytes(&bytes)?, config),
    }
}

/// A meeting place at the address of the job's own.
fn create(config: &Config) -> Result<UniqueId, Error> {
    let place = config.rendezvous.as_deref().unwrap_or_default();
    match place.rsplit_once(':') {
        Some((host, _)) => UniqueId::create_near(host.trim_matches(['[', ']'])),
        None => UniqueId::create(),
    }
}

/// How long a process that ends waits for the others: the groups of a job meet in rank 0's process, also those without rank 0.
const FAREWELL: Duration = Duration::from_secs(2);

/// Waits a moment until all ranks of the job are about to end. Whoever comes later finds the others gone, which is its own affair.
pub fn farewell() {
    let Ok(worlds) = WORLDS.try_lock() else {
        return;
    };
    let Some(first) = worlds.first() else { return };
    let nothing = RawCall {
        collective: Collective::Barrier,
        dtype: DType::U8,
        op: ReduceOp::Sum,
        count: 0,
        input: std::ptr::null(),
        output: std::ptr::null_mut(),
        blocks: None,
    };
    // SAFETY: a barrier touches no memory.
    let all = unsafe { first.group.start(nothing) };
    // A failure says that somebody is gone already.
    let _ = all.wait_for(FAREWELL);
}

/// Lets go of the job's groups, unless somebody is joining.
pub fn leave() {
    if let Ok(mut worlds) = WORLDS.try_lock() {
        drop(std::mem::take(&mut *worlds));
    }
}
