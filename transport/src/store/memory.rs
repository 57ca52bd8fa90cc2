//! The store's twin inside one process, for ranks that are threads and for tests. It waits on a condition variable where
//! the other waits on a socket; what is remembered, and every error text, is the same table's.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::table::{Limits, Table, decode_values};
use super::{Error, Store};

/// A store in memory; clones are the same store.
#[derive(Clone)]
pub struct MemoryStore(Arc<(Mutex<Table>, Condvar)>);

impl MemoryStore {
    /// An empty store with the usual limits.
    pub fn new() -> MemoryStore {
        MemoryStore::with_limits(Limits::default())
    }

    /// An empty store; `connections` means nothing here.
    pub fn with_limits(limits: Limits) -> MemoryStore {
        MemoryStore(Arc::new((Mutex::new(Table::new(limits)), Condvar::new())))
    }

    /// No call leaves the table half changed, so a panic elsewhere does not spoil it.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something; `None` at the deadline.
    fn wait<T>(
        &self,
        mut table: MutexGuard<'_, Table>,
        deadline: Instant,
        mut look: impl FnMut(&mut Table) -> Option<T>,
        late: impl FnOnce(&mut Table) -> Error,
    ) -> Result<T, Error> {
        loop {
            if let Some(found) = look(&mut table) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late(&mut table));
            }
            let waited = self.0.1.wait_timeout(table, left);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl Store for MemoryStore {
    fn set(&self, key: &str, value: &[u8], _deadline: Instant) -> Result<(), Error> {
        self.table().set(key, value)?;
        self.0.1.notify_all();
        Ok(())
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, Error> {
        let start = Instant::now();
        let late = |_: &mut Table| Error::Timeout {
            key: key.to_owned(),
            waited: start.elapsed(),
        };
        let value = self.wait(self.table(), deadline, |table| table.get(key), late)?;
        Ok(value.to_vec())
    }

    fn gather(
        &self,
        prefix: &str,
        world: usize,
        rank: usize,
        mine: &[u8],
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let start = Instant::now();
        let mut table = self.table();
        if table.enter(prefix, world, rank, mine)? {
            self.0.1.notify_all();
        }
        let late = |table: &mut Table| Error::Missing {
            prefix: prefix.to_owned(),
            world,
            missing: table.give_up(prefix, rank),
            waited: start.elapsed(),
        };
        let result = self.wait(table, deadline, |table| table.take(prefix, rank), late)?;
        Ok(decode_values(&result).expect("the table wrote it"))
    }
}
