//! The texts of errors, with the names that a program written for NCCL knows. Knows no call. Invariant: a text says the same as the package `c` has
//! it; only names of functions, types and constants are changed, never those of environment variables.

use interface::forward::{Handle, hfrGetErrorString, last_text, show};
use std::ffi::{c_char, c_int};

/// Constants of `hfreduce.h` that texts name.
const CONSTANTS: [(&str, &str); 2] = [
    ("HFR_SPLIT_NOCOLOR", "NCCL_SPLIT_NOCOLOR"),
    ("HFR_CONFIG_INITIALIZER", "NCCL_CONFIG_INITIALIZER"),
];

/// A text with NCCL's names in the place of `hfreduce.h`'s.
fn with_their_names(text: &str) -> String {
    let mut changed = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find("hfr") {
        let behind = &rest[at + 3..];
        let begins = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        changed += &rest[..at];
        changed += if begins && behind.starts_with(|c: char| c.is_ascii_uppercase()) {
            "nccl"
        } else {
            "hfr"
        };
        rest = behind;
    }
    changed += rest;
    for (ours, theirs) in CONSTANTS {
        changed = changed.replace(ours, theirs);
    }
    changed
}

/// The text of the last failure of a communicator, or of this thread.
///
/// # Safety
/// None needed: `comm` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetLastError(comm: Handle) -> *const c_char {
    show(&with_their_names(&last_text(comm)))
}

/// What a result means.
///
/// # Safety
/// None needed: `result` may be any number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetErrorString(result: c_int) -> *const c_char {
    // SAFETY: it takes any number.
    unsafe { hfrGetErrorString(result) }
}

#[cfg(test)]
mod tests {
    use super::with_their_names;

    #[test]
    fn names_are_nccls_and_all_else_stays() {
        for (text, expected) in [
            (
                "rank 1: hfrAllReduce: sendbuff is NULL",
                "rank 1: ncclAllReduce: sendbuff is NULL",
            ),
            (
                "use one of 0 to 11, hfrNumOps",
                "use one of 0 to 11, ncclNumOps",
            ),
            (
                "set HFR_TIMEOUT, or hfr plan show",
                "set HFR_TIMEOUT, or hfr plan show",
            ),
            (
                "use 0 or more, or HFR_SPLIT_NOCOLOR",
                "use 0 or more, or NCCL_SPLIT_NOCOLOR",
            ),
            ("the file xhfrA", "the file xhfrA"),
            ("hfr", "hfr"),
        ] {
            assert_eq!(with_their_names(text), expected);
        }
    }
}
