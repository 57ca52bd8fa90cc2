//! The rules of ARCHITECTURE.md that a compiler does not keep, read from the sources: which module may use which, where `unsafe` may
//! stand, and what every file looks like. It knows file names and words, and nothing of what the code does.

mod lists;

use lists::{MAY_USE, SHARE, UNSAFE};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Longest file.
const MOST_LINES: usize = 500;

/// Files that are longer, each a thing that did not come apart.
const LONGER: &[&str] = &[];

/// A source file: its path from the root of the repository, its text, and its words and signs without comments and literals.
struct Source {
    path: String,
    text: String,
    tokens: Vec<String>,
}

impl Source {
    fn has(&self, word: &str) -> bool {
        self.tokens.iter().any(|t| t == word)
    }

    /// Whether the path `first::second` occurs, `second` within braces included.
    fn names(&self, first: &str, second: &str) -> bool {
        self.after(first).contains(second)
    }

    /// All names that follow `first::`, directly or within braces.
    fn after(&self, first: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, window) in self.tokens.windows(3).enumerate() {
            if window[0] != first || window[1] != "::" {
                continue;
            }
            if window[2] != "{" {
                found.insert(window[2].clone());
                continue;
            }
            let (mut depth, mut starts) = (0, true);
            for token in &self.tokens[at + 2..] {
                match token.as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    name if depth == 1 && starts => {
                        found.insert(name.to_owned());
                    }
                    _ => (),
                }
                starts = token == "{" || token == ",";
                if depth == 0 {
                    break;
                }
            }
        }
        found
    }
}

/// Splits Rust into words and signs; `::` is one sign. Comments, strings and characters are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            i += 2;
            while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                i += 1;
            }
            i += 2;
        } else if c == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == 'r'
            && (at(i + 1) == '"' || (at(i + 1) == '#' && matches!(at(i + 2), '#' | '"')))
        {
            let hashes = (1..).take_while(|n| at(i + n) == '#').count();
            let end: String = format!("\"{}", "#".repeat(hashes));
            let rest: String = chars[i + hashes + 2..].iter().collect();
            let body = rest.find(&end).unwrap_or(rest.len());
            i += hashes + 2 + rest[..body].chars().count() + end.len();
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            i += 2;
            i += usize::from(at(i - 1) == '\\');
            while i < chars.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else if is_word(c) {
            let start = i;
            while is_word(at(i)) {
                i += 1;
            }
            found.push(chars[start..i].iter().collect());
        } else if c == ':' && at(i + 1) == ':' {
            found.push("::".to_owned());
            i += 2;
        } else {
            if !c.is_whitespace() {
                found.push(c.to_string());
            }
            i += 1;
        }
    }
    found
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the workspace").to_owned()
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            let short = path.strip_prefix(root()).expect("below the root");
            found.push(Source {
                path: short.to_string_lossy().into_owned(),
                tokens: tokens(&text),
                text,
            });
        }
    }
}

/// All sources of the workspace.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for member in [
        "benches",
        "c",
        "examples",
        "hfreduce",
        "nccl",
        "python",
        "standin",
        "tests",
        "tools",
        "topology",
        "transport",
    ] {
        collect(&root().join(member), &mut found);
    }
    assert!(found.len() > 100, "the sources are elsewhere");
    found
}

fn below<'a>(sources: &'a [Source], folder: &'a str) -> impl Iterator<Item = &'a Source> {
    let mut some = sources
        .iter()
        .filter(move |s| s.path.starts_with(folder))
        .peekable();
    assert!(some.peek().is_some(), "nothing in {folder}");
    some
}

/// The module of `hfreduce` that a file belongs to: its folder or its own name.
fn module(path: &str) -> Option<&str> {
    let name = path.strip_prefix("hfreduce/src/")?;
    let name = name.split('/').next()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (name != "lib").then_some(name)
}

#[test]
fn the_reader_of_sources_sees_code_and_nothing_else() {
    let text = r##"//! unsafe
        use crate::{plan::{Plan, check}, op::*}; /* std::time */ use crate::layout;
        const S: &str = "unsafe \" std::time"; const C: char = '"'; fn f<'a>(x: &'a u8) { r#"unsafe " crate::x"# }
        std::sync::atomic::fence('\'');"##;
    let source = Source {
        path: String::new(),
        text: text.to_owned(),
        tokens: tokens(text),
    };
    assert!(!source.has("unsafe") && !source.names("std", "time"));
    assert!(source.names("sync", "atomic") && source.has("fence"));
    let found: Vec<String> = source.after("crate").into_iter().collect();
    assert_eq!(found, ["layout", "op", "plan"]);
}

#[test]
fn the_lower_crates_import_nothing_of_ours() {
    let sources = sources();
    for (folder, others) in [
        ("topology/", ["hfr_transport", "hfreduce"]),
        ("transport/", ["hfr_topology", "hfreduce"]),
    ] {
        for source in below(&sources, folder) {
            for other in others {
                assert!(!source.has(other), "{} uses {other}", source.path);
            }
        }
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("text");
        for other in others {
            let other = other.replace('_', "-");
            let depends = manifest.lines().any(|l| l.starts_with(&other));
            assert!(!depends, "{folder}Cargo.toml names {other}");
        }
    }
}

