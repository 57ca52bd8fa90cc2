//! How a misuse ends: a line on stderr that says which call did what, and the process dies, so that no test can overlook it.
//! It knows no rule itself: who finds one broken calls it.

use crate::export::current_call;
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::Display,
    io::Write,
};

/// Says what was done wrong, in which call, and where where `RUST_BACKTRACE` asks for it; and ends the process.
pub fn misuse(what: impl Display) -> ! {
    let line = format!("stand-in cuda: misuse: {what} ({})\n", current_call());
    // One write, so that lines of several processes do not mix. Nothing can be done if stderr is closed.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        eprintln!("{trace}");
    }
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call reads one local struct. Tests end this way on purpose, and are to leave no core file behind.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
    std::process::abort();
}

/// A range of addresses as messages show it.
pub fn range(start: usize, len: usize) -> String {
    format!("{start:#x}..{:#x} ({len} bytes)", start.wrapping_add(len))
}
