//! The one driver of the process: its settings, its state behind one lock, and the one condition that says that the state has changed.
//! It knows the nouns by name and nothing of how they behave. Invariant: whatever makes something ready for anybody tells the condition.

use crate::{
    code::{Answer, Code, ILLEGAL_ADDRESS, NOT_INITIALIZED},
    context::Contexts,
    event::Events,
    export::{Out, exports},
    memory::Memory,
    registration::Registrations,
    report::{self, Counts},
    settings::Settings,
    stream::{Point, Streams},
};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// CUDA 12.2, the version whose interface this is.
pub const VERSION: i32 = 12020;

/// Everything that changes.
#[derive(Default)]
pub struct State {
    pub contexts: Contexts,
    pub streams: Streams,
    pub events: Events,
    pub memory: Memory,
    pub registrations: Registrations,
    pub counts: Counts,
}

pub struct Driver {
    pub settings: Settings,
    process: u32,
    state: Mutex<State>,
    changed: Condvar,
}

/// The state while this thread has it.
pub type Locked = MutexGuard<'static, State>;

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// The process that called `cuInit`, which a forked child is not.
pub fn process() -> Option<u32> {
    DRIVER.get().map(|driver| driver.process)
}

/// The driver, after `cuInit`: every call and every thread of ours comes behind it.
pub fn driver() -> &'static Driver {
    DRIVER.get().expect("cuInit comes first")
}

/// The state, locked.
pub fn state() -> Locked {
    driver()
        .state
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Gives the lock up until something has changed.
pub fn wait(state: Locked) -> Locked {
    driver()
        .changed
        .wait(state)
        .unwrap_or_else(PoisonError::into_inner)
}

/// Everybody who waits looks again.
pub fn changed() {
    driver().changed.notify_all();
}

/// Waits until these points are reached. In a broken context they are reached soon, without effect, which is an error.
pub fn wait_for(mut state: Locked, points: &[Point]) -> Result<Locked, Code> {
    let mut broken = false;
    for point in points {
        while !state.streams.is_done(*point) {
            state = wait(state);
        }
        broken |= state.streams.is_broken(point.stream);
    }
    if broken {
        Err(ILLEGAL_ADDRESS)
    } else {
        Ok(state)
    }
}

fn start(flags: u32) -> Answer {
    if flags != 0 {
        return Err(crate::code::INVALID_VALUE);
    }
    let driver = DRIVER.get_or_init(|| {
        report::write_at_exit();
        Driver {
            settings: Settings::read(),
            process: std::process::id(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    });
    if driver.process != std::process::id() {
        return Err(NOT_INITIALIZED);
    }
    if driver.settings.devices < 1 {
        return Err(crate::code::NO_DEVICE);
    }
    Ok(())
}

exports! {
    fn cuInit(flags: u32) { start(flags) }
    fn cuDriverGetVersion(version: Out<i32>) { version.give(VERSION) }
}
