//! Settings, and the one place where environment variables are read. Every variable with its unit and reason:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `HFR_RANK`, `HFR_WORLD_SIZE` | this process's rank and the number of ranks; before any launcher's own variables |
//! | `HFR_COMM_ID` | `host:port` where rank 0 listens (fallback `NCCL_COMM_ID`) |
//! | `HFR_COOKIE` | the job's secret, so that a stranger cannot join |
//! | `HFR_NODE` | which node this rank claims to be on, to play several nodes on one host |
//! | `HFR_TRANSPORT` | `auto` (default), `local`, `tcp` or `verbs` |
//! | `HFR_SOCKET_IFNAME` | interface for `tcp`, in NCCL's selector syntax (fallback `NCCL_SOCKET_IFNAME`) |
//! | `HFR_TCP_CONGESTION` | congestion control of `tcp`: a name, `system`, or `auto` (default: the system's, but `cubic` in place of `bbr`; see `hfr_transport::tcp::Congestion`) |
//! | `HFR_IB_HCA`, `HFR_IB_GID_INDEX`, `HFR_IB_SL`, `HFR_IB_TC`, `HFR_IB_PKEY` | device and addresses for `verbs`, as NCCL has them (fallback `NCCL_IB_*`): see `hfr_transport::net::Infiniband` |
//! | `HFR_TIMEOUT` | seconds without progress after which an operation fails (default 300) |
//! | `HFR_CONNECT_TIMEOUT` | seconds to wait for all ranks at the start (default 120) |
//! | `HFR_ALGO` | name of the all_reduce plan to use instead of the chosen one |
//! | `HFR_TUNING` | figures of this machine (`hfr tune`) to choose plans by; rank 0's count for all |
//! | `HFR_ZONE` | name of the part of the network this rank's node is in, where there is little bandwidth between parts |
//! | `HFR_AFFINITY` | `off`: the library's threads run wherever the process may (default: near the rank's GPU and network port) |
//! | `HFR_CORES` | how many CPUs this rank and those beside it have between them (default: as its affinity and its cgroup's quota say) |
//! | `HFR_SINGLE_COPY` | `off`: ranks of a node do not read each other's memory (default: where the system lets them and it is quicker, broadcast, all_gather, all_to_all, reduce and their like copy once) |
//! | `HFR_TOPO_FILE` | a description of this machine (`hfr topo --dump`) to use instead of what the system says |
//! | `HFR_CHAOS` | faults to inject into the wire, for tests: see `hfr_transport::chaos` |

use crate::{
    error::{Error, Kind},
    launch::{Launch, node_identity, with_proxy},
    tuning::Tuning,
};
use hfr_transport::{net::Infiniband, shm::Placement, tcp::Congestion};
use std::{path::PathBuf, time::Duration};

/// [`Config::slots`] by default: virtual, and far more than the plans of a usual group need.
const SLOTS: usize = 8 << 30;

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// Where rank 0 listens, if the environment says so.
pub(crate) fn rendezvous_from_env() -> Option<String> {
    env("HFR_COMM_ID").or_else(|| env("NCCL_COMM_ID"))
}

/// The interface selector, and the variable it came from.
pub(crate) fn interface_from_env() -> Option<(String, String)> {
    hfr_transport::net::selector_from(&env).map(|(s, v)| (s, v.to_owned()))
}

fn wrong(cause: String) -> Error {
    Error::new(Kind::Start, cause, "")
}

/// How nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Wire {
    /// `local` when all ranks share a host, `verbs` when all have an RDMA device and a build that can use it, otherwise `tcp`.
    #[default]
    Auto,
    /// Nodes emulated on one host through shared memory.
    Local,
    /// Sockets.
    Tcp,
    /// RDMA through queue pairs; only builds with the feature `verbs` or `verbs-dlopen` have it.
    Verbs,
}

/// What a communicator needs to know to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This process's rank.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
    /// `host:port` where rank 0 listens; needed when `world` is above 1.
    pub rendezvous: Option<String>,
    /// The job's secret.
    pub cookie: Vec<u8>,
    /// What all ranks of this rank's node have in common, and no others.
    pub node: String,
    /// How nodes reach each other.
    pub wire: Wire,
    /// Interface selector, and the variable it came from.
    pub interface: Option<(String, String)>,
    /// Congestion control of the TCP wire.
    pub congestion: Congestion,
    /// Device and addresses for the verbs wire.
    pub infiniband: Infiniband,
    /// No progress for this long fails an operation.
    pub timeout: Duration,
    /// All ranks must have come within this time.
    pub connect_timeout: Duration,
    /// Bytes of slots that the plans of a node may take in all, the same on all ranks. Only what is used is reserved; when it is full, all
    /// plans are forgotten and installed anew as they are used.
    pub slots: usize,
    /// Bytes of address space for registered buffers of each rank, the same on all ranks of a node; `None` for an equal
    /// part of as much as the machine has memory.
    pub heap: Option<usize>,
    /// Whether the group's buffers lie on GPUs: pieces are then as large as copy engines like them. `None`: as
    /// [`device::in_use`](crate::device::in_use) finds it at the start. One rank that says so is enough.
    pub gpu: Option<bool>,
    /// Name of the all_reduce plan to use.
    pub algorithm: Option<String>,
    /// Measured figures of the machine to choose plans and pieces by. Those of rank 0 count for all ranks, and for groups that come of the
    /// group; a group that they are not for goes by the usual ones.
    pub tuning: Option<Tuning>,
    /// Name of the zone of this rank's node: a part of the network with much bandwidth inside and little to others. All ranks have one, or none.
    pub zone: Option<String>,
    /// Whether the library's own threads are bound to CPUs near the rank's GPU and network port, among those that the process may use.
    pub affinity: bool,
    /// How many CPUs this rank has, together with all that may run on the same ones; `None` for as many as its affinity and its cgroup's quota let
    /// it have. Where there are fewer than ranks, ranks that wait soon hand their core on. For what a process cannot see: that others compute on
    /// the CPUs, or that containers with other names share them.
    pub cores: Option<usize>,
    /// Whether ranks of a node may read each other's buffers where they lie, instead of copying them to shared memory first. One rank that says
    /// no is enough.
    pub single_copy: bool,
    /// A description of this machine to use instead of what the system says.
    pub topology: Option<PathBuf>,
    /// Faults to inject.
    pub chaos: Option<String>,
    /// Where this rank has its place, once a group has found it; groups that come of that one keep it.
    pub(crate) place: Option<Place>,
}

