//! What the environment says, read once at `cuInit`. A value that cannot be read is a misuse: a test whose setting is ignored would prove nothing.

use crate::misuse::misuse;
use std::{path::PathBuf, str::FromStr};

/// A fault that is asked for, and at which occurrence, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// That asynchronous copy breaks its context.
    Copy(u64),
    /// That asynchronous copy never ends.
    Hang(u64),
    /// That host registration is refused.
    Register(u64),
}

/// All settings; the crate's documentation says what they mean.
pub struct Settings {
    pub devices: i32,
    pub delay_us: u64,
    pub seed: u64,
    pub bytes_per_second: Option<f64>,
    pub memops: bool,
    pub contexts: bool,
    pub fault: Option<Fault>,
    pub report: Option<PathBuf>,
}

fn number<T: FromStr>(name: &str, otherwise: T) -> T {
    match std::env::var(name) {
        Err(_) => otherwise,
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| misuse(format!("{name}={text} is not a number that it can be"))),
    }
}

fn fault(text: &str) -> Option<Fault> {
    let (what, at) = text.split_once(':')?;
    let at = at.parse().ok().filter(|n| *n > 0)?;
    match what {
        "copy" => Some(Fault::Copy(at)),
        "hang" => Some(Fault::Hang(at)),
        "register" => Some(Fault::Register(at)),
        _ => None,
    }
}

impl Settings {
    /// Reads the environment.
    pub fn read() -> Self {
        let rate: f64 = number("STANDIN_GBPS", 0.0);
        Self {
            devices: number("STANDIN_DEVICES", 1),
            delay_us: number("STANDIN_DELAY_US", 50),
            seed: number("STANDIN_SEED", 1),
            bytes_per_second: (rate > 0.0).then_some(rate * 1e9),
            memops: number("STANDIN_NO_MEMOPS", 0) == 0,
            contexts: number("STANDIN_CONTEXTS", 1) != 0,
            fault: std::env::var("STANDIN_FAIL").ok().map(|text| {
                fault(&text).unwrap_or_else(|| {
                    misuse(format!(
                        "STANDIN_FAIL={text} is not copy:N, hang:N or register:N"
                    ))
                })
            }),
            report: std::env::var("STANDIN_REPORT")
                .ok()
                .map(|path| path.replace("%p", &std::process::id().to_string()).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_or_refused() {
        assert_eq!(fault("copy:3"), Some(Fault::Copy(3)));
        assert_eq!(fault("hang:1"), Some(Fault::Hang(1)));
        assert_eq!(fault("register:20"), Some(Fault::Register(20)));
        for wrong in ["", "copy", "copy:", "copy:0", "copy:x", "swap:1"] {
            assert_eq!(fault(wrong), None, "{wrong}");
        }
    }
}
