//! A rank's end of the control plane: one thread with one connection, which carries reports up and questions and the
//! verdict down, and watches local processes. It decides nothing; the session does. Calls never block, except
//! `join` until its deadline and `leave` for less than a second.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::message::{FromRank, Join, Joined, LIMIT, ToRank};
use super::session::Session;
use super::{Hooks, Judge, Report, process};
use crate::store::codec::{framed, read_frame, read_frame_by, write_by};
use crate::store::{Error, Service, dial, grace};

/// An orderly leave waits this long for the monitor to confirm.
const LEAVE: Duration = Duration::from_millis(500);

enum Command {
    Report(Report),
    Watch {
        rank: usize,
        process: OwnedFd,
        pid: u32,
    },
    Leave,
}

enum Event {
    Message(ToRank),
    Ended,
    Died { rank: usize, pid: u32 },
}

/// One rank's membership in a group of the control plane. Dropping it leaves in order.
pub struct Control {
    commands: UnboundedSender<Command>,
    done: Mutex<mpsc::Receiver<()>>,
    left: AtomicBool,
    orphaned: Arc<AtomicBool>,
    ended: Arc<Mutex<Vec<usize>>>,
    /// Host and process of the monitor.
    monitor: (String, u32),
}

impl Control {
    /// Joins `group` as `rank` of `world` at the rendezvous server at `server` (`host:port`). Returns when the monitor knows
    /// this rank, without waiting for the others. A judge is asked of the first rank that brought one and is still there. A group's name is free again when all its
    /// ranks have come and gone.
    ///
    /// # Errors
    /// Those of connecting ([`Error::Unreachable`], [`Error::Refused`], [`Error::Foreign`]); [`Error::Rejected`] when another
    /// process has this rank or the world sizes differ.
    #[allow(clippy::too_many_arguments)] // each is one plain fact of the membership
    pub fn join(
        server: &str,
        cookie: &[u8],
        group: &str,
        rank: usize,
        world: usize,
        hooks: Arc<dyn Hooks>,
        judge: Option<Judge>,
        deadline: Instant,
    ) -> Result<Control, Error> {
        let lost = |cause: String| Error::Lost {
            address: server.to_owned(),
            key: format!("group {group}"),
            cause,
        };
        let stream = dial(server, cookie, Service::Control, deadline)?;
        let join = Join {
            group: group.to_owned(),
            rank,
            world,
            host: host_name(),
            pid: std::process::id(),
            judges: judge.is_some(),
        };
        let patience = deadline.max(Instant::now()) + grace();
        let joined = write_by(&stream, &framed(&join.encode()), patience)
            .and_then(|()| read_frame_by(&stream, LIMIT, patience))
            .and_then(|body| Ok(Joined::decode(&body)?))
            .map_err(|error| lost(error.to_string()))?;
        let (host, pid) = match joined {
            Joined::Welcome { host, pid } => (host, pid),
            Joined::Refused(text) => return Err(Error::Rejected(text)),
        };
        stream
            .set_nonblocking(true)
            .map_err(|error| lost(error.to_string()))?;
        let monitor = (host.clone(), pid);
        let session = Session::new(hooks, judge, host, pid);
        let (commands, inbox) = unbounded_channel();
        let (finished, done) = mpsc::channel();
        let orphaned = Arc::new(AtomicBool::new(false));
        let flag = orphaned.clone();
        let ended = Arc::new(Mutex::new(Vec::new()));
        let seen = ended.clone();
        std::thread::Builder::new()
            .name("hfr-control".into())
            .spawn(move || {
                run(stream, session, inbox, flag, seen);
                drop(finished);
            })
            .map_err(|error| lost(error.to_string()))?;
        Ok(Control {
            commands,
            done: Mutex::new(done),
            left: AtomicBool::new(false),
            orphaned,
            ended,
            monitor,
        })
    }

    /// Tells the monitor. Never blocks; after the verdict, or after leaving, it does nothing.
    pub fn report(&self, report: Report) {
        let _ = self.commands.send(Command::Report(report));
    }

    /// Watches the process of `rank`, which runs on this host, by its pidfd: when it ends without having left the group,
    /// that is a failure at once.
    pub fn watch(&self, rank: usize, process: OwnedFd) {
        let pid = process::pid_of(&process);
        let _ = self.commands.send(Command::Watch { rank, process, pid });
    }

    /// Whether the monitor has closed in order: its process has left, and nobody arbitrates any more.
    pub fn is_orphaned(&self) -> bool {
        self.orphaned.load(Ordering::Acquire)
    }

