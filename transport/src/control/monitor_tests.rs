//! The monitor, message by message, in a time of the test's own.

use super::*;

struct Bench {
    monitor: Monitor,
    now: Instant,
}

fn joined(world: usize, ranks: &[usize]) -> Bench {
    let mut bench = Bench {
        monitor: Monitor::new(world),
        now: Instant::now(),
    };
    for &rank in ranks {
        bench.monitor.join(&introduce(rank, world)).unwrap();
    }
    assert!(bench.mail().is_empty());
    bench
}

fn introduce(rank: usize, world: usize) -> Join {
    Join {
        group: "g".into(),
        rank,
        world,
        host: format!("host{rank}"),
        pid: 100 + rank as u32,
        judges: rank == 0,
    }
}

fn gone(rank: usize) -> Verdict {
    Verdict::Trouble(Trouble::Gone {
        rank,
        host: format!("host{rank}"),
        pid: 100 + rank as u32,
    })
}

impl Bench {
    fn mail(&mut self) -> Vec<Mail> {
        self.monitor.take_mail()
    }

    fn hear(&mut self, rank: usize, message: FromRank) -> Vec<Mail> {
        self.monitor.hear(rank, message, self.now);
        self.mail()
    }

    fn lost(&mut self, rank: usize) -> Vec<Mail> {
        self.monitor.lost(rank, self.now);
        self.mail()
    }

    /// Lets time pass to the next deadline.
    fn wait(&mut self) -> Vec<Mail> {
        self.now = self.monitor.deadline().expect("something is due");
        self.monitor.tick(self.now);
        self.mail()
    }
}

fn failure(cause: &[u8]) -> FromRank {
    FromRank::Report(Report::Failure(cause.to_vec()))
}

fn timeout(said: &[u8]) -> FromRank {
    FromRank::Report(Report::Timeout(said.to_vec()))
}

fn check(said: &[u8]) -> FromRank {
    FromRank::Report(Report::Check(said.to_vec()))
}

fn verdicts(mail: &[Mail]) -> Vec<(usize, Verdict)> {
    let only = |(rank, message): &Mail| match message {
        ToRank::Verdict(verdict) => Some((*rank, verdict.clone())),
        _ => None,
    };
    mail.iter().filter_map(only).collect()
}

fn to_all(world: usize, verdict: &Verdict) -> Vec<(usize, Verdict)> {
    (0..world).map(|rank| (rank, verdict.clone())).collect()
}

fn asked(mail: &[Mail]) -> Vec<usize> {
    let only =
        |(rank, message): &Mail| matches!(message, ToRank::AskStatus { .. }).then_some(*rank);
    mail.iter().filter_map(only).collect()
}

fn to_judge(mail: &[Mail]) -> (u64, Question, Vec<RankState>) {
    let only = |(rank, message): &Mail| match message {
        ToRank::Judge {
            round,
            question,
            states,
        } => {
            assert_eq!(*rank, 0);
            Some((*round, question.clone(), states.clone()))
        }
        _ => None,
    };
    mail.iter().find_map(only).expect("the judge is asked")
}

#[test]
fn the_first_cause_wins_and_late_comers_hear_it_too() {
    let mut bench = joined(4, &[0, 1, 2]);
    let mail = bench.hear(2, failure(b"first"));
    assert_eq!(mail[0], (2, ToRank::Heard));
    let first = Verdict::Cause(b"first".to_vec());
    assert_eq!(verdicts(&mail), to_all(3, &first));
    assert_eq!(bench.hear(1, failure(b"second")), [(1, ToRank::Heard)]);
    assert!(verdicts(&bench.lost(0)).is_empty());
    bench.monitor.join(&introduce(3, 4)).unwrap();
    assert_eq!(verdicts(&bench.mail()), [(3, first)]);
    assert_eq!(bench.hear(3, timeout(b"late")), [(3, ToRank::Heard)]);
}

#[test]
fn a_lost_connection_is_a_failure_unless_its_rank_has_left() {
    let mut bench = joined(3, &[0, 1, 2]);
    assert_eq!(bench.hear(1, FromRank::Leave), [(1, ToRank::Left)]);
    assert!(bench.lost(1).is_empty());
    let mail = bench.lost(2);
    assert_eq!(verdicts(&mail), [(0, gone(2))]);
    assert!(!bench.monitor.is_over());
    bench.hear(0, FromRank::Leave);
    assert!(bench.monitor.is_over());
}

#[test]
fn rank_0_leaving_says_goodbye_to_those_who_stay() {
    let mut bench = joined(3, &[0, 1, 2]);
    bench.hear(1, FromRank::Leave);
    assert_eq!(
        bench.hear(0, FromRank::Leave),
        [(0, ToRank::Left), (2, ToRank::Goodbye)]
    );
}

#[test]
fn a_check_without_reason_has_no_consequence() {
    let mut bench = joined(2, &[0, 1]);
    assert_eq!(asked(&bench.hear(1, check(b"hm"))), [0, 1]);
    bench.hear(
        0,
        FromRank::Status {
            round: 1,
            status: b"zero".to_vec(),
        },
    );
    let mail = bench.hear(
        1,
        FromRank::Status {
            round: 1,
            status: b"one".to_vec(),
        },
    );
    let (round, question, states) = to_judge(&mail);
    assert!(!question.must_answer());
    assert_eq!(
        question.asked,
        [Asked {
            rank: 1,
            timeout: false,
            said: b"hm".to_vec()
        }]
    );
    let answered = |status: &[u8]| RankState::Answered(status.to_vec());
    assert_eq!(states, [answered(b"zero"), answered(b"one")]);
    assert!(
        bench
            .hear(0, FromRank::Judged { round, cause: None })
            .is_empty()
    );
    assert_eq!(bench.monitor.deadline(), None);
}

