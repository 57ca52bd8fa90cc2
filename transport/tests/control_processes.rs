//! The control plane with ranks as processes that are killed and stopped. The processes are this test program itself, run
//! again with only `rank_process`, which does what its standard input says.

mod ranks;

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use hfr_transport::control::{Control, Report};
use hfr_transport::store::StoreServer;
use ranks::{COOKIE, Log, join};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

const WORLD: usize = 3;

/// Not a test of its own: the body of a rank's process, when the variables say so.
#[test]
fn rank_process() {
    let Ok(rank) = std::env::var("TEST_RANK") else {
        return;
    };
    let rank: usize = rank.parse().unwrap();
    let mut address = std::env::var("TEST_SERVER").unwrap_or_default();
    let mut server = None;
    if address.is_empty() {
        let own = StoreServer::start("127.0.0.1:0", COOKIE).unwrap();
        address = own.address().to_string();
        server = Some(own);
    }
    let (control, log) = join(&address, "g", rank, WORLD);
    println!("\n@{address}");
    for line in std::io::stdin().lines() {
        match line.unwrap().as_str() {
            "timeout" => control.report(Report::Timeout(b"time is up".to_vec())),
            "verdict" => println!("\n@{}", log.wait()),
            "count" => println!("\n@{}", log.count()),
            "leave" => {
                control.leave();
                println!("\n@left");
            }
            other => panic!("unknown command {other}"),
        }
    }
    drop(control);
    drop(server);
}

struct Rank {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    address: String,
}

impl Rank {
    fn start(rank: usize, server: &str) -> Rank {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["rank_process", "--exact", "--nocapture", "--test-threads=1"])
            .env("TEST_RANK", rank.to_string())
            .env("TEST_SERVER", server)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut rank = Rank {
            child,
            output,
            address: String::new(),
        };
        rank.address = rank.listen();
        rank
    }

    fn listen(&mut self) -> String {
        let said =
            |line: std::io::Result<String>| line.unwrap().strip_prefix('@').map(str::to_owned);
        self.output
            .find_map(said)
            .expect("the rank's process says something")
    }

    fn say(&mut self, command: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
    }

    fn ask(&mut self, command: &str) -> String {
        self.say(command);
        self.listen()
    }

    /// Returns when every thread of the process has stopped: the signal alone only begins that.
    fn stop(&self) {
        self.signal(Signal::STOP);
        let (_, status) = waitpid(Some(self.pid()), WaitOptions::UNTRACED)
            .unwrap()
            .unwrap();
        assert!(status.stopped());
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Rank 0 with the server in this process, ranks 1 and 2 in their own.
fn rank_0_here() -> (StoreServer, Control, Arc<Log>, Rank, Rank) {
    let server = StoreServer::start("127.0.0.1:0", COOKIE).unwrap();
    let address = server.address().to_string();
    let (control, log) = join(&address, "g", 0, WORLD);
    let (one, two) = (Rank::start(1, &address), Rank::start(2, &address));
    (server, control, log, one, two)
}

#[test]
fn a_killed_rank_is_named_to_all_others() {
    let (_server, _control, log, mut one, two) = rank_0_here();
    two.signal(Signal::KILL);
    let text = log.wait();
    assert!(text.starts_with("rank 2 (host "), "{text}");
    let pid = format!(
        "pid {}): its process is gone (killed or crashed)",
        two.child.id()
    );
    assert!(text.ends_with(&pid), "{text}");
    assert_eq!(one.ask("verdict"), text);
}

#[test]
fn a_stopped_rank_is_silent_when_anothers_time_is_up() {
    let (_server, control, log, mut one, two) = rank_0_here();
    two.stop();
    one.say("timeout");
    let text = log.wait();
    assert_eq!(
        text,
        "asked by [1]: answered status of 0, answered status of 1, silent"
    );
    assert_eq!(one.ask("verdict"), text);
    // It hears the same cause when it goes on.
    two.signal(Signal::CONT);
    let mut two = two;
    assert_eq!(two.ask("verdict"), text);
    drop(control);
}

#[test]
fn a_stopped_rank_0_is_named_alike_by_all_whose_time_is_up() {
    let zero = Rank::start(0, "");
    let (control, log) = join(&zero.address, "g", 1, WORLD);
    let mut two = Rank::start(2, &zero.address);
    zero.stop();
    control.report(Report::Timeout(b"t".to_vec()));
    two.say("timeout");
    let text = log.wait();
    let expected = format!("pid {}) does not answer", zero.child.id());
    assert!(
        text.starts_with("rank 0 (host ") && text.contains(&expected),
        "{text}"
    );
    assert_eq!(two.ask("verdict"), text);
    let begun = std::time::Instant::now();
    control.leave();
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(10),
        "leaving is bounded"
    );
}

#[test]
fn a_killed_rank_0_is_named_alike_by_all() {
    let zero = Rank::start(0, "");
    let (_control, log) = join(&zero.address, "g", 1, WORLD);
    let mut two = Rank::start(2, &zero.address);
    zero.signal(Signal::KILL);
    let text = log.wait();
    let expected = format!("pid {}) is gone", zero.child.id());
    assert!(
        text.starts_with("rank 0 (host ") && text.contains(&expected),
        "{text}"
    );
    assert_eq!(two.ask("verdict"), text);
}

#[test]
fn a_watched_process_may_leave_and_end() {
    let (_server, control, log, mut one, mut two) = rank_0_here();
    for (rank, process) in [(1, &one), (2, &two)] {
        control.watch(
            rank,
            pidfd_open(process.pid(), PidfdFlags::empty()).unwrap(),
        );
    }
    assert_eq!(two.ask("leave"), "left");
    drop(two.child.stdin.take());
    assert!(two.child.wait().unwrap().success());
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(log.count(), 0);
    assert_eq!(one.ask("count"), "0");
    one.signal(Signal::KILL);
    assert!(log.wait().starts_with("rank 1 (host "));
}

#[test]
fn a_watched_process_that_never_joined_is_missed_too() {
    let server = StoreServer::start("127.0.0.1:0", COOKIE).unwrap();
    let (control, log) = join(&server.address().to_string(), "g", 0, 2);
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    control.watch(
        1,
        pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap(),
    );
    // Asked and answered: the thread has taken the watch before the process ends.
    control.report(Report::Check(b"hm".to_vec()));
    child.kill().unwrap();
    child.wait().unwrap();
    let text = log.wait();
    assert!(
        text.starts_with("rank 1 (host ") && text.contains(&format!("pid {})", child.id())),
        "{text}"
    );
}
