//! A stream's thread: takes the operations of its stream in order, each when what it waits for has ended and some random time has passed, and carries them out
//! without the lock. Invariants: in a broken context operations end without effect; an operation's effects are there before it counts as done.

use crate::{
    act::{Act, Operation, Test, Trouble},
    carry,
    context::Shared,
    driver::{Locked, changed, driver, state, wait},
    export::acts_for,
    memory,
    random::Random,
    report::Done,
    stream::{Running, StreamHandle},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// Enough for what is done here.
const STACK_BYTES: usize = 256 << 10;

/// How often a stream looks at the word that it waits for.
const LOOK: Duration = Duration::from_micros(20);

/// Starts the thread of a stream; `number` sets its random choices apart.
pub fn start(stream: StreamHandle, number: u64) {
    let random = Random::new(driver().settings.seed, number);
    let name = format!("standin {number}");
    std::thread::Builder::new()
        .name(name)
        .stack_size(STACK_BYTES)
        .spawn(move || work(stream, random))
        .expect("a thread for the stream");
}

/// The next operation whose turn it is; none when the stream has been destroyed and has no more.
fn next(stream: StreamHandle) -> Option<(Operation, Arc<Shared>)> {
    let mut state = state();
    loop {
        let own = &state.streams.live[&stream];
        let shared = own.shared.clone();
        let drained = shared.broken.load(Ordering::Acquire);
        match own.queue.front() {
            None if own.destroyed => {
                state.streams.live.remove(&stream);
                changed();
                return None;
            }
            Some(first)
                if drained
                    || first
                        .after
                        .iter()
                        .all(|point| state.streams.is_done(*point)) =>
            {
                let own = state
                    .streams
                    .live
                    .get_mut(&stream)
                    .expect("the thread's stream");
                let operation = own.queue.pop_front().expect("the first one");
                own.running = Some(Running {
                    call: operation.call,
                    touches: operation.act.touches(),
                    waits_for_the_host: operation.act.waits_for_the_host(),
                });
                return Some((operation, shared));
            }
            _ => state = wait(state),
        }
    }
}

fn end(stream: StreamHandle, done: Done) {
    let mut state = state();
    state.counts.add(done);
    let own = state
        .streams
        .live
        .get_mut(&stream)
        .expect("the thread's stream");
    own.running = None;
    own.done += 1;
    changed();
}

fn work(stream: StreamHandle, mut random: Random) {
    while let Some((operation, shared)) = next(stream) {
        acts_for(operation.call);
        let mut done = Done::Nothing;
        if !shared.broken.load(Ordering::Acquire) {
            done = carry_out(&operation.act, &shared, &mut random);
        }
        end(stream, done);
    }
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

fn delay(random: &mut Random) {
    let most = driver().settings.delay_us;
    if most > 0 {
        std::thread::sleep(Duration::from_micros(random.up_to(most)));
    }
}

fn carry_out(act: &Act, shared: &Shared, random: &mut Random) -> Done {
    if let Act::Copy(copy) = act {
        // The hardware could begin now: who reads the destination from here on reads nothing of use.
        carry::spoil(copy);
    }
    delay(random);
    match act {
        Act::Pass => return Done::Wait,
        Act::Record(mark) => mark.set(Instant::now()),
        Act::Copy(copy) => match copy.trouble {
            Trouble::Hang => hang(),
            Trouble::Break => {
                shared.broken.store(true, Ordering::Release);
                // Those who wait look at `broken` with the lock held.
                drop::<Locked>(state());
                changed();
            }
            Trouble::None => {
                carry::copy(copy, random);
                return Done::Copy {
                    way: copy.way,
                    bytes: copy.len as u64,
                };
            }
        },
        Act::Fill { to, pattern, len } => carry::fill(*to, *pattern, *len),
        Act::WaitValue {
            at,
            value,
            test,
            wide,
        } => {
            while !holds(carry::load(*at, *wide), *value, *test, *wide)
                && !shared.broken.load(Ordering::Acquire)
            {
                std::thread::sleep(LOOK);
            }
            return Done::Wait;
        }
        Act::WriteValue { at, value, wide } => carry::store(*at, *value, *wide),
        Act::Call(function) => {
            shared.host.run(function);
            return Done::HostFunction;
        }
        Act::Free(at) => memory::free_in_order(*at),
    }
    Done::Nothing
}

/// The driver's comparisons: "at least" is cyclic, the others go by bits.
fn holds(found: u64, value: u64, test: Test, wide: bool) -> bool {
    let mask = if wide { u64::MAX } else { u64::from(u32::MAX) };
    match test {
        Test::AtLeast if wide => found.wrapping_sub(value) as i64 >= 0,
        Test::AtLeast => (found as u32).wrapping_sub(value as u32) as i32 >= 0,
        Test::Equal => found & mask == value & mask,
        Test::And => found & value & mask != 0,
        Test::Nor => !(found | value) & mask != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_compare_as_the_driver_compares_them() {
        let cases = [
            (Test::AtLeast, 5, 5, true, true),
            (Test::AtLeast, 4, 5, true, false),
            (Test::AtLeast, 3, u64::MAX, true, true),
            (Test::AtLeast, 1, u64::from(u32::MAX), false, true),
            (Test::AtLeast, 1, u64::from(u32::MAX), true, false),
            (Test::Equal, 7, 7, true, true),
            (Test::Equal, 7 + (1 << 32), 7, true, false),
            (Test::Equal, 7 + (1 << 32), 7, false, true),
            (Test::And, 6, 3, true, true),
            (Test::And, 4, 3, true, false),
            (Test::Nor, 0xf0, 0x0f, true, true),
            (Test::Nor, u64::MAX - 1, 1, true, false),
            (Test::Nor, u64::from(u32::MAX) - 1, 1, false, false),
        ];
        for (test, found, value, wide, expected) in cases {
            assert_eq!(
                holds(found, value, test, wide),
                expected,
                "{test:?} {found:#x} {value:#x} wide: {wide}"
            );
        }
    }
}
