//! The messages between a rank and the monitor, and their bytes. It knows no order among them: that is the monitor's and
//! the session's.

use super::{Asked, Question, RankState, Report, Trouble};
use crate::store::codec::{Malformed, Reader, Writer};

/// Bytes of one message at most.
pub(super) const LIMIT: usize = 1 << 26;

/// The first message of a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Join {
    pub(super) group: String,
    pub(super) rank: usize,
    pub(super) world: usize,
    pub(super) host: String,
    pub(super) pid: u32,
    /// Whether it brought a judge.
    pub(super) judges: bool,
}

/// The answer to `Join`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Joined {
    /// With the monitor's process.
    Welcome {
        host: String,
        pid: u32,
    },
    Refused(String),
}

/// What a rank says afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FromRank {
    Report(Report),
    /// A process watched on this rank's host has ended.
    Died {
        rank: usize,
        host: String,
        pid: u32,
    },
    Status {
        round: u64,
        status: Vec<u8>,
    },
    Judged {
        round: u64,
        cause: Option<Vec<u8>>,
    },
    Leave,
}

/// The one cause: opaque bytes, or a trouble that each rank puts into its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Cause(Vec<u8>),
    Trouble(Trouble),
}

/// What the monitor says to a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToRank {
    /// Your report has arrived.
    Heard,
    AskStatus {
        round: u64,
    },
    Judge {
        round: u64,
        question: Question,
        states: Vec<RankState>,
    },
    Verdict(Verdict),
    /// The end of this connection is in order from now on.
    Goodbye,
    /// You have left.
    Left,
}

impl Join {
    pub(super) fn encode(&self) -> Vec<u8> {
        Writer::new(u8::from(self.judges))
            .text(&self.group)
            .size(self.rank)
            .size(self.world)
            .text(&self.host)
            .u64(self.pid.into())
            .end()
    }

    pub(super) fn decode(body: &[u8]) -> Result<Join, Malformed> {
        let mut r = Reader(body);
        let join = Join {
            judges: r.u8()? == 1,
            group: r.text()?,
            rank: r.size()?,
            world: r.size()?,
            host: r.text()?,
            pid: pid(&mut r)?,
        };
        r.end()?;
        Ok(join)
    }
}

fn pid(r: &mut Reader) -> Result<u32, Malformed> {
    u32::try_from(r.u64()?).map_err(|_| Malformed)
}

impl Joined {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Joined::Welcome { host, pid } => Writer::new(0).text(host).u64((*pid).into()).end(),
            Joined::Refused(text) => Writer::new(1).text(text).end(),
        }
    }

    pub(super) fn decode(body: &[u8]) -> Result<Joined, Malformed> {
        let mut r = Reader(body);
        let joined = match r.u8()? {
            0 => Joined::Welcome {
                host: r.text()?,
                pid: pid(&mut r)?,
            },
            1 => Joined::Refused(r.text()?),
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(joined)
    }
}

impl FromRank {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            FromRank::Report(Report::Failure(cause)) => Writer::new(0).bytes(cause).end(),
            FromRank::Report(Report::Check(said)) => Writer::new(1).bytes(said).end(),
            FromRank::Report(Report::Timeout(said)) => Writer::new(2).bytes(said).end(),
            FromRank::Died { rank, host, pid } => Writer::new(3)
                .size(*rank)
                .text(host)
                .u64((*pid).into())
                .end(),
            FromRank::Status { round, status } => Writer::new(4).u64(*round).bytes(status).end(),
            FromRank::Judged { round, cause: None } => Writer::new(5).u64(*round).end(),
            FromRank::Judged {
                round,
                cause: Some(cause),
            } => Writer::new(6).u64(*round).bytes(cause).end(),
            FromRank::Leave => Writer::new(7).end(),
        }
    }

    pub(super) fn decode(body: &[u8]) -> Result<FromRank, Malformed> {
        let mut r = Reader(body);
        let message = match r.u8()? {
            0 => FromRank::Report(Report::Failure(r.bytes()?)),
            1 => FromRank::Report(Report::Check(r.bytes()?)),
            2 => FromRank::Report(Report::Timeout(r.bytes()?)),
            3 => FromRank::Died {
                rank: r.size()?,
                host: r.text()?,
                pid: pid(&mut r)?,
            },
            4 => FromRank::Status {
                round: r.u64()?,
                status: r.bytes()?,
            },
            5 => FromRank::Judged {
                round: r.u64()?,
                cause: None,
            },
            6 => FromRank::Judged {
                round: r.u64()?,
                cause: Some(r.bytes()?),
            },
            7 => FromRank::Leave,
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(message)
    }
}

