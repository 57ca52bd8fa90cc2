//! What the benches share: two ranks of one node, on threads of this process, each with a mapping of its own. It knows no plan and
//! measures nothing.

use hfreduce::{Communicator, Config};
use std::net::TcpListener;

/// Two connected ranks of one node.
///
/// # Panics
/// When they cannot connect, with the reason.
pub fn pair() -> [Communicator; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let rendezvous = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let connect = |rank: usize| {
        let mut config = Config::new(rank, 2, &rendezvous, b"bench");
        config.node = "one".to_owned();
        Communicator::connect(&config).unwrap_or_else(|e| panic!("{e}"))
    };
    std::thread::scope(|s| {
        let other = s.spawn(|| connect(1));
        let mine = connect(0);
        [mine, other.join().expect("rank 1 connects")]
    })
}
