//! Gives this build a name: a hash of the sources that decide what lies in shared memory and on the wire, and which plans ranks make. Two builds of
//! one version that differ in them would work on each other's memory in ways of their own, so ranks compare it when they meet.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The sources below `folder`.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn main() {
    // The other two lie beside this crate in its repository. Where they do not, the version says which they are.
    let folders = ["src", "../transport/src", "../topology/src"].map(Path::new);
    let mut found = Vec::new();
    for folder in folders.into_iter().filter(|folder| folder.is_dir()) {
        println!("cargo::rerun-if-changed={}", folder.display());
        sources(folder, &mut found);
    }
    found.sort();
    // FNV-1a, which is the same whatever compiler each of the machines has.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for path in found {
        let text = fs::read(&path).expect("a source that was just listed");
        for byte in path.to_string_lossy().bytes().chain(text) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    println!("cargo::rustc-env=HFR_SOURCES={hash:016x}");
}
