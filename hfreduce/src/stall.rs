//! What a rank knows about itself that others may ask for: its last 64 calls and whom it waits for; and the judgement over everyone's
//! answers when a group makes no progress. The running rank writes its records with plain atomic stores; the control thread reads
//! them at any time, and a record that changes meanwhile is left out.

use crate::{
    call::Call,
    error::{Error, Kind},
};
use hfr_transport::control::{Question, RankState};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

/// Calls that are remembered.
const KEPT: usize = 64;

/// One remembered call, as words: sequence, count, root and kinds, state, and when (microseconds of the system's own clock).
#[derive(Default)]
struct Record([AtomicU64; 5]);

/// The last calls of a rank.
pub struct History {
    records: Vec<Record>,
    /// Whom the running call waits for; empty unless it stalls.
    waits: Mutex<Vec<Wait>>,
}

/// One reason why a rank waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wait {
    /// The rank it waits for.
    pub rank: usize,
    /// The stage of the plan, as a sentence.
    pub stage: String,
    /// Chunk of the call.
    pub chunk: u64,
}

/// A rank's answer to the monitor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Words of the last call, see `Call`.
    pub sequence: u64,
    /// The last call in words.
    pub call: String,
    /// Whether it is running.
    pub running: bool,
    /// Milliseconds since it began (or ended, if it is not running).
    pub since_ms: u64,
    /// Whom it waits for.
    pub waits: Vec<Wait>,
    /// All remembered calls with their sequence numbers: a rank may have done its part of a call that others cannot finish.
    pub past: Vec<(u64, String)>,
}

impl Default for History {
    fn default() -> Self {
        History {
            records: (0..KEPT).map(|_| Record::default()).collect(),
            waits: Mutex::new(Vec::new()),
        }
    }
}

fn pack(call: &Call) -> u64 {
    u64::from(call.root) << 32
        | u64::from(call.collective) << 16
        | u64::from(call.dtype) << 8
        | u64::from(call.op)
}

fn unpack(sequence: u64, count: u64, word: u64) -> Call {
    Call {
        sequence,
        count,
        root: (word >> 32) as u32,
        collective: (word >> 16) as u8,
        dtype: (word >> 8) as u8,
        op: word as u8,
        uneven: 0,
        factor: 0,
    }
}

impl History {
    /// Microseconds of a clock that moves every few milliseconds: it is looked at twice in every call, and read by people.
    fn now(&self) -> u64 {
        let now = clock_gettime(ClockId::MonotonicCoarse);
        now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
    }

    /// A call begins.
    pub fn begin(&self, call: &Call) {
        let words = &self.records[call.sequence as usize % KEPT].0;
        words[0].store(0, Ordering::Relaxed);
        words[1].store(call.count, Ordering::Relaxed);
        words[2].store(pack(call), Ordering::Relaxed);
        words[3].store(1, Ordering::Relaxed);
        words[4].store(self.now(), Ordering::Relaxed);
        words[0].store(call.sequence, Ordering::Release);
    }

    /// A call ended, well or not.
    pub fn end(&self, call: &Call, well: bool) {
        let words = &self.records[call.sequence as usize % KEPT].0;
        words[4].store(self.now(), Ordering::Relaxed);
        words[3].store(if well { 2 } else { 3 }, Ordering::Release);
    }

    /// Notes (or clears) whom the running call waits for.
    pub fn waits(&self, waits: Vec<Wait>) {
        if let Ok(mut kept) = self.waits.lock() {
            *kept = waits;
        }
    }

    /// The remembered calls in order: call, state (1 running, 2 done, 3 failed), microseconds since it began or ended.
    fn calls(&self) -> Vec<(Call, u64, u64)> {
        let mut calls: Vec<_> = self
            .records
            .iter()
            .filter_map(|Record(words)| {
                let sequence = words[0].load(Ordering::Acquire);
                let [count, kinds, state, since] =
                    [1, 2, 3, 4].map(|i| words[i].load(Ordering::Relaxed));
                let same = words[0].load(Ordering::Acquire) == sequence;
                let call = unpack(sequence, count, kinds);
                (sequence != 0 && same).then(|| (call, state, self.now().saturating_sub(since)))
            })
            .collect();
        calls.sort_by_key(|(call, ..)| call.sequence);
        calls
    }

