//! What a stream can be asked to do: one operation with what it waits for and which memory it uses. It carries nothing out (`worker` and `carry` do)
//! and knows no table but by handles.

use crate::{event::Mark, stream::Point};
use std::{ffi::c_void, sync::Arc};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    DeviceToHost,
    HostToDevice,
    DeviceToDevice,
    HostToHost,
}

/// One side of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Device memory, by its device address.
    Device(usize),
    /// Pinned host memory.
    Pinned(usize),
    /// Any other host memory.
    Pageable(usize),
}

impl Side {
    /// The address that the caller gave.
    pub fn address(self) -> usize {
        match self {
            Self::Device(at) | Self::Pinned(at) | Self::Pageable(at) => at,
        }
    }

    pub fn is_device(self) -> bool {
        matches!(self, Self::Device(_))
    }
}

/// What the settings ask to go wrong with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    Break,
    Hang,
}

/// Bytes from one place to another.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    pub to: Side,
    pub from: Side,
    pub len: usize,
    pub way: Way,
    /// The destination's old bytes are still to be made unreadable when the copy could begin.
    pub spoil: bool,
    pub trouble: Trouble,
}

/// How a stream compares a word with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    AtLeast,
    Equal,
    And,
    Nor,
}

/// A function of the caller's, with its argument. The caller promises that any thread may call it.
pub struct HostFunction {
    pub function: extern "C" fn(*mut c_void),
    pub argument: usize,
}

/// What an operation does when its turn has come.
pub enum Act {
    /// It was there for what it waited for.
    Pass,
    Record(Arc<Mark>),
    Copy(Copy),
    /// Fills device memory with a pattern of 1 or 4 bytes.
    Fill {
        to: usize,
        pattern: [u8; 4],
        len: usize,
    },
    WaitValue {
        at: usize,
        value: u64,
        test: Test,
        wide: bool,
    },
    WriteValue {
        at: usize,
        value: u64,
        wide: bool,
    },
    Call(HostFunction),
    /// Frees device memory.
    Free(usize),
}

/// A range of addresses that an operation uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    pub start: usize,
    pub len: usize,
}

impl Touch {
    pub fn meets(self, start: usize, len: usize) -> bool {
        self.start < start + len && start < self.start + self.len
    }
}

impl Act {
    /// The memory that it uses; for `Free` none, since it is what others must not use any more.
    pub fn touches(&self) -> Vec<Touch> {
        let word = |wide: bool| if wide { 8 } else { 4 };
        match *self {
            Self::Pass | Self::Record(_) | Self::Call(_) | Self::Free(_) => Vec::new(),
            Self::Copy(copy) => [copy.to, copy.from]
                .iter()
                .map(|side| Touch {
                    start: side.address(),
                    len: copy.len,
                })
                .collect(),
            Self::Fill { to, len, .. } => vec![Touch { start: to, len }],
            Self::WaitValue { at, wide, .. } | Self::WriteValue { at, wide, .. } => vec![Touch {
                start: at,
                len: word(wide),
            }],
        }
    }

    /// Whether the host has a say in when it ends.
    pub fn waits_for_the_host(&self) -> bool {
        matches!(self, Self::WaitValue { .. } | Self::Call(_))
    }
}

/// An act in a stream's queue.
pub struct Operation {
    pub act: Act,
    /// The call that asked for it.
    pub call: &'static str,
    /// What must have ended, in other streams.
    pub after: Vec<Point>,
}
