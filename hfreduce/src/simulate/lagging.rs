//! A device whose copies end late, each direction in its own order. The bytes move when the end is told and not before, and the target is
//! scribbled over until then: whoever does not wait, reads what must not be read. It knows nothing of plans and calls.

use super::Random;
use crate::{device::Device, error::Error};
use std::{collections::VecDeque, time::Duration};

struct Copy {
    from: *const u8,
    to: *mut u8,
    bytes: usize,
    ticket: u64,
}

// SAFETY: plain addresses; the caller of `copy_in` and `copy_out` promises the memory.
unsafe impl Send for Copy {}

/// The device of one rank.
pub(super) struct Lagging {
    random: Random,
    ways: [VecDeque<Copy>; 2],
}

impl Lagging {
    pub(super) fn new(seed: u64) -> Lagging {
        Lagging {
            random: Random(seed),
            ways: [VecDeque::new(), VecDeque::new()],
        }
    }

    fn begin(&mut self, way: usize, copy: Copy) {
        // SAFETY: the target is the copy's until its ticket is told.
        unsafe { copy.to.write_bytes(0xa5, copy.bytes) };
        self.ways[way].push_back(copy);
    }
}

impl Device for Lagging {
    unsafe fn copy_in(
        &mut self,
        device: *const u8,
        host: *mut u8,
        bytes: usize,
        ticket: u64,
    ) -> Result<(), Error> {
        let copy = Copy {
            from: device,
            to: host,
            bytes,
            ticket,
        };
        self.begin(0, copy);
        Ok(())
    }

    unsafe fn copy_out(
        &mut self,
        host: *const u8,
        device: *mut u8,
        bytes: usize,
        ticket: u64,
    ) -> Result<(), Error> {
        let copy = Copy {
            from: host,
            to: device,
            bytes,
            ticket,
        };
        self.begin(1, copy);
        Ok(())
    }

    fn poll(&mut self, ended: &mut Vec<u64>) -> Result<(), Error> {
        for way in 0..2 {
            let many = self.random.below(3);
            for _ in 0..many {
                let Some(copy) = self.ways[way].pop_front() else {
                    break;
                };
                // SAFETY: both sides are promised until the ticket is told, which is now.
                unsafe { copy.from.copy_to_nonoverlapping(copy.to, copy.bytes) };
                ended.push(copy.ticket);
            }
        }
        Ok(())
    }

    fn busy(&self) -> bool {
        self.ways.iter().any(|way| !way.is_empty())
    }

    fn cover(&mut self, _: *mut u8, _: usize) -> Result<(), Error> {
        Ok(())
    }

    fn drain(&mut self, _: Duration) -> bool {
        true
    }
}
