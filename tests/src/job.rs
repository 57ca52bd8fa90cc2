//! A job of real processes: starts a rank program per rank, listens to what each says, sends signals, and sees to it that no process
//! outlives the test. It knows nothing of collectives. Invariant: every wait is bounded, and a wait that fails shows all that was said.

use crate::free_port;
use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How the ranks of a job are started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Ranks by node.
    pub nodes: Vec<usize>,
    /// Variables of all ranks, beside those that the shape gives.
    pub variables: Vec<(String, String)>,
    /// Variables of one rank.
    pub own: Vec<(usize, String, String)>,
    /// What runs the program of each node, such as `ip netns exec NAME`; none for the program alone.
    pub wrappers: Vec<Vec<String>>,
    /// `host:port` of the rendezvous.
    pub rendezvous: String,
}

impl Plan {
    /// A job over `wire` whose calls may stall for `timeout` seconds.
    pub fn new(nodes: &[usize], wire: &str, timeout: &str) -> Plan {
        let all = [
            ("HFR_TRANSPORT", wire),
            ("HFR_TIMEOUT", timeout),
            ("HFR_COOKIE", "a secret of the tests"),
            ("HFR_CONNECT_TIMEOUT", "30"),
        ];
        Plan {
            nodes: nodes.to_vec(),
            variables: all.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
            own: Vec::new(),
            wrappers: Vec::new(),
            rendezvous: format!("127.0.0.1:{}", free_port()),
        }
    }

    /// With a variable for all ranks, in place of an earlier one.
    pub fn with(mut self, key: &str, value: &str) -> Plan {
        self.variables.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With a variable for one rank.
    pub fn only(mut self, rank: usize, key: &str, value: &str) -> Plan {
        self.own.push((rank, key.to_owned(), value.to_owned()));
        self
    }

    /// Ranks in all.
    pub fn world(&self) -> usize {
        self.nodes.iter().sum()
    }

    /// Starts rank `rank` alone.
    fn spawn(&self, program: &str, rank: usize, steps: &[&str]) -> Rank {
        let mut node = 0;
        let mut first = 0;
        while rank >= first + self.nodes[node] {
            first += self.nodes[node];
            node += 1;
        }
        let wrapper = self.wrappers.get(node).cloned().unwrap_or_default();
        let words: Vec<&str> = wrapper
            .iter()
            .map(String::as_str)
            .chain([program])
            .collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(steps);
        command.envs(self.variables.iter().cloned());
        command
            .env("HFR_RANK", rank.to_string())
            .env("HFR_WORLD_SIZE", self.world().to_string())
            .env("HFR_COMM_ID", &self.rendezvous)
            .env("HFR_NODE", format!("n{node}"));
        for (r, key, value) in &self.own {
            if *r == rank {
                command.env(key, value);
            }
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the rank program starts");
        let said = Arc::new(Mutex::new(Vec::new()));
        let complained = Arc::new(Mutex::new(Vec::new()));
        let listeners = [
            hear(child.stdout.take().expect("piped"), said.clone()),
            hear(child.stderr.take().expect("piped"), complained.clone()),
        ];
        Rank {
            child,
            said,
            complained,
            listeners,
            ended: None,
        }
    }

    /// Starts all ranks but those in `without`.
    pub fn start(&self, program: &str, steps: &[&str], without: &[usize]) -> Job {
        let ranks = (0..self.world())
            .map(|r| (!without.contains(&r)).then(|| self.spawn(program, r, steps)))
            .collect();
        Job { ranks }
    }
}

type Lines = Arc<Mutex<Vec<(Instant, String)>>>;

struct Rank {
    child: Child,
    said: Lines,
    complained: Lines,
    listeners: [JoinHandle<()>; 2],
    ended: Option<(Instant, Option<i32>)>,
}

fn hear(from: impl Read + Send + 'static, lines: Lines) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut lines = lines.lock().expect("nobody panics with it");
            lines.push((Instant::now(), line));
        }
    })
}

fn texts(lines: &Lines) -> Vec<String> {
    let lines = lines.lock().expect("nobody panics with it");
    lines.iter().map(|(_, line)| line.clone()).collect()
}

/// Processes that run.
pub struct Job {
    ranks: Vec<Option<Rank>>,
}

impl Job {
    fn rank(&self, rank: usize) -> &Rank {
        self.ranks[rank].as_ref().expect("a rank that was started")
    }

    /// Starts a rank that was left out.
    pub fn add(&mut self, plan: &Plan, program: &str, rank: usize, steps: &[&str]) {
        self.ranks[rank] = Some(plan.spawn(program, rank, steps));
    }

    /// The process of a rank.
    pub fn pid(&self, rank: usize) -> u32 {
        self.rank(rank).child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, rank: usize, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.rank(rank).child);
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// Kills a rank as the out-of-memory killer does.
    pub fn kill(&self, rank: usize) {
        self.signal(rank, rustix::process::Signal::KILL);
    }

