//! `hfr bench --device cuda` as its users start it, on the stand-in for the CUDA driver: jobs of several ranks whose every element is right, JSON that has every
//! field, wrong results that are shown as wrong, and sentences for what is missing. It asserts no speed. Invariant: no process outlives its test.

use hfr_standin::{LibraryFolder, library_folder};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// No bench here takes longer on the slowest machine.
const LIMIT: Duration = Duration::from_secs(120);

/// How a bench ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `hfr bench` with these words, and libraries from `folder` before all others.
fn bench(folder: &LibraryFolder, words: &str, settings: &[(&str, &str)]) -> Ended {
    let out = |name: &str| fs::File::create(folder.path().join(name)).expect("a file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_hfr"))
        .arg("bench")
        .args(words.split_whitespace())
        .env("LD_LIBRARY_PATH", folder.search_path())
        .env("HFR_TIMEOUT", "60")
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(out("stdout"))
        .stderr(out("stderr"))
        .spawn()
        .expect("the bench starts");
    let latest = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().expect("a child's status") {
            Some(status) => break status,
            None if Instant::now() < latest => std::thread::sleep(Duration::from_millis(5)),
            None => {
                // Its ranks die with it.
                child.kill().expect("a child that is there");
                break child.wait().expect("a child's status");
            }
        }
    };
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a file");
    Ended {
        code: status.code(),
        stdout: read("stdout"),
        stderr: read("stderr"),
    }
}

impl Ended {
    /// It ended well; its lines of JSON.
    #[track_caller]
    fn lines(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        json(&self.stdout)
    }

