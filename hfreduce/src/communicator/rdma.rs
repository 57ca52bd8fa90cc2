//! The verbs wire as the communicator sees it: there in builds with the feature, and an error with a remedy in all others. It knows
//! which settings it is made of, no device. Invariant: where the user asked for verbs, a rank that cannot have it says why at the start.

use crate::{
    config::{Config, Wire},
    error::{Error, Kind},
};
use hfr_transport::{Transport, shm::Segment};
use std::{net::IpAddr, ops::Range, sync::Arc};

/// Whether this rank could use the wire.
///
/// # Errors
/// It was asked for, and it cannot.
pub fn usable(config: &Config) -> Result<bool, Error> {
    if !matches!(config.wire, Wire::Auto | Wire::Verbs) {
        return Ok(false);
    }
    // Where there is an adapter and it cannot be used, somebody wants to know.
    let device = build::usable(config);
    let there = device.is_ok();
    match device.and_then(|()| build::lockable(config)) {
        Ok(()) => Ok(true),
        Err(why) if config.wire == Wire::Verbs => {
            let remedy = "set HFR_TRANSPORT=tcp to do without RDMA";
            Err(Error::new(
                Kind::Start,
                format!("HFR_TRANSPORT=verbs cannot be had: {why}"),
                remedy,
            )
            .at(config.rank, 0))
        }
        Err(why) if there => {
            tracing::warn!(%why, "this host has RDMA, and TCP is used instead");
            Ok(false)
        }
        Err(why) => {
            tracing::debug!(%why, "no RDMA here");
            Ok(false)
        }
    }
}

/// The names of the ports that this rank may use.
pub fn ports(config: &Config) -> Vec<String> {
    build::ports(config)
}

/// This rank's end: `member` is its rank, the number of ranks, and its local rank; `ports` are those of its place, which may know none.
pub fn open(
    config: &Config,
    member: (usize, usize, usize),
    ports: &[(String, usize)],
    segment: Arc<Segment>,
    writable: Range<usize>,
    listen: IpAddr,
    token: [u8; 32],
) -> Result<Box<dyn Transport>, hfr_transport::Error> {
    build::open(config, member, ports, segment, writable, listen, token)
}

#[cfg(any(feature = "verbs", feature = "verbs-dlopen"))]
mod build {
    use super::*;
    use crate::layout::MOST_SLOTS;
    use hfr_transport::verbs::{self, Limits, Member, Port, Verbs};

    pub fn usable(config: &Config) -> Result<(), String> {
        verbs::usable(&config.infiniband)
    }

    pub fn lockable(config: &Config) -> Result<(), String> {
        // The slots of one plan, between blocks that are registered as a whole at both ends of it.
        let block = Limits::default().block;
        verbs::lockable(config.slots.min(MOST_SLOTS) + 2 * block)
    }

    pub fn ports(config: &Config) -> Vec<String> {
        verbs::ports(&config.infiniband).unwrap_or_default()
    }

    pub fn open(
        config: &Config,
        (rank, world, local_rank): (usize, usize, usize),
        ports: &[(String, usize)],
        segment: Arc<Segment>,
        writable: Range<usize>,
        listen: IpAddr,
        token: [u8; 32],
    ) -> Result<Box<dyn Transport>, hfr_transport::Error> {
        let port = |(name, rail): &(String, usize)| Port {
            name: name.clone(),
            rail: *rail,
        };
        let member = Member {
            rank,
            world,
            local_rank,
            ports: ports.iter().map(port).collect(),
        };
        let limits = Limits::default();
        Ok(Box::new(Verbs::open(
            member,
            segment,
            writable,
            listen,
            token,
            &config.infiniband,
            limits,
        )?))
    }
}

#[cfg(not(any(feature = "verbs", feature = "verbs-dlopen")))]
mod build {
    use super::*;

    pub fn usable(_: &Config) -> Result<(), String> {
        Err("this build has no verbs wire; build with `--features verbs-dlopen`".into())
    }

    pub fn lockable(_: &Config) -> Result<(), String> {
        Ok(())
    }

    pub fn ports(_: &Config) -> Vec<String> {
        Vec::new()
    }

    pub fn open(
        config: &Config,
        _: (usize, usize, usize),
        _: &[(String, usize)],
        _: Arc<Segment>,
        _: Range<usize>,
        _: IpAddr,
        _: [u8; 32],
    ) -> Result<Box<dyn Transport>, hfr_transport::Error> {
        let cause = usable(config).expect_err("this build has none");
        Err(hfr_transport::Error {
            wire: "verbs",
            peer: None,
            cause,
        })
    }
}
