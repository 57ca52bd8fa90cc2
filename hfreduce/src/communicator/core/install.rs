//! How a call finds its plan: the choice by size, and the installing of a plan the first time it is used. Installing is an agreement: all ranks
//! compare their calls over the store with nothing running, memory is reserved, peers are connected, and nobody sends before everybody
//! is ready. One rank's failure in it is everyone's.

use super::{Core, WORD};
use crate::{
    call::Call,
    engine::{MAX_COUNTERS, Place, compile},
    error::{Error, Kind},
    layout::{Layout, largest},
    plan::{Checked, Choice, Collective, Cost, Model, Wanted, checked, choose},
    stall::{Wait, mismatch},
};
use hfr_transport::{
    PeerAddress,
    control::Report,
    shm::{Board, HUGE, Placement},
    store,
};
use std::time::{Duration, Instant};

/// A plan of a family, with what it was measured to need.
pub struct Candidate {
    pub checked: Checked,
    pub cost: Cost,
    /// The same where ranks read each other's memory.
    pub reaching: Cost,
    /// Largest piece, in bytes.
    pub piece: usize,
    /// Chunks in flight.
    pub window: usize,
    /// The engine's number of it, once it is installed.
    pub run: Option<usize>,
    /// Bytes of this node's slots up to its last.
    pub end: usize,
}

/// Blocking steps look for a verdict this often.
const SLICE: Duration = Duration::from_millis(250);

/// Bytes of the pages that a plan's slots lie in.
fn page(slots: usize) -> usize {
    if slots < HUGE { 4096 } else { HUGE }
}

fn whole_pages(slots: usize) -> usize {
    slots.next_multiple_of(page(slots))
}

fn candidate(model: &Model, checked: Checked) -> Candidate {
    let cost = checked.cost(false);
    let (piece, window) = largest(model, checked.plan(), &cost);
    Candidate {
        window,
        reaching: checked.cost(true),
        checked,
        cost,
        piece,
        run: None,
        end: 0,
    }
}

impl Core {
    /// The plan and piece for this size; the same on all ranks, since all compute it from the same numbers.
    pub(super) fn choice(&mut self, collective: Collective, bytes: usize) -> Result<Choice, Error> {
        let key = (collective, bytes.next_power_of_two());
        if let Some(choice) = self.choices.get(&key) {
            return Ok(*choice);
        }
        if !self.families.contains_key(&collective) {
            let plans = checked(collective, &self.shape).map_err(|flaw| {
                self.here(Error::new(
                    Kind::Start,
                    format!("a plan is wrong: {flaw}"),
                    "this is a bug of the library; please report it with the group's shape",
                ))
            })?;
            let model = self.model.for_collective(collective, &self.shape);
            let family = plans.into_iter().map(|c| candidate(&model, c)).collect();
            self.families.insert(collective, family);
        }
        let family = &self.families[&collective];
        let reaches = self.shows(collective, key.1);
        let cost = |c: &Candidate| if reaches { &c.reaching } else { &c.cost }.clone();
        let costs: Vec<Cost> = family.iter().map(cost).collect();
        let model = self.model.for_collective(collective, &self.shape);
        let mut choice = choose(&model, &self.shape, &costs, Wanted { bytes: key.1 });
        if let (Collective::AllReduce, Some(name)) = (collective, &self.algorithm) {
            let found = family.iter().position(|c| c.checked.plan().name == name);
            choice.plan = found.ok_or_else(|| {
                let names: Vec<_> = family.iter().map(|c| c.checked.plan().name).collect();
                self.here(Error::new(
                    Kind::InvalidArgument,
                    format!("HFR_ALGO={name} is no plan for this group"),
                    format!("choose one of {}", names.join(", ")),
                ))
            })?;
            let one = [costs[choice.plan].clone()];
            choice.piece = choose(&model, &self.shape, &one, Wanted { bytes: key.1 }).piece;
        }
        self.choices.insert(key, choice);
        Ok(choice)
    }

