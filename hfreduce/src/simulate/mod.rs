//! Runs a plan with the real engine, in virtual time, in one thread, from a seed: ranks step in random order and stop anywhere, the wire is
//! as late and unordered as its contract allows, and as soon as a rank's call is done its input is scribbled over. Every element of
//! every output is compared. What the proof says can be watched here; what the proof would refuse goes wrong here.

mod lagging;
mod reference;

use crate::{
    call::Call,
    device::Sides,
    dtype::DType,
    engine::{Engine, Fault, Job, JobId, Place, compile},
    kernel::{Kernel, Store, Variant},
    layout::{Extent, Layout},
    op::ReduceOp,
    plan::{Checked, Collective, Plan},
};
use hfr_transport::{
    Transport,
    shm::{Board, Consent, DOORBELL_BYTES, Doorbell, Segment},
    sim::{self, SimNet},
};
use lagging::Lagging;
use reference::{blocks, in_place, input, lengths, wanted};
use std::sync::Arc;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Decides every choice.
    pub seed: u64,
    /// Elements (`i64`) of each call in turn; per rank, where buffers are shares.
    pub counts: Vec<usize>,
    /// Bytes per piece.
    pub piece: usize,
    /// Chunks in flight.
    pub window: usize,
    /// Input and output are the same memory, as far as the collective can.
    pub in_place: bool,
    /// Buffers lie in the node's segment.
    pub registered: bool,
    /// Bit by rank (modulo 64): its buffers lie on a device. Alternate calls of such a rank have them in host memory.
    pub devices: u64,
    /// The wire sends from the ranks' buffers, where the plan allows it.
    pub gathers: bool,
    /// Ranks of a node may read each other's memory, where the plan allows it.
    pub reach: bool,
    /// A rank that does not let its memory be read any more.
    pub withdrawn: Option<usize>,
    /// Faults of the wire.
    pub faults: Vec<sim::Fault>,
}

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            seed: 1,
            counts: vec![1000],
            piece: 512,
            window: 2,
            in_place: false,
            registered: false,
            devices: 0,
            gathers: true,
            reach: false,
            withdrawn: None,
            faults: Vec::new(),
        }
    }
}

impl Scenario {
    /// Where a rank's buffers lie in a call: of a rank with a device on it, every third time on the host, and sometimes only on one side.
    fn sides(&self, rank: usize, call: usize) -> Sides {
        let turn = call + rank + self.seed as usize;
        let device = self.devices >> (rank % 64) & 1 == 1 && !turn.is_multiple_of(3);
        let one = !self.in_place && turn % 5 == 1;
        Sides {
            input: device,
            output: device && !one,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Virtual nanoseconds until the last rank was done.
    pub nanoseconds: u64,
    /// Events of the wire.
    pub events: u64,
    /// Elements compared.
    pub compared: usize,
}

/// How a simulation failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A wrong element.
    #[error("rank {rank}, call {call}: element {element} is {got} and not {wanted}")]
    Wrong {
        /// The rank that was given it.
        rank: usize,
        /// The call, from 0.
        call: usize,
        /// Which element of the output.
        element: usize,
        /// The value.
        got: i64,
        /// The right value.
        wanted: i64,
    },
    /// A rank left a barrier too early.
    #[error("rank {rank} leaves barrier {call} before rank {missing} has come")]
    Early {
        /// The rank that left.
        rank: usize,
        /// The call, from 0.
        call: usize,
        /// The rank that had not come.
        missing: usize,
    },
    /// Nobody can go on and nothing is under way.
    #[error("everyone waits: {0}")]
    Stuck(String),
    /// An engine gave up, as after a fault of the wire.
    #[error("rank {rank}: {fault}")]
    Fault {
        /// Who.
        rank: usize,
        /// Why.
        fault: String,
    },
}

/// A small generator (splitmix64), so that a seed means the same run everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// One rank of the simulation.
struct Rank {
    engine: Engine,
    /// Its ordinary memory, or a part of its node's segment.
    memory: Arc<Segment>,
    input: usize,
    output: usize,
    call: usize,
    job: Option<JobId>,
}

struct Simulation<'a> {
    plan: &'a Plan,
    scenario: &'a Scenario,
    net: SimNet,
    ranks: Vec<Rank>,
    _consents: Vec<Consent>,
    random: Random,
    compared: usize,
}

/// Runs the scenario; every output of every call is compared with the reference.
pub fn simulate(checked: &Checked, scenario: &Scenario) -> Result<Outcome, Failure> {
    let mut simulation = Simulation::new(checked, scenario);
    simulation.run()?;
    Ok(Outcome {
        nanoseconds: simulation.net.now(),
        events: simulation.net.events(),
        compared: simulation.compared,
    })
}

