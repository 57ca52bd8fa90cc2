//! From settings to a running group: everyone meets at the store, nodes are found, each node's ranks share a segment and doorbells, wires
//! exchange addresses, the control plane is joined. Every step has the same deadline and an error that says what to look at.

use super::{
    address::address,
    core::{Arena, Core, Group},
    hello::{Hello, agree, hello, nodes, tuning},
    memory::Heap,
    place, rdma,
    shared::{Shared, dump_on_signal},
};
use crate::{
    config::{Config, Place, Wire},
    error::{Error, Kind},
    plan::{Model, Shape},
    stall,
    tuning::Measured,
};
use hfr_transport::{
    PeerAddress, Transport, chaos,
    control::{Control, Judge},
    local::{Local, Places, Seat},
    net,
    shm::{Board, Consent, DOORBELL_BYTES, Doorbell, HUGE, Permit, Segment, Waiter, exchange},
    store::{Store, StoreServer, TcpStore},
    tcp::Tcp,
};
use std::{
    os::fd::OwnedFd,
    sync::{Arc, Once},
    time::{Duration, Instant},
};

/// Everything a communicator is made of.
pub struct Parts {
    pub core: Core,
    pub heap: Arc<Heap>,
    pub server: Option<StoreServer>,
    pub wire: &'static str,
    pub place: Place,
    /// What rank 0 brought, used here or not.
    pub tuning: Option<Measured>,
}

/// Counters of a node's board, slots and heap: virtual sizes; pages are reserved when they are needed.
const COUNTERS: usize = 1 << 18;

/// Rank 0 answers for so long after its own start has failed, so that ranks whose time is up a little later learn why, too.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(super) fn start(cause: impl ToString, remedy: &str) -> Error {
    Error::new(Kind::Start, cause.to_string(), remedy)
}

pub(super) fn memory(error: hfr_transport::shm::Error) -> Error {
    Error::new(Kind::Memory, error.cause, error.remedy)
}

/// Starts the group that `config` describes, and the rendezvous if this is rank 0.
pub fn connect(config: &Config) -> Result<Parts, Error> {
    check(config)?;
    if config.world == 1 {
        return alone(config);
    }
    let rendezvous = rendezvous_of(config)?;
    let server = (config.rank == 0)
        .then(|| StoreServer::start(rendezvous, &config.cookie))
        .transpose()
        .map_err(|e| start(e, "").at(config.rank, 0))?;
    match connect_to(config) {
        Ok(mut parts) => {
            parts.server = server;
            Ok(parts)
        }
        Err(error) => {
            if server.is_some() {
                std::thread::sleep(LAST_WORDS);
            }
            Err(error)
        }
    }
}

/// Joins the group whose rendezvous is already there.
pub fn connect_to(config: &Config) -> Result<Parts, Error> {
    check(config)?;
    if config.world == 1 {
        return alone(config);
    }
    let deadline = Instant::now() + config.connect_timeout;
    let store = TcpStore::connect(rendezvous_of(config)?, &config.cookie, deadline)
        .map_err(|e| start(e, "").at(config.rank, 0))?;
    join(config, Arc::new(store), "world")
}

fn check(config: &Config) -> Result<(), Error> {
    if config.world == 0 || config.rank >= config.world {
        return Err(start(
            format!("rank {} of {} ranks", config.rank, config.world),
            "ranks count from 0 to the number of ranks less one",
        ));
    }
    dump_on_signal();
    Ok(())
}

fn rendezvous_of(config: &Config) -> Result<&str, Error> {
    config.rendezvous.as_deref().ok_or_else(|| {
        start(
            "no rendezvous is set",
            "set HFR_COMM_ID=host:port to an address where rank 0 can listen",
        )
    })
}

