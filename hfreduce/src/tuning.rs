//! The file that `hfr tune` writes: a model of the machine, fitted to what was measured there, and what it was measured for. It measures and chooses
//! nothing. Invariant: figures that come from here are finite and above zero, and pieces are so large that their choice ends.

use crate::{
    error::{Error, Kind},
    plan::{Model, Shape},
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The form of the file that this build reads and writes.
const FORMAT: u64 = 1;

/// Pieces that a file may name.
const PIECES: std::ops::RangeInclusive<usize> = 64..=64 << 20;

const REMEDY: &str = "write it anew with `hfr tune -o FILE`, or unset HFR_TUNING";

/// Where the figures come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Tuning {
    /// A file, read when the group starts, on rank 0 alone.
    File(PathBuf),
    /// What such a file holds.
    Measured(Measured),
}

impl Tuning {
    /// The figures.
    ///
    /// # Errors
    /// A file that cannot be read, or is of another form; figures that make no sense.
    pub fn load(&self) -> Result<Measured, Error> {
        match self {
            Tuning::File(path) => Measured::read(path),
            Tuning::Measured(measured) => match measured.flaw() {
                None => Ok(measured.clone()),
                Some(flaw) => Err(Error::new(
                    Kind::Start,
                    format!("the tuning that the program gives: {flaw}"),
                    "give what `hfr tune` wrote, or none",
                )),
            },
        }
    }
}

/// A model with what it was measured for, when and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The file's form.
    format: u64,
    /// Version of the library that measured.
    pub version: String,
    /// When, in seconds since 1970.
    pub measured: u64,
    /// On how many nodes.
    pub nodes: usize,
    /// On how many ranks in all.
    pub ranks: usize,
    /// How these reached each other, as [`Communicator::transport`](crate::Communicator::transport) says it.
    pub wire: String,
    /// Whether ranks shared cores: then `wake` was measured, otherwise `hand_over`, and the other has its usual value.
    pub share_cores: bool,
    /// The figures. A group counts its own cores.
    pub model: Model,
}

impl Measured {
    /// A model that was measured, at `measured` seconds since 1970, by a group of this shape over `wire`.
    pub fn new(model: Model, shape: &Shape, wire: &str, measured: u64) -> Measured {
        Measured {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            measured,
            nodes: shape.nodes(),
            ranks: shape.ranks(),
            wire: wire.to_owned(),
            share_cores: model.shares_cores(shape),
            model,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`Tuning::load`].
    pub fn read(path: &Path) -> Result<Measured, Error> {
        let wrong = |cause: String| {
            let cause = format!("HFR_TUNING={}: {cause}", path.display());
            Error::new(Kind::Start, cause, REMEDY)
        };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let whole: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        // Before all else: another form has other fields.
        match whole.get("format").map(serde_json::Value::as_u64) {
            Some(Some(FORMAT)) => {}
            Some(Some(other)) => {
                return Err(wrong(format!(
                    "its format is {other}, and this build reads format {FORMAT}"
                )));
            }
            _ => return Err(wrong("it does not say its format".to_owned())),
        }
        let measured: Measured = serde_json::from_value(whole).map_err(|e| wrong(e.to_string()))?;
        measured
            .flaw()
            .map_or(Ok(measured), |flaw| Err(wrong(flaw)))
    }

    /// Writes a file that [`Measured::read`] reads.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        std::fs::write(path, text + "\n")
    }

    /// The figures for a group with `cores` cores per node over `wire`.
    ///
    /// # Errors
    /// Why they are not for such a group.
    pub fn model(&self, cores: usize, wire: &str, gpus: bool) -> Result<Model, String> {
        if gpus {
            return Err(
                "it was measured with buffers on the host, and this group has some on GPUs"
                    .to_owned(),
            );
        }
        // A group on one node has no wire, and what the others cost does not come up.
        if wire != "none" && wire != self.wire {
            return Err(format!(
                "it was measured for the wire `{}`, and this group goes over `{wire}`",
                self.wire
            ));
        }
        Ok(Model {
            cores: cores.max(1),
            ..self.model
        })
    }

    /// What makes no sense.
    fn flaw(&self) -> Option<String> {
        let m = &self.model;
        let figures = [
            ("step", m.step),
            ("hand_over", m.hand_over),
            ("wake", m.wake),
            ("send", m.send),
            ("hop", m.hop),
            ("byte", m.byte),
            ("cross", m.cross),
            ("wire", m.wire),
        ];
        let bad = figures.iter().find(|(_, f)| !(f.is_finite() && *f > 0.0));
        if let Some((name, figure)) = bad {
            return Some(format!("{name} is {figure}, and no time above zero"));
        }
        let (least, most) = m.piece;
        let good = |piece: usize| PIECES.contains(&piece);
        (!good(least) || !good(most) || least > most).then(|| {
            format!("pieces go from {least} to {most} bytes, and should go from a smaller to a larger, within 64 and 64M")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let model = Model {
            step: 1.25e-6,
            wire: 2.5e-10,
            ..Model::usual(2, "tcp", false)
        };
        Measured::new(model, &Shape::uniform(2, 4), "tcp", 1_700_000_000)
    }

    fn file(name: &str, text: &str) -> PathBuf {
        let name = format!("hfr-tuning-{}-{name}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    #[test]
    fn a_file_gives_back_what_was_written() {
        let path = file("round", "");
        measured().write(&path).expect("a file");
        let read = Tuning::File(path.clone()).load();
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(read, Ok(measured()));
        assert!(measured().share_cores);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused_by_name() {
        let good = serde_json::to_value(measured()).expect("JSON");
        let with = |place: &str, value: serde_json::Value| {
            let mut text = good.clone();
            *text.pointer_mut(place).expect("a field") = value;
            text.to_string()
        };
        let cases = [
            (with("/format", 7.into()), "its format is 7"),
            ("{}".to_owned(), "does not say its format"),
            ("step = 1".to_owned(), "expected value"),
            (with("/model/step", 0.into()), "step is 0"),
            (with("/model/wire", (-1e-9).into()), "wire is -"),
            (with("/model/byte", "quick".into()), "quick"),
            (
                with("/model/piece/0", 0.into()),
                "pieces go from 0 to 65536",
            ),
            (
                with("/model/piece/1", 1024.into()),
                "pieces go from 8192 to 1024",
            ),
            (
                good.to_string().replace("1.25e-6", "1e999"),
                "number out of range",
            ),
        ];
        for (i, (text, what)) in cases.iter().enumerate() {
            let path = file(&i.to_string(), text);
            let error = Measured::read(&path).expect_err(what).to_string();
            std::fs::remove_file(&path).expect("it is there");
            let named = format!("HFR_TUNING={}", path.display());
            assert!(
                error.contains(what) && error.contains(&named) && error.contains("hfr tune"),
                "{what}: {error}"
            );
        }
        let error = Measured::read(Path::new("/no/such/file")).expect_err("nothing is there");
        assert!(error.to_string().contains("HFR_TUNING=/no/such/file"));
        let mut own = measured();
        own.model.hop = f64::NAN;
        assert!(Tuning::Measured(own).load().is_err());
    }

    #[test]
    fn figures_are_for_the_wire_they_were_measured_on() {
        let m = measured();
        let model = m.model(6, "tcp", false).expect("the same wire");
        assert_eq!((model.cores, model.step), (6, 1.25e-6));
        assert!(m.model(6, "none", false).is_ok());
        let why = m.model(6, "verbs", false).expect_err("another wire");
        assert!(why.contains("`tcp`") && why.contains("`verbs`"), "{why}");
        assert!(m.model(6, "tcp", true).is_err());
    }
}