    /// Lets a rank that waits go on.
    pub fn go(&mut self, rank: usize) {
        let rank = self.ranks[rank].as_mut().expect("a rank that was started");
        let stdin = rank.child.stdin.as_mut().expect("piped");
        stdin.write_all(b"go\n").expect("the rank reads");
    }

    /// What a rank has said so far.
    pub fn said(&self, rank: usize) -> Vec<String> {
        texts(&self.rank(rank).said)
    }

    /// What a rank has printed to standard error so far.
    pub fn complained(&self, rank: usize) -> String {
        texts(&self.rank(rank).complained).join("\n")
    }

    /// Everything, for a message.
    pub fn story(&self) -> String {
        let mut story = String::new();
        for (r, rank) in self.ranks.iter().enumerate() {
            let Some(rank) = rank else { continue };
            story += &format!("-- rank {r}, ended {:?}\n", rank.ended.map(|e| e.1));
            for line in texts(&rank.said) {
                story += &format!("   {line}\n");
            }
            for line in texts(&rank.complained).iter().rev().take(12).rev() {
                story += &format!("   | {line}\n");
            }
        }
        story
    }

    /// Waits until each of `ranks` has said a line that begins with `line`.
    pub fn hears(&self, ranks: &[usize], line: &str) {
        let until = Instant::now() + Duration::from_secs(40);
        for &r in ranks {
            while !self.said(r).iter().any(|l| l.starts_with(line)) {
                assert!(
                    Instant::now() < until,
                    "rank {r} does not say `{line}`\n{}",
                    self.story()
                );
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Waits until all of `ranks` have ended, at most `limit`; exit codes, `None` for a signal.
    pub fn ends(&mut self, ranks: &[usize], limit: Duration) -> Vec<Option<i32>> {
        let until = Instant::now() + limit;
        loop {
            for rank in self.ranks.iter_mut().flatten() {
                if rank.ended.is_none()
                    && let Ok(Some(status)) = rank.child.try_wait()
                {
                    rank.ended = Some((Instant::now(), status.code()));
                }
            }
            // A process has said its last when its pipes are closed and read.
            let over = |r: &Rank| r.ended.is_some() && r.listeners.iter().all(|l| l.is_finished());
            let open: Vec<_> = ranks.iter().filter(|r| !over(self.rank(**r))).collect();
            if open.is_empty() {
                return ranks
                    .iter()
                    .map(|r| self.rank(*r).ended.and_then(|e| e.1))
                    .collect();
            }
            assert!(
                Instant::now() < until,
                "ranks {open:?} have not ended after {limit:?}\n{}",
                self.story()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The error that a rank reported, as `KIND|TEXT`.
    pub fn error(&self, rank: usize) -> String {
        let said = self.said(rank);
        assert!(
            !said.iter().any(|l| l.starts_with("wrong")),
            "a wrong result\n{}",
            self.story()
        );
        let error = said.iter().find_map(|l| l.strip_prefix("error "));
        error
            .unwrap_or_else(|| panic!("rank {rank} reported no error\n{}", self.story()))
            .to_owned()
    }

    /// Each of `ranks` has reported its error within `limit` of `since`.
    pub fn was_told(&self, ranks: &[usize], since: Instant, limit: Duration) {
        for &r in ranks {
            let said = self.rank(r).said.lock().expect("nobody panics with it");
            let error = said.iter().find(|(_, line)| line.starts_with("error "));
            let after = error.expect("it failed").0 - since;
            assert!(
                after <= limit,
                "rank {r} was told only {after:?} after the fault"
            );
        }
    }

    /// All of `ranks` end within `limit` with one and the same error, which is returned.
    pub fn fails_alike(&mut self, ranks: &[usize], limit: Duration) -> String {
        let codes = self.ends(ranks, limit);
        assert!(
            codes.iter().all(|c| *c == Some(3)),
            "{codes:?}\n{}",
            self.story()
        );
        let errors: Vec<String> = ranks.iter().map(|r| self.error(*r)).collect();
        for error in &errors {
            assert_eq!(
                error,
                &errors[0],
                "not the same on all ranks\n{}",
                self.story()
            );
        }
        errors[0].clone()
    }

    /// All ranks end well within `limit`, with right results.
    pub fn succeeds(&mut self, limit: Duration) {
        let ranks: Vec<usize> = (0..self.ranks.len()).collect();
        let codes = self.ends(&ranks, limit);
        let right = ranks
            .iter()
            .all(|r| !self.said(*r).iter().any(|l| l.starts_with("wrong")));
        assert!(
            right && codes.iter().all(|c| *c == Some(0)),
            "{codes:?}\n{}",
            self.story()
        );
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for rank in self.ranks.iter_mut().flatten() {
            // One that has ended already is what we want.
            let _ = rank.child.kill();
            let _ = rank.child.wait();
        }
    }
}

/// Names under /dev/shm that are this library's.
pub fn left_over() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(Path::new("/dev/shm")) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|n| n.contains("hfr")).collect();
    names.sort();
    names
}
