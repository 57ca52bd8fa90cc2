//! Which plan, how large a piece, how wide a window: one formula over a plan's counted cost and a model of the machine, in the manner of the
//! alpha-beta model (a start-up time per step, a time per byte). All ranks evaluate it on the same numbers and so agree.
//!
//! For a plan, a buffer of `m` bytes and pieces of `z` bytes there are `k = m / (pieces * z)` chunks, and
//!
//! ```text
//! work(rank)  = stages * step + messages * send + z * (moved + (sent + received) * wire)
//! moved       = (2 copied + added + reduced) * byte, or crossed * cross
//! busy        = max over nodes of max(work of a rank, work of all its ranks / min(ranks, cores))
//! first       = steps * step' + hops * hop + max(busy, fixed part of busy + z * (moved on the path + hops * wire))
//! time        = first + (k - 1) * busy
//! window      = first / busy, within 2 ..= 8 (from up to 4 on for few small slots of ranks that share cores)
//! ```
//!
//! Where ranks share cores, or are alone on their nodes, all that is read and written counts; where several have a core each, what crosses
//! between them, which takes several times as long as the rest.
//!
//! `step'` is the price of handing over to another rank: a cache line when every rank has a core, a turn of the scheduler when they share
//! cores. `first` is the time of a chunk alone: where all ranks do the same, no rank waits while the first chunk goes through, and dividing a
//! buffer gains nothing; where a root starts alone, or a wire lies between, it does.

use super::{Collective, Cost, Shape};

/// The machine, in seconds and bytes per second as far as the choice needs it. All ranks of a group use rank 0's.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Model {
    /// Cores that the ranks of one node may use.
    pub cores: usize,
    /// Seconds the engine needs per stage.
    pub step: f64,
    /// Seconds from a raised counter to the other rank going on, when both have a core.
    pub hand_over: f64,
    /// The same when ranks share cores: one hands its core over to another.
    pub wake: f64,
    /// Seconds to start a message to another node.
    pub send: f64,
    /// Seconds until a message without bytes has arrived there.
    pub hop: f64,
    /// Seconds per byte read or written in memory, by one core.
    pub byte: f64,
    /// Seconds per byte that a core reads and another has written, or writes and another reads.
    pub cross: f64,
    /// Seconds per byte on the wire, one way, of one rank.
    pub wire: f64,
    /// The smallest and the largest piece considered, in bytes.
    pub piece: (usize, usize),
}

/// The largest piece at least of what is only moved inside a node: few slots are used for it, and long turns are better.
const MOVED_PIECE: usize = 256 << 10;

/// Bytes of slots that one chunk after the other may fill where ranks share cores, up to four chunks: whoever fills them, or reads them, then goes
/// on for longer before it hands its core over.
const SHARED_SLOTS: usize = 1 << 20;

/// The largest piece where up to four ranks of a group's only node share its cores and add: what one rank leaves in the caches is still there when the
/// next one runs. More ranks leave too much in any case, and ranks with a core each are as well off with larger pieces.
const SHARED_PIECE: usize = 64 << 10;

/// The largest piece at least where no rank of the group shares its node with another: what is under way stays in the caches, and each piece costs calls of the
/// system.
const ALONE_PIECE: usize = 128 << 10;

impl Model {
    /// Figures of an ordinary server core with a 25 GB/s copy rate, and of TCP, RDMA or shared memory between the nodes.
    /// They only have to be right within a factor of two: they decide between plans whose times cross.
    /// In a group with buffers on GPUs a copy costs its driver call and its event, however small it is: pieces are larger there.
    pub fn usual(cores: usize, wire: &str, gpus: bool) -> Model {
        let piece = match wire {
            _ if gpus => (4 << 10, 1 << 20),
            // Few bytes under way at a time stay in the caches on their way through the kernel, and where the link is the limit, more and
            // smaller pieces fill it better.
            "tcp" => (8 << 10, 64 << 10),
            _ => (4 << 10, 256 << 10),
        };
        let (send, hop, wire) = match wire {
            "tcp" => (4e-6, 25e-6, 1.0 / 3e9),
            "verbs" => (0.5e-6, 4e-6, 1.0 / 20e9),
            _ => (0.2e-6, 1e-6, 1.0 / 10e9),
        };
        Model {
            cores: cores.max(1),
            step: if gpus { 2e-6 } else { 500e-9 },
            hand_over: if gpus { 5e-6 } else { 0.3e-6 },
            wake: 1e-6,
            send,
            hop,
            byte: 1.0 / 25e9,
            cross: 1.0 / 30e9,
            wire,
            piece,
        }
    }
}

impl Model {
    /// The same for buffers on the host in a group of this shape.
    pub fn for_shape(self, shape: &Shape) -> Model {
        let (least, most) = self.piece;
        let shared = shape.nodes() == 1 && shape.widest() <= 4 && self.shares_cores(shape);
        let alone = shape.nodes() > 1 && shape.widest() == 1;
        let most = match most {
            most if shared => most.min(SHARED_PIECE),
            most if alone => most.max(ALONE_PIECE),
            most => most,
        };
        Model {
            piece: (least, most),
            ..self
        }
    }

