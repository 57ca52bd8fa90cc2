//! The job that the environment describes. Its one meeting place serves one group, so the first `init` makes a group that is kept to the
//! process's end and only passes on where the groups meet that programs get: as many as they like, one after the other or at once.
//! Knows no Python. Invariant: that group's calls are made by `init` and at the process's end alone, so
//! all ranks that call it as often agree.

use hfreduce::{Collective, Communicator, Config, DType, Error, Kind, RawCall, ReduceOp, UniqueId};
use std::{
    sync::{Mutex, PoisonError, TryLockError},
    time::Duration,
};

static WORLD: Mutex<Option<Communicator>> = Mutex::new(None);

/// Joins the job's ranks in a new group.
///
/// # Errors
/// What joining meets; the loss of a rank since the first time.
pub fn join(config: &Config) -> Result<Communicator, Error> {
    if config.world == 1 {
        return Communicator::connect(config);
    }
    let mut world = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    if world.is_none() {
        let mut first = config.clone();
        // Its calls wait for ranks to come.
        first.timeout = config.connect_timeout;
        *world = Some(Communicator::connect(&first)?);
    }
    let group = world.as_ref().expect("made above");
    let mut bytes = [0u8; 128];
    let mut failed = None;
    if config.rank == 0 {
        match create(config) {
            Ok(id) => bytes = id.to_bytes(),
            Err(error) => failed = Some(error),
        }
    }
    group.broadcast(&mut bytes, 0)?;
    drop(world);
    match failed {
        Some(error) => Err(error),
        None if bytes == [0; 128] => {
            let remedy = "see its own error";
            Err(Error::new(
                Kind::Start,
                "rank 0 could not make a meeting place",
                remedy,
            ))
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
    let Ok(world) = WORLD.try_lock() else { return };
    let Some(group) = world.as_ref() else { return };
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
    let all = unsafe { group.start(nothing) };
    // A failure says that somebody is gone already.
    let _ = all.wait_for(FAREWELL);
}

/// Lets go of the job's group, unless somebody is joining.
pub fn leave() {
    let taken = match WORLD.try_lock() {
        Ok(mut world) => world.take(),
        Err(TryLockError::Poisoned(world)) => world.into_inner().take(),
        Err(TryLockError::WouldBlock) => None,
    };
    drop(taken);
}
