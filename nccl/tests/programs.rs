//! Programs written for NCCL over the library, as their users run them: linked against another `libnccl.so.2`, with this one in front by `LD_PRELOAD`,
//! and the stand-in for the CUDA driver in the place of a GPU. Knows of the programs only that they tell results as cargo test does.
//! Invariant: every program ends in its time or is killed; what a machine lacks is skipped, and said.

#[path = "programs/built.rs"]
mod built;

use built::{Header, Program, exported, named, needed, real_headers, tool, tools_there, torches};

/// Runs those cases of a program whose names have `filter`.
fn passes(program: &Program, filter: &[&str], variables: &[(&str, &str)]) {
    let said = program.run(filter, variables);
    let result = said.lines().last().unwrap_or_default();
    assert!(result.starts_with("test result: ok."), "{said}");
    println!("{filter:?} {variables:?}: {result}");
}

#[test]
fn what_is_exported_is_listed_and_the_soname_is_nccls() {
    if !tools_there() {
        return;
    }
    assert_eq!(
        exported(),
        named(),
        "left: the library; right: nccl/symbols.txt"
    );
    let dynamic = tool("readelf", &["-d", &built::library()]);
    assert!(dynamic.contains("soname: [libnccl.so.2]"), "{dynamic}");
}

#[test]
fn torch_finds_every_call_it_makes() {
    if !tools_there() {
        return;
    }
    for torch in torches() {
        let needed = needed(&torch.join("torch/lib/libtorch_cuda.so"));
        assert!(
            needed.len() > 30,
            "{}: not read: {needed:?}",
            torch.display()
        );
        let missing: Vec<String> = needed.difference(&named()).cloned().collect();
        assert_eq!(missing, [""; 0], "{}", torch.display());
    }
}

#[test]
fn what_nccl_tests_do_is_right() {
    let Some(program) = Program::of("perf.c", &Header::Own) else {
        return;
    };
    passes(&program, &[], &[]);
    // Without waits of the device's own, the host waits; and other orders of events.
    passes(
        &program,
        &["shapes"],
        &[("STANDIN_NO_MEMOPS", "1"), ("STANDIN_SEED", "77")],
    );
    passes(
        &program,
        &["shapes"],
        &[("HFR_TRANSPORT", "tcp"), ("STANDIN_DELAY_US", "2000")],
    );
}

#[test]
fn failures_are_told_and_streams_go_on() {
    let Some(program) = Program::of("failures.c", &Header::Own) else {
        return;
    };
    passes(&program, &[], &[]);
    passes(&program, &["killed"], &[("HFR_TRANSPORT", "tcp")]);
    passes(&program, &["killed"], &[("STANDIN_NO_MEMOPS", "1")]);
}

#[test]
fn programs_compiled_with_nccls_own_header_run_too() {
    for header in real_headers() {
        for (source, filter) in [("perf.c", "types"), ("failures.c", "questions")] {
            if let Some(program) = Program::of(source, &header) {
                passes(&program, &[filter], &[]);
            }
        }
    }
}
