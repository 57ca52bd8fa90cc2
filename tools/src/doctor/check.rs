//! What one check has found: healthy, to be looked at, or broken, in words and in figures. It knows no machine. Invariant: what is not healthy
//! says what to do about it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Costs something, or may be meant so.
    Warn,
    /// Jobs will be slow, wrong or impossible.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at, one word.
    pub check: String,
    /// Which device, rank or limit; may be empty.
    pub subject: String,
    /// How bad it is.
    pub outcome: Outcome,
    /// What was seen.
    pub finding: String,
    /// What to do; empty where nothing is wrong.
    pub remedy: String,
    /// The same in numbers; a name ends in its unit.
    pub figures: BTreeMap<String, f64>,
}

impl Check {
    fn new(outcome: Outcome, what: (&str, &str), finding: String, remedy: String) -> Check {
        Check {
            check: what.0.to_owned(),
            subject: what.1.to_owned(),
            outcome,
            finding,
            remedy,
            figures: BTreeMap::new(),
        }
    }

    /// All is well with `what`: the check and its subject.
    pub fn ok(what: (&str, &str), finding: impl Into<String>) -> Check {
        Check::new(Outcome::Ok, what, finding.into(), String::new())
    }

    /// Something to look at.
    pub fn warn(
        what: (&str, &str),
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Check {
        Check::new(Outcome::Warn, what, finding.into(), remedy.into())
    }

    /// Something is broken.
    pub fn fail(
        what: (&str, &str),
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Check {
        Check::new(Outcome::Fail, what, finding.into(), remedy.into())
    }

    /// With a number, whose name ends in its unit.
    pub fn figure(mut self, name: &str, value: f64) -> Check {
        self.figures.insert(name.to_owned(), value);
        self
    }
}

/// Bytes for a person, 1024-based.
pub fn bytes(count: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(each, _)| count >= *each) {
        Some((each, name)) if count.is_multiple_of(each) => format!("{} {name}", count / each),
        Some((each, name)) => format!("{:.1} {name}", count as f64 / each as f64),
        None => format!("{count} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Check, Outcome, bytes};

    #[test]
    fn outcomes_are_ordered_by_how_bad_they_are() {
        assert!(Outcome::Ok < Outcome::Warn && Outcome::Warn < Outcome::Fail);
    }

    #[test]
    fn a_check_survives_its_way_to_rank_0() {
        let check = Check::fail(("pcie", "nic"), "x8 of x16", "reseat it").figure("lanes", 8.0);
        let text = serde_json::to_string(&check).expect("text");
        assert!(text.contains(r#""outcome":"fail""#), "{text}");
        assert_eq!(
            serde_json::from_str::<Check>(&text).expect("a check"),
            check
        );
    }

    #[test]
    fn sizes_are_said_as_people_say_them() {
        let said = [64 << 10, 64 << 20, 3 << 30, (3 << 30) + (1 << 29), 100].map(bytes);
        assert_eq!(said, ["64 KiB", "64 MiB", "3 GiB", "3.5 GiB", "100 bytes"]);
    }
}
