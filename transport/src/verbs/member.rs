//! What a verbs wire is opened with: who opens it, over which ports, and how much of everything a lane may have. It knows no device: whether there is such a
//! port, and whether it can do so much, is seen when it is opened.

/// Sizes that hold for every lane; tests make them small, so that what fills up does so at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Notices that may be under way to a rank from one peer on one lane, the same on all ranks; at least 4.
    pub credits: u32,
    /// Work requests a send queue holds; at least twice `every`.
    pub sends: u32,
    /// Every how many sends one tells of its completion.
    pub every: u32,
    /// Up to this many bytes a put is copied into its work request, if the device takes so many.
    pub inline: u32,
    /// A put of at least twice as many bytes is divided among the lanes to its peer, if there are several.
    pub least: usize,
    /// Memory is registered in blocks of this many bytes.
    pub block: usize,
    /// Timeout (4.096 us times two to its power) and retries, instead of the device's usual ones.
    pub patience: Option<(u8, u8)>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            credits: 256,
            sends: 128,
            every: 8,
            inline: 256,
            least: 64 << 10,
            block: 4 << 20,
            patience: None,
        }
    }
}

/// A port of a rank.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Port {
    /// Device and port, as `mlx5_0:1`.
    pub name: String,
    /// Ports of equal numbers on two ranks are one rail: puts keep to it where there is one.
    pub rail: usize,
}

/// Who opens the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Global rank.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
    /// Rank within the node: where no ports are named, equal local ranks take the same one of several.
    pub local_rank: usize,
    /// The ports to use, the main one first, each on a rail of its own; may be empty.
    pub ports: Vec<Port>,
}