#[test]
fn modules_use_only_the_modules_below_them() {
    let sources = sources();
    let modules: BTreeSet<&str> = below(&sources, "hfreduce/src/")
        .filter_map(|s| module(&s.path))
        .collect();
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for source in below(&sources, "hfreduce/src/") {
        let Some(own) = module(&source.path) else {
            continue;
        };
        let mut names = source.after("crate");
        // At the top of a module `super` is the crate; deeper it stays in the module unless it goes up twice.
        if source.path.ends_with("/mod.rs") || source.path.matches('/').count() == 2 {
            names.extend(
                source
                    .after("super")
                    .into_iter()
                    .filter(|n| modules.contains(n.as_str())),
            );
        }
        let up_twice = source.after("super").contains("super");
        assert!(!up_twice, "{} goes up twice", source.path);
        let used = used.entry(own).or_default();
        for name in names {
            assert!(
                modules.contains(name.as_str()),
                "{} uses crate::{name}, which hides whose it is",
                source.path
            );
            if name != own {
                used.insert(name);
            }
        }
        used.extend(
            ["hfr_topology", "hfr_transport"]
                .into_iter()
                .filter(|c| source.has(c))
                .map(str::to_owned),
        );
    }
    used.remove("communicator");
    let may: BTreeMap<&str, BTreeSet<String>> = MAY_USE
        .iter()
        .map(|(name, others)| (*name, others.iter().map(|o| (*o).to_owned()).collect()))
        .collect();
    assert_eq!(
        used, may,
        "left: what the sources use; right: what they may"
    );
}

#[test]
fn plans_hold_no_bytes_and_no_clock() {
    let sources = sources();
    for source in below(&sources, "hfreduce/src/plan/") {
        for (first, second) in [
            ("sync", "atomic"),
            ("std", "time"),
            ("std", "thread"),
            ("std", "fs"),
            ("std", "net"),
        ] {
            assert!(
                !source.names(first, second),
                "{} uses {first}::{second}",
                source.path
            );
        }
        for word in ["unsafe", "Segment", "Instant", "AtomicU64", "bytemuck"] {
            assert!(!source.has(word), "{} uses {word}", source.path);
        }
    }
}

#[test]
fn the_board_and_slots_are_placed_by_layout_alone() {
    for source in below(&sources(), "hfreduce/src/") {
        let own = module(&source.path).unwrap_or("lib");
        // Extents are what layout hands out; who makes one computes an offset.
        let makes = source
            .tokens
            .windows(3)
            .any(|t| t[0] == "Extent" && t[1] == "{" && t[2] != "}");
        let only_names = matches!(own, "layout");
        assert!(!makes || only_names, "{} makes an Extent", source.path);
    }
}

#[test]
fn programs_tests_and_examples_stand_on_the_library_and_not_in_it() {
    let sources = sources();
    for folder in [
        "tools/",
        "tests/",
        "benches/",
        "examples/",
        "c/",
        "nccl/",
        "python/",
    ] {
        for source in below(&sources, folder) {
            let reaches = source.text.contains(concat!("path = \"", ".."))
                && !SHARE.contains(&source.path.as_str());
            assert!(!reaches, "{} reaches into other sources", source.path);
        }
    }
    for folder in ["examples/", "c/src/", "nccl/src/", "python/src/"] {
        for source in below(&sources, folder) {
            for other in ["hfr_transport", "hfr_topology"] {
                let path = &source.path;
                assert!(
                    !source.has(other),
                    "{path} uses {other}; users have hfreduce alone"
                );
            }
        }
    }
}

#[test]
fn unsafe_stands_only_where_it_is_listed() {
    for source in sources() {
        let (found, listed) = (source.has("unsafe"), UNSAFE.contains(&source.path.as_str()));
        assert!(
            listed || !found,
            "{} has `unsafe` and is not listed",
            source.path
        );
        assert!(
            found || !listed,
            "{} is listed and has no `unsafe`",
            source.path
        );
    }
    for path in UNSAFE {
        assert!(
            root().join(path).is_file(),
            "{path} is listed and not there"
        );
    }
}

#[test]
fn every_file_says_what_it_is_and_is_short() {
    for source in sources() {
        let Source { path, text, .. } = &source;
        assert!(
            text.starts_with("//! "),
            "{path} does not open with what it is"
        );
        let lines = text.lines().count();
        let listed = LONGER.contains(&path.as_str());
        assert_eq!(
            lines > MOST_LINES,
            listed,
            "{path} has {lines} lines, listed as longer: {listed}"
        );
    }
}

#[test]
fn nothing_is_left_to_do_later() {
    // In two halves, so that this file does not find itself.
    for mark in [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("<<<<", "<<<"),
        concat!(">>>>", ">>>"),
    ] {
        for source in sources() {
            assert!(!source.text.contains(mark), "{} has a {mark}", source.path);
        }
    }
}
