//! The library's one error type: where (rank, node, peer), in which operation, why, and what to do about it. It travels to the other
//! ranks as JSON, so that every rank of a failed group returns the same error.

use serde::{Deserialize, Serialize};

/// What kind of failure it is, for programs that react.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// An argument makes no sense; nothing was started and the communicator stays usable.
    InvalidArgument,
    /// Ranks called different operations, or with different arguments.
    Mismatch,
    /// No progress for the communicator's timeout.
    Timeout,
    /// A rank's process is gone, or it has left while others wait for it.
    PeerLost,
    /// A connection failed.
    Wire,
    /// Shared memory could not be had.
    Memory,
    /// A device (a GPU, or its driver) failed or cannot do what was asked.
    Device,
    /// The group could not start.
    Start,
    /// Somebody called `abort`.
    Aborted,
}

/// A failure. Displayed as one lower-case sentence that says who, in what, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What kind.
    pub kind: Kind,
    /// Global rank that met it first.
    pub rank: Option<usize>,
    /// Node of that rank.
    pub node: Option<usize>,
    /// The other rank it has to do with.
    pub peer: Option<usize>,
    /// The operation that ran, such as `all_reduce #31 of 1024 float sum`.
    pub operation: Option<String>,
    /// Chunk of the operation.
    pub chunk: Option<u64>,
    /// Why.
    pub cause: String,
    /// What to do; may be empty.
    pub remedy: String,
}

impl Error {
    /// An error of which nothing but the cause is known yet.
    pub fn new(kind: Kind, cause: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error {
            kind,
            rank: None,
            node: None,
            peer: None,
            operation: None,
            chunk: None,
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }

    /// With the rank that met it and its node.
    pub fn at(mut self, rank: usize, node: usize) -> Error {
        self.rank = Some(rank);
        self.node = Some(node);
        self
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Error {
        serde_json::from_slice(bytes).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            Error::new(Kind::PeerLost, text, "")
        })
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.rank, self.node) {
            (Some(rank), Some(node)) => write!(f, "rank {rank} (node {node}): ")?,
            (Some(rank), None) => write!(f, "rank {rank}: ")?,
            _ => {}
        }
        if let Some(operation) = &self.operation {
            write!(f, "{operation}: ")?;
        }
        if let Some(chunk) = self.chunk {
            write!(f, "chunk {chunk}: ")?;
        }
        if let Some(peer) = self.peer
            && !self.cause.contains(&format!("rank {peer}"))
        {
            write!(f, "peer rank {peer}: ")?;
        }
        write!(f, "{}", self.cause)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
