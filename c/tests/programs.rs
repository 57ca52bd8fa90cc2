//! C and C++ programs against an installation of the library, as a user has it: compiled with the flags of pkg-config, shared and static, run over
//! several processes and emulated nodes. Knows of the programs only that they tell results as cargo test does. Invariant: every program ends in
//! its time or is killed; a machine without a compiler or pkg-config skips, and says so.

#[path = "programs/installed.rs"]
mod installed;

use hfr_standin::library_folder;
use hfr_tests::job::Plan;
use installed::{Link, build, prefix, root, run, tool, tools_there};
use std::{collections::BTreeSet, fs, process::Command, time::Duration};

const C99: [&str; 5] = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1"];
const CPP17: [&str; 5] = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-O1"];

/// Compiles `source` and runs it with `arguments` and one variable.
fn passes(source: &str, link: Link, arguments: &[&str], variable: (&str, &str)) {
    if !tools_there() {
        return;
    }
    let (compiler, flags) = if source.ends_with(".cpp") {
        ("c++", CPP17)
    } else {
        ("cc", C99)
    };
    let program = build(compiler, &flags, &format!("c/tests/{source}"), link);
    let said = run(&program, arguments, variable);
    let result = said.lines().last().unwrap_or_default();
    assert!(result.starts_with("test result: ok."), "{said}");
    println!("{source} {link:?} {arguments:?}: {result}");
}

#[test]
fn c_moves_data() {
    passes(
        "collectives.c",
        Link::Shared,
        &[],
        ("HFR_TRANSPORT", "auto"),
    );
}

#[test]
fn c_moves_data_over_sockets() {
    passes(
        "collectives.c",
        Link::Shared,
        &["messages"],
        ("HFR_TRANSPORT", "tcp"),
    );
    passes(
        "collectives.c",
        Link::Shared,
        &["all_to_all_v"],
        ("HFR_TRANSPORT", "tcp"),
    );
}

#[test]
fn c_is_told_of_failures() {
    passes("failures.c", Link::Shared, &[], ("HFR_TRANSPORT", "auto"));
}

#[test]
fn c_is_told_of_failures_over_sockets() {
    passes(
        "failures.c",
        Link::Shared,
        &["killed"],
        ("HFR_TRANSPORT", "tcp"),
    );
}

/// Over the stand-in for the driver, which must be found before a real one's.
#[test]
fn c_puts_calls_on_streams() {
    if !tools_there() {
        return;
    }
    let driver = library_folder();
    let folder = driver.path().to_str().expect("a plain path");
    let search = driver.search_path().into_string().expect("plain paths");
    let link = ["-Wl,--no-as-needed", "-L", folder, "-l:libcuda.so.1", "-lm"];
    let options = [&C99[..], &link[..]].concat();
    let program = build("cc", &options, "c/tests/streams.c", Link::Shared);
    let said = run(&program, &[], ("LD_LIBRARY_PATH", &search));
    assert!(said.contains("test result: ok. 9 passed"), "{said}");
}

#[test]
fn cpp_moves_data_between_processes_and_threads() {
    passes(
        "collectives.cpp",
        Link::Shared,
        &[],
        ("HFR_TRANSPORT", "auto"),
    );
}

#[test]
fn c_links_statically() {
    passes(
        "collectives.c",
        Link::Static,
        &["messages"],
        ("HFR_TRANSPORT", "auto"),
    );
    passes(
        "collectives.c",
        Link::Static,
        &["reduce"],
        ("HFR_TRANSPORT", "auto"),
    );
}

#[test]
fn cpp_links_statically() {
    passes(
        "collectives.cpp",
        Link::Static,
        &["processes"],
        ("HFR_TRANSPORT", "auto"),
    );
}

#[test]
fn numbers_and_layouts_are_nccls_to_c_and_cpp() {
    if !tools_there() {
        return;
    }
    for (compiler, flags) in [
        (
            "cc",
            ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"],
        ),
        (
            "c++",
            ["-xc++", "-std=c++11", "-pedantic", "-Wextra", "-Werror"],
        ),
    ] {
        let program = build(compiler, &flags, "c/tests/values.c", Link::Shared);
        run(&program, &[], ("HFR_TRANSPORT", "auto"));
    }
}

/// The example of the page for C's users, under a launcher: 4 ranks on 2 nodes.
#[test]
fn the_example_runs_and_is_the_pages() {
    let example = fs::read_to_string(root().join("c/examples/average.c")).expect("the example");
    let page = fs::read_to_string(root().join("docs/c.md")).expect("the page");
    let (_, code) = example.split_once("*/\n").expect("a comment in front");
    assert!(
        page.contains(code.trim()),
        "docs/c.md shows another example"
    );
    if !tools_there() {
        return;
    }
    let program = build("cc", &C99, "c/examples/average.c", Link::Shared);
    let plan = Plan::new(&[2, 2], "local", "20");
    let mut job = plan.start(program.to_str().expect("a plain path"), &[], &[]);
    job.succeeds(Duration::from_secs(40));
    assert_eq!(job.said(0), ["4 ranks: 1.50 2.50 3.50"]);
}

/// What the library exports, by nm.
fn exported(library: &str) -> BTreeSet<String> {
    let listed = tool("nm", &["-D", "--defined-only", library]);
    let names = listed.lines().filter_map(|l| l.split_whitespace().last());
    names.map(str::to_owned).collect()
}

#[test]
fn the_shared_library_exports_what_the_header_declares_and_nothing_else() {
    if !tools_there() {
        return;
    }
    let library = prefix().join("lib/libhfreduce.so");
    let library = library.to_str().expect("a plain path");
    let header = fs::read_to_string(prefix().join("include/hfreduce.h")).expect("the header");
    let declares = |line: &str| {
        let line = line
            .strip_prefix("hfrResult_t ")
            .or_else(|| line.strip_prefix("const char* "))?;
        Some(line.split_once('(')?.0.to_owned())
    };
    let declared: BTreeSet<String> = header.lines().filter_map(declares).collect();
    assert!(declared.len() > 40, "the header was not read: {declared:?}");
    assert_eq!(
        exported(library),
        declared,
        "left: the library; right: the header"
    );
    // What cargo has put beside this test has no soname; an installation has.
    if std::env::var_os("HFR_C_PREFIX").is_some() {
        assert!(tool("readelf", &["-d", library]).contains("soname: [libhfreduce.so.0]"));
    }
}

#[test]
fn a_static_program_needs_no_library_of_ours() {
    if !tools_there() {
        return;
    }
    for (link, needs) in [(Link::Shared, true), (Link::Static, false)] {
        let program = build("cc", &C99, "c/examples/average.c", link);
        let dynamic = tool("readelf", &["-d", program.to_str().expect("a plain path")]);
        assert_eq!(
            dynamic.contains("libhfreduce.so"),
            needs,
            "{link:?}: {dynamic}"
        );
    }
}

#[test]
fn pkg_config_knows_the_version() {
    if !tools_there() {
        return;
    }
    let asked = Command::new("pkg-config")
        .args(["--modversion", "hfreduce"])
        .env("PKG_CONFIG_PATH", prefix().join("lib/pkgconfig"))
        .output()
        .expect("pkg-config runs");
    assert_eq!(
        String::from_utf8_lossy(&asked.stdout).trim(),
        env!("CARGO_PKG_VERSION")
    );
}