    /// Whether the process of `rank`, which is watched, has ended. Where nobody arbitrates any more this is all that is known.
    pub fn has_ended(&self, rank: usize) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.contains(&rank)
    }

    /// The monitor's process: its host's name and its id there.
    pub fn monitor(&self) -> (&str, u32) {
        (&self.monitor.0, self.monitor.1)
    }

    /// Leaves in order: from now on the end of this process is no failure. Waits for the monitor's word for half a second
    /// at most. A second call does nothing.
    pub fn leave(&self) {
        if self.left.swap(true, Ordering::AcqRel) {
            return;
        }
        let _ = self.commands.send(Command::Leave);
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread ends by itself; it is not joined, because a hook that hangs must not hold up an exit.
        let _ = done.recv_timeout(2 * LEAVE);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.leave();
    }
}

/// This host's name, for messages.
pub(super) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn run(
    stream: std::net::TcpStream,
    session: Session,
    inbox: UnboundedReceiver<Command>,
    orphaned: Arc<AtomicBool>,
    ended: Arc<Mutex<Vec<usize>>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime.and_then(|runtime| {
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (reader, writer) = TcpStream::from_std(stream)?.into_split();
            let (events, news) = unbounded_channel();
            let (outbox, unsent) = unbounded_channel();
            tokio::task::spawn_local(read_all(reader, events.clone()));
            tokio::task::spawn_local(write_all(writer, unsent));
            Thread {
                session,
                events,
                outbox,
                orphaned,
                ended,
            }
            .run(inbox, news)
            .await;
            Ok(())
        })
    });
    if let Err(error) = outcome {
        tracing::error!("the control thread ended: {error}");
    }
}

struct Thread {
    session: Session,
    events: UnboundedSender<Event>,
    outbox: UnboundedSender<Vec<u8>>,
    orphaned: Arc<AtomicBool>,
    ended: Arc<Mutex<Vec<usize>>>,
}

impl Thread {
    async fn run(
        mut self,
        mut inbox: UnboundedReceiver<Command>,
        mut news: UnboundedReceiver<Event>,
    ) {
        loop {
            let deadline = self.session.deadline();
            tokio::select! {
                biased;
                event = news.recv() => match event {
                    Some(event) => self.event(event),
                    None => return,
                },
                command = inbox.recv() => match command {
                    Some(Command::Report(report)) => {
                        let message = self.session.report(report, Instant::now());
                        self.send(message);
                    }
                    Some(Command::Watch { rank, process, pid }) => {
                        tokio::task::spawn_local(watch(rank, process, pid, self.events.clone()));
                    }
                    Some(Command::Leave) | None => break,
                },
                () = sleep_until(deadline) => self.session.tick(Instant::now()),
            }
        }
        if self.session.is_connected() {
            self.send(Some(FromRank::Leave));
            let _ = tokio::time::timeout(LEAVE, farewell(&mut news)).await;
        }
    }

    fn event(&mut self, event: Event) {
        let answer = match event {
            Event::Message(message) => self.session.hear(message, Instant::now()),
            Event::Ended => {
                self.orphaned
                    .store(self.session.bade_farewell(), Ordering::Release);
                self.session.ended();
                None
            }
            Event::Died { rank, pid } => {
                let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
                ended.push(rank);
                Some(FromRank::Died {
                    rank,
                    host: host_name(),
                    pid,
                })
            }
        };
        self.send(answer);
    }

    fn send(&self, message: Option<FromRank>) {
        if let Some(message) = message {
            let _ = self.outbox.send(message.encode());
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

async fn farewell(news: &mut UnboundedReceiver<Event>) {
    loop {
        match news.recv().await {
            None | Some(Event::Ended | Event::Message(ToRank::Left)) => return,
            Some(Event::Message(_) | Event::Died { .. }) => {}
        }
    }
}

async fn read_all(mut reader: OwnedReadHalf, events: UnboundedSender<Event>) {
    while let Ok(body) = read_frame(&mut reader, LIMIT).await {
        let Ok(message) = ToRank::decode(&body) else {
            break;
        };
        let _ = events.send(Event::Message(message));
    }
    let _ = events.send(Event::Ended);
}

async fn write_all(mut writer: OwnedWriteHalf, mut unsent: UnboundedReceiver<Vec<u8>>) {
    while let Some(body) = unsent.recv().await {
        if writer.write_all(&framed(&body)).await.is_err() {
            return; // the reader sees the end of the connection
        }
    }
}

async fn watch(rank: usize, process: OwnedFd, pid: u32, events: UnboundedSender<Event>) {
    match process::ended(process).await {
        Ok(()) => drop(events.send(Event::Died { rank, pid })),
        Err(error) => {
            tracing::warn!("cannot watch the process of rank {rank} (pid {pid}): {error}")
        }
    }
}
