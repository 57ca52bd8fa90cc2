//! A rank's side of the control plane as a pure state machine: what it heard, whether its one verdict is delivered, and until
//! when it waits for the monitor. It has no socket, thread or clock. Invariant: the verdict hook is called at most once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::message::{FromRank, ToRank, Verdict};
use super::{Hooks, Judge, Report, Trouble};

/// Who reported a failure and hears nothing at all from the monitor for this long gives up on it.
pub(super) const SILENCE: Duration = Duration::from_secs(1);
/// Who reported a failure has a verdict after this long, whatever the monitor says in between.
pub(super) const VERDICT: Duration = Duration::from_secs(3);

/// One rank's session with the monitor.
pub(super) struct Session {
    hooks: Arc<dyn Hooks>,
    judge: Option<Judge>,
    host: String,
    pid: u32,
    delivered: bool,
    connected: bool,
    farewell: bool,
    due: Option<Due>,
}

/// A verdict that this rank waits for.
struct Due {
    /// Until when the monitor may say nothing at all.
    silence: Instant,
    /// Until when it may take.
    verdict: Instant,
    /// The rank's own cause, for when the monitor closes in order meanwhile.
    own: Vec<u8>,
}

impl Session {
    /// A session with the monitor in process `pid` on `host`.
    pub(super) fn new(
        hooks: Arc<dyn Hooks>,
        judge: Option<Judge>,
        host: String,
        pid: u32,
    ) -> Session {
        Session {
            hooks,
            judge,
            host,
            pid,
            delivered: false,
            connected: true,
            farewell: false,
            due: None,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether the monitor has said that it closes.
    pub(super) fn bade_farewell(&self) -> bool {
        self.farewell
    }

    /// When `tick` has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.as_ref().map(|due| due.silence.min(due.verdict))
    }

    /// The rank reports; what to send, if anything.
    pub(super) fn report(&mut self, report: Report, now: Instant) -> Option<FromRank> {
        if self.delivered {
            return None;
        }
        let urgent = match &report {
            Report::Failure(cause) | Report::Timeout(cause) => Some(cause),
            Report::Check(_) => None,
        };
        if !self.connected {
            // The monitor has gone in order: there is nobody to agree with any more.
            if let Some(cause) = urgent {
                self.deliver(cause);
            }
            return None;
        }
        if let (Some(cause), None) = (urgent, &self.due) {
            self.due = Some(Due {
                silence: now + SILENCE,
                verdict: now + VERDICT,
                own: cause.clone(),
            });
        }
        Some(FromRank::Report(report))
    }

    /// The monitor says something; what to answer, if anything.
    pub(super) fn hear(&mut self, message: ToRank, now: Instant) -> Option<FromRank> {
        if let Some(due) = &mut self.due {
            due.silence = now + SILENCE;
        }
        match message {
            ToRank::Heard | ToRank::Left => None,
            ToRank::AskStatus { round } => {
                let status = self.hooks.status();
                Some(FromRank::Status { round, status })
            }
            ToRank::Judge {
                round,
                question,
                states,
            } => {
                let cause = self
                    .judge
                    .as_ref()
                    .and_then(|judge| judge(&question, &states));
                Some(FromRank::Judged { round, cause })
            }
            ToRank::Verdict(Verdict::Cause(cause)) => {
                self.deliver(&cause);
                None
            }
            ToRank::Verdict(Verdict::Trouble(trouble)) => {
                self.trouble(&trouble);
                None
            }
            ToRank::Goodbye => {
                self.farewell = true;
                None
            }
        }
    }

    /// The connection has ended.
    pub(super) fn ended(&mut self) {
        self.connected = false;
        if !self.farewell {
            let (host, pid) = (self.host.clone(), self.pid);
            self.trouble(&Trouble::MonitorGone { host, pid });
        } else if let Some(due) = self.due.take() {
            self.deliver(&due.own);
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            let (host, pid) = (self.host.clone(), self.pid);
            self.trouble(&Trouble::MonitorSilent { host, pid });
        }
    }

    fn trouble(&mut self, trouble: &Trouble) {
        if !self.delivered {
            let cause = self.hooks.describe(trouble);
            self.deliver(&cause);
        }
    }

    fn deliver(&mut self, cause: &[u8]) {
        self.due = None;
        if !self.delivered {
            self.delivered = true;
            self.hooks.verdict(cause);
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
