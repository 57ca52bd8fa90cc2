//! The report: lines for people, or one JSON document for programs, and the exit code. It knows checks and no machine. Invariant: the exit code
//! follows from the checks alone, so that text and JSON never differ.

use super::{
    check::{Check, Outcome},
    host::Host,
    outliers::Pair,
};
use serde::Serialize;

/// Everything that was found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// How the job's nodes talk to each other; empty without a job.
    pub transport: String,
    /// Ranks of the job.
    pub ranks: usize,
    /// Nodes of the job.
    pub nodes: usize,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// What was found about the job as a whole.
    pub job: Vec<Check>,
    /// Figures of pairs of ranks.
    pub pairs: Vec<Pair>,
}

impl Report {
    fn checks(&self) -> impl Iterator<Item = &Check> {
        self.hosts
            .iter()
            .flat_map(|host| &host.checks)
            .chain(&self.job)
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.checks()
            .filter(|check| check.outcome == outcome)
            .count()
    }

    /// 0 for healthy, 2 for a failure, and 1 for warnings where these count.
    pub fn exit_code(&self, strict: bool) -> i32 {
        match (self.count(Outcome::Fail), self.count(Outcome::Warn)) {
            (0, 0) => 0,
            (0, _) => i32::from(strict),
            _ => 2,
        }
    }

    fn verdict(&self) -> &'static str {
        match self.exit_code(true) {
            0 => "healthy",
            1 => "warnings",
            _ => "failed",
        }
    }

    /// One JSON document.
    pub fn json(&self, strict: bool) -> serde_json::Value {
        let mut all = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "verdict": self.verdict(),
            "exit_code": self.exit_code(strict),
            "failures": self.count(Outcome::Fail),
            "warnings": self.count(Outcome::Warn),
        });
        if let (Some(all), Ok(serde_json::Value::Object(own))) =
            (all.as_object_mut(), serde_json::to_value(self))
        {
            all.extend(own);
        }
        all
    }

    /// A line per check, and the verdict at the end.
    pub fn text(&self) -> String {
        let mut text = format!("# hfr doctor {}", env!("CARGO_PKG_VERSION"));
        if self.ranks > 0 {
            text += &format!(
                ", {} ranks on {} nodes, transport {}",
                self.ranks, self.nodes, self.transport
            );
        }
        text.push('\n');
        for host in &self.hosts {
            let ranks: Vec<String> = host.ranks.iter().map(usize::to_string).collect();
            let ranks = if ranks.is_empty() {
                String::new()
            } else {
                format!(" (ranks {})", ranks.join(" "))
            };
            text += &format!("# host {}{ranks}\n", host.name);
            host.checks.iter().for_each(|check| text += &line(check));
        }
        if !self.job.is_empty() {
            text += "# job\n";
            self.job.iter().for_each(|check| text += &line(check));
        }
        let (failures, warnings) = (self.count(Outcome::Fail), self.count(Outcome::Warn));
        text + &format!(
            "# {}: {failures} failures, {warnings} warnings\n",
            self.verdict()
        )
    }
}

/// A check for people.
pub fn line(check: &Check) -> String {
    let outcome = match check.outcome {
        Outcome::Ok => "ok  ",
        Outcome::Warn => "warn",
        Outcome::Fail => "FAIL",
    };
    let subject = if check.subject.is_empty() {
        String::new()
    } else {
        format!(" {}", check.subject)
    };
    let remedy = if check.remedy.is_empty() {
        String::new()
    } else {
        format!(" -> {}", check.remedy)
    };
    format!(
        "{outcome} {}{subject}: {}{remedy}\n",
        check.check, check.finding
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(job: Vec<Check>) -> Report {
        Report {
            job,
            ranks: 4,
            nodes: 2,
            transport: "tcp".to_owned(),
            ..Report::default()
        }
    }

    #[test]
    fn the_exit_code_follows_from_the_worst() {
        let (ok, warn) = (
            Check::ok(("a", ""), "well"),
            Check::warn(("b", "x"), "odd", "look"),
        );
        let fail = Check::fail(("c", ""), "broken", "mend it");
        for (checks, lenient, strict, verdict) in [
            (vec![], 0, 0, "healthy"),
            (vec![ok.clone()], 0, 0, "healthy"),
            (vec![ok.clone(), warn.clone()], 0, 1, "warnings"),
            (vec![fail.clone(), ok, warn], 2, 2, "failed"),
        ] {
            let report = report(checks);
            assert_eq!(
                (report.exit_code(false), report.exit_code(true)),
                (lenient, strict)
            );
            assert_eq!(report.json(true)["verdict"], verdict);
            assert_eq!(report.json(true)["exit_code"], strict);
            assert!(report.text().contains(&format!("# {verdict}: ")));
        }
    }

    #[test]
    fn a_line_has_what_was_seen_and_what_to_do() {
        let text = report(vec![
            Check::fail(("port", "mlx5_0/1"), "DOWN", "look at the cable")
                .figure("rate_gbit_s", 0.0),
        ]);
        assert!(
            text.text()
                .contains("\nFAIL port mlx5_0/1: DOWN -> look at the cable\n"),
            "{}",
            text.text()
        );
        assert_eq!(text.json(false)["job"][0]["figures"]["rate_gbit_s"], 0.0);
        assert_eq!(text.json(false)["job"][0]["outcome"], "fail");
    }
}
