//! The one error of this module. It says what went wrong and what a person can do about it; it knows no rank and no plan.

use std::fmt::Display;

/// Why shared memory, a file descriptor or a doorbell could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}{}{remedy}", if remedy.is_empty() { "" } else { "; " })]
pub struct Error {
    /// What went wrong, a lower-case sentence.
    pub cause: String,
    /// What a person can do about it; empty where nothing but reading the cause helps.
    pub remedy: String,
}

impl Error {
    pub(crate) fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error {
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }

    /// An error of a system call: what was tried, and the kernel's word for it.
    pub(crate) fn call(what: impl Display, errno: rustix::io::Errno) -> Error {
        Error::new(format!("{what} failed: {errno}"), "")
    }
}
