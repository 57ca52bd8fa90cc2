//! The monitors of all groups, behind the rendezvous listener: reads what ranks say, feeds their group's monitor, writes what
//! it answers, and wakes it at its deadlines. It decides nothing. A rank that does not read holds up nobody but itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::client::host_name;
use super::message::{FromRank, Join, Joined, LIMIT};
use super::monitor::Monitor;
use crate::store::WORLD_LIMIT;
use crate::store::codec::{framed, read_frame};

/// A connection that joins has this long to say which group and rank it is.
const INTRODUCTION: Duration = Duration::from_secs(2);
/// Groups at a time.
const GROUPS: usize = 1 << 12;

struct Group {
    monitor: Monitor,
    senders: HashMap<usize, UnboundedSender<Vec<u8>>>,
    /// The timer that will look next.
    armed: Option<Instant>,
    unsent: Rc<Cell<usize>>,
}

/// All groups of one server; they run on its thread.
pub(crate) struct Monitors {
    groups: RefCell<HashMap<String, Rc<RefCell<Group>>>>,
    unsent: Rc<Cell<usize>>,
}

impl Monitors {
    pub(crate) fn new() -> Rc<Monitors> {
        Rc::new(Monitors {
            groups: RefCell::new(HashMap::new()),
            unsent: Rc::new(Cell::new(0)),
        })
    }

    /// Says goodbye to every rank; `is_idle` tells when it has been sent.
    pub(crate) fn close(&self) {
        for group in self.groups.borrow().values() {
            group.borrow_mut().monitor.close();
            deliver(group);
        }
    }

    /// Whether everything has been written.
    pub(crate) fn is_idle(&self) -> bool {
        self.unsent.get() == 0
    }

    /// Serves one rank's connection until it ends.
    pub(crate) async fn connection(&self, mut stream: TcpStream) {
        let introduction = tokio::time::timeout(INTRODUCTION, read_frame(&mut stream, 4096)).await;
        let Ok(Ok(body)) = introduction else { return };
        let Ok(join) = Join::decode(&body) else {
            return;
        };
        let group = match self.enter(&join) {
            Ok(group) => group,
            Err(text) => {
                let refusal = framed(&Joined::Refused(text).encode());
                let _ = tokio::time::timeout(INTRODUCTION, stream.write_all(&refusal)).await;
                return;
            }
        };
        let (mut reader, writer) = stream.into_split();
        let (sender, outbox) = unbounded_channel();
        let welcome = Joined::Welcome {
            host: host_name(),
            pid: std::process::id(),
        };
        post(&sender, &self.unsent, welcome.encode());
        group.borrow_mut().senders.insert(join.rank, sender);
        tokio::task::spawn_local(write_all(writer, outbox, self.unsent.clone()));
        deliver(&group);
        while let Ok(body) = read_frame(&mut reader, LIMIT).await {
            let Ok(message) = FromRank::decode(&body) else {
                break;
            };
            let leaves = message == FromRank::Leave;
            group
                .borrow_mut()
                .monitor
                .hear(join.rank, message, Instant::now());
            deliver(&group);
            if leaves {
                break;
            }
        }
        group.borrow_mut().monitor.lost(join.rank, Instant::now());
        deliver(&group);
        group.borrow_mut().senders.remove(&join.rank);
        if group.borrow().monitor.is_over() {
            self.groups.borrow_mut().remove(&join.group);
        }
    }

    fn enter(&self, join: &Join) -> Result<Rc<RefCell<Group>>, String> {
        let mut groups = self.groups.borrow_mut();
        if join.rank >= join.world || join.world > WORLD_LIMIT {
            return Err(format!(
                "rank {} cannot join group '{}' of {} ranks (at most {WORLD_LIMIT})",
                join.rank, join.group, join.world
            ));
        }
        if groups.len() >= GROUPS && !groups.contains_key(&join.group) {
            return Err(format!(
                "no room for group '{}': there are {GROUPS} already",
                join.group
            ));
        }
        let group = groups.entry(join.group.clone()).or_insert_with(|| {
            Rc::new(RefCell::new(Group {
                monitor: Monitor::new(join.world),
                senders: HashMap::new(),
                armed: None,
                unsent: self.unsent.clone(),
            }))
        });
        group.borrow_mut().monitor.join(join)?;
        Ok(group.clone())
    }
}

fn post(sender: &UnboundedSender<Vec<u8>>, unsent: &Cell<usize>, body: Vec<u8>) {
    if sender.send(body).is_ok() {
        unsent.set(unsent.get() + 1);
    }
}

/// Sends the monitor's mail and sees to it that its next deadline is kept.
fn deliver(group: &Rc<RefCell<Group>>) {
    let mut now = group.borrow_mut();
    for (rank, message) in now.monitor.take_mail() {
        if let Some(sender) = now.senders.get(&rank) {
            post(sender, &now.unsent, message.encode());
        }
    }
    let Some(deadline) = now.monitor.deadline() else {
        return;
    };
    if now.armed.is_some_and(|armed| armed <= deadline) {
        return; // that timer looks again
    }
    now.armed = Some(deadline);
    tokio::task::spawn_local(wake(group.clone(), deadline));
}

async fn wake(group: Rc<RefCell<Group>>, at: Instant) {
    tokio::time::sleep_until(at.into()).await;
    {
        let mut now = group.borrow_mut();
        if now.armed == Some(at) {
            now.armed = None;
        }
        now.monitor.tick(Instant::now());
    }
    deliver(&group);
}

/// Writes until the group drops its end of the channel or the rank is gone.
async fn write_all(
    mut writer: OwnedWriteHalf,
    mut outbox: UnboundedReceiver<Vec<u8>>,
    unsent: Rc<Cell<usize>>,
) {
    let mut works = true;
    while let Some(body) = outbox.recv().await {
        works = works && writer.write_all(&framed(&body)).await.is_ok();
        unsent.set(unsent.get() - 1);
    }
}
