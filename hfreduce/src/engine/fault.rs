//! Why an engine stops: what it cannot know is whose fault it is, so it says what it met, and in which call.

use crate::{call::Call, error::Error};
use hfr_transport::shm::Unread;

/// Why the engine cannot go on.
#[derive(Debug)]
pub enum Fault {
    /// Another rank's call is not ours.
    Mismatch {
        /// Who made the other call.
        rank: u32,
        /// What it called.
        theirs: Call,
        /// What we called.
        ours: Call,
    },
    /// A wire failed.
    Wire {
        /// The wire's own words.
        error: hfr_transport::Error,
        /// The call that ran.
        ours: Option<Call>,
    },
    /// A device failed.
    Device {
        /// The device's own words.
        error: Error,
        /// The call that ran.
        ours: Option<Call>,
    },
    /// What another rank of the node shows in its memory could not be read there.
    Unread {
        /// Whose memory.
        rank: u32,
        /// Why not.
        error: Unread,
        /// The call that ran.
        ours: Call,
    },
}
