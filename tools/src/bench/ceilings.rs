//! What this machine can do at best: copies between device and pinned host memory, one way and both ways, each GPU alone and all together, and
//! what its CPUs read and write. It knows no collective. Invariant: all ranks take part in every measurement or wait for it, so nothing runs beside one.

use crate::{
    gpu::{DeviceMemory, Gpu, HostMemory},
    job::Job,
};
use anyhow::Result;
use cudarc::driver::CudaStream;
use serde::Serialize;
use std::{hint::black_box, sync::Arc, time::Instant};

/// Bytes of one copy at most: far more than caches hold, and as many as a large piece of a model.
const MOST: usize = 64 << 20;
/// Bytes of one copy at least.
const LEAST: usize = 1 << 20;
/// Copies of one direction between two looks at the clock.
const COPIES: usize = 8;
/// The same for the CPU, whose copies are always of [`MOST`] bytes: less would stay in caches.
const PASSES: usize = 2;
/// Measurements of which the best counts.
const ROUNDS: usize = 3;

/// GB/s by the copy engines.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Copies {
    /// From device to host, and nothing else.
    pub d2h: f64,
    /// From host to device, and nothing else.
    pub h2d: f64,
    /// From device to host while the other direction is busy.
    pub both_d2h: f64,
    /// From host to device while the other direction is busy.
    pub both_h2d: f64,
}

/// One GPU alone.
#[derive(Clone, Debug, Serialize)]
pub struct Alone {
    /// The first rank that uses it, which measured.
    pub rank: usize,
    /// Its ranks.
    pub ranks: usize,
    /// What it can do.
    pub copies: Copies,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Ceilings {
    /// Bytes of one copy.
    pub copy_bytes: usize,
    /// Each GPU alone, with one rank copying.
    pub gpus: Vec<Alone>,
    /// All ranks at once, summed up.
    pub together: Copies,
    /// Bytes that all ranks' CPUs read and write at once while they copy, in GB/s.
    pub memory: f64,
}

/// Which directions are busy.
#[derive(Clone, Copy, PartialEq)]
enum Busy {
    D2h,
    H2d,
    Both,
}

/// What one rank copies between.
struct Bench<'a> {
    job: &'a Job,
    gpu: &'a Gpu,
    bytes: usize,
    out: (DeviceMemory, HostMemory, Arc<CudaStream>),
    back: (DeviceMemory, HostMemory, Arc<CudaStream>),
}

/// Bytes of one copy, for calls of up to `longest` bytes; each rank needs twice as many on its device.
pub fn copy_bytes(longest: usize) -> usize {
    longest.clamp(LEAST, MOST)
}

/// Measures; for calls of up to `longest` bytes. All ranks call it.
///
/// # Errors
/// Too little memory; a failure of a device or of the group.
pub fn measure(job: &Job, gpu: &Gpu, longest: usize) -> Result<Ceilings> {
    let bytes = copy_bytes(longest);
    let side = || -> Result<_> {
        Ok((
            gpu.memory(bytes)?,
            gpu.host_memory(bytes)?,
            gpu.new_stream()?,
        ))
    };
    let mut bench = Bench {
        job,
        gpu,
        bytes,
        out: side()?,
        back: side()?,
    };
    gpu.synchronize()?;
    let owners = owners(job)?;
    let mut gpus = Vec::new();
    for rank in 0..owners.len() {
        if owners[rank] == rank {
            gpus.push(Alone {
                rank,
                ranks: owners.iter().filter(|owner| **owner == rank).count(),
                copies: bench.copies(&|one| one == rank)?,
            });
        }
    }
    Ok(Ceilings {
        copy_bytes: bytes,
        gpus,
        together: bench.copies(&|_| true)?,
        memory: memory(job)?,
    })
}

/// For each rank, the first rank that uses the same device.
///
/// # Errors
/// A failure of the device or of the group.
pub fn owners(job: &Job) -> Result<Vec<usize>> {
    let group = job.group();
    let own = job
        .gpu()
        .map(Gpu::identity)
        .transpose()?
        .unwrap_or_default();
    let mut all = vec![0u8; own.len() * group.size()];
    group.all_gather(&own, &mut all)?;
    let all: Vec<&[u8]> = all.chunks(own.len()).collect();
    let first = |one: &&[u8]| all.iter().position(|other| other == one).unwrap_or(0);
    Ok(all.iter().map(first).collect())
}

impl Bench<'_> {
    /// The sum over the ranks that `take_part`; the others wait.
    fn copies(&mut self, take_part: &dyn Fn(usize) -> bool) -> Result<Copies> {
        let d2h = self.rate(Busy::D2h, take_part)?[0];
        let h2d = self.rate(Busy::H2d, take_part)?[1];
        let [both_d2h, both_h2d] = self.rate(Busy::Both, take_part)?;
        Ok(Copies {
            d2h,
            h2d,
            both_d2h,
            both_h2d,
        })
    }

    fn rate(&mut self, busy: Busy, take_part: &dyn Fn(usize) -> bool) -> Result<[f64; 2]> {
        let mut best = [0.0f64; 2];
        let mine = take_part(self.job.group().rank());
        for _ in 0..ROUNDS {
            self.job.group().barrier()?;
            let own = if mine { self.copy(busy)? } else { [0.0; 2] };
            let all = self.job.gather(&own)?;
            for (direction, best) in best.iter_mut().enumerate() {
                let times = all.iter().map(|each| each[direction]);
                let ranks = times.clone().filter(|seconds| *seconds > 0.0).count();
                let longest = times.fold(0.0, f64::max);
                if longest > 0.0 {
                    let bytes = (ranks * COPIES * self.bytes) as f64;
                    *best = best.max(bytes / longest / 1e9);
                }
            }
        }
        Ok(best)
    }

    /// Seconds of each direction, 0 for one that is idle.
    fn copy(&mut self, busy: Busy) -> Result<[f64; 2]> {
        let started = Instant::now();
        for _ in 0..COPIES {
            if busy != Busy::H2d {
                let (device, host, stream) = &mut self.out;
                host.copy_from(device, stream)?;
            }
            if busy != Busy::D2h {
                let (device, host, stream) = &mut self.back;
                host.copy_to(device, stream)?;
            }
        }
        // With both busy, each counts until both are done: what the second does alone at the end is no rate of both.
        self.out.2.synchronize()?;
        self.back.2.synchronize()?;
        self.gpu.synchronize()?;
        let seconds = started.elapsed().as_secs_f64();
        let of = |idle| if busy == idle { 0.0 } else { seconds };
        Ok([of(Busy::H2d), of(Busy::D2h)])
    }
}

/// What all CPUs of the ranks read and write at once.
fn memory(job: &Job) -> Result<f64> {
    let (from, mut to) = (vec![0x5Au8; MOST], vec![1u8; MOST]);
    let mut best = 0.0f64;
    for _ in 0..ROUNDS {
        job.group().barrier()?;
        let started = Instant::now();
        for _ in 0..PASSES {
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
        }
        let all = job.gather(&[started.elapsed().as_secs_f64()])?;
        let longest = all.iter().map(|each| each[0]).fold(1e-9, f64::max);
        best = best.max((2 * PASSES * MOST * all.len()) as f64 / longest / 1e9);
    }
    Ok(best)
}