/// Where a rank has its place on its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// CPUs for threads that work for it; none, where they stay as they are.
    pub threads: Option<Vec<usize>>,
    /// Where sums, and what other nodes send, are to lie; none, where that makes no difference or is not known.
    pub sums: Option<Placement>,
    /// The network ports that are its to use, with the numbers of their rails, the nearest first; none, where none are in use or known.
    pub ports: Vec<(String, usize)>,
}

impl Config {
    /// The settings of a rank, all else by default.
    pub fn new(rank: usize, world: usize, rendezvous: &str, cookie: &[u8]) -> Config {
        Config {
            rank,
            world,
            rendezvous: Some(rendezvous.to_owned()),
            cookie: cookie.to_owned(),
            node: node_identity(&|_| None),
            wire: Wire::Auto,
            interface: None,
            congestion: Congestion::Auto,
            infiniband: Infiniband::default(),
            timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(120),
            slots: SLOTS,
            heap: None,
            gpu: None,
            algorithm: None,
            tuning: None,
            zone: None,
            affinity: true,
            cores: None,
            single_copy: true,
            topology: None,
            chaos: None,
            place: None,
        }
    }

    /// How many CPUs this rank and those beside it have between them.
    pub(crate) fn cores(&self) -> usize {
        let allowed = || std::thread::available_parallelism().map_or(1, usize::from);
        self.cores.unwrap_or_else(allowed)
    }

    /// Whether this rank has buffers on a GPU, as far as it knows.
    pub(crate) fn on_gpus(&self) -> bool {
        self.gpu.unwrap_or_else(crate::device::in_use)
    }

    /// The settings that the environment gives: torchrun, MPI launchers, Slurm, or the `HFR_` variables.
    ///
    /// # Errors
    /// A variable that makes no sense, by name and value.
    pub fn from_env() -> Result<Config, Error> {
        let launch =
            Launch::from_env(&|name| with_proxy(&env, name)).map_err(|e| wrong(e.to_string()))?;
        let mut config = Config::of_rank(launch.rank, launch.world)?;
        config.rendezvous = launch.rendezvous;
        config.cookie = launch.cookie;
        Ok(config)
    }

    /// The settings of a rank that knows its number and where its group meets by other means than the environment; all others are the `HFR_`
    /// variables'.
    ///
    /// # Errors
    /// A variable that makes no sense, by name and value.
    pub fn of_rank(rank: usize, world: usize) -> Result<Config, Error> {
        let seconds = |name: &str, usual: f64| match env(name) {
            None => Ok(Duration::from_secs_f64(usual)),
            Some(text) => match text.parse::<f64>() {
                Ok(s) if s > 0.0 && s < 1e9 => Ok(Duration::from_secs_f64(s)),
                _ => Err(wrong(format!("{name}={text} is no number of seconds"))),
            },
        };
        let wire = match env("HFR_TRANSPORT").as_deref() {
            None | Some("auto") => Wire::Auto,
            Some("local") => Wire::Local,
            Some("tcp") => Wire::Tcp,
            Some("verbs") => Wire::Verbs,
            Some(other) => {
                return Err(wrong(format!(
                    "HFR_TRANSPORT={other} is none of auto, local, tcp, verbs"
                )));
            }
        };
        let switch = |name: &str| match env(name).as_deref() {
            None | Some("on") => Ok(true),
            Some("off") => Ok(false),
            Some(other) => Err(wrong(format!("{name}={other} is none of on, off"))),
        };
        let cores = match env("HFR_CORES") {
            None => None,
            Some(text) => match text.parse::<usize>() {
                Ok(cores) if cores > 0 => Some(cores),
                _ => return Err(wrong(format!("HFR_CORES={text} is no number of CPUs"))),
            },
        };
        Ok(Config {
            rank,
            world,
            rendezvous: None,
            cookie: Vec::new(),
            node: node_identity(&env),
            wire,
            interface: interface_from_env(),
            congestion: env("HFR_TCP_CONGESTION").map_or(Congestion::Auto, Congestion::from),
            infiniband: Infiniband::from_env(&env).map_err(wrong)?,
            timeout: seconds("HFR_TIMEOUT", 300.0)?,
            connect_timeout: seconds("HFR_CONNECT_TIMEOUT", 120.0)?,
            slots: SLOTS,
            heap: None,
            gpu: None,
            algorithm: env("HFR_ALGO"),
            tuning: env("HFR_TUNING").map(|path| Tuning::File(path.into())),
            zone: env("HFR_ZONE"),
            affinity: switch("HFR_AFFINITY")?,
            cores,
            single_copy: switch("HFR_SINGLE_COPY")?,
            topology: env("HFR_TOPO_FILE").map(PathBuf::from),
            chaos: env("HFR_CHAOS"),
            place: None,
        })
    }
}