impl<'a> Simulation<'a> {
    fn new(checked: &'a Checked, scenario: &'a Scenario) -> Self {
        let plan = checked.plan();
        let shape = &plan.shape;
        let layout = Layout::new(plan, scenario.piece, scenario.window);
        let most = scenario.counts.iter().copied().max().unwrap_or(0);
        let longest = (0..shape.ranks()).map(|rank| lengths(plan, rank, most));
        let longest = longest.map(|(i, o)| i.max(o)).max().unwrap_or(0);
        let room = (8 * longest).next_multiple_of(64);
        // A node's segment: doorbells, board, slots, registered buffers.
        let bells = |node: usize| shape.on(node) * DOORBELL_BYTES;
        let slots_at = |node: usize| bells(node) + Board::bytes(layout.counters(node));
        let buffers_at = |node: usize| slots_at(node) + layout.bytes(node);
        let place = Place {
            slots: (0..shape.nodes()).map(slots_at).collect(),
            counters: vec![0; shape.nodes()],
        };
        let segments: Vec<_> = (0..shape.nodes())
            .map(|n| Arc::new(Segment::heap(buffers_at(n) + shape.on(n) * 2 * room)))
            .collect();
        let of_rank = |rank: usize| segments[shape.node_of(rank)].clone();
        let net = SimNet::new(
            (0..shape.ranks()).map(of_rank).collect(),
            scenario.seed,
            scenario.faults.clone(),
        );
        let wires: Vec<_> = (0..shape.ranks()).map(|rank| net.endpoint(rank)).collect();
        let addresses: Vec<_> = wires.iter().map(Transport::address).collect();
        let readable = if scenario.reach { shape.ranks() } else { 0 };
        let consents: Vec<_> = (0..readable)
            .map(|_| Consent::give().expect("random numbers"))
            .collect();
        if let Some(consent) = scenario.withdrawn.and_then(|rank| consents.get(rank)) {
            consent.withdraw();
        }
        let ranks = wires
            .into_iter()
            .enumerate()
            .map(|(rank, mut wire)| {
                let node = shape.node_of(rank);
                let segment = of_rank(rank);
                let board = Board::new(segment.clone(), bells(node), layout.counters(node).max(1));
                let bells: Vec<_> = (0..shape.on(node))
                    .map(|l| Doorbell::new(segment.clone(), l * DOORBELL_BYTES, None))
                    .collect();
                if scenario.withdrawn == Some(rank) {
                    bells[shape.local(rank)].withdraw();
                }
                let program = compile(checked, &layout, &place, rank, scenario.gathers);
                let peers: Vec<_> = program
                    .peers
                    .iter()
                    .map(|&rank| hfr_transport::PeerAddress {
                        rank,
                        address: addresses[rank].clone(),
                    })
                    .collect();
                let far = std::time::Instant::now() + std::time::Duration::from_secs(60);
                wire.connect(&peers, far).expect("simulated links connect");
                let mut engine = Engine::new(
                    segment.clone(),
                    board,
                    bells,
                    shape.local(rank),
                    Some(Box::new(wire)),
                );
                if scenario.devices >> (rank % 64) & 1 == 1 {
                    engine.attach(Box::new(Lagging::new(scenario.seed ^ rank as u64)));
                }
                if scenario.reach {
                    let of_node = shape.ranks_of(node);
                    engine.reach(of_node.map(|r| consents[r].permit()).collect());
                }
                engine.install(program, &layout, scenario.window);
                let local = shape.local(rank);
                let (memory, at) = if scenario.registered {
                    (segment, buffers_at(node) + local * 2 * room)
                } else {
                    (Arc::new(Segment::heap(2 * room)), 0)
                };
                Rank {
                    engine,
                    memory,
                    input: at,
                    output: at + room,
                    call: 0,
                    job: None,
                }
            })
            .collect();
        Simulation {
            plan,
            scenario,
            net,
            ranks,
            _consents: consents,
            random: Random(scenario.seed),
            compared: 0,
        }
    }

    fn run(&mut self) -> Result<(), Failure> {
        let n = self.ranks.len();
        let mut idle = 0;
        while self
            .ranks
            .iter()
            .any(|r| r.call < self.scenario.counts.len())
        {
            let rank = self.random.below(n);
            let moved = self.turn(rank)?;
            idle = if moved { 0 } else { idle + 1 };
            // The wire moves now and then in any case, and whenever nobody else can.
            if idle > 4 * n || self.random.below(3) == 0 {
                let moved = self.net.advance();
                if !moved && idle > 64 * n {
                    return Err(Failure::Stuck(self.report()));
                }
            }
        }
        Ok(())
    }

