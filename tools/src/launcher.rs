//! Starts the ranks of a job as processes of this host and sees them to their end. It knows nothing of what they run. Invariant:
//! none of them outlives this process, and the first to fail is named before the others are ended.

use crate::run::positive;
use anyhow::{Context, Result, ensure};
use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::{
    ffi::OsString,
    net::TcpListener,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How long the others may report their own errors after the first failure.
const REPORT: Duration = Duration::from_secs(3);
/// How long they have after SIGTERM.
const TERMINATE: Duration = Duration::from_secs(2);
/// How often ends are looked for.
const LOOK: Duration = Duration::from_millis(5);

/// What job to start where the program is in none: the flags of every command that takes part in one.
#[derive(clap::Args)]
pub struct Size {
    /// Nodes to play, outside a job
    #[arg(long, default_value_t = 2, value_parser = positive)]
    pub nodes: usize,
    /// Ranks on each of them, outside a job
    #[arg(long, short = 'L', default_value_t = 4, value_parser = positive)]
    pub ranks_per_node: usize,
    /// How nodes talk to each other, outside a job
    #[arg(long, value_parser = ["auto", "local", "tcp", "verbs"])]
    pub transport: Option<String>,
}

impl Size {
    /// Its ranks.
    pub fn ranks(&self) -> usize {
        self.nodes * self.ranks_per_node
    }

    /// Runs this very command in such a job, and hands on its exit code.
    ///
    /// # Errors
    /// Those of [`run`].
    pub fn run(&self, timeout: Option<f64>) -> Result<i32> {
        run(&Job {
            nodes: self.nodes,
            ranks_per_node: self.ranks_per_node,
            transport: self.transport.clone(),
            timeout,
            command: this_command()?,
        })
    }
}

/// What to start.
pub struct Job {
    /// Nodes that this host plays.
    pub nodes: usize,
    /// Ranks on each of them.
    pub ranks_per_node: usize,
    /// `HFR_TRANSPORT`, where it is to be set.
    pub transport: Option<String>,
    /// `HFR_TIMEOUT` in seconds, where it is to be set.
    pub timeout: Option<f64>,
    /// Program and arguments.
    pub command: Vec<OsString>,
}

/// One started rank.
struct Rank {
    rank: usize,
    node: usize,
    child: Child,
    ended: bool,
}

/// This program with the arguments it has been given.
///
/// # Errors
/// The system does not say where it is.
fn this_command() -> Result<Vec<OsString>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let arguments = std::env::args_os().skip(1);
    Ok([program.into_os_string()]
        .into_iter()
        .chain(arguments)
        .collect())
}

/// Starts all ranks and waits for them. Returns the exit code: 0, or that of the first to fail (128 + signal for a signal).
///
/// # Errors
/// A rank cannot be started, or no port is free; ranks already started are ended.
pub fn run(job: &Job) -> Result<i32> {
    ensure!(
        job.nodes > 0 && job.ranks_per_node > 0,
        "a job has at least one node and one rank per node"
    );
    let caught = Arc::new(AtomicUsize::new(0));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_usize(signal, caught.clone(), signal as usize)
            .context("cannot watch for signals")?;
    }
    let shared = shared_environment(job)?;
    let mut ranks = Vec::new();
    for rank in 0..job.nodes * job.ranks_per_node {
        match start(job, &shared, rank) {
            Ok(started) => ranks.push(started),
            Err(error) => {
                end(&mut ranks, Signal::KILL);
                return Err(error);
            }
        }
    }
    Ok(watch(&mut ranks, &caught))
}

/// What all ranks have alike.
fn shared_environment(job: &Job) -> Result<Vec<(&'static str, String)>> {
    // Both are held until both are known, so that they differ. Another process may take one before rank 0 does; then rank 0 says so.
    let free = || TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1");
    let (ours, master) = (free()?, free()?);
    let port = ours.local_addr()?.port();
    let mut secret = [0u8; 16];
    let filled = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
        .context("no random bytes for the job's secret")?;
    ensure!(
        filled == secret.len(),
        "too few random bytes for the job's secret"
    );
    let mut shared = vec![
        ("HFR_COMM_ID", format!("127.0.0.1:{port}")),
        (
            "HFR_COOKIE",
            secret.iter().map(|byte| format!("{byte:02x}")).collect(),
        ),
        ("MASTER_ADDR", "127.0.0.1".to_owned()),
        ("MASTER_PORT", master.local_addr()?.port().to_string()),
    ];
    let world = (job.nodes * job.ranks_per_node).to_string();
    shared.push(("HFR_WORLD_SIZE", world.clone()));
    shared.push(("WORLD_SIZE", world));
    shared.push(("LOCAL_WORLD_SIZE", job.ranks_per_node.to_string()));
    if let Some(transport) = &job.transport {
        shared.push(("HFR_TRANSPORT", transport.clone()));
    }
    if let Some(timeout) = job.timeout {
        shared.push(("HFR_TIMEOUT", timeout.to_string()));
    }
    Ok(shared)
}

fn start(job: &Job, shared: &[(&'static str, String)], rank: usize) -> Result<Rank> {
    let (program, arguments) = job.command.split_first().context("no command to run")?;
    let node = rank / job.ranks_per_node;
    let local = rank % job.ranks_per_node;
    let parent = getpid();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(shared.iter().map(|(name, value)| (name, value)))
        .env("HFR_RANK", rank.to_string())
        .env("HFR_NODE", node.to_string())
        .env("RANK", rank.to_string())
        .env("LOCAL_RANK", local.to_string());
    // SAFETY: between fork and exec only two system calls are made; nothing is allocated and no lock is taken.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above.
            if getppid() == Some(parent) {
                Ok(())
            } else {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
        });
    }
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {} as rank {rank}", program.display()))?;
    Ok(Rank {
        rank,
        node,
        child,
        ended: false,
    })
}