#[test]
fn questions_that_come_together_are_one() {
    let mut bench = joined(3, &[0, 1, 2]);
    bench.hear(1, check(b"a"));
    assert!(asked(&bench.hear(2, check(b"b"))).is_empty());
    bench.hear(2, timeout(b"c"));
    bench.hear(2, check(b"d"));
    bench.hear(0, timeout(b"e"));
    let (round, question, states) = to_judge(&bench.wait());
    assert_eq!(question.asked.len(), 1);
    assert_eq!(
        states,
        [RankState::Silent, RankState::Silent, RankState::Silent]
    );
    let mail = bench.hear(0, FromRank::Judged { round, cause: None });
    assert_eq!(asked(&mail), [0, 1, 2], "the next question follows at once");
    let (round, question, _) = to_judge(&bench.wait());
    let said: Vec<_> = question
        .asked
        .iter()
        .map(|a| (a.rank, a.timeout, &a.said[..]))
        .collect();
    assert_eq!(said, [(2, true, &b"c"[..]), (0, true, b"e")]);
    let mail = bench.hear(
        0,
        FromRank::Judged {
            round,
            cause: Some(b"why".to_vec()),
        },
    );
    assert_eq!(verdicts(&mail), to_all(3, &Verdict::Cause(b"why".to_vec())));
}

#[test]
fn every_state_of_a_rank_is_told_to_the_judge() {
    let mut bench = joined(4, &[0, 1, 3]);
    bench.hear(3, FromRank::Leave);
    bench.hear(0, timeout(b"t"));
    bench.hear(
        0,
        FromRank::Status {
            round: 7,
            status: b"old".to_vec(),
        },
    );
    bench.hear(
        0,
        FromRank::Status {
            round: 1,
            status: b"s".to_vec(),
        },
    );
    let (_, _, states) = to_judge(&bench.wait());
    let expected = [
        RankState::Answered(b"s".to_vec()),
        RankState::Silent,
        RankState::Silent,
        RankState::Left,
    ];
    assert_eq!(states, expected);
}

#[test]
fn a_timeout_has_a_verdict_even_without_a_judge_or_a_reason() {
    let own = Verdict::Cause(b"mine".to_vec());
    let mut bench = joined(3, &[1, 2]);
    bench.hear(2, timeout(b"mine"));
    assert_eq!(
        verdicts(&bench.wait()),
        [(1, own.clone()), (2, own.clone())]
    );

    let mut bench = joined(2, &[0, 1]);
    bench.hear(1, timeout(b"mine"));
    to_judge(&bench.wait());
    assert_eq!(
        verdicts(&bench.wait()),
        to_all(2, &own),
        "the judge does not come back"
    );
}

#[test]
fn leaving_ends_the_wait_for_a_status() {
    let mut bench = joined(2, &[0, 1]);
    bench.hear(0, check(b"hm"));
    bench.hear(
        0,
        FromRank::Status {
            round: 1,
            status: b"s".to_vec(),
        },
    );
    let (_, _, states) = to_judge(&bench.hear(1, FromRank::Leave));
    assert_eq!(
        states,
        [RankState::Answered(b"s".to_vec()), RankState::Left]
    );
}

#[test]
fn a_watched_process_that_ends_is_a_failure_unless_its_rank_has_left() {
    let died = || FromRank::Died {
        rank: 2,
        host: "here".into(),
        pid: 9,
    };
    let mut bench = joined(3, &[0, 1, 2]);
    assert!(
        verdicts(&bench.hear(1, died())).is_empty(),
        "its last words may be on their way"
    );
    bench.hear(2, FromRank::Leave);
    assert_eq!(bench.monitor.deadline(), None);
    assert!(verdicts(&bench.hear(1, died())).is_empty());

    let mut bench = joined(3, &[0, 1, 2]);
    bench.hear(1, died());
    bench.hear(0, died());
    assert_eq!(
        verdicts(&bench.wait()),
        to_all(3, &gone(2)),
        "a child holds its connection open"
    );

    let mut bench = joined(3, &[0, 1]);
    bench.hear(1, died());
    let unknown = Verdict::Trouble(Trouble::Gone {
        rank: 2,
        host: "here".into(),
        pid: 9,
    });
    assert_eq!(
        verdicts(&bench.wait()),
        to_all(2, &unknown),
        "it never joined"
    );
}

#[test]
fn who_cannot_join_is_told_why() {
    let mut bench = joined(3, &[0, 1]);
    let mut refused = |join: Join| bench.monitor.join(&join).unwrap_err();
    assert!(refused(introduce(1, 3)).contains("joined already (host host1, pid 101)"));
    assert!(refused(introduce(1, 4)).contains("world size 4, others with 3"));
    assert!(refused(introduce(3, 3)).contains("rank 3 cannot join"));
    bench.hear(1, FromRank::Leave);
    assert!(
        bench
            .monitor
            .join(&introduce(1, 3))
            .unwrap_err()
            .contains("has left group 'g' already")
    );
}