    /// The engine's number of the plan; installs it first where needed.
    pub(super) fn installed(
        &mut self,
        collective: Collective,
        plan: usize,
        call: &Call,
    ) -> Result<usize, Error> {
        let candidate = &self.families[&collective][plan];
        if let Some(run) = candidate.run {
            return Ok(run);
        }
        let layout = Layout::new(candidate.checked.plan(), candidate.piece, candidate.window);
        self.agree(&call.to_string())?;
        if !self.fits(&layout) {
            self.evict()?;
        }
        let start = |node| self.arena.slots + self.start(&layout, node);
        let place = Place {
            slots: (0..self.shape.nodes()).map(start).collect(),
            counters: self.used.1.clone(),
        };
        let ready = self.prepare(collective, plan, &layout, &place);
        self.settle(&ready)?;
        let (run, window) = (ready?, self.families[&collective][plan].window);
        let run = self.engine.install(run, &layout, window);
        for node in 0..self.shape.nodes() {
            self.used.0[node] = self.start(&layout, node) + whole_pages(layout.bytes(node));
            self.used.1[node] += layout.counters(node);
        }
        // Nobody may send before everybody has installed.
        self.settle(&Ok(()))?;
        if let Some(c) = self
            .families
            .get_mut(&collective)
            .and_then(|f| f.get_mut(plan))
        {
            c.run = Some(run);
            c.end = self.used.0[self.node];
        }
        Ok(run)
    }

    /// Where in a node's slots those of another plan can lie: large ones in huge pages of their own.
    fn start(&self, layout: &Layout, node: usize) -> usize {
        self.used.0[node].next_multiple_of(page(layout.bytes(node)))
    }

    fn fits(&self, layout: &Layout) -> bool {
        (0..self.shape.nodes()).all(|n| {
            self.start(layout, n) + layout.bytes(n) <= self.arena.bytes
                && self.used.1[n] + layout.counters(n) <= self.arena.counters.min(MAX_COUNTERS)
        })
    }

    /// Makes room: forgets every plan and zeroes the counters. All ranks do it at the same call, with nothing running.
    fn evict(&mut self) -> Result<(), Error> {
        self.engine.uninstall(0, 0);
        self.last = None;
        // What was pinned stays so; but plans are new.
        self.firsts.forget();
        for candidate in self.families.values_mut().flatten() {
            candidate.run = None;
        }
        if self.shape.local(self.rank) == 0 {
            let bytes = Board::bytes(self.used.1[self.node]);
            let at = self.segment.at(self.arena.board, bytes);
            // SAFETY: the board lies there; all ranks have agreed on this call with idle engines and touch it again only after
            // the next agreement.
            unsafe { at.write_bytes(0, bytes) };
        }
        self.used.0.fill(0);
        self.used.1.fill(0);
        self.settle(&Ok(()))
    }

    /// Reserves memory, connects to peers and compiles the plan; may fail on one rank alone.
    fn prepare(
        &mut self,
        collective: Collective,
        plan: usize,
        layout: &Layout,
        place: &Place,
    ) -> Result<crate::engine::Program, Error> {
        let too_big = layout.bytes(self.node) > self.arena.bytes
            || layout.counters(self.node) > self.arena.counters;
        if too_big {
            return Err(self.here(Error::new(
                Kind::Memory,
                format!(
                    "the plan needs {} bytes of slots and {} counters per node",
                    layout.bytes(self.node),
                    layout.counters(self.node)
                ),
                "the group is larger than this build's arena",
            )));
        }
        if self.shape.local(self.rank) == 0 {
            self.place(layout, place.slots[self.node]);
            let counters = Board::bytes(layout.counters(self.node));
            let board = self.arena.board + Board::bytes(place.counters[self.node]);
            self.segment
                .reserve(board, counters)
                .and_then(|()| {
                    let bytes = whole_pages(layout.bytes(self.node));
                    self.segment.reserve(place.slots[self.node], bytes)
                })
                .map_err(|e| self.here(Error::new(Kind::Memory, e.cause, e.remedy)))?;
        }
        if self.shape.local(self.rank) == 0 {
            // What lay there before may look like any stamp.
            for at in layout.stamps(self.node) {
                let at = self
                    .segment
                    .at(place.slots[self.node] + at, size_of::<u64>());
                // SAFETY: in slots that were handed to this plan just now: nobody reads or writes them before all ranks have settled.
                unsafe { at.cast::<u64>().write(0) };
            }
        }
        let program = compile(
            &self.families[&collective][plan].checked,
            layout,
            place,
            self.rank,
            self.engine.transport().is_some_and(|wire| wire.gathers()),
        );
        if let Some(group) = &self.group {
            let peers: Vec<_> = program
                .peers
                .iter()
                .map(|&r| group.peers[r].clone())
                .collect();
            if !peers.is_empty() {
                self.connect(&peers)?;
            }
        }
        Ok(program)
    }

