//! The monitor of one group as a pure state machine: messages and the time go in, messages to ranks come out. It has no
//! socket, thread or clock. Invariant: at most one verdict is ever made, and every rank that is or comes here hears it once.

use std::time::{Duration, Instant};

use super::message::{FromRank, Join, ToRank, Verdict};
use super::{Asked, Question, RankState, Report, Trouble};

/// A rank has this long to tell its status, and the judge to judge.
pub(super) const ANSWER: Duration = Duration::from_millis(500);
/// A process said to be dead has this long for its connection to show whether it had left before.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A message to one rank.
pub(super) type Mail = (usize, ToRank);

enum Member {
    Absent,
    Here {
        host: String,
        pid: u32,
        judges: bool,
    },
    Left,
    Gone,
}

enum Stage {
    Asking(Vec<Option<Vec<u8>>>),
    Judging,
}

struct Round {
    number: u64,
    question: Question,
    stage: Stage,
    until: Instant,
}

struct Suspect {
    rank: usize,
    host: String,
    pid: u32,
    until: Instant,
}

/// One group's monitor.
pub(super) struct Monitor {
    members: Vec<Member>,
    verdict: Option<Verdict>,
    round: Option<Round>,
    rounds: u64,
    /// Came in while a round was under way: the next question.
    next: Vec<Asked>,
    suspects: Vec<Suspect>,
    mail: Vec<Mail>,
}

impl Monitor {
    pub(super) fn new(world: usize) -> Monitor {
        Monitor {
            members: (0..world).map(|_| Member::Absent).collect(),
            verdict: None,
            round: None,
            rounds: 0,
            next: Vec::new(),
            suspects: Vec::new(),
            mail: Vec::new(),
        }
    }

    /// What is to be sent since the last call, in order.
    pub(super) fn take_mail(&mut self) -> Vec<Mail> {
        std::mem::take(&mut self.mail)
    }

