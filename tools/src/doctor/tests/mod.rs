//! Recorded trees: a healthy node, and the same with one thing broken, which must be found, alone, with what to do. Nothing here depends on the
//! machine that runs it, but that it can make files. Invariant: each tree is gone afterwards.

mod devices;
mod settings;

use super::{
    check::{Check, Outcome},
    host,
    root::Root,
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

const NODE: &str = include_str!("node.txt");
/// Where a part of the recorded node lies.
const NIC: &str = "sys/devices/pci0000:20/0000:20:01.1/0000:21:00.0";

/// A folder with the recorded node.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left over: {error}", self.0.display());
        }
    }
}

impl Tree {
    fn new() -> Tree {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = format!("hfr-doctor-{}-{number}", std::process::id());
        let tree = Tree(std::env::temp_dir().join(folder));
        let mut file: Option<(&str, String)> = None;
        for line in NODE.lines().chain(["== end"]) {
            let (begins, links) = (line.strip_prefix("== "), line.strip_prefix("-> "));
            if begins.is_some() || links.is_some() {
                if let Some((path, text)) = file.take() {
                    tree.write(path, &text);
                }
                file = begins.map(|path| (path, String::new()));
            } else if let Some((_, text)) = &mut file {
                text.push_str(line);
                text.push('\n');
            }
            if let Some((path, target)) = links.and_then(|link| link.split_once(' ')) {
                let path = tree.0.join(path);
                fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
                symlink(target, path).expect("a link");
            }
        }
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("a file");
    }

    /// The recorded node with other contents of some files.
    fn with(changes: &[(&str, &str)]) -> Tree {
        let tree = Tree::new();
        for (path, text) in changes {
            assert!(
                tree.0.join(path).exists(),
                "{path} is not in the tree, so a change of it tests nothing"
            );
            tree.write(path, text);
        }
        tree
    }

    fn root(&self) -> Root {
        Root::new(&self.0)
    }

    /// What is not well.
    fn ill(&self) -> Vec<Check> {
        let all = host::look(&self.root(), 8, None).checks;
        assert!(all.len() > 15, "nearly nothing was looked at: {all:?}");
        all.into_iter()
            .filter(|check| check.outcome > Outcome::Ok)
            .collect()
    }
}

/// The recorded node with `changes` has one thing wrong, and these words are in what is said of it.
fn finds(changes: &[(&str, &str)], check: &str, outcome: Outcome, words: &[&str]) {
    let ill = Tree::with(changes).ill();
    let short: Vec<(&str, Outcome)> = ill
        .iter()
        .map(|check| (&*check.check, check.outcome))
        .collect();
    assert_eq!(short, [(check, outcome)], "{changes:?}: {ill:?}");
    let said = super::report::line(&ill[0]);
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    assert!(!ill[0].remedy.is_empty(), "nothing to do: {said}");
}

#[test]
fn a_healthy_node_passes_and_is_counted() {
    let tree = Tree::new();
    assert_eq!(tree.ill(), []);
    let host = host::look(&tree.root(), 8, None);
    assert_eq!(host.name, "fire01");
    let counts = [
        "GPUs",
        "active RDMA ports",
        "interfaces with a link",
        "processors",
        "NUMA nodes",
    ];
    let counts = counts.map(|name| host.inventory[name]);
    assert_eq!(counts, [2, 2, 1, 8, 2]);
    let port = host
        .checks
        .iter()
        .find(|check| check.check == "port")
        .expect("a port");
    assert_eq!(port.figures["rate_gbit_s"], 200.0);
}

#[test]
fn a_bare_tree_is_no_error() {
    let tree = Tree::new();
    fs::remove_dir_all(tree.0.join("sys")).expect("it is there");
    let host = host::look(&tree.root(), 1, None);
    assert!(
        host.checks
            .iter()
            .all(|check| check.outcome < Outcome::Fail),
        "{:?}",
        host.checks
    );
    let nothing = host::look(&Root::new(Path::new("/no/such/folder")), 1, None);
    assert!(!nothing.checks.is_empty());
}
