//! Ranks for the control plane's tests: hooks that write down what they hear, and a judge whose verdict is what it saw.
#![allow(dead_code, missing_docs)] // each test file uses its part

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use hfr_transport::control::{Control, Hooks, Judge, Question, RankState, Trouble};

pub const COOKIE: &[u8] = b"a secret of this test";

pub fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub struct Log {
    rank: usize,
    heard: Mutex<Vec<String>>,
    news: Condvar,
}

impl Log {
    pub fn new(rank: usize) -> Log {
        Log {
            rank,
            heard: Mutex::default(),
            news: Condvar::new(),
        }
    }

    pub fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// The one verdict; panics when there is none for a long time, or more than one.
    pub fn wait(&self) -> String {
        let heard = self.heard.lock().unwrap();
        let limit = Duration::from_secs(30);
        let (heard, _) = self
            .news
            .wait_timeout_while(heard, limit, |heard| heard.is_empty())
            .unwrap();
        assert_eq!(heard.len(), 1, "rank {}: {heard:?}", self.rank);
        heard[0].clone()
    }
}

impl Hooks for Log {
    fn status(&self) -> Vec<u8> {
        format!("status of {}", self.rank).into_bytes()
    }

    fn verdict(&self, cause: &[u8]) {
        self.heard
            .lock()
            .unwrap()
            .push(String::from_utf8(cause.to_vec()).unwrap());
        self.news.notify_all();
    }

    fn describe(&self, trouble: &Trouble) -> Vec<u8> {
        trouble.to_string().into_bytes()
    }
}

pub fn judge_by(
    judge: impl Fn(&Question, &[RankState]) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Judge {
    Arc::new(judge)
}

/// Says what it was asked and saw when somebody's time is up, and nothing else.
pub fn judge() -> Judge {
    judge_by(|question, states| {
        let state = |state: &RankState| match state {
            RankState::Answered(status) => format!("answered {}", String::from_utf8_lossy(status)),
            RankState::Silent => "silent".into(),
            RankState::Left => "left".into(),
            RankState::Gone => "gone".into(),
        };
        let states: Vec<String> = states.iter().map(state).collect();
        let asked: Vec<usize> = question.asked.iter().map(|asked| asked.rank).collect();
        let text = format!("asked by {asked:?}: {}", states.join(", "));
        question.must_answer().then(|| text.into_bytes())
    })
}

pub fn join(address: &str, group: &str, rank: usize, world: usize) -> (Control, Arc<Log>) {
    let log = Arc::new(Log::new(rank));
    let judge = (rank == 0).then(judge);
    let hooks = log.clone();
    let control = Control::join(
        address,
        COOKIE,
        group,
        rank,
        world,
        hooks,
        judge,
        deadline(),
    )
    .unwrap();
    (control, log)
}