    /// This rank's answer to the monitor.
    pub fn status(&self) -> Status {
        let calls = self.calls();
        let oldest_running = calls.iter().find(|(_, state, _)| *state == 1);
        let shown = oldest_running.or(calls.last());
        let waits = self.waits.lock().map(|w| w.clone()).unwrap_or_default();
        let past = calls.iter().map(|(c, ..)| (c.sequence, c.to_string()));
        let past = past.collect();
        match shown {
            None => Status {
                sequence: 0,
                call: "no call yet".into(),
                running: false,
                since_ms: self.now() / 1000,
                waits,
                past,
            },
            Some((call, state, micros)) => Status {
                sequence: call.sequence,
                call: call.to_string(),
                running: *state == 1,
                since_ms: micros / 1000,
                waits,
                past,
            },
        }
    }

    /// The last calls and whom this rank waits for, as text.
    pub fn dump(&self, rank: usize, node: usize) -> String {
        let mut text = format!("rank {rank} (node {node}): last calls\n");
        for (call, state, micros) in self.calls() {
            let state = ["?", "running for", "done since", "failed since"][state.min(3) as usize];
            let ms = micros as f64 / 1000.0;
            text += &format!("  {call} ({} bytes): {state} {ms:.1} ms\n", call.bytes());
        }
        for wait in self.waits.lock().map(|w| w.clone()).unwrap_or_default() {
            text += &format!(
                "  waits for rank {} (chunk {}: {})\n",
                wait.rank, wait.chunk, wait.stage
            );
        }
        text
    }
}

/// A rank that is gone while others wait this long has not just finished first, in milliseconds.
const PATIENCE_MS: u64 = 1000;

/// Finds the cause of a stall from everyone's answers. `None`: nothing is wrong yet.
pub fn judge(question: &Question, states: &[RankState]) -> Option<Error> {
    let answers: Vec<Option<Status>> = states
        .iter()
        .map(|state| match state {
            RankState::Answered(bytes) => serde_json::from_slice(bytes).ok(),
            _ => None,
        })
        .collect();
    disagreement(&answers)
        .or_else(|| departed(question, states, &answers))
        .or_else(|| {
            question
                .must_answer()
                .then(|| timeout(question, states, &answers))
        })
}

/// Two ranks whose calls with one number differ.
fn disagreement(answers: &[Option<Status>]) -> Option<Error> {
    let running = |s: &&Status| s.running && s.sequence > 0;
    let statuses = || {
        answers
            .iter()
            .enumerate()
            .filter_map(|(r, s)| Some((r, s.as_ref()?)))
    };
    for (a, first) in statuses().filter(|(_, s)| running(s)) {
        for (b, second) in statuses().filter(|(b, _)| *b != a) {
            let same = second.past.iter().find(|(s, _)| *s == first.sequence);
            if let Some((_, theirs)) = same
                && *theirs != first.call
            {
                return Some(mismatch(a, &first.call, b, theirs));
            }
        }
    }
    None
}

/// Two ranks called different things.
pub fn mismatch(a: usize, first: &str, b: usize, second: &str) -> Error {
    let ((a, first), (b, second)) = if a < b {
        ((a, first), (b, second))
    } else {
        ((b, second), (a, first))
    };
    let mut error = Error::new(
        Kind::Mismatch,
        format!("ranks disagree: rank {a} calls {first}, rank {b} calls {second}"),
        "all ranks must make the same calls in the same order with the same count, dtype, op and root",
    );
    error.rank = Some(a);
    error.peer = Some(b);
    error
}

/// A rank has left that others need.
pub fn left(rank: usize) -> Error {
    let mut error = Error::new(
        Kind::PeerLost,
        format!("rank {rank} has left the communicator, but this call needs it"),
        format!("look why rank {rank} closed its communicator early"),
    );
    error.peer = Some(rank);
    error
}

