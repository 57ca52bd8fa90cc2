//! The script of `Chaos`: what happens to which put, read from a string such as `delay=5ms@3,cut@17,kill@40,stop@9`. It knows no
//! wire. Invariant: what parses holds at most one act per put, numbered from 1.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

/// How long a put is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Until this time has passed.
    Time(Duration),
    /// Until `poll` has been called this often.
    Polls(u64),
}

/// What happens to a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is held back, and later puts to the same peer behind it.
    Delay(Hold),
    /// The connection to its receiver breaks.
    Cut,
    /// This process ends itself with SIGKILL.
    Kill,
    /// This process stops itself with SIGSTOP; once continued, the put goes on.
    Stop,
}

/// Acts by the number of the put, counted from 1 over all peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    acts: BTreeMap<u64, Act>,
}

impl Script {
    /// What happens to the n-th put.
    pub fn act(&self, put: u64) -> Option<Act> {
        self.acts.get(&put).copied()
    }

    /// Whether any put is held back.
    pub fn delays(&self) -> bool {
        self.acts.values().any(|act| matches!(act, Act::Delay(_)))
    }
}

/// Why a script cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chaos script: {entry:?}: {cause}")]
pub struct ScriptError {
    entry: String,
    cause: String,
}

impl FromStr for Script {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Script, ScriptError> {
        let mut acts = BTreeMap::new();
        for entry in text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
        {
            let fail = |cause: String| ScriptError {
                entry: entry.into(),
                cause,
            };
            let (act, put) = parse(entry).map_err(fail)?;
            if acts.insert(put, act).is_some() {
                return Err(fail(format!("put {put} has an act already")));
            }
        }
        Ok(Script { acts })
    }
}

fn parse(entry: &str) -> Result<(Act, u64), String> {
    let Some((act, put)) = entry.split_once('@') else {
        return Err("needs @ and the number of a put, as in cut@17".into());
    };
    let put = match put.parse() {
        Ok(0) | Err(_) => {
            return Err(format!(
                "{put:?} is not the number of a put, counted from 1"
            ));
        }
        Ok(put) => put,
    };
    let act = match act.split_once('=') {
        None => match act {
            "cut" => Act::Cut,
            "kill" => Act::Kill,
            "stop" => Act::Stop,
            "delay" => {
                return Err("delay needs a length, as in delay=5ms@3 or delay=20polls@3".into());
            }
            other => return Err(format!("{other:?} is none of delay, cut, kill and stop")),
        },
        Some(("delay", length)) => Act::Delay(hold(length)?),
        Some((other, _)) => return Err(format!("{other:?} takes no value; only delay does")),
    };
    Ok((act, put))
}

fn hold(length: &str) -> Result<Hold, String> {
    let digits = length
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(length.len());
    let (number, unit) = length.split_at(digits);
    let wrong = || format!("{length:?} is no length; write a whole number and us, ms, s or polls");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let each = match unit {
        "polls" => return Ok(Hold::Polls(number)),
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        _ => return Err(wrong()),
    };
    // A day is far beyond every test, and far below where clocks overflow.
    match number.checked_mul(each) {
        Some(microseconds) if microseconds <= 86_400_000_000 => {
            Ok(Hold::Time(Duration::from_micros(microseconds)))
        }
        _ => Err(format!("{length:?} is longer than a day")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_as_written() {
        let script: Script = "delay=5ms@3, cut@17,kill@40,stop@9,delay=20polls@4"
            .parse()
            .unwrap();
        let five = Hold::Time(Duration::from_millis(5));
        let want = [
            (3, Act::Delay(five)),
            (4, Act::Delay(Hold::Polls(20))),
            (9, Act::Stop),
            (17, Act::Cut),
            (40, Act::Kill),
        ];
        assert_eq!(script.acts.into_iter().collect::<Vec<_>>(), want);
        assert_eq!("".parse(), Ok(Script::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("cut", "@"),
            ("cut@0", "counted from 1"),
            ("cut@-1", "counted from 1"),
            ("delay@3", "delay=5ms@3"),
            ("delay=5@3", "polls"),
            ("delay=ms@3", "polls"),
            ("delay=5min@3", "polls"),
            ("delay=86401s@3", "longer than a day"),
            ("explode@3", "explode"),
            ("kill=9@3", "takes no value"),
            ("cut@3,kill@3", "already"),
        ] {
            let error = text.parse::<Script>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
