//! What a store remembers: values by key, and gathers under way. Pure state without sockets, threads or clock; the server
//! and the in-process twin are two ways to wait for it to change. Invariant: a gather is forgotten when each of its
//! ranks has taken the result, so names can be used again.

use std::collections::HashMap;
use std::sync::Arc;

use super::Error;
use super::codec::{Malformed, Reader, Writer};

/// What a store holds at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, all services together.
    pub connections: usize,
    /// Keys and gathers.
    pub keys: usize,
    /// Bytes of one value.
    pub value: usize,
    /// Bytes of all values together.
    pub total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1 << 16,
            keys: 1 << 16,
            value: 1 << 20,
            total: 1 << 28,
        }
    }
}

/// Bytes of a key at most.
pub(crate) const KEY_LIMIT: usize = 512;
/// Ranks of one group at most: bounds what one small message can make the server allocate.
pub(crate) const WORLD_LIMIT: usize = 1 << 20;

struct Gather {
    values: Vec<Option<Vec<u8>>>,
    present: usize,
    waiting: Vec<bool>,
    taken: Vec<bool>,
    bytes: usize,
    result: Option<Arc<[u8]>>,
}

/// The state.
pub(crate) struct Table {
    limits: Limits,
    values: HashMap<String, Arc<[u8]>>,
    gathers: HashMap<String, Gather>,
    bytes: usize,
}

impl Table {
    pub(crate) fn new(limits: Limits) -> Table {
        Table {
            limits,
            values: HashMap::new(),
            gathers: HashMap::new(),
            bytes: 0,
        }
    }

    fn admit(&self, key: &str, value: &[u8], is_new: bool) -> Result<(), Error> {
        if key.is_empty() || key.len() > KEY_LIMIT {
            let length = key.len();
            return Err(reject(format!(
                "a key has 1 to {KEY_LIMIT} bytes, this one has {length}"
            )));
        }
        let limits = &self.limits;
        if value.len() > limits.value {
            return Err(reject(format!(
                "the value of '{key}' has {} bytes; the store takes at most {}",
                value.len(),
                limits.value
            )));
        }
        if is_new && self.values.len() + self.gathers.len() >= limits.keys {
            return Err(reject(format!(
                "no room for '{key}': the store holds {} keys already",
                limits.keys
            )));
        }
        if self.bytes + value.len() > limits.total {
            return Err(reject(format!(
                "no room for '{key}': the store holds {} of {} bytes already",
                self.bytes, limits.total
            )));
        }
        Ok(())
    }

    pub(crate) fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.admit(key, value, !self.values.contains_key(key))?;
        self.bytes += value.len();
        if let Some(old) = self.values.insert(key.to_owned(), value.into()) {
            self.bytes -= old.len();
        }
        Ok(())
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<[u8]>> {
        self.values.get(key).cloned()
    }

    /// `rank` comes to the gather with its value. True when it was the last one, so that the others must be woken.
    pub(crate) fn enter(
        &mut self,
        prefix: &str,
        world: usize,
        rank: usize,
        value: &[u8],
    ) -> Result<bool, Error> {
        if rank >= world || world > WORLD_LIMIT {
            return Err(reject(format!(
                "rank {rank} cannot be in a world of {world} ('{prefix}'); at most {WORLD_LIMIT} ranks"
            )));
        }
        self.admit(prefix, value, !self.gathers.contains_key(prefix))?;
        let gather = self
            .gathers
            .entry(prefix.to_owned())
            .or_insert_with(|| Gather {
                values: vec![None; world],
                present: 0,
                waiting: vec![false; world],
                taken: vec![false; world],
                bytes: 0,
                result: None,
            });
        if gather.values.len() != world {
            return Err(reject(format!(
                "rank {rank} comes to '{prefix}' with world size {world}, others with {}",
                gather.values.len()
            )));
        }
        if gather.waiting[rank] || gather.taken[rank] {
            return Err(reject(format!(
                "rank {rank} has come to '{prefix}' already: do two processes claim this rank?"
            )));
        }
        gather.waiting[rank] = true;
        if gather.result.is_some() {
            return Ok(false); // it had given up; the others have finished with the value it left
        }
        self.bytes += value.len();
        gather.bytes += value.len();
        match gather.values[rank].replace(value.to_vec()) {
            Some(old) => {
                self.bytes -= old.len();
                gather.bytes -= old.len();
            }
            None => gather.present += 1,
        }
        if gather.present < world {
            return Ok(false);
        }
        let values: Vec<Vec<u8>> = gather.values.iter_mut().filter_map(Option::take).collect();
        gather.values = vec![None; world];
        gather.result = Some(encode_values(&values).into());
        Ok(true)
    }

