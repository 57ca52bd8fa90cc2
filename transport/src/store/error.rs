//! What can go wrong at the rendezvous, as sentences a person can act on. Each error names the address or the key it is
//! about and how long somebody waited. It knows no socket; the text of an I/O error is kept, not the error itself, so that
//! errors can be compared and sent on.

use std::fmt::Write as _;
use std::time::Duration;

/// An error of a store, of its server, or of joining the control plane behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server could not listen.
    #[error("cannot listen on {address}: {cause}; {advice}")]
    Bind {
        /// `host:port` as it was asked for.
        address: String,
        /// What the operating system said.
        cause: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// Nobody could be reached until the deadline.
    #[error(
        "cannot reach the rendezvous at {address} within {:.1} s: {cause}; check that rank 0 is running and listens on \
         this address, and that no firewall is in between",
        waited.as_secs_f64()
    )]
    Unreachable {
        /// `host:port` as it was asked for.
        address: String,
        /// How long the client tried.
        waited: Duration,
        /// The last attempt's error.
        cause: String,
    },
    /// The server and this process do not know the same secret.
    #[error(
        "the rendezvous at {address} refused: the job's secret (HFR_COOKIE) differs; give every rank the same HFR_COOKIE, \
         and check that it is not another job that listens there"
    )]
    Refused {
        /// `host:port` of the server.
        address: String,
    },
    /// Something else listens there.
    #[error(
        "what listens at {address} is not a rendezvous of this version; check the port, and that all ranks use one \
         version of this library"
    )]
    Foreign {
        /// `host:port` of the server.
        address: String,
    },
    /// A value did not appear.
    #[error(
        "no rank has set '{key}' within {:.1} s; the rank that should set it is late, dead, or was started with other \
         settings",
        waited.as_secs_f64()
    )]
    Timeout {
        /// The key that was waited for; it says what its value is for.
        key: String,
        /// How long.
        waited: Duration,
    },
    /// Ranks did not come to a gather.
    #[error(
        "missing {} of {world}: not come to '{prefix}' within {:.1} s; check that every rank was started and that all \
         have the same world size",
        name_ranks(missing), waited.as_secs_f64()
    )]
    Missing {
        /// The gather.
        prefix: String,
        /// How many ranks it is for.
        world: usize,
        /// Those that did not come, ascending.
        missing: Vec<usize>,
        /// How long the reporting rank waited.
        waited: Duration,
    },
    /// The server is there, as far as its machine says, but has not answered in time: it may be stopped, or its machine busy with other things.
    #[error(
        "no answer of the rendezvous at {address} while asking for '{key}'; rank 0's process may be stopped, or its machine too busy"
    )]
    Silent {
        /// `host:port` of the server.
        address: String,
        /// What was being done.
        key: String,
    },
    /// The connection to the server broke.
    #[error(
        "lost the rendezvous at {address} while asking for '{key}': {cause}; rank 0's process may be dead"
    )]
    Lost {
        /// `host:port` of the server.
        address: String,
        /// What was being done.
        key: String,
        /// What the operating system said.
        cause: String,
    },
    /// The server closed in order while this rank was waiting.
    #[error("the rendezvous was closed in order by rank 0 while this rank was asking for '{key}'")]
    Closed {
        /// What was being done.
        key: String,
    },
    /// The call cannot be served: a limit, a rank out of range, two processes with one rank.
    #[error("{0}")]
    Rejected(String),
}

impl Error {
    /// Whether the server may be there and only had no turn in time: whoever has time left asks again.
    pub fn is_silence(&self) -> bool {
        matches!(self, Error::Silent { .. } | Error::Unreachable { .. })
    }
}

/// `rank 3` or `ranks 1, 4-7`: runs are folded, so a thousand ranks stay readable.
pub(crate) fn name_ranks(ranks: &[usize]) -> String {
    let mut text = String::from(if ranks.len() == 1 { "rank " } else { "ranks " });
    let mut at = 0;
    while at < ranks.len() {
        let mut end = at;
        while end + 1 < ranks.len() && ranks[end + 1] == ranks[end] + 1 {
            end += 1;
        }
        let comma = if at == 0 { "" } else { ", " };
        let _ = match end - at {
            0 => write!(text, "{comma}{}", ranks[at]),
            1 => write!(text, "{comma}{}, {}", ranks[at], ranks[end]),
            _ => write!(text, "{comma}{}-{}", ranks[at], ranks[end]),
        };
        at = end + 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::name_ranks;

    #[test]
    fn runs_of_ranks_are_folded() {
        assert_eq!(name_ranks(&[3]), "rank 3");
        assert_eq!(name_ranks(&[3, 4]), "ranks 3, 4");
        assert_eq!(name_ranks(&[0, 2, 3, 4, 9]), "ranks 0, 2-4, 9");
    }
}
