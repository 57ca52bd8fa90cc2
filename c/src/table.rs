//! Handles: numbers that look like pointers to C. Knows nothing of what they stand for. Invariant: a handle stands for one thing for ever; it is
//! never given out again, so that a stale one is found out and nothing is ever read through one.

use crate::fail::{Fail, Outcome};
use std::{
    collections::BTreeMap,
    ffi::c_void,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Things of one kind that live, by handle, oldest first.
pub struct Table<T> {
    what: &'static str,
    live: RwLock<BTreeMap<usize, Arc<T>>>,
}

/// The last handle of any kind. Handles are odd, as no pointer to anything of ours is.
static LAST: AtomicUsize = AtomicUsize::new(1);

/// A number that no handle has had.
pub fn fresh() -> usize {
    LAST.fetch_add(2, Ordering::Relaxed) + 2
}

impl<T> Table<T> {
    pub const fn new(what: &'static str) -> Table<T> {
        Table {
            what,
            live: RwLock::new(BTreeMap::new()),
        }
    }

    /// Takes a thing in.
    pub fn add(&self, handle: usize, thing: Arc<T>) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.insert(handle, thing);
    }

    fn none(&self, handle: *mut c_void) -> Fail {
        let what = self.what;
        Fail::argument(if handle.is_null() {
            format!("the {what} is NULL; pass one that was made")
        } else {
            format!("{handle:p} is no {what} that lives; it was destroyed, or never made")
        })
    }

    /// What lives under a handle.
    pub fn get(&self, handle: *mut c_void) -> Outcome<Arc<T>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.get(&handle.addr())
            .cloned()
            .ok_or_else(|| self.none(handle))
    }

    /// Takes a thing out: its handle is stale from now on.
    pub fn remove(&self, handle: *mut c_void) -> Outcome<Arc<T>> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.remove(&handle.addr()).ok_or_else(|| self.none(handle))
    }

    /// The oldest for which `f` gives something.
    pub fn oldest<R>(&self, f: impl Fn(&T) -> Option<R>) -> Option<R> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.values().find_map(|thing| f(thing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_good_until_removed_and_never_again() {
        let table = Table::new("thing");
        let (a, b) = (fresh(), fresh());
        let at = std::ptr::without_provenance_mut;
        table.add(a, Arc::new(7));
        table.add(b, Arc::new(9));
        assert_eq!(table.get(at(a)).ok().as_deref(), Some(&7));
        assert_eq!(table.oldest(|t| Some(*t)), Some(7));
        assert_eq!(table.remove(at(a)).ok().as_deref(), Some(&7));
        let stale = table.get(at(a)).expect_err("removed");
        assert!(stale.text.contains("no thing that lives"), "{}", stale.text);
        assert!(table.remove(at(a)).is_err());
        assert_eq!(table.oldest(|t| Some(*t)), Some(9));
        assert!(fresh() > b);
    }
}
