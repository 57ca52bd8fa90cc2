//! Groups of hfreduce for jobs that MPI has started: the ranks and the place to meet go through a communicator of MPI, so that no variable
//! and no port has to be set. It knows how to begin and nothing else: what runs afterwards is [`hfreduce`] alone, and MPI's own calls
//! go on as before. Invariant: a rank that cannot begin keeps no other waiting.
//!
//! ```no_run
//! use hfreduce::ReduceOp;
//!
//! let universe = mpi::initialize().expect("MPI begins once");
//! let group = hfreduce_mpi::connect(&universe.world())?;
//! let mut gradients = vec![1.0f32; 1000];
//! group.all_reduce(&mut gradients, ReduceOp::Sum)?;
//! # Ok::<(), hfreduce::Error>(())
//! ```

use hfreduce::{Communicator, Config, Error, Kind, UniqueId};
use mpi::{collective::CommunicatorCollectives, topology, traits::Root};

/// Joins the group of all ranks of `ranks`, with the same numbers; collective over it. Settings are the environment's.
///
/// The group meets in the process of rank 0, which must keep the communicator as long as others use theirs. Drop it before MPI ends or
/// afterwards, as you like.
///
/// # Errors
/// Ranks whose nodes are not one behind the other, no address to listen on at rank 0, a variable that makes no sense; the same kind of failure on
/// every rank where it is one of the group.
pub fn connect<C: topology::Communicator>(ranks: &C) -> Result<Communicator, Error> {
    let number = |count: mpi::Rank| usize::try_from(count).unwrap_or_default();
    let config = Config::of_rank(number(ranks.rank()), number(ranks.size()));
    connect_with(ranks, config)
}

/// As [`connect`], with settings: a failure to make them is told to the others, too.
///
/// # Errors
/// As [`connect`]; settings with another rank or another number of ranks than those of `ranks`.
pub fn connect_with<C: topology::Communicator>(
    ranks: &C,
    config: Result<Config, Error>,
) -> Result<Communicator, Error> {
    let id = meet(ranks);
    let fits = |config: &Config| {
        (config.rank, config.world) == (ranks.rank() as usize, ranks.size() as usize)
    };
    let ready = config.and_then(|config| match fits(&config) {
        true => Ok(config),
        false => Err(begin(
            format!(
                "the settings are those of rank {} of {}, MPI says rank {} of {}",
                config.rank,
                config.world,
                ranks.rank(),
                ranks.size()
            ),
            "make them with Config::of_rank and MPI's numbers",
        )),
    });
    let mine = id.and_then(|id| Ok((id, ready?)));
    // A rank that cannot come would keep the others waiting until their time is up. This is where late ranks are waited for, too.
    let mut good = 0i32;
    let own = i32::from(mine.is_ok());
    ranks.all_reduce_into(&own, &mut good, mpi::collective::SystemOperation::min());
    let (id, config) = mine?;
    if good == 0 {
        return Err(begin(
            "another rank cannot begin".into(),
            "see what it says",
        ));
    }
    Communicator::join(&id, &config)
}

/// The identity that rank 0 makes; bytes that are none where it cannot.
fn meet<C: topology::Communicator>(ranks: &C) -> Result<UniqueId, Error> {
    let made = (ranks.rank() == 0).then(UniqueId::create);
    let mut bytes = match &made {
        Some(Ok(id)) => id.to_bytes(),
        _ => [0; 128],
    };
    ranks.process_at_rank(0).broadcast_into(&mut bytes[..]);
    match made {
        Some(made) => made,
        None if bytes == [0; 128] => Err(begin(
            "rank 0 has no place where the group could meet".into(),
            "see what it says",
        )),
        None => UniqueId::from_bytes(&bytes),
    }
}

fn begin(cause: String, remedy: &str) -> Error {
    Error::new(Kind::Start, cause, remedy)
}