    /// The same for a collective, in a group of this shape.
    pub fn for_collective(self, collective: Collective, shape: &Shape) -> Model {
        let (least, most) = self.piece;
        let moved = shape.nodes() == 1 && !collective.reduces();
        let most = if moved { most.max(MOVED_PIECE) } else { most };
        Model {
            piece: (least, most),
            ..self
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Bytes of the larger buffer.
    pub bytes: usize,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Index of the plan among the candidates.
    pub plan: usize,
    /// Bytes per piece.
    pub piece: usize,
    /// Expected seconds.
    pub seconds: f64,
}

/// The candidate that is fastest by the formula, with its best piece size (doubled from the model's smallest to its largest).
pub fn choose(model: &Model, shape: &Shape, candidates: &[Cost], wanted: Wanted) -> Choice {
    let mut best = Choice {
        plan: 0,
        piece: model.piece.0,
        seconds: f64::INFINITY,
    };
    for (plan, cost) in candidates.iter().enumerate() {
        let terms = Terms::of(model, shape, cost);
        let mut piece = model.piece.0;
        while piece <= model.piece.1 {
            let seconds = terms.time(wanted.bytes, piece);
            if seconds < best.seconds {
                best = Choice {
                    plan,
                    piece,
                    seconds,
                };
            }
            piece *= 2;
        }
    }
    best
}

impl Model {
    /// Whether ranks of a node have to share cores.
    pub fn shares_cores(&self, shape: &Shape) -> bool {
        shape.widest() > self.cores
    }

    /// The formula's seconds for a plan, by its cost, on a buffer of `bytes` bytes in pieces of at most `piece` bytes.
    pub fn time(&self, shape: &Shape, cost: &Cost, bytes: usize, piece: usize) -> f64 {
        Terms::of(self, shape, cost).time(bytes, piece)
    }

    /// How many chunks must be in flight for the busiest rank never to wait for the pipeline to fill.
    pub fn window(&self, shape: &Shape, cost: &Cost, piece: usize) -> usize {
        let terms = Terms::of(self, shape, cost);
        let z = piece as f64;
        let chunks = terms.first(z) / terms.busy(z).max(1e-9);
        let least = if self.shares_cores(shape) {
            (SHARED_SLOTS / (cost.cells * piece).max(1)).clamp(2, 4)
        } else {
            2
        };
        (chunks.ceil() as usize).clamp(least, 8)
    }
}

/// The formula's sums, as a fixed part and a part per byte of piece.
pub(super) struct Terms {
    busy: (f64, f64),
    /// Of a chunk alone: waiting, and the path's bytes.
    waits: f64,
    path: f64,
    pieces: usize,
}

impl Terms {
    pub(super) fn of(model: &Model, shape: &Shape, cost: &Cost) -> Terms {
        let shared = model.shares_cores(shape);
        let crosses = !shared && shape.widest() > 1;
        let mut busy = (0.0f64, 0.0f64);
        for node in 0..shape.nodes() {
            let mut all = (0.0, 0.0);
            for rank in shape.ranks_of(node) {
                let r = &cost.ranks[rank];
                let fixed = r.stages as f64 * model.step + r.messages as f64 * model.send;
                let moved = if crosses {
                    r.crossed as f64 * model.cross
                } else {
                    (2 * r.copied + r.added + r.reduced) as f64 * model.byte
                };
                let wired = (r.sent + r.received) as f64 * model.wire;
                busy = (busy.0.max(fixed), busy.1.max(moved + wired));
                all = (all.0 + fixed, all.1 + moved + wired);
            }
            let share = shape.on(node).min(model.cores) as f64;
            busy = (busy.0.max(all.0 / share), busy.1.max(all.1 / share));
        }
        let path = if crosses {
            cost.path_crossed as f64 * model.cross
        } else {
            cost.path as f64 * model.byte
        };
        let hand_over = if shared { model.wake } else { model.hand_over };
        Terms {
            busy,
            waits: cost.steps as f64 * hand_over + cost.hops as f64 * model.hop,
            path: path + cost.hops as f64 * model.wire,
            pieces: cost.pieces,
        }
    }

    fn busy(&self, z: f64) -> f64 {
        self.busy.0 + z * self.busy.1
    }

    fn first(&self, z: f64) -> f64 {
        self.waits + self.busy.0 + z * self.path.max(self.busy.1)
    }

    pub(super) fn time(&self, bytes: usize, piece: usize) -> f64 {
        let whole = (bytes as f64 / self.pieces as f64).max(1.0);
        let z = whole.min(piece as f64);
        let chunks = (whole / z).ceil();
        self.first(z) + (chunks - 1.0) * self.busy(z)
    }
}
