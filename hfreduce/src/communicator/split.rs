//! Groups made out of a group: a communicator of the ranks with one color, over the store that is there.

use super::{Communicator, connect};
use crate::{config::Config, error::Error};
use std::{sync::PoisonError, time::Duration};

/// Ranks that have just called something together make a group within this time.
pub const JOIN: Duration = Duration::from_secs(30);

impl Communicator {
    /// Makes a communicator of the ranks with the same `color`, ordered by `key` and then by rank here; `None` for no part in any. All ranks call it.
    ///
    /// # Errors
    /// As [`Communicator::connect`]; a failure of this group.
    pub fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Communicator>, Error> {
        self.split_with(color, key, |_| ())
    }

    /// As [`Communicator::split`], with settings that `change` makes other than this group's. Ranks of one color change them alike; what
    /// says which ranks they are and where they meet is not theirs to change.
    ///
    /// # Errors
    /// As [`Communicator::split`]; settings that differ.
    pub fn split_with(
        &self,
        color: Option<u32>,
        key: i64,
        change: impl FnOnce(&mut Config),
    ) -> Result<Option<Communicator>, Error> {
        let number = {
            let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
            *splits += 1;
            *splits
        };
        let word = color.map_or(-1, i64::from);
        let mut all = vec![0i64; 2 * self.size()];
        self.all_gather(&[word, key], &mut all)?;
        if color.is_none() {
            return Ok(None);
        }
        let mut members: Vec<usize> = (0..self.size()).filter(|r| all[2 * r] == word).collect();
        members.sort_by_key(|r| (all[2 * r + 1], *r));
        let mut config = self.config.clone();
        change(&mut config);
        config.rank = members.iter().position(|r| *r == self.rank()).unwrap_or(0);
        config.world = members.len();
        // All ranks are here: whoever does not come now has failed.
        config.connect_timeout = config.connect_timeout.min(JOIN);
        if config.world == 1 {
            return Communicator::connect(&config).map(Some);
        }
        let group = self.group.as_ref().expect("a group of several ranks");
        let (store, name) = (
            group.store.clone(),
            format!("{}/{number}.{word}", group.name),
        );
        let parts = connect::join(&config, store, &name)?;
        let mut comm = Communicator::of(parts, config);
        comm.meeting = self.meeting.clone();
        Ok(Some(comm))
    }
}
