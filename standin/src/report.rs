//! What a process did, counted while it runs and written as JSON when it exits, for tests to read. It changes nothing of what is counted.

use crate::{
    act::Way,
    driver::{State, driver, state},
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Copies of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    /// How many ended, asynchronous or not.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a process did until it exited. Objects that went away with their context without having been destroyed count as live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Copies from device memory to host memory.
    pub device_to_host: Direction,
    /// Copies from host memory to device memory.
    pub host_to_device: Direction,
    /// Copies within device memory.
    pub device_to_device: Direction,
    /// Copies within host memory.
    pub host_to_host: Direction,
    /// Asynchronous copies whose host side was not pinned.
    pub pageable: u64,
    /// How often a copy to the host began while one to the device was in progress, or the other way around.
    pub both_ways: u64,
    /// Waits of streams for events and values that ended.
    pub waits: u64,
    /// Host functions that were run.
    pub host_functions: u64,
    /// Contexts that were created, and activations of primary ones.
    pub contexts_created: u64,
    /// Streams that were created and not destroyed.
    pub live_streams: usize,
    /// Events that were created and not destroyed.
    pub live_events: usize,
    /// Device memory that was allocated and not freed.
    pub live_allocations: usize,
    /// Host memory that is still pinned.
    pub live_registrations: usize,
    /// Its bytes.
    pub live_registered_bytes: usize,
}

/// Reads a report that a process has left.
///
/// # Panics
///
/// If there is none, as when the process was killed.
#[must_use]
pub fn report(path: impl AsRef<Path>) -> Report {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|e| panic!("no report at {}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{} is no report: {e}", path.display()))
}

/// What an operation did that counts.
pub enum Done {
    Nothing,
    Wait,
    HostFunction,
    Copy { way: Way, bytes: u64 },
}

/// The counters.
#[derive(Default)]
pub struct Counts {
    seen: Report,
    pub pageable: u64,
    pub contexts_created: u64,
    /// Asynchronous copies that were asked for.
    pub asynchronous: u64,
    to_host: usize,
    to_device: usize,
    pub abandoned_streams: usize,
    pub abandoned_events: usize,
    pub abandoned_allocations: usize,
    pub abandoned_registrations: usize,
    pub abandoned_registered_bytes: usize,
}

impl Counts {
    /// A copy begins to move bytes.
    pub fn begin(&mut self, way: Way) {
        match way {
            Way::DeviceToHost => {
                self.to_host += 1;
                self.seen.both_ways += u64::from(self.to_device > 0);
            }
            Way::HostToDevice => {
                self.to_device += 1;
                self.seen.both_ways += u64::from(self.to_host > 0);
            }
            Way::DeviceToDevice | Way::HostToHost => (),
        }
    }

    /// An operation has ended.
    pub fn add(&mut self, done: Done) {
        match done {
            Done::Nothing => (),
            Done::Wait => self.seen.waits += 1,
            Done::HostFunction => self.seen.host_functions += 1,
            Done::Copy { way, bytes } => {
                let direction = match way {
                    Way::DeviceToHost => {
                        self.to_host -= 1;
                        &mut self.seen.device_to_host
                    }
                    Way::HostToDevice => {
                        self.to_device -= 1;
                        &mut self.seen.host_to_device
                    }
                    Way::DeviceToDevice => &mut self.seen.device_to_device,
                    Way::HostToHost => &mut self.seen.host_to_host,
                };
                direction.copies += 1;
                direction.bytes += bytes;
            }
        }
    }
}

fn now(state: &State) -> Report {
    let counts = &state.counts;
    let (registrations, bytes) = state.registrations.len_and_bytes();
    Report {
        pageable: counts.pageable,
        contexts_created: counts.contexts_created,
        live_streams: state.streams.owned() + counts.abandoned_streams,
        live_events: state.events.len() + counts.abandoned_events,
        live_allocations: state.memory.kept() + counts.abandoned_allocations,
        live_registrations: registrations + counts.abandoned_registrations,
        live_registered_bytes: bytes + counts.abandoned_registered_bytes,
        ..counts.seen.clone()
    }
}

extern "C" fn write() {
    let driver = driver();
    // A forked child has copied the counts and done nothing of it.
    let Some(path) = driver
        .settings
        .report
        .as_ref()
        .filter(|_| crate::driver::process() == Some(std::process::id()))
    else {
        return;
    };
    let text = serde_json::to_string(&now(&state())).expect("numbers are JSON");
    if let Err(e) = std::fs::write(path, text) {
        eprintln!("stand-in cuda: no report at {}: {e}", path.display());
    }
}

/// The report is written when the process exits.
pub fn write_at_exit() {
    // SAFETY: the function lives as long as the library, which is never unloaded before the handlers run.
    let refused = unsafe { libc::atexit(write) };
    assert!(refused == 0, "no room for a function at exit");
}
