//! Registered memory: the parts of the segment that a device may read and write. The segment is far larger than what is used of it, so it
//! is registered block by block, when a put first touches a block. It knows ranges and keys, no peer. Invariants: a block that
//! peers may write lies wholly inside the writable part; what is registered stays so until the wire ends, and so do its pages: the
//! owner of the segment must not give pages back that puts have touched (slots never are).

use super::device::Device;
use super::sys::{self, ibv_access_flags, ibv_mr};
use crate::shm::Segment;
use std::ops::Range;
use std::sync::Arc;

/// One registered block.
struct Block {
    range: Range<usize>,
    mr: *mut ibv_mr,
}

/// A block as peers need to know it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Key {
    /// Offsets in the segment.
    pub range: Range<usize>,
    /// The owner's address of its first byte.
    pub address: u64,
    pub rkey: u32,
}

/// All blocks of one wire.
pub(super) struct Memory {
    segment: Arc<Segment>,
    writable: Range<usize>,
    /// Length of a block in bytes.
    block: usize,
    /// By offset.
    blocks: Vec<Block>,
}

impl Memory {
    pub fn new(segment: Arc<Segment>, writable: Range<usize>, block: usize) -> Memory {
        Memory {
            segment,
            writable,
            block,
            blocks: Vec::new(),
        }
    }

    /// Bytes registered so far.
    pub fn registered(&self) -> usize {
        self.blocks.iter().map(|block| block.range.len()).sum()
    }

    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The block around an offset: blocks count from the edges of the writable part, so that none lies across one.
    fn around(&self, offset: usize) -> Range<usize> {
        let zones = [
            0..self.writable.start,
            self.writable.clone(),
            self.writable.end..self.segment.len(),
        ];
        let zone = zones.into_iter().find(|zone| zone.contains(&offset));
        let zone = zone.expect("callers have checked that the offset lies in the segment");
        let start = zone.start + (offset - zone.start) / self.block * self.block;
        start..zone.end.min(start + self.block)
    }

    /// The local key for the bytes from `offset` on, and where its block ends.
    pub fn local(&mut self, device: &Device, offset: usize) -> Result<(u32, usize), String> {
        let block = self.block_of(device, offset)?;
        // SAFETY: registered until dropped.
        Ok((unsafe { (*block.mr).lkey }, block.range.end))
    }

    /// What a peer needs to know to write from `offset` on.
    pub fn remote(&mut self, device: &Device, offset: usize) -> Result<Key, String> {
        if !self.writable.contains(&offset) {
            let writable = &self.writable;
            return Err(format!(
                "it wants to write at offset {offset}, outside the bytes {writable:?} that peers may write"
            ));
        }
        let block = self.block_of(device, offset)?;
        // SAFETY: registered until dropped.
        let (address, rkey) = unsafe { ((*block.mr).addr as u64, (*block.mr).rkey) };
        Ok(Key {
            range: block.range.clone(),
            address,
            rkey,
        })
    }

    fn block_of(&mut self, device: &Device, offset: usize) -> Result<&Block, String> {
        let at = self
            .blocks
            .partition_point(|block| block.range.end <= offset);
        let known = self
            .blocks
            .get(at)
            .is_some_and(|block| block.range.contains(&offset));
        if !known {
            let block = self.register(device, self.around(offset))?;
            self.blocks.insert(at, block);
        }
        Ok(&self.blocks[at])
    }

    fn register(&self, device: &Device, range: Range<usize>) -> Result<Block, String> {
        let mut access = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE;
        if self.writable.contains(&range.start) {
            access = access
                | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE
                | ibv_access_flags::IBV_ACCESS_RELAXED_ORDERING;
        }
        let at = self.segment.at(range.start, range.len());
        // SAFETY: the range is mapped as long as the segment lives, of which we hold a share. RELAXED_ORDERING is one of the flags that a
        // device which does not have them ignores; completions are ordered behind data with it, too, and we look at nothing else.
        let mr = unsafe {
            sys::ibv_reg_mr_iova2(device.pd(), at.cast(), range.len(), at as u64, access.0)
        };
        if mr.is_null() {
            return Err(self.refused(&std::io::Error::last_os_error(), &device.name, range.len()));
        }
        Ok(Block { range, mr })
    }

    fn refused(&self, why: &std::io::Error, device: &str, bytes: usize) -> String {
        let needed = self.registered() + bytes;
        let cause = format!("{device} cannot register {bytes} bytes of memory: {why}");
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        match (why.raw_os_error(), limit) {
            (Some(libc::ENOMEM | libc::EPERM | libc::EAGAIN), Some(limit)) => format!(
                "{cause}; this process may lock {limit} bytes and needs {needed} so far: {}",
                super::locked::REMEDY
            ),
            _ => format!("{cause}; {needed} bytes are needed so far"),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for block in &self.blocks {
            // SAFETY: registered in `register`, once; the pairs that used it are gone, the wire drops them first.
            unsafe { sys::ibv_dereg_mr(block.mr) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_block_lies_across_an_edge_of_what_peers_may_write() {
        let memory = Memory::new(Arc::new(Segment::heap(100_000)), 5_000..70_000, 16_384);
        for offset in [0, 4_999, 5_000, 21_383, 21_384, 69_999, 70_000, 99_999] {
            let block = memory.around(offset);
            assert!(
                block.contains(&offset) && block.len() <= 16_384,
                "{offset}: {block:?}"
            );
            let inside = memory.writable.contains(&block.start);
            assert_eq!(
                inside,
                memory.writable.contains(&(block.end - 1)),
                "{offset}: {block:?}"
            );
        }
        assert_eq!(memory.around(21_384), 21_384..37_768);
        assert_eq!(memory.around(69_999), 54_152..70_000);
    }
}
