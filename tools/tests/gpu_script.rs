//! `ci/gpu.sh run` as on a machine with a GPU, with the stand-ins for the CUDA driver and cuBLAS in its place and small sizes: every part of it that measures ends
//! well, leaves its results and counts its checks; a wrong result and a missing GPU are told. It looks at no figure.

use hfr_standin::{LibraryFolder, library_folder};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Output},
};

/// A folder as `build` leaves it (as far as this package has programs for it), and a tool that says there is a GPU.
fn prepared() -> LibraryFolder {
    let folder = library_folder();
    hfr_standin_cublas::add_to(folder.path());
    let tools = folder.path().join("tools");
    fs::create_dir(&tools).expect("a folder");
    let smi = tools.join("nvidia-smi");
    fs::write(&smi, "#!/bin/sh\necho 'GPU 0: stand-in (UUID: GPU-0)'\n").expect("a file");
    fs::set_permissions(&smi, fs::Permissions::from_mode(0o755)).expect("a program");
    symlink(env!("CARGO_BIN_EXE_hfr"), folder.path().join("hfr")).expect("a link");
    folder
}

/// Runs parts of it, for 100 seconds at most.
fn script(folder: &LibraryFolder, parts: &[&str], settings: &[(&str, &str)], smi: bool) -> Output {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = here.parent().expect("the repository").join("ci/gpu.sh");
    let mut path = std::env::var("PATH").expect("a path");
    if smi {
        path = format!("{}:{path}", folder.path().join("tools").display());
    }
    Command::new("timeout")
        .args(["--kill-after=5", "100"])
        .arg(program)
        .arg("run")
        .arg(folder.path())
        .args(parts)
        .env("PATH", path)
        .env("LD_LIBRARY_PATH", folder.search_path())
        .env("HFR_GPU_MAX", "16K")
        .env("HFR_GPU_RANKS", "2")
        .env("HFR_GPU_MATRIX", "64")
        .env("STANDIN_DELAY_US", "5")
        // Whether this machine has a torch is no matter here.
        .env("HFR_GPU_PYTHON", "false")
        .envs(settings.iter().copied())
        .output()
        .expect("bash runs it")
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn every_part_leaves_its_results() {
    let folder = prepared();
    let parts = [
        "sizes", "many", "latency", "nodes", "overlap", "torch", "nccl",
    ];
    let output = script(&folder, &parts, &[], true);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(last_line(&output), "7 passed, 0 failed", "{said}");
    assert!(output.status.success(), "{said}");
    let results = folder.path().join("results");
    for name in [
        "sizes_2",
        "many_2",
        "one_2",
        "latency_2",
        "nodes_local",
        "nodes_tcp",
        "overlap_2",
    ] {
        for kind in ["txt", "json"] {
            let path = results.join(format!("{name}.{kind}"));
            let text =
                fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(text.contains("cuda"), "{name}.{kind}: {text}");
        }
    }
    let overlap = fs::read_to_string(results.join("overlap_2.json")).expect("a file");
    assert!(overlap.contains("product_slowdown"), "{overlap}");
    let machine = fs::read_to_string(results.join("machine.txt")).expect("a file");
    assert!(machine.contains("stand-in"), "{machine}");
    let skipped = fs::read_to_string(results.join("skipped.txt")).expect("a file");
    assert!(
        skipped.contains("torch") && skipped.contains("nccl"),
        "{skipped}"
    );
}

#[test]
fn a_wrong_result_is_a_failed_check() {
    let output = script(&prepared(), &["many"], &[("HFR_BENCH_FAULT", "0")], true);
    assert_eq!(last_line(&output), "0 passed, 2 failed");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_is_not_there_is_said() {
    let folder = prepared();
    let output = script(&folder, &["paint"], &[], true);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no part 'paint'"));
    fs::remove_file(folder.path().join("hfr")).expect("a link");
    let output = script(&folder, &[], &[], true);
    assert!(String::from_utf8_lossy(&output.stderr).contains("ci/gpu.sh build"));
    // Where there is a GPU, this machine's own tool says so.
    let real = Command::new("nvidia-smi").arg("-L").output();
    if real.is_err() {
        let output = script(&folder, &[], &[], false);
        assert_eq!(output.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no GPU here"));
    }
}