/// A group of one: no rendezvous, no wire, no control plane.
fn alone(config: &Config) -> Result<Parts, Error> {
    let shape = Shape::uniform(1, 1);
    let (arena, heap, len) = places(config, 1, 1);
    let segment = Arc::new(Segment::create("hfreduce", len).map_err(memory)?);
    segment.reserve(0, 4096).map_err(memory)?;
    let bell = Doorbell::new(segment.clone(), 0, None);
    let shared = Shared::new(0, 0, bell.clone(), None);
    let cores = config.cores();
    let tuning = tuning(config)?;
    let model = model(
        cores,
        "none",
        &shape,
        config.on_gpus(),
        tuning.as_ref(),
        true,
    );
    let core = Core::new(
        config,
        shape,
        0,
        shared,
        None,
        segment.clone(),
        vec![bell],
        None,
        arena,
        model,
        Waiter::new(1, cores),
    );
    Ok(Parts {
        core,
        heap: Arc::new(Heap::new(segment, heap.0, heap.1)),
        server: None,
        wire: "none",
        place: config.place.clone().unwrap_or_default(),
        tuning,
    })
}

/// Where things lie in a segment: doorbells and mailboxes, board, slots, then a heap per rank; the last two start where huge pages can.
fn places(config: &Config, world: usize, local_size: usize) -> (Arena, (usize, usize), usize) {
    let board = Places::bytes(world, local_size).next_multiple_of(4096);
    let slots = (board + Board::bytes(COUNTERS)).next_multiple_of(HUGE);
    let slot_bytes = config.slots.next_multiple_of(HUGE);
    let heap = slots + slot_bytes;
    // As much address space per node as the machine has memory, in equal parts: more can never be registered, and a process with many groups
    // must not run out of addresses.
    let pages = rustix::system::sysinfo();
    let ram = pages.totalram as usize * pages.mem_unit.max(1) as usize;
    let each = config.heap.unwrap_or(ram.div_ceil(local_size));
    let each = each.next_multiple_of(HUGE);
    let arena = Arena {
        board,
        counters: COUNTERS,
        slots,
        bytes: slot_bytes,
    };
    (arena, (heap, each), heap + local_size * each)
}

/// Joins the group `name`, whose ranks all meet at `store`.
pub fn join(config: &Config, store: Arc<dyn Store>, name: &str) -> Result<Parts, Error> {
    let deadline = Instant::now() + config.connect_timeout;
    let (rank, world) = (config.rank, config.world);
    let gather = |what: &str, mine: &[u8]| {
        store
            .gather(&format!("{name}/{what}"), world, rank, mine, deadline)
            .map_err(|e| start(e, "check that all ranks were started, with the same number of ranks and the same HFR_COMM_ID").at(rank, 0))
    };
    let consent = config.single_copy.then(Consent::give).transpose();
    let consent = consent.map_err(memory)?;
    let hello = hello(config, consent.as_ref().map(Consent::permit))?;
    let hellos: Vec<Hello> = gather("hello", &serde_json::to_vec(&hello).unwrap_or_default())?
        .iter()
        .enumerate()
        .map(|(r, bytes)| {
            serde_json::from_slice(bytes).map_err(|e| {
                start(
                    format!("rank {r} introduced itself in a way this build does not know: {e}"),
                    "start all ranks from one build",
                )
            })
        })
        .collect::<Result<_, _>>()?;
    agree(&hellos)?;
    let (shape, node) = nodes(&hellos, rank)?;
    // The same offsets on every node, whatever its number of ranks: a put names an offset of its target's segment.
    let (arena, heap, len) = places(config, world, shape.widest());
    let (segment, events) = meet(&hellos, &shape, rank, node, len, deadline)?;
    let bells: Vec<Doorbell> = events
        .into_iter()
        .enumerate()
        .map(|(l, fd)| Doorbell::new(segment.clone(), l * DOORBELL_BYTES, fd))
        .collect();
    let kind = kind(&hellos, &shape);
    let place = place::find(config, &hellos, &ports(config, kind)).map_err(|e| e.at(rank, node))?;
    let wire = wire(
        config, &hellos, &shape, node, kind, &segment, &bells, arena, &place,
    )?;
    let mine = wire.as_ref().map_or(Vec::new(), |w| w.address());
    let peers = gather("address", &mine)?
        .into_iter()
        .enumerate()
        .map(|(rank, address)| PeerAddress { rank, address })
        .collect();
    let shared = Shared::new(rank, node, bells[shape.local(rank)].clone(), consent);
    let judge: Judge =
        Arc::new(|question, states| stall::judge(question, states).map(|error| error.to_bytes()));
    let control = Control::join(
        config.rendezvous.as_deref().unwrap_or_default(),
        &config.cookie,
        name,
        rank,
        world,
        shared.clone(),
        Some(judge),
        deadline,
    )
    .map_err(|e| start(e, "").at(rank, node))?;
    watch(&control, &hellos, &shape, rank, node);
    let (host, pid) = control.monitor();
    let arbiter = hellos
        .iter()
        .position(|h| h.pid == pid && h.host.starts_with(host));
    let permits = permits(&hellos, &shape, node);
    let all = gather("joined", &[u8::from(permits.is_some())])?;
    let reach = permits.filter(|_| all.iter().all(|works| works == &[1]));
    // Rank 0's cores, and those who share them, serve all, so that all choose alike: what a node's ranks have together.
    let cores = (hellos[0].cores * shape.widest()).div_ceil(place::sharing(&hellos, 0));
    let tuning = hellos[0].tuning.clone();
    let gpus = hellos.iter().any(|h| h.gpu);
    let model = model(cores, kind, &shape, gpus, tuning.as_ref(), rank == 0);
    let mut core = Core::new(
        config,
        shape.clone(),
        node,
        shared,
        Some(Group {
            store,
            name: name.to_owned(),
            control,
            arbiter,
            peers,
        }),
        segment.clone(),
        bells,
        wire,
        arena,
        model,
        Waiter::new(place::sharing(&hellos, rank), hello.cores),
    );
    if let Some(permits) = reach {
        core.reach(permits);
    }
    core.sums = place.sums.filter(|_| !matches!(kind, "none" | "local"));
    let at = heap.0 + shape.local(rank) * heap.1;
    Ok(Parts {
        core,
        heap: Arc::new(Heap::new(segment, at, heap.1)),
        server: None,
        wire: kind,
        place,
        tuning,
    })
}