impl ToRank {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            ToRank::Heard => Writer::new(0).end(),
            ToRank::AskStatus { round } => Writer::new(1).u64(*round).end(),
            ToRank::Judge {
                round,
                question,
                states,
            } => Writer::new(2)
                .u64(*round)
                .list(&question.asked, |w, asked| {
                    w.size(asked.rank)
                        .u8(u8::from(asked.timeout))
                        .bytes(&asked.said)
                })
                .list(states, |w, state| match state {
                    RankState::Answered(status) => w.u8(0).bytes(status),
                    RankState::Silent => w.u8(1),
                    RankState::Left => w.u8(2),
                    RankState::Gone => w.u8(3),
                })
                .end(),
            ToRank::Verdict(Verdict::Cause(cause)) => Writer::new(3).bytes(cause).end(),
            ToRank::Verdict(Verdict::Trouble(trouble)) => trouble_end(Writer::new(4), trouble),
            ToRank::Goodbye => Writer::new(5).end(),
            ToRank::Left => Writer::new(6).end(),
        }
    }

    pub(super) fn decode(body: &[u8]) -> Result<ToRank, Malformed> {
        let mut r = Reader(body);
        let message = match r.u8()? {
            0 => ToRank::Heard,
            1 => ToRank::AskStatus { round: r.u64()? },
            2 => ToRank::Judge {
                round: r.u64()?,
                question: Question {
                    asked: r.list(|r| {
                        Ok(Asked {
                            rank: r.size()?,
                            timeout: r.u8()? == 1,
                            said: r.bytes()?,
                        })
                    })?,
                },
                states: r.list(|r| {
                    Ok(match r.u8()? {
                        0 => RankState::Answered(r.bytes()?),
                        1 => RankState::Silent,
                        2 => RankState::Left,
                        3 => RankState::Gone,
                        _ => return Err(Malformed),
                    })
                })?,
            },
            3 => ToRank::Verdict(Verdict::Cause(r.bytes()?)),
            4 => ToRank::Verdict(Verdict::Trouble(trouble(&mut r)?)),
            5 => ToRank::Goodbye,
            6 => ToRank::Left,
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(message)
    }
}

fn trouble_end(w: Writer, trouble: &Trouble) -> Vec<u8> {
    let (tag, rank, host, pid) = match trouble {
        Trouble::Gone { rank, host, pid } => (0, *rank, host, *pid),
        Trouble::MonitorGone { host, pid } => (1, 0, host, *pid),
        Trouble::MonitorSilent { host, pid } => (2, 0, host, *pid),
    };
    w.u8(tag).size(rank).text(host).u64(pid.into()).end()
}

fn trouble(r: &mut Reader) -> Result<Trouble, Malformed> {
    let (tag, rank, host, pid) = (r.u8()?, r.size()?, r.text()?, pid(r)?);
    match tag {
        0 => Ok(Trouble::Gone { rank, host, pid }),
        1 => Ok(Trouble::MonitorGone { host, pid }),
        2 => Ok(Trouble::MonitorSilent { host, pid }),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> String {
        "h\u{f6}st".into()
    }

    #[test]
    fn every_message_of_a_rank_comes_back_from_its_bytes() {
        let from = [
            FromRank::Report(Report::Failure(vec![1])),
            FromRank::Report(Report::Check(vec![])),
            FromRank::Report(Report::Timeout(vec![2, 3])),
            FromRank::Died {
                rank: 5,
                host: host(),
                pid: 77,
            },
            FromRank::Status {
                round: 9,
                status: vec![4],
            },
            FromRank::Judged {
                round: 9,
                cause: None,
            },
            FromRank::Judged {
                round: 9,
                cause: Some(vec![]),
            },
            FromRank::Leave,
        ];
        for message in from {
            assert_eq!(FromRank::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn every_message_of_the_monitor_comes_back_from_its_bytes() {
        let asked = vec![
            Asked {
                rank: 3,
                timeout: true,
                said: vec![8],
            },
            Asked {
                rank: 1,
                timeout: false,
                said: vec![],
            },
        ];
        let states = vec![
            RankState::Answered(vec![1, 2]),
            RankState::Silent,
            RankState::Left,
            RankState::Gone,
        ];
        let to = [
            ToRank::Heard,
            ToRank::AskStatus { round: 3 },
            ToRank::Judge {
                round: 4,
                question: Question { asked },
                states,
            },
            ToRank::Verdict(Verdict::Cause(vec![9; 3])),
            ToRank::Verdict(Verdict::Trouble(Trouble::Gone {
                rank: 2,
                host: host(),
                pid: 4,
            })),
            ToRank::Verdict(Verdict::Trouble(Trouble::MonitorGone {
                host: host(),
                pid: 5,
            })),
            ToRank::Verdict(Verdict::Trouble(Trouble::MonitorSilent {
                host: host(),
                pid: 6,
            })),
            ToRank::Goodbye,
            ToRank::Left,
        ];
        for message in to {
            assert_eq!(ToRank::decode(&message.encode()), Ok(message));
        }
    }
}