    /// One rank does a little.
    fn turn(&mut self, rank: usize) -> Result<bool, Failure> {
        if self.ranks[rank].call >= self.scenario.counts.len() || !self.net.alive(rank) {
            return Ok(false);
        }
        if self.ranks[rank].job.is_none() {
            self.begin(rank);
        }
        let budget = 1 + self.random.below(3);
        let r = &mut self.ranks[rank];
        r.engine.set_budget(budget);
        let moved = r.engine.step().map_err(|fault| Failure::Fault {
            rank,
            fault: explain(&fault),
        })?;
        if r.job.is_some_and(|job| r.engine.finished(job)) {
            self.end(rank)?;
            return Ok(true);
        }
        Ok(moved)
    }

    fn begin(&mut self, rank: usize) {
        let call = self.ranks[rank].call;
        let count = self.scenario.counts[call];
        let seed = self.scenario.seed;
        let inputs = lengths(self.plan, rank, count).0;
        let (job_input, output_at) = self.places(rank, count);
        let r = &mut self.ranks[rank];
        for e in 0..inputs {
            // SAFETY: inside the rank's memory, which nobody else touches between its calls.
            unsafe { job_input.add(e).write(input(seed, call, rank, e)) };
        }
        let kernel = Kernel::new(
            Variant::best_for(DType::I64, ReduceOp::Sum),
            DType::I64,
            ReduceOp::Sum,
            self.plan.shape.ranks(),
        )
        .expect("sums of i64 exist");
        let job = Job {
            call: Call {
                sequence: call as u64 + 1,
                count: count as u64,
                root: self.plan.collective.root().unwrap_or(u32::MAX),
                collective: Call::code(self.plan.collective),
                dtype: DType::I64 as u8,
                op: 0,
                uneven: 0,
                factor: 0,
            },
            input: job_input.cast_const().cast(),
            output: output_at.cast(),
            blocks: blocks(self.plan, rank, count, (job_input, output_at)),
            sides: self.scenario.sides(rank, call),
            extent: Extent::new(self.plan, count, 8, self.scenario.piece),
            size: 8,
            kernel: self.plan.collective.reduces().then_some(kernel),
            store: Store::Cached,
            shown_from: 1,
        };
        // SAFETY: the memory lives as long as the simulation and is left alone until the job is done.
        r.job = Some(unsafe { r.engine.submit(0, &job) });
    }

    /// Where a rank's input and output of a call of `count` begin.
    fn places(&self, rank: usize, count: usize) -> (*mut i64, *mut i64) {
        let r = &self.ranks[rank];
        let (inputs, outputs) = lengths(self.plan, rank, count);
        let places = (
            r.memory.at(r.input, 8 * inputs).cast::<i64>(),
            r.memory.at(r.output, 8 * outputs).cast::<i64>(),
        );
        if self.scenario.in_place {
            in_place(self.plan, rank, count, places)
        } else {
            places
        }
    }

    /// A rank's call is done: compares its output and scribbles over its memory.
    fn end(&mut self, rank: usize) -> Result<(), Failure> {
        let call = self.ranks[rank].call;
        let count = self.scenario.counts[call];
        let (inputs, outputs) = lengths(self.plan, rank, count);
        let output = self.places(rank, count).1;
        let outside = |r: &Rank| r.call < call || r.call == call && r.job.is_none();
        if self.plan.collective == Collective::Barrier
            && let Some(missing) = self.ranks.iter().position(outside)
        {
            return Err(Failure::Early {
                rank,
                call,
                missing,
            });
        }
        let r = &mut self.ranks[rank];
        for element in 0..outputs {
            let Some(wanted) = wanted(self.plan, self.scenario.seed, call, rank, count, element)
            else {
                break;
            };
            // SAFETY: inside the rank's memory; its call is done.
            let got = unsafe { output.add(element).read() };
            if got != wanted {
                return Err(Failure::Wrong {
                    rank,
                    call,
                    element,
                    got,
                    wanted,
                });
            }
            self.compared += 1;
        }
        for (base, n) in [(r.input, inputs), (r.output, outputs)] {
            let at = r.memory.at(base, 8 * n).cast::<i64>();
            for e in 0..n {
                // SAFETY: as above.
                unsafe { at.add(e).write(-0x5eed) };
            }
        }
        r.job = None;
        r.call += 1;
        Ok(())
    }

    fn report(&self) -> String {
        let mut lines = Vec::new();
        for (rank, r) in self.ranks.iter().enumerate() {
            for b in r.engine.blocked(rank as u32) {
                lines.push(format!(
                    "rank {rank} chunk {} ({}) waits for rank {}",
                    b.chunk,
                    self.plan.describe(b.stage),
                    b.rank
                ));
            }
        }
        lines.truncate(20);
        lines.join("; ")
    }
}

fn explain(fault: &Fault) -> String {
    match fault {
        Fault::Mismatch { rank, theirs, ours } => {
            format!("rank {rank} calls {theirs}, we call {ours}")
        }
        Fault::Wire { error, .. } => error.to_string(),
        Fault::Device { error, .. } => error.to_string(),
        Fault::Unread { rank, error, .. } => format!("memory of rank {rank}: {error}"),
    }
}