/// The permits of the node's ranks, if this rank can read the memory of all of them. Nothing is shown where buffers are on GPUs: what the driver
/// manages is no ordinary memory.
fn permits(hellos: &[Hello], shape: &Shape, node: usize) -> Option<Vec<Permit>> {
    if hellos.iter().any(|h| h.gpu) {
        return None;
    }
    let permits = shape.ranks_of(node).map(|rank| hellos[rank].permit);
    let permits: Vec<Permit> = permits.collect::<Option<_>>()?;
    permits.iter().all(Permit::works).then_some(permits)
}

/// What this group chooses by: the figures that rank 0 brought where they are for such a group, and otherwise the usual ones.
fn model(
    cores: usize,
    wire: &str,
    shape: &Shape,
    gpus: bool,
    tuning: Option<&Measured>,
    loud: bool,
) -> Model {
    static SAID: Once = Once::new();
    let mut usual = Model::usual(cores, wire, gpus);
    if !gpus {
        usual = usual.for_shape(shape);
    }
    let Some(tuning) = tuning else { return usual };
    match tuning.model(cores, wire, gpus) {
        Ok(model) => model,
        Err(why) => {
            if loud {
                SAID.call_once(|| tracing::warn!("the tuning (HFR_TUNING) is not used: {why}"));
            }
            usual
        }
    }
}

/// The node's segment, and everyone's eventfd by local rank.
fn meet(
    hellos: &[Hello],
    shape: &Shape,
    rank: usize,
    node: usize,
    len: usize,
    deadline: Instant,
) -> Result<(Arc<Segment>, Vec<Option<OwnedFd>>), Error> {
    let leader = &hellos[shape.first(node)];
    let local = shape.local(rank);
    let mut mine = vec![Doorbell::event().map_err(memory)?];
    let mut segment = None;
    if local == 0 {
        let created = Segment::create("hfreduce", len).map_err(memory)?;
        let front = Places::bytes(hellos.len(), shape.widest()).next_multiple_of(4096);
        created.reserve(0, front).map_err(memory)?;
        let fd = created.fd().and_then(|fd| fd.try_clone_to_owned().ok());
        mine.push(fd.ok_or_else(|| start("the segment's descriptor cannot be passed", ""))?);
        segment = Some(created);
    }
    let mut table = exchange(
        &leader.meeting,
        &leader.token,
        local,
        shape.on(node),
        mine,
        deadline,
    )
    .map_err(|e| start(e.cause, &e.remedy).at(rank, node))?;
    let segment = match segment {
        Some(segment) => segment,
        None => {
            let fd = table[0]
                .pop()
                .ok_or_else(|| start("the node's first rank passed no segment", ""))?;
            Segment::attach(fd).map_err(memory)?
        }
    };
    // The first descriptor of each is its eventfd; the leader's segment behind it is closed with the table.
    let events = table
        .into_iter()
        .map(|fds| fds.into_iter().next())
        .collect();
    Ok((Arc::new(segment), events))
}

