//! Helpers shared by the tests in `tests/`: groups of threads that play the ranks of a job.

pub mod gpu;
pub mod job;

use hfreduce::{Communicator, Config, Wire};
use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// A port that was free a moment ago, different from those given out before by this process. It is below the ports that the kernel hands out
/// by itself, so that no connection of another test takes it before it is used.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 20_000;
    const PORTS: u32 = 12_000;
    let own = std::process::id().wrapping_mul(997);
    loop {
        let next = own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + next % PORTS) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Runs `f` on a thread per rank, with `nodes[i]` ranks on node i; returns what each returned, in rank order. Panics are passed on.
pub fn ranks<T: Send>(
    nodes: &[usize],
    wire: Wire,
    change: impl Fn(&mut Config) + Sync,
    f: impl Fn(Communicator) -> T + Sync,
) -> Vec<T> {
    let rendezvous = format!("127.0.0.1:{}", free_port());
    let world: usize = nodes.iter().sum();
    let owner: Vec<usize> = nodes
        .iter()
        .enumerate()
        .flat_map(|(node, n)| vec![node; *n])
        .collect();
    std::thread::scope(|s| {
        let threads: Vec<_> = (0..world)
            .map(|rank| {
                let mut config = Config::new(rank, world, &rendezvous, b"test");
                config.node = format!("node {}", owner[rank]);
                config.wire = wire;
                config.timeout = Duration::from_secs(30);
                change(&mut config);
                let f = &f;
                s.spawn(move || f(Communicator::connect(&config).unwrap_or_else(|e| panic!("{e}"))))
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
            .collect()
    })
}
