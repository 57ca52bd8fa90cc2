//! `hfr tune` as its users start it: it writes a file that a job takes, leaves no file where none is worth having, and says why. It asserts no speed but this:
//! that a model which is absurd can be bettered.

use hfreduce::{
    plan::{Model, Shape},
    tuning::Measured,
};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("hfr-tune-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is in a folder for what may go.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn hfr(words: &str, output: Option<&Path>, tuning: Option<&Path>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hfr"));
    command.args(words.split_whitespace());
    command.env("HFR_TIMEOUT", "60");
    if let Some(output) = output {
        command.arg("-o").arg(output);
    }
    if let Some(tuning) = tuning {
        command.env("HFR_TUNING", tuning);
    }
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("hfr starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout) + &text(&stderr))
}

/// A model by which one-shot plans in tiny pieces are best for all sizes: so slow that a busy machine makes nothing else slower.
fn absurd() -> Measured {
    let model = Model {
        wake: 1.0,
        hand_over: 1.0,
        hop: 1.0,
        piece: (128, 128),
        ..Model::usual(1, "local", false)
    };
    Measured::new(model, &Shape::uniform(2, 2), "local", 0)
}

#[test]
fn what_is_written_is_taken() {
    let folder = Folder::new("whole");
    let (start, end) = (folder.0.join("absurd.json"), folder.0.join("tuned.json"));
    absurd().write(&start).expect("a file");
    let tune = "tune --nodes 2 -L 2 --seconds 30";
    let (code, said) = hfr(tune, Some(&end), Some(&start));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("sum of times"), "{said}");
    assert!(said.contains("Written to"), "{said}");
    let written = Measured::read(&end).expect("a good file");
    let shape = (written.nodes, written.ranks, written.wire.as_str());
    assert_eq!(shape, (2, 4, "local"), "{said}");
    assert!(written.measured > 0 && written.model.hop < 0.1, "{said}");

    let bench = "bench --nodes 2 -L 2 -b 1K -e 1M -n 2";
    let (code, said) = hfr(bench, None, Some(&end));
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("HFR_TUNING"), "{said}");
    // Said once, by one rank.
    let (code, said) = hfr(&format!("{bench} --transport tcp"), None, Some(&end));
    let told = said.matches("(HFR_TUNING) is not used").count();
    assert_eq!((code, told), (Some(0), 1), "{said}");
    std::fs::write(&end, "{\"format\": 99}").expect("a file");
    let (code, said) = hfr(bench, None, Some(&end));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("its format is 99"), "{said}");
}

#[test]
fn what_does_not_help_is_not_written() {
    let folder = Folder::new("none");
    let file = folder.0.join("tuned.json");
    let (code, said) = hfr("tune --nodes 1 -L 2 --seconds 10", Some(&file), None);
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(file.exists(), said.contains("Nothing is written"), "{said}");
    let (code, said) = hfr("tune --nodes 1 -L 2 --seconds 1e-6", Some(&file), None);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("raise --seconds"), "{said}");
    let (code, said) = hfr("tune --nodes 1 -L 1", Some(&file), None);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nothing to tune"), "{said}");
}