fn kind(hellos: &[Hello], shape: &Shape) -> &'static str {
    let one_host = hellos.iter().all(|h| h.host == hellos[0].host);
    match hellos[0].wire {
        _ if shape.nodes() == 1 => "none",
        Wire::Local => "local",
        Wire::Tcp => "tcp",
        Wire::Verbs => "verbs",
        Wire::Auto if one_host => "local",
        Wire::Auto if hellos.iter().all(|h| h.verbs) => "verbs",
        Wire::Auto => "tcp",
    }
}

#[allow(clippy::too_many_arguments, reason = "one caller, above")]
fn wire(
    config: &Config,
    hellos: &[Hello],
    shape: &Shape,
    node: usize,
    kind: &str,
    segment: &Arc<Segment>,
    bells: &[Doorbell],
    arena: Arena,
    place: &Place,
) -> Result<Option<Box<dyn Transport>>, Error> {
    let local = shape.local(config.rank);
    let fail = |e: hfr_transport::Error| start(e, "").at(config.rank, node);
    let plain: Box<dyn Transport> = match kind {
        "none" => return Ok(None),
        "local" => {
            let seat = Seat {
                rank: config.rank,
                world: config.world,
                node,
                local_rank: local,
                local_size: shape.on(node),
            };
            let places = Places::packed(0, shape.on(node));
            let event = bells[local]
                .event_fd()
                .and_then(|fd| fd.try_clone_to_owned().ok());
            Box::new(Local::new(seat, segment.clone(), places, event).map_err(fail)?)
        }
        "verbs" => {
            let ip = address(config).map_err(|e| e.at(config.rank, node))?;
            let writable = arena.slots..arena.slots + arena.bytes;
            let member = (config.rank, config.world, local);
            rdma::open(
                config,
                member,
                &place.ports,
                segment.clone(),
                writable,
                ip,
                hellos[0].token,
            )
            .map_err(fail)?
        }
        _ => {
            let ip = address(config).map_err(|e| e.at(config.rank, node))?;
            let writable = arena.slots..arena.slots + arena.bytes;
            let (token, congestion) = (hellos[0].token, config.congestion.clone());
            let tcp = Tcp::bind(
                config.rank,
                segment.clone(),
                writable,
                ip,
                token,
                congestion,
            );
            Box::new(tcp.map_err(fail)?)
        }
    };
    let Some(script) = &config.chaos else {
        return Ok(Some(plain));
    };
    let script: chaos::Script = script
        .parse()
        .map_err(|e| start(format!("HFR_CHAOS={script}: {e}"), ""))?;
    Ok(Some(Box::new(
        chaos::Chaos::new(plain, script).map_err(fail)?,
    )))
}

/// The names of the ports that the wire may use; none, where it uses none.
fn ports(config: &Config, kind: &str) -> Vec<String> {
    if kind == "verbs" {
        return rdma::ports(config);
    }
    let address = (kind == "tcp").then(|| address(config).ok()).flatten();
    let all = address.and_then(|_| net::interfaces().ok());
    let found = all
        .into_iter()
        .flatten()
        .find(|i| Some(i.address) == address);
    found.map(|i| i.name).into_iter().collect()
}

/// Local processes that die are known at once. Where a process cannot be watched (another pid namespace), its control connection tells.
fn watch(control: &Control, hellos: &[Hello], shape: &Shape, rank: usize, node: usize) {
    for other in shape.ranks_of(node).filter(|r| *r != rank) {
        let pid = hellos[other].pid as i32;
        if pid == std::process::id() as i32 {
            continue;
        }
        let open = rustix::process::Pid::from_raw(pid).and_then(|pid| {
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
        });
        if let Some(fd) = open {
            control.watch(other, fd);
        }
    }
}
