//! What a simulation is told beforehand: how fast its links are and what breaks. Plain data, in virtual nanoseconds and counts.

/// How fast every link is.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// Shortest time from a put to its arrival, in nanoseconds.
    pub latency: u64,
    /// Longest random delay on top, drawn anew for every step of every put, in nanoseconds.
    pub jitter: u64,
    /// Time one KiB occupies the sender, in nanoseconds; puts of one sender queue for it.
    pub per_kib: u64,
}

impl Default for Links {
    /// About a 25 Gbit/s network with a jitter far above its latency, so that most orders of events come up.
    fn default() -> Links {
        Links {
            latency: 5_000,
            jitter: 50_000,
            per_kib: 330,
        }
    }
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The rank ends when this many events have happened: what it had not delivered is lost, its peers learn of it later.
    Drop {
        /// Global rank.
        rank: usize,
        /// Events before it ends.
        at_event: u64,
    },
    /// The link between two ranks breaks with the n-th put over it (in either direction, counted from 1).
    Cut {
        /// One end.
        a: usize,
        /// The other end.
        b: usize,
        /// Which put breaks it.
        at_put: u64,
    },
    /// The n-th put from one rank to another (counted from 1) takes longer.
    Delay {
        /// Global rank of the sender.
        from: usize,
        /// Global rank of the receiver.
        to: usize,
        /// Which put.
        at_put: u64,
        /// How much longer, in nanoseconds.
        nanoseconds: u64,
    },
}