/// Waits for all; ends those who stay after a failure or a signal.
fn watch(ranks: &mut [Rank], caught: &AtomicUsize) -> i32 {
    let mut code = None;
    let mut deadline: Option<(Instant, Signal)> = None;
    loop {
        let mut failed = Vec::new();
        for (index, rank) in ranks.iter_mut().enumerate().filter(|(_, rank)| !rank.ended) {
            match rank.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    rank.ended = true;
                    if !status.success() {
                        failed.push((index, status));
                    }
                }
                Err(error) => {
                    rank.ended = true;
                    eprintln!("hfr: rank {}: cannot wait for it: {error}", rank.rank);
                    code.get_or_insert(1);
                }
            }
        }
        // Who was killed is the cause of the others' errors more often than the reverse.
        failed.sort_by_key(|(_, status)| status.signal().is_none());
        for (index, status) in failed {
            // After the first, who ended by itself has said why; who was killed could not. What we end is no news.
            if code.is_none()
                || (deadline.is_some_and(|d| d.1 == Signal::TERM) && status.code().is_none())
            {
                let rank = &ranks[index];
                eprintln!(
                    "hfr: rank {} (node {}, process {}) {}",
                    rank.rank,
                    rank.node,
                    rank.child.id(),
                    how(status)
                );
            }
            if code.is_none() {
                code = Some(exit_code(status));
                deadline.get_or_insert((Instant::now() + REPORT, Signal::TERM));
            }
        }
        if ranks.iter().all(|rank| rank.ended) {
            return code.unwrap_or(0);
        }
        let signal = caught.swap(0, Ordering::Relaxed);
        if signal != 0 {
            eprintln!("hfr: signal {signal}: ending all ranks");
            code.get_or_insert(128 + signal as i32);
            end(ranks, Signal::TERM);
            deadline = Some((Instant::now() + TERMINATE, Signal::KILL));
        }
        if let Some((when, signal)) = deadline
            && Instant::now() >= when
        {
            name_staying(ranks, signal);
            end(ranks, signal);
            deadline = Some((Instant::now() + TERMINATE, Signal::KILL));
        }
        std::thread::sleep(LOOK);
    }
}

/// Says who is about to get `signal`.
fn name_staying(ranks: &[Rank], signal: Signal) {
    let staying = ranks.iter().filter(|rank| !rank.ended);
    let staying: Vec<_> = staying.map(|rank| rank.rank.to_string()).collect();
    let name = if signal == Signal::TERM {
        "SIGTERM"
    } else {
        "SIGKILL"
    };
    eprintln!(
        "hfr: still there: ranks {}; sending {name}",
        staying.join(" ")
    );
}

/// Sends `signal` to all who are still there.
fn end(ranks: &mut [Rank], signal: Signal) {
    for rank in ranks.iter_mut().filter(|rank| !rank.ended) {
        // Not waited for yet, so the number is still this child's. That it may have ended meanwhile is no error.
        if let Some(pid) = Pid::from_raw(rank.child.id() as i32) {
            let _ = kill_process(pid, signal);
        }
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("unknown");
            format!("was ended by signal {signal} ({name})")
        }
        (None, None) => format!("ended: {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Job, run};

    fn shell(nodes: usize, ranks_per_node: usize, script: &str) -> i32 {
        let job = Job {
            nodes,
            ranks_per_node,
            transport: Some("tcp".into()),
            timeout: Some(7.5),
            command: ["sh", "-c", script].map(Into::into).to_vec(),
        };
        run(&job).expect("sh starts")
    }

    #[test]
    fn every_rank_knows_its_place() {
        let script = r#"
            test $HFR_RANK = $RANK && test $HFR_WORLD_SIZE = 6 && test $WORLD_SIZE = 6 &&
            test $HFR_NODE = $((RANK / 3)) && test $LOCAL_RANK = $((RANK % 3)) && test $LOCAL_WORLD_SIZE = 3 &&
            test $HFR_TRANSPORT = tcp && test $HFR_TIMEOUT = 7.5 && test ${#HFR_COOKIE} = 32 &&
            case $HFR_COMM_ID in 127.0.0.1:*) exit 0;; *) exit 1;; esac"#;
        assert_eq!(shell(2, 3, script), 0);
    }

    #[test]
    fn the_first_failure_decides() {
        // The others would stay for an hour; SIGTERM ends them.
        let started = std::time::Instant::now();
        assert_eq!(
            shell(1, 3, "test $RANK = 1 && exit 42; exec sleep 3600"),
            42
        );
        assert_eq!(shell(1, 1, "kill -9 $$"), 137);
        assert!(started.elapsed().as_secs() < 60, "nobody ended the others");
    }

    #[test]
    fn an_unknown_program_is_named() {
        let job = Job {
            nodes: 1,
            ranks_per_node: 1,
            transport: None,
            timeout: None,
            command: vec!["/no/such/program".into()],
        };
        let error = run(&job).expect_err("it does not exist");
        assert!(
            format!("{error:#}").contains("/no/such/program"),
            "{error:#}"
        );
    }
}