    /// What ranks bring comes from everywhere and is read once, so it is spread for bandwidth; sums and what other nodes send lie near the
    /// network's device, which reads and writes them.
    fn place(&self, layout: &Layout, slots: usize) {
        // In whole pages: no huge page lies in two places.
        let all = whole_pages(layout.bytes(self.node));
        let taken = layout.taken(self.node).next_multiple_of(page(all)).min(all);
        self.segment.place(slots, taken, Placement::Interleaved);
        if let Some(sums) = self.sums {
            self.segment.place(slots + taken, all - taken, sums);
        }
    }

    fn connect(&mut self, peers: &[PeerAddress]) -> Result<(), Error> {
        let (rank, node) = (self.rank, self.node);
        let deadline = Instant::now() + self.timeout;
        loop {
            let slice = deadline.min(Instant::now() + 8 * SLICE);
            let wire = self
                .engine
                .transport()
                .expect("a group of several nodes has a wire");
            match wire.connect(peers, slice) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    if let Some(verdict) = self.shared.verdict() {
                        return Err(verdict);
                    }
                    if Instant::now() >= deadline {
                        let mut e = Error::new(Kind::Wire, error.to_string(), "check that the nodes can reach each other on this interface (HFR_SOCKET_IFNAME)").at(rank, node);
                        e.peer = error.peer;
                        return Err(e);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    /// All ranks are about to install a plan for the same call; refuses calls that differ. Nothing runs afterwards anywhere.
    fn agree(&mut self, call: &str) -> Result<(), Error> {
        self.drain()?;
        let calls = self.exchange("call", call.as_bytes())?;
        let other = calls.iter().position(|c| c != call.as_bytes());
        match other {
            None => Ok(()),
            Some(other) => {
                let first = String::from_utf8_lossy(&calls[0]).into_owned();
                let differs = calls.iter().position(|c| *c != calls[0]).unwrap_or(other);
                let second = String::from_utf8_lossy(&calls[differs]).into_owned();
                Err(self.fail(mismatch(0, &first, differs, &second)))
            }
        }
    }

    /// Everyone has come so far; one rank's failure is everyone's.
    fn settle<T>(&mut self, mine: &Result<T, Error>) -> Result<(), Error> {
        if let Err(error) = mine {
            return Err(self.fail(error.clone()));
        }
        self.exchange("ready", b"").map(drop)
    }

    fn exchange(&mut self, what: &str, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let Some(group) = self.group.clone() else {
            return Ok(vec![mine.to_vec()]);
        };
        self.installs += 1;
        let key = format!("{}/install/{}/{what}", group.name, self.installs);
        let started = Instant::now();
        loop {
            let slice = Instant::now() + SLICE;
            match group
                .store
                .gather(&key, self.shape.ranks(), self.rank, mine, slice)
            {
                Ok(all) => {
                    self.wait_for(&[]);
                    return Ok(all);
                }
                Err(error) => {
                    if let Some(verdict) = self.shared.verdict() {
                        return Err(verdict);
                    }
                    let over = started.elapsed() >= self.timeout;
                    let absent = match &error {
                        store::Error::Missing { missing, .. } => missing.as_slice(),
                        _ => &[],
                    };
                    let missing = !absent.is_empty();
                    // A server that says nothing may be waiting for its turn on a busy machine, as we may be for ours; one that is gone is known by
                    // its connection, or by the control plane's.
                    let lost = !missing && (over || !error.is_silence());
                    if lost && let Some(verdict) = self.shared.hear(WORD) {
                        return Err(verdict);
                    }
                    self.wait_for(absent);
                    if over || lost {
                        let error = self.here(Error::new(
                            if missing {
                                Kind::Timeout
                            } else {
                                Kind::PeerLost
                            },
                            error.to_string(),
                            "all ranks must make the same calls in the same order",
                        ));
                        if missing {
                            return Err(self.time_out(error));
                        }
                        return Err(self.fail(error));
                    }
                    group.control.report(Report::Check(Vec::new()));
                }
            }
        }
    }

    /// Notes whom this rank waits for before its call can start.
    fn wait_for(&self, ranks: &[usize]) {
        let wait = |&rank: &usize| Wait {
            rank,
            stage: "all ranks prepare the call's plan".to_owned(),
            chunk: 0,
        };
        self.shared.history.waits(ranks.iter().map(wait).collect());
    }
}
