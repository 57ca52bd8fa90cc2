//! A rank's session, message by message, in a time of the test's own.

use std::sync::Mutex;

use super::*;
use crate::control::{Question, RankState};

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Hooks for Log {
    fn status(&self) -> Vec<u8> {
        b"status".to_vec()
    }

    fn verdict(&self, cause: &[u8]) {
        self.0
            .lock()
            .unwrap()
            .push(String::from_utf8(cause.to_vec()).unwrap());
    }

    fn describe(&self, trouble: &Trouble) -> Vec<u8> {
        trouble.to_string().into_bytes()
    }
}

fn session() -> (Session, Arc<Log>) {
    let log = Arc::new(Log::default());
    (Session::new(log.clone(), None, "h0".into(), 42), log)
}

fn heard(log: &Log) -> Vec<String> {
    log.0.lock().unwrap().clone()
}

fn cause(text: &str) -> ToRank {
    ToRank::Verdict(Verdict::Cause(text.into()))
}

#[test]
fn one_verdict_only() {
    let (mut session, log) = session();
    let now = Instant::now();
    session.hear(cause("a"), now);
    session.hear(cause("b"), now);
    session.ended();
    assert_eq!(session.report(Report::Failure(b"c".to_vec()), now), None);
    assert_eq!(session.deadline(), None);
    assert_eq!(heard(&log), ["a"]);
}

#[test]
fn a_silent_monitor_is_given_up_after_a_second() {
    let (mut session, log) = session();
    let now = Instant::now();
    assert!(session.report(Report::Check(b"hm".to_vec()), now).is_some());
    assert_eq!(session.deadline(), None, "a check expects nothing");
    assert!(
        session
            .report(Report::Timeout(b"t".to_vec()), now)
            .is_some()
    );
    session.tick(now + SILENCE - Duration::from_millis(1));
    assert!(heard(&log).is_empty());
    session.tick(now + SILENCE);
    let text = "rank 0 (host h0, pid 42) does not answer: its process is stopped, or its host is overloaded";
    assert_eq!(heard(&log), [text]);
}

#[test]
fn a_monitor_that_talks_but_does_not_decide_is_given_up_later() {
    let (mut session, log) = session();
    let start = Instant::now();
    session.report(Report::Failure(b"f".to_vec()), start);
    let mut now = start;
    while session.deadline().is_some_and(|deadline| deadline > now) {
        assert!(now < start + VERDICT);
        now += SILENCE / 3;
        session.hear(ToRank::Heard, now);
    }
    session.tick(now);
    assert_eq!(heard(&log).len(), 1);
}

#[test]
fn an_end_without_goodbye_is_a_failure_and_with_one_is_none() {
    let (mut first, log) = session();
    first.ended();
    assert!(heard(&log)[0].starts_with("rank 0 (host h0, pid 42) is gone"));

    let (mut second, log) = session();
    second.hear(ToRank::Goodbye, Instant::now());
    second.ended();
    assert!(heard(&log).is_empty());
    second.report(Report::Check(b"hm".to_vec()), Instant::now());
    assert!(heard(&log).is_empty());
    second.report(Report::Failure(b"my own".to_vec()), Instant::now());
    assert_eq!(heard(&log), ["my own"]);

    let (mut third, log) = session();
    third.report(Report::Failure(b"on its way".to_vec()), Instant::now());
    third.hear(ToRank::Goodbye, Instant::now());
    third.ended();
    assert_eq!(heard(&log), ["on its way"]);
}

#[test]
fn status_and_judgement_are_answered_with_their_round() {
    let judge: Judge = Arc::new(|question: &Question, states: &[RankState]| {
        Some(vec![question.asked.len() as u8, states.len() as u8])
    });
    let mut session = Session::new(Arc::new(Log::default()), Some(judge), "h".into(), 1);
    let now = Instant::now();
    let status = b"status".to_vec();
    let answer = session.hear(ToRank::AskStatus { round: 5 }, now);
    assert_eq!(answer, Some(FromRank::Status { round: 5, status }));
    let question = Question { asked: Vec::new() };
    let states = vec![RankState::Silent, RankState::Gone];
    let answer = session.hear(
        ToRank::Judge {
            round: 6,
            question,
            states,
        },
        now,
    );
    assert_eq!(
        answer,
        Some(FromRank::Judged {
            round: 6,
            cause: Some(vec![0, 2])
        })
    );
}
