//! A port of this rank with what belongs to it: its device, the memory registered there, its completion queues. It knows which ports a rank has
//! and why, no peer. Invariant: queues and memory end before their device.

use super::alarms;
use super::completion::Completions;
use super::device::{self, Device};
use super::lane::SPARE;
use super::memory::Memory;
use super::{Limits, Member};
use crate::net::Infiniband;
use crate::shm::Segment;
use std::ops::Range;
use std::sync::{Arc, Once};

/// Lanes have numbers of 8 bits in the work ids.
const MOST: usize = 256;

pub(super) struct Rail {
    /// Equal numbers of two ranks are one rail.
    pub number: usize,
    pub completions: Completions,
    pub memory: Memory,
    pub device: Device,
}

/// Opens the ports of a rank, its main one first.
pub(super) fn open(
    member: &Member,
    segment: &Arc<Segment>,
    writable: &Range<usize>,
    settings: &Infiniband,
    limits: &Limits,
) -> Result<Vec<Rail>, String> {
    let wanted = limits.sends.max(limits.credits + SPARE) as usize;
    let per_lane = (limits.sends + limits.credits + SPARE) as usize;
    if member.ports.len() > MOST {
        let count = member.ports.len();
        return Err(format!("{count} ports for one rank, of {MOST} at most"));
    }
    let rails = device::open(settings, member.local_rank, &member.ports)?;
    let rails: Result<Vec<Rail>, String> = rails
        .into_iter()
        .map(|(number, device)| {
            if wanted > device.requests {
                let (name, has) = (&device.name, device.requests);
                return Err(format!(
                    "{name} has queues of {has} work requests, a lane needs {wanted}"
                ));
            }
            alarms::open(&device)?;
            let block = limits.block.max(4096);
            Ok(Rail {
                number,
                completions: Completions::new(&device, per_lane)?,
                memory: Memory::new(segment.clone(), writable.clone(), block),
                device,
            })
        })
        .collect();
    if let Ok(rails) = &rails {
        announce(rails, member, settings);
    }
    rails
}

/// Says once per process which ports its first rank has, and why.
fn announce(rails: &[Rail], member: &Member, settings: &Infiniband) {
    static SAID: Once = Once::new();
    let port = |rail: &Rail| {
        let device = &rail.device;
        let kind = match device.ethernet {
            true => "RoCE".to_owned(),
            false => format!("InfiniBand, LID {}", device.lid),
        };
        let (name, port, mtu) = (&device.name, device.port, 128 << device.mtu);
        format!("{name}:{port} on rail {} ({kind}, MTU {mtu})", rail.number)
    };
    let mut why = match member.ports.is_empty() {
        true => "by local rank among those that are up".to_owned(),
        false => "the nearest first".to_owned(),
    };
    if let Some(hca) = &settings.hca {
        why += &format!(", of HFR_IB_HCA={hca}");
    }
    let (sl, tc) = (settings.service_level, settings.traffic_class);
    SAID.call_once(|| {
        let ports: Vec<String> = rails.iter().map(port).collect();
        tracing::info!(rank = member.rank, sl, tc, %why, "RDMA ports: {}", ports.join("; "));
    });
}