    /// The result for `rank`, once everybody has come.
    pub(crate) fn take(&mut self, prefix: &str, rank: usize) -> Option<Arc<[u8]>> {
        let gather = self.gathers.get_mut(prefix)?;
        let result = gather.result.clone()?;
        gather.waiting[rank] = false;
        gather.taken[rank] = true;
        if gather.taken.iter().all(|&taken| taken) {
            self.bytes -= gather.bytes;
            self.gathers.remove(prefix);
        }
        Some(result)
    }

    /// `rank` waits no longer; its value stays, so that others do not call it missing. Returns who never came.
    pub(crate) fn give_up(&mut self, prefix: &str, rank: usize) -> Vec<usize> {
        let Some(gather) = self.gathers.get_mut(prefix) else {
            return Vec::new();
        };
        gather.waiting[rank] = false;
        if gather.result.is_some() {
            return Vec::new();
        }
        let absent = gather.values.iter().enumerate();
        absent
            .filter(|(_, value)| value.is_none())
            .map(|(rank, _)| rank)
            .collect()
    }
}

fn reject(text: String) -> Error {
    Error::Rejected(text)
}

fn encode_values(values: &[Vec<u8>]) -> Vec<u8> {
    Writer::default()
        .list(values, |w, value| w.bytes(value))
        .end()
}

/// The result of a gather as it is kept and sent.
pub(crate) fn decode_values(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut reader = Reader(bytes);
    let values = reader.list(Reader::bytes)?;
    reader.end()?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Table {
        Table::new(Limits {
            connections: 1,
            keys: 2,
            value: 8,
            total: 20,
        })
    }

    #[test]
    fn every_limit_holds_and_says_which() {
        let mut table = small();
        let text = |result: Result<(), Error>| result.unwrap_err().to_string();
        assert!(text(table.set("", b"x")).contains("1 to 512 bytes"));
        assert!(text(table.set("big", &[1; 9])).contains("at most 8"));
        table.set("a", &[1; 8]).unwrap();
        table.set("b", &[2; 8]).unwrap();
        assert!(text(table.set("c", b"x")).contains("holds 2 keys"));
        assert!(text(table.set("a", &[1; 8])).contains("16 of 20 bytes"));
        table.set("a", &[3; 2]).unwrap();
        table.set("b", &[4; 8]).unwrap();
        assert_eq!(table.get("a").as_deref(), Some(&[3u8, 3][..]));
        assert_eq!(table.bytes, 10);
    }

    #[test]
    fn a_gather_is_forgotten_when_all_have_taken_it() {
        let mut table = small();
        for round in 0..5u8 {
            assert!(!table.enter("g", 2, 1, &[round, 1]).unwrap());
            assert!(table.take("g", 1).is_none());
            assert!(table.enter("g", 2, 0, &[round, 0]).unwrap());
            for rank in 0..2 {
                let values = decode_values(&table.take("g", rank).unwrap()).unwrap();
                assert_eq!(values, [[round, 0], [round, 1]]);
            }
            assert_eq!(table.bytes, 0);
        }
    }

    #[test]
    fn one_who_gave_up_is_not_missing_and_may_come_again() {
        let mut table = small();
        table.enter("g", 3, 0, b"a").unwrap();
        assert_eq!(table.give_up("g", 0), [1, 2]);
        table.enter("g", 3, 1, b"b").unwrap();
        assert_eq!(table.give_up("g", 1), [2]);
        table.enter("g", 3, 0, b"A").unwrap();
        assert!(table.enter("g", 3, 2, b"c").unwrap());
        let values = decode_values(&table.take("g", 0).unwrap()).unwrap();
        assert_eq!(values, [b"A", b"b", b"c"]);
        table.enter("g", 3, 1, b"B").unwrap();
        assert!(table.take("g", 1).is_some());
    }

    #[test]
    fn contradictions_are_named() {
        let mut table = small();
        table.enter("g", 3, 0, b"a").unwrap();
        let text = |result: Result<bool, Error>| result.unwrap_err().to_string();
        assert!(text(table.enter("g", 3, 0, b"a")).contains("two processes claim"));
        assert!(text(table.enter("g", 4, 1, b"a")).contains("world size 4, others with 3"));
        assert!(text(table.enter("g", 3, 3, b"a")).contains("rank 3 cannot be in a world of 3"));
    }
}