    /// It failed, and said this.
    #[track_caller]
    fn says(&self, what: &str) {
        assert_eq!(self.code, Some(1), "{}\n{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(what), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

fn json(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// The numbers of these names in an object, all above zero.
#[track_caller]
fn positive(object: &Value, names: &[&str]) {
    for name in names {
        let number = object[*name].as_f64();
        assert!(number > Some(0.0), "{name} of {object}");
    }
}

/// What the header and the ceilings must have, whatever was measured.
#[track_caller]
fn whole(file: &Path, ranks: usize, gpus: usize) -> Vec<Value> {
    let lines = json(&fs::read_to_string(file).expect("the JSON file"));
    let (header, ceilings) = (&lines[0], &lines[1]["ceilings"]);
    assert_eq!(
        (&header["device"], &header["ranks"]),
        (&"cuda".into(), &ranks.into())
    );
    let named = header["gpus"].as_array().expect("a name for each rank");
    assert!(
        named.len() == ranks
            && named
                .iter()
                .all(|n| n.as_str().is_some_and(|n| n.contains("GPU")))
    );
    let copies = ["d2h", "h2d", "both_d2h", "both_h2d"];
    positive(ceilings, &["copy_bytes", "memory"]);
    positive(&ceilings["together"], &copies);
    let alone = ceilings["gpus"].as_array().expect("each GPU alone");
    assert_eq!(alone.len(), gpus, "{ceilings}");
    alone
        .iter()
        .for_each(|gpu| positive(&gpu["copies"], &copies));
    let shares: u64 = alone.iter().filter_map(|gpu| gpu["ranks"].as_u64()).sum();
    assert_eq!(shares, ranks as u64, "{ceilings}");
    lines[2..].to_vec()
}

#[test]
fn every_element_is_right_and_every_field_is_there() {
    for (nodes, each, devices) in [(1, 1, 1), (1, 2, 1), (1, 4, 2), (2, 2, 1)] {
        let folder = library_folder();
        let file = folder.path().join("out.json");
        let words = format!(
            "--device cuda --nodes {nodes} -L {each} -b 4 -e 300K -f 70 -d float,bfloat16 -n 3 -w 1 -J {}",
            file.display()
        );
        let ended = bench(
            &folder,
            &words,
            &[("STANDIN_DEVICES", &devices.to_string())],
        );
        assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
        for part in ["Measured ceilings", "copy%", "Out of bounds values : 0 OK"] {
            assert!(
                ended.stdout.contains(part),
                "no '{part}' in {}",
                ended.stdout
            );
        }
        let ranks = nodes * each;
        let rows = whole(&file, ranks, devices.min(ranks));
        assert_eq!(rows.len(), 2 * 3 * 2, "two types, three sizes, two ways");
        for row in &rows {
            assert_eq!(
                (&row["wrong"], &row["device"], &row["tensors"]),
                (&0.into(), &"cuda".into(), &1.into())
            );
            positive(row, &["bytes", "time_us", "algbw"]);
            let stages = &row["stages"];
            positive(stages, &["of_copy_ceiling"]);
            for figures in [&stages["rates"], &stages["busy"]] {
                positive(figures, &["d2h", "add", "h2d"]);
                let network = figures["network"].as_f64().expect("a figure");
                assert_eq!(network > 0.0, nodes > 1, "{row}");
            }
        }
        let in_place = rows.iter().filter(|row| row["in_place"] == true).count();
        assert_eq!(in_place, rows.len() / 2);
    }
}

#[test]
fn other_collectives_are_right_too() {
    let folder = library_folder();
    let rows = bench(
        &folder,
        "all --device cuda --nodes 2 -L 2 -b 999 -e 999 -d int32 -n 2 -w 0 --json",
        &[],
    )
    .lines();
    let rows: Vec<&Value> = rows
        .iter()
        .filter(|row| row.get("collective").is_some())
        .collect();
    let names: std::collections::BTreeSet<&str> = rows
        .iter()
        .filter_map(|row| row["collective"].as_str())
        .collect();
    assert!(names.len() >= 9, "{names:?}");
    for row in rows {
        assert!(row["wrong"] == 0 || row["collective"] == "barrier", "{row}");
        assert!(row["stages"].is_object(), "{row}");
    }
}

#[test]
fn many_tensors_are_in_flight_and_right_on_both_devices() {
    let folder = library_folder();
    for device in ["cpu", "cuda"] {
        let words = format!("--device {device} --nodes 2 -L 2 --tensors 7x10K -n 2 -w 1 --json");
        let rows = bench(&folder, &words, &[]).lines();
        let rows: Vec<&Value> = rows
            .iter()
            .filter(|row| row.get("tensors").is_some())
            .collect();
        assert_eq!(rows.len(), 2, "out of place and in place");
        for row in rows {
            assert_eq!(
                (&row["tensors"], &row["bytes"]),
                (&7.into(), &(7 * 10 * 1024).into()),
                "{row}"
            );
            assert_eq!(
                (&row["wrong"], &row["device"]),
                (&0.into(), &device.into()),
                "{row}"
            );
        }
    }
}

#[test]
fn a_wrong_result_is_shown_as_wrong() {
    let folder = library_folder();
    for words in [
        "--device cuda --nodes 1",
        "--device cpu --nodes 2",
        "--device cuda --nodes 1 --tensors 3x4K",
    ] {
        let words = format!("{words} -L 2 -e 4K -n 2 -w 1")
            .replace("--tensors 3x4K -L 2 -e 4K", "--tensors 3x4K -L 2");
        let ended = bench(&folder, &words, &[("HFR_BENCH_FAULT", "1")]);
        assert_eq!(ended.code, Some(1), "{words}: {}", ended.stdout);
        assert!(ended.stdout.contains("FAILED"), "{words}: {}", ended.stdout);
    }
}

#[test]
fn what_the_product_and_the_all_reduce_cost_each_other_is_measured() {
    let folder = library_folder();
    let words = "--device cuda --overlap --matrix 64 -e 40K --nodes 1 -L 2 --json";
    bench(&without_cublas(), words, &[]).says("cuBLAS is not on this machine");
    hfr_standin_cublas::add_to(folder.path());
    let lines = bench(&folder, words, &[]).lines();
    let found = &lines.last().expect("a line")["overlap"];
    assert_eq!(
        (&found["loaded"], &found["wrong"], &found["matrix"]),
        (&1.into(), &0.into(), &64.into())
    );
    positive(
        found,
        &[
            "bytes",
            "product_alone",
            "product_beside",
            "calls_alone",
            "calls_beside",
        ],
    );
    for name in ["product_slowdown", "calls_slowdown"] {
        assert!(found[name].is_number(), "{name} of {found}");
    }
}

/// A folder with names that are no libraries, in front of whatever the machine has.
fn spoilt(names: &[&str]) -> LibraryFolder {
    let folder = library_folder();
    for name in names {
        let path = folder.path().join(name);
        // The stand-in itself must not be written through its link.
        let _ = fs::remove_file(&path);
        fs::write(path, "no library").expect("a file");
    }
    folder
}

fn without_cublas() -> LibraryFolder {
    spoilt(&[
        "libcublas.so",
        "libcublas.so.12",
        "libcublas.so.11",
        "libcublas.so.10",
    ])
}

#[test]
fn what_is_missing_is_said_in_a_sentence() {
    let (folder, words) = (library_folder(), "--device cuda --nodes 1 -L 2 -e 4K");
    let without = spoilt(&["libcuda.so", "libcuda.so.1"]);
    bench(&without, words, &[]).says("no CUDA driver on this machine");
    bench(&folder, words, &[("STANDIN_DEVICES", "0")]).says("finds no device");
    let huge = "--device cuda --nodes 1 -L 2 -b 64G -e 64G";
    bench(&folder, huge, &[]).says("take a smaller -e, or fewer ranks on a GPU");
    for (words, what) in [
        ("--overlap", "add --device cuda"),
        ("--device cuda -R 1", "take one of them"),
        ("all_gather --tensors 3x4K", "all_reduce alone"),
    ] {
        bench(&folder, words, &[]).says(what);
    }
}

#[test]
fn a_device_that_fails_ends_the_bench() {
    let folder = library_folder();
    let ended = bench(
        &folder,
        "--device cuda --nodes 1 -L 2 -b 64K -e 64K -n 20 -w 5",
        &[("STANDIN_FAIL", "copy:200")],
    );
    assert_eq!(ended.code, Some(1), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains("rank"), "{}", ended.stderr);
}