/// Someone waits, over others or not, for a rank that has left.
fn departed(
    question: &Question,
    states: &[RankState],
    answers: &[Option<Status>],
) -> Option<Error> {
    let gone = |r: usize| matches!(states.get(r), Some(RankState::Left));
    for asked in &question.asked {
        let status = answers.get(asked.rank)?.as_ref()?;
        if status.since_ms < PATIENCE_MS && !asked.timeout {
            continue;
        }
        if let Some(rank) = behind(asked.rank, answers).into_iter().find(|r| gone(*r)) {
            let mut error = left(rank);
            error.rank = Some(asked.rank);
            error.operation = Some(status.call.clone());
            return Some(error);
        }
    }
    None
}

/// All ranks that `rank` waits for, directly or over others, nearest first.
fn behind(rank: usize, answers: &[Option<Status>]) -> Vec<usize> {
    let mut found = vec![rank];
    let mut next = 0;
    while next < found.len() {
        if let Some(Some(status)) = answers.get(found[next]) {
            for wait in &status.waits {
                if !found.contains(&wait.rank) {
                    found.push(wait.rank);
                }
            }
        }
        next += 1;
    }
    found.remove(0);
    found
}

/// The rank, of those that `rank` waits for and itself, that waits for its own device, and the stage in which it does.
fn own_device(rank: usize, answers: &[Option<Status>]) -> Option<(usize, String)> {
    let all = std::iter::once(rank).chain(behind(rank, answers));
    all.into_iter().find_map(|r| {
        let waits = &answers.get(r)?.as_ref()?.waits;
        let own = waits.iter().find(|w| w.rank == r)?;
        Some((r, own.stage.clone()))
    })
}

/// Time is up: the rank to blame is one that does not answer, or has not come, or else one that waits for nobody.
fn timeout(question: &Question, states: &[RankState], answers: &[Option<Status>]) -> Error {
    let asked = question
        .asked
        .iter()
        .find(|a| a.timeout)
        .unwrap_or(&question.asked[0]);
    let own = answers.get(asked.rank).and_then(Option::as_ref);
    let sequence = own.map_or(0, |s| s.sequence);
    let all: Vec<usize> = (0..states.len()).filter(|r| *r != asked.rank).collect();
    let silent = all
        .iter()
        .find(|r| matches!(states[**r], RankState::Silent | RankState::Gone));
    let absent = all.iter().find(|r| {
        answers[**r]
            .as_ref()
            .is_some_and(|s| !s.running && s.sequence < sequence)
    });
    let (culprit, what, remedy) = if let Some(&r) = silent {
        (
            Some(r),
            format!("rank {r} does not answer: it is stopped, or its host is out of reach"),
            format!("look at rank {r}'s process"),
        )
    } else if let Some(&r) = absent {
        let last = answers[r]
            .as_ref()
            .map_or(String::new(), |s| s.call.clone());
        (
            Some(r),
            format!("rank {r} has not entered this call; its last was: {last}"),
            format!("look what rank {r} does between its calls, or raise HFR_TIMEOUT"),
        )
    } else if let Some((r, stage)) = own_device(asked.rank, answers) {
        (
            Some(r),
            format!("a copy between device and host memory of rank {r} does not end ({stage})"),
            format!("look at rank {r}'s device (nvidia-smi, dmesg)"),
        )
    } else {
        let free = behind(asked.rank, answers)
            .into_iter()
            .find(|r| answers[*r].as_ref().is_some_and(|s| s.waits.is_empty()));
        let text = free.map_or("the ranks wait for each other".to_owned(), |r| {
            format!("rank {r} is in the call and waits for nobody, but does not get on")
        });
        (
            free,
            text,
            "look at the network between the nodes, or raise HFR_TIMEOUT".to_owned(),
        )
    };
    let waits = own
        .and_then(|s| s.waits.iter().find(|w| w.rank != asked.rank))
        .map_or(String::new(), |w| {
            format!(
                " (rank {} waits for rank {}: {})",
                asked.rank, w.rank, w.stage
            )
        });
    let ms = own.map_or(0, |s| s.since_ms);
    let mut error = Error::new(
        Kind::Timeout,
        format!(
            "no progress, running for {:.1} s: {what}{waits}",
            ms as f64 / 1000.0
        ),
        remedy,
    );
    error.rank = Some(asked.rank);
    error.peer = culprit;
    error.operation = own.map(|s| s.call.clone());
    error.chunk = own.and_then(|s| s.waits.first()).map(|w| w.chunk);
    error
}