    /// When `tick` has something to do, if nothing else happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let round = self.round.iter().map(|round| round.until);
        round
            .chain(self.suspects.iter().map(|suspect| suspect.until))
            .min()
    }

    /// Whether everybody has come and gone, so that the group's name is free again.
    pub(super) fn is_over(&self) -> bool {
        self.members
            .iter()
            .all(|member| matches!(member, Member::Left | Member::Gone))
    }

    /// A rank comes. The error is for it.
    pub(super) fn join(&mut self, join: &Join) -> Result<(), String> {
        let Join {
            group,
            rank,
            world,
            host,
            pid,
            judges,
        } = join;
        if *world != self.members.len() {
            return Err(format!(
                "rank {rank} joins group '{group}' with world size {world}, others with {}",
                self.members.len()
            ));
        }
        match self.members.get_mut(*rank) {
            None => Err(format!(
                "rank {rank} cannot join group '{group}' of {world} ranks"
            )),
            Some(Member::Here { host, pid, .. }) => Err(format!(
                "rank {rank} of group '{group}' has joined already (host {host}, pid {pid}): do two processes claim this rank?"
            )),
            Some(Member::Left | Member::Gone) => Err(format!(
                "rank {rank} has left group '{group}' already; a new group needs a new name"
            )),
            Some(absent) => {
                *absent = Member::Here {
                    host: host.clone(),
                    pid: *pid,
                    judges: *judges,
                };
                if let Some(verdict) = &self.verdict {
                    self.mail.push((*rank, ToRank::Verdict(verdict.clone())));
                }
                Ok(())
            }
        }
    }

    /// A rank that has joined says something.
    pub(super) fn hear(&mut self, rank: usize, message: FromRank, now: Instant) {
        match message {
            FromRank::Report(report) => {
                self.mail.push((rank, ToRank::Heard));
                match report {
                    Report::Failure(cause) => self.decide(Verdict::Cause(cause)),
                    Report::Check(said) => self.question(
                        Asked {
                            rank,
                            timeout: false,
                            said,
                        },
                        now,
                    ),
                    Report::Timeout(said) => self.question(
                        Asked {
                            rank,
                            timeout: true,
                            said,
                        },
                        now,
                    ),
                }
            }
            FromRank::Died {
                rank: dead,
                host,
                pid,
            } => {
                self.mail.push((rank, ToRank::Heard));
                let known = self.suspects.iter().any(|suspect| suspect.rank == dead);
                let ended = matches!(
                    self.members.get(dead),
                    None | Some(Member::Left | Member::Gone)
                );
                if !known && !ended && self.verdict.is_none() {
                    let until = now + LAST_WORDS;
                    self.suspects.push(Suspect {
                        rank: dead,
                        host,
                        pid,
                        until,
                    });
                }
            }
            FromRank::Status { round, status } => self.status(rank, round, status, now),
            FromRank::Judged { round, cause } => {
                let current = self.round.as_ref();
                if current.is_some_and(|r| r.number == round && matches!(r.stage, Stage::Judging)) {
                    self.judged(cause, now);
                }
            }
            FromRank::Leave => self.leave(rank, now),
        }
    }

    /// A rank's connection has ended without `Leave`.
    pub(super) fn lost(&mut self, rank: usize, now: Instant) {
        let old = std::mem::replace(&mut self.members[rank], Member::Gone);
        match old {
            Member::Here { host, pid, .. } => {
                self.decide(Verdict::Trouble(Trouble::Gone { rank, host, pid }));
            }
            other => self.members[rank] = other,
        }
        self.advance(now);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        if let Some(at) = self
            .suspects
            .iter()
            .position(|suspect| suspect.until <= now)
        {
            let Suspect {
                rank,
                mut host,
                mut pid,
                ..
            } = self.suspects.swap_remove(at);
            match &self.members[rank] {
                Member::Left | Member::Gone => {}
                here => {
                    if let Member::Here {
                        host: own,
                        pid: its,
                        ..
                    } = here
                    {
                        (host, pid) = (own.clone(), *its);
                    }
                    self.decide(Verdict::Trouble(Trouble::Gone { rank, host, pid }));
                }
            }
        }
        let late = self.round.as_ref().is_some_and(|round| round.until <= now);
        match self.round.as_ref().map(|round| &round.stage) {
            Some(Stage::Asking(_)) if late => self.judge(now),
            Some(Stage::Judging) if late => self.judged(None, now),
            _ => {}
        }
    }

    /// The monitor's process closes in order.
    pub(super) fn close(&mut self) {
        for (rank, member) in self.members.iter().enumerate() {
            if matches!(member, Member::Here { .. }) {
                self.mail.push((rank, ToRank::Goodbye));
            }
        }
    }

    fn leave(&mut self, rank: usize, now: Instant) {
        self.members[rank] = Member::Left;
        self.mail.push((rank, ToRank::Left));
        self.suspects.retain(|suspect| suspect.rank != rank);
        if rank == 0 {
            self.close();
        }
        self.advance(now);
    }

    fn decide(&mut self, verdict: Verdict) {
        if self.verdict.is_some() {
            return;
        }
        for (rank, member) in self.members.iter().enumerate() {
            if matches!(member, Member::Here { .. }) {
                self.mail.push((rank, ToRank::Verdict(verdict.clone())));
            }
        }
        self.verdict = Some(verdict);
        self.round = None;
        self.next.clear();
        self.suspects.clear();
    }

    fn question(&mut self, asked: Asked, now: Instant) {
        if self.verdict.is_some() {
            return;
        }
        // A rank that asks again while its question waits asks the same thing, perhaps more urgently.
        match self.next.iter_mut().find(|other| other.rank == asked.rank) {
            Some(other) if other.timeout && !asked.timeout => {}
            Some(other) => *other = asked,
            None => self.next.push(asked),
        }
        if self.round.is_none() {
            self.begin(now);
        }
    }

    fn begin(&mut self, now: Instant) {
        if self.next.is_empty() || self.verdict.is_some() {
            return;
        }
        self.rounds += 1;
        let number = self.rounds;
        for (rank, member) in self.members.iter().enumerate() {
            if matches!(member, Member::Here { .. }) {
                self.mail.push((rank, ToRank::AskStatus { round: number }));
            }
        }
        self.round = Some(Round {
            number,
            question: Question {
                asked: std::mem::take(&mut self.next),
            },
            stage: Stage::Asking(vec![None; self.members.len()]),
            until: now + ANSWER,
        });
        self.advance(now);
    }

    fn status(&mut self, rank: usize, number: u64, status: Vec<u8>, now: Instant) {
        if let Some(Round {
            number: current,
            stage: Stage::Asking(answers),
            ..
        }) = &mut self.round
            && *current == number
        {
            answers[rank] = Some(status);
            self.advance(now);
        }
    }

    /// Goes on to the judge as soon as nobody is left to wait for.
    fn advance(&mut self, now: Instant) {
        let Some(Round {
            stage: Stage::Asking(answers),
            ..
        }) = &self.round
        else {
            return;
        };
        let waiting = |(member, answer): (&Member, &Option<Vec<u8>>)| {
            matches!(member, Member::Here { .. }) && answer.is_none()
        };
        if !self.members.iter().zip(answers).any(waiting) {
            self.judge(now);
        }
    }

    fn judge(&mut self, now: Instant) {
        let brought = |member: &Member| matches!(member, Member::Here { judges: true, .. });
        let judge = self.members.iter().position(brought);
        let Some(round) = &mut self.round else { return };
        let Stage::Asking(answers) = std::mem::replace(&mut round.stage, Stage::Judging) else {
            return;
        };
        round.until = now + ANSWER;
        let states =
            self.members
                .iter()
                .zip(answers)
                .map(|(member, answer)| match (member, answer) {
                    (Member::Left, _) => RankState::Left,
                    (Member::Gone, _) => RankState::Gone,
                    (_, Some(status)) => RankState::Answered(status),
                    (_, None) => RankState::Silent,
                });
        let message = ToRank::Judge {
            round: round.number,
            question: round.question.clone(),
            states: states.collect(),
        };
        match judge {
            Some(rank) => self.mail.push((rank, message)),
            None => self.judged(None, now),
        }
    }

    fn judged(&mut self, cause: Option<Vec<u8>>, now: Instant) {
        let Some(round) = self.round.take() else {
            return;
        };
        let fallback = || {
            let mut asked = round.question.asked.iter();
            asked
                .find(|asked| asked.timeout)
                .map(|asked| asked.said.clone())
        };
        match cause.or_else(fallback) {
            Some(cause) => self.decide(Verdict::Cause(cause)),
            None => self.begin(now),
        }
    }
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
