//! Helpers shared by the tests in `tests/`: groups of threads that play the ranks of a job.

pub mod job;

use hfreduce::{Communicator, Config, Wire};
use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

/// A port that was free a moment ago, different from those given out before by this process.
pub fn free_port() -> u16 {
    static LAST: AtomicU16 = AtomicU16::new(0);
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        if LAST.swap(port, Ordering::Relaxed) != port {
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
