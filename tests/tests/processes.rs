//! Real processes: what all ranks are told when one of them is killed, stopped, leaves, is late or calls something else; who may join; what
//! is left behind. Each test starts its own jobs; the rank program is `src/bin/rank.rs`.

#[path = "processes/begin.rs"]
mod begin;
#[path = "processes/differ.rs"]
mod differ;
#[path = "processes/kill.rs"]
mod kill;
#[path = "processes/netns.rs"]
mod netns;
#[path = "processes/quiet.rs"]
mod quiet;
#[path = "processes/reach.rs"]
mod reach;
#[path = "processes/stall.rs"]
mod stall;

use hfr_tests::job::{Job, Plan};
use std::time::Duration;

const RANK: &str = env!("CARGO_BIN_EXE_rank");
/// A failure is known everywhere within 2 s of its detection; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_secs(40);

/// Shape and wire of the jobs that most tests run.
const JOBS: [(&[usize], &str); 3] = [(&[2, 2], "local"), (&[2, 2], "tcp"), (&[4], "auto")];

fn start(plan: &Plan, steps: &[&str]) -> Job {
    plan.start(RANK, steps, &[])
}

fn others(world: usize, rank: usize) -> Vec<usize> {
    (0..world).filter(|r| *r != rank).collect()
}

/// Runs `f` for all cases at a time: most of what they do is waiting.
fn each<T: Sync>(cases: &[T], f: impl Fn(&T) + Sync) {
    std::thread::scope(|s| {
        let f = &f;
        let threads: Vec<_> = cases.iter().map(|case| s.spawn(move || f(case))).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}
