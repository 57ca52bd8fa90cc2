//! On which NUMA node a segment's pages lie. The kernel keeps the rule with the file, so one process sets it for all, before the pages are
//! there. It knows nothing of what the pages are for. A kernel without NUMA, or a container that forbids the call, leaves pages where they
//! are touched first: that costs time and no correctness, and is told to the log.

use std::{ffi::c_long, io};

/// Where pages are to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On all nodes that the process may use, in turn: for bandwidth.
    Interleaved,
    /// On this node while it has room: for latency.
    Near(usize),
}

const PAGE: usize = 4096;
/// Modes of `set_mempolicy(2)`.
const PREFERRED: c_long = 1;
const INTERLEAVE: c_long = 3;
/// `get_mempolicy`: the nodes that the process may use.
const ALLOWED: c_long = 4;
/// Nodes that a mask here has room for, as many as any kernel has.
const NODES: usize = 1024;
const WORD: usize = c_long::BITS as usize;

type Mask = [c_long; NODES / WORD];

/// The nodes with CPUs: others are a GPU's own memory, or far away. All of them where the system does not tell.
fn with_cpus() -> Mask {
    let mut mask: Mask = [0; NODES / WORD];
    let text = std::fs::read_to_string("/sys/devices/system/node/has_cpu").unwrap_or_default();
    for range in text.trim().split(',').filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
            return [-1; NODES / WORD];
        };
        for node in first..=last.min(NODES - 1) {
            mask[node / WORD] |= 1 << (node % WORD);
        }
    }
    if mask == [0; NODES / WORD] {
        [-1; NODES / WORD]
    } else {
        mask
    }
}

/// The nodes that the process may use, among those with CPUs.
fn allowed() -> io::Result<Mask> {
    let mut mask: Mask = [0; NODES / WORD];
    // SAFETY: the kernel writes the mask, of the size that it is told.
    let asked = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            std::ptr::null_mut::<c_long>(),
            mask.as_mut_ptr(),
            NODES,
            0,
            ALLOWED,
        )
    };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    for (word, cpus) in mask.iter_mut().zip(with_cpus()) {
        *word &= cpus;
    }
    Ok(mask)
}

/// Sets the rule for the whole pages of a mapped range.
///
/// # Safety
/// The range is mapped and belongs to the caller.
pub(super) unsafe fn place(at: *mut u8, bytes: usize, placement: Placement) -> io::Result<()> {
    let first = (at as usize).next_multiple_of(PAGE);
    let end = (at as usize + bytes) / PAGE * PAGE;
    if first >= end {
        return Ok(());
    }
    let (mode, mask) = match placement {
        Placement::Interleaved => (INTERLEAVE, allowed()?),
        Placement::Near(node) if node < NODES => {
            let mut mask: Mask = [0; NODES / WORD];
            mask[node / WORD] = 1 << (node % WORD);
            (PREFERRED, mask)
        }
        Placement::Near(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    // SAFETY: changes where pages come from and not what is in them; the kernel reads the mask, of the size that it is told. It wants one
    // more bit named than the mask has.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            first,
            end - first,
            mode,
            mask.as_ptr(),
            NODES + 1,
            0,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::Segment;

    /// The mode of the rule for an address.
    fn mode(at: *mut u8) -> io::Result<i32> {
        const OF_ADDRESS: c_long = 2;
        let mut mode = -1;
        // SAFETY: the kernel writes one number.
        let asked = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut mode,
                std::ptr::null_mut::<c_long>(),
                0,
                at,
                OF_ADDRESS,
            )
        };
        if asked == 0 {
            Ok(mode)
        } else {
            Err(io::Error::last_os_error())
        }
    }

    #[test]
    fn pages_follow_the_rule_and_those_beside_them_do_not() {
        let segment = Segment::create("numa", 16 * PAGE).expect("a segment");
        let at = |page: usize| segment.at(page * PAGE, 1);
        let Ok(before) = mode(at(0)) else {
            eprintln!("no NUMA here: the kernel does not know get_mempolicy");
            return;
        };
        // Whole pages only: the second half of page 1, and a byte of page 5.
        let range = PAGE + PAGE / 2..5 * PAGE + 1;
        let placed = segment.place(range.start, range.len(), Placement::Interleaved);
        if !placed {
            eprintln!("no NUMA here: mbind is refused");
            return;
        }
        assert!(segment.place(8 * PAGE, PAGE, Placement::Near(0)));
        let modes: Vec<i32> = (0..10)
            .map(|p| mode(at(p)).expect("asked before"))
            .collect();
        let (i, p) = (INTERLEAVE as i32, PREFERRED as i32);
        assert_eq!(
            modes,
            [before, before, i, i, i, before, before, before, p, before]
        );
        assert!(!segment.place(0, PAGE, Placement::Near(NODES)));
    }
}
