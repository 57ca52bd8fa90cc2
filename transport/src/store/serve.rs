//! One store connection on the server: reads a request, waits until it can be answered, answers. It knows the table and
//! who waits for which name; it opens no socket. A client that goes away while it waits is noticed and forgotten.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::Error;
use super::codec::{Malformed, Reader, Writer, framed, read_frame};
use super::table::{KEY_LIMIT, Limits, Table};

/// Bytes of an answer at most, whatever the server's limits are.
pub(super) const REPLY_LIMIT: usize = 1 << 30;
/// Nobody waits longer than this, whatever he says.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a client asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Set {
        key: String,
        value: Vec<u8>,
    },
    Get {
        key: String,
        patience: Duration,
    },
    Gather {
        prefix: String,
        world: usize,
        rank: usize,
        value: Vec<u8>,
        patience: Duration,
    },
}

/// What the server answers.
pub(super) enum Reply {
    Done(Arc<[u8]>),
    Late,
    Missing(Vec<usize>),
    Rejected(String),
    Closed,
}

/// What all store connections of a server share; they run on one thread.
pub(super) struct Shared {
    limits: Limits,
    table: RefCell<Table>,
    waiting: RefCell<HashMap<String, Rc<Notify>>>,
    closing: Cell<bool>,
    busy: Cell<usize>,
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Shared {
        Shared {
            limits,
            table: RefCell::new(Table::new(limits)),
            waiting: RefCell::new(HashMap::new()),
            closing: Cell::new(false),
            busy: Cell::new(0),
        }
    }

    /// Everyone who waits is told that the store closes; `is_idle` says when all have been.
    pub(super) fn close(&self) {
        self.closing.set(true);
        for bell in self.waiting.borrow().values() {
            bell.notify_waiters();
        }
    }

    /// Whether no request is without its answer.
    pub(super) fn is_idle(&self) -> bool {
        self.busy.get() == 0
    }

    fn ring(&self, name: &str) {
        if let Some(bell) = self.waiting.borrow().get(name) {
            bell.notify_waiters();
        }
    }

    /// Waits for `look` to find something. `None`: nobody is there any more to be answered.
    async fn wait<T>(
        &self,
        name: String,
        patience: Duration,
        stream: &TcpStream,
        look: impl Fn(&mut Table) -> Option<T>,
    ) -> Option<Result<T, Reply>> {
        let deadline = Instant::now() + patience.min(LONGEST);
        let bell = self
            .waiting
            .borrow_mut()
            .entry(name.clone())
            .or_default()
            .clone();
        let outcome = loop {
            let mut rung = std::pin::pin!(bell.notified());
            rung.as_mut().enable();
            if let Some(found) = look(&mut self.table.borrow_mut()) {
                break Some(Ok(found));
            }
            if self.closing.get() {
                break Some(Err(Reply::Closed));
            }
            tokio::select! {
                biased;
                () = rung => {}
                () = hung_up(stream) => break None,
                () = tokio::time::sleep_until(deadline.into()) => break Some(Err(Reply::Late)),
            }
        };
        drop(bell);
        let mut waiting = self.waiting.borrow_mut();
        if waiting
            .get(&name)
            .is_some_and(|bell| Rc::strong_count(bell) == 1)
        {
            waiting.remove(&name);
        }
        outcome
    }

    async fn answer(&self, request: Request, stream: &TcpStream) -> Option<Reply> {
        match request {
            Request::Set { key, value } => {
                if let Err(error) = self.table.borrow_mut().set(&key, &value) {
                    return Some(rejected(error));
                }
                self.ring(&format!("key {key}"));
                Some(Reply::Done([].into()))
            }
            Request::Get { key, patience } => {
                let name = format!("key {key}");
                let look = |table: &mut Table| table.get(&key);
                let found = self.wait(name, patience, stream, look).await?;
                Some(found.map_or_else(|other| other, Reply::Done))
            }
            Request::Gather {
                prefix,
                world,
                rank,
                value,
                patience,
            } => {
                let entered = self.table.borrow_mut().enter(&prefix, world, rank, &value);
                let name = format!("gather {prefix}");
                match entered {
                    Err(error) => return Some(rejected(error)),
                    Ok(true) => self.ring(&name),
                    Ok(false) => {}
                }
                let look = |table: &mut Table| table.take(&prefix, rank);
                let found = self.wait(name, patience, stream, look).await;
                if let Some(Ok(result)) = found {
                    return Some(Reply::Done(result));
                }
                let missing = self.table.borrow_mut().give_up(&prefix, rank);
                match found? {
                    Err(Reply::Late) => Some(Reply::Missing(missing)),
                    other => other.err(),
                }
            }
        }
    }
}

/// Serves one authenticated connection until it ends.
pub(super) async fn connection(shared: Rc<Shared>, mut stream: TcpStream) {
    let limit = shared.limits.value + KEY_LIMIT + 256;
    while let Ok(body) = read_frame(&mut stream, limit).await {
        let _busy = Busy::new(&shared.busy);
        let reply = match Request::decode(&body) {
            Ok(request) => shared.answer(request, &stream).await,
            Err(Malformed) => None,
        };
        let Some(reply) = reply else { return };
        if stream.write_all(&framed(&reply.encode())).await.is_err() {
            return;
        }
    }
}

/// Counts a request from its arrival until its answer is written, also when its task is dropped.
struct Busy<'a>(&'a Cell<usize>);

impl<'a> Busy<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Busy(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Returns when the client is gone. A client says nothing while it waits, so a byte from it is left where it is.
async fn hung_up(stream: &TcpStream) {
    if stream.peek(&mut [0]).await.is_ok_and(|count| count > 0) {
        std::future::pending::<()>().await;
    }
}

fn rejected(error: Error) -> Reply {
    Reply::Rejected(error.to_string())
}

impl Request {
    fn decode(body: &[u8]) -> Result<Request, Malformed> {
        let mut reader = Reader(body);
        let request = match reader.u8()? {
            1 => Request::Set {
                key: reader.text()?,
                value: reader.bytes()?,
            },
            2 => Request::Get {
                key: reader.text()?,
                patience: Duration::from_millis(reader.u64()?),
            },
            3 => Request::Gather {
                prefix: reader.text()?,
                world: reader.size()?,
                rank: reader.size()?,
                value: reader.bytes()?,
                patience: Duration::from_millis(reader.u64()?),
            },
            _ => return Err(Malformed),
        };
        reader.end()?;
        Ok(request)
    }
}

impl Reply {
    fn encode(&self) -> Vec<u8> {
        match self {
            Reply::Done(value) => {
                let mut body = Writer::new(0).end();
                body.extend_from_slice(value);
                body
            }
            Reply::Late => Writer::new(1).end(),
            Reply::Missing(ranks) => Writer::new(2).list(ranks, |w, &rank| w.size(rank)).end(),
            Reply::Rejected(text) => Writer::new(3).text(text).end(),
            Reply::Closed => Writer::new(4).end(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back_from_their_bytes() {
        let patience = Duration::from_millis(1234);
        let requests = [
            Request::Set {
                key: "k".into(),
                value: vec![1, 2],
            },
            Request::Get {
                key: "key".into(),
                patience,
            },
            Request::Gather {
                prefix: "p".into(),
                world: 9,
                rank: 4,
                value: vec![7; 5],
                patience,
            },
        ];
        for request in requests {
            let mut body = request.encode();
            assert_eq!(Request::decode(&body), Ok(request));
            body.push(0);
            assert_eq!(Request::decode(&body), Err(Malformed));
        }
    }
}
