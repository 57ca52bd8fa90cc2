//! A reader that goes away, as `head` does, is no failure: commands end in good order and say nothing of it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs hfr and reads its first line alone: that line, what it said on standard error, and whether it ended well.
fn first_line(arguments: &[&str]) -> (String, String, bool) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hfr"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hfr starts");
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
    reader.read_line(&mut line).expect("a line");
    drop(reader);
    let late = Instant::now() + Duration::from_secs(60);
    let ended = loop {
        match child.try_wait().expect("a child of ours") {
            Some(ended) => break ended,
            None if Instant::now() < late => std::thread::sleep(Duration::from_millis(10)),
            None => {
                // Its launcher ends the ranks when it is told to end.
                let end = rustix::process::Signal::TERM;
                let _ =
                    rustix::process::kill_process(rustix::process::Pid::from_child(&child), end);
                let _ = child.wait();
                panic!("{arguments:?} goes on although nobody reads");
            }
        }
    };
    let mut said = String::new();
    let mut errors = child.stderr.take().expect("a pipe");
    errors.read_to_string(&mut said).expect("text");
    (line, said, ended.success())
}

#[test]
fn a_bench_that_nobody_reads_any_more_ends() {
    // Far too much for the time a test may take, were it to go on.
    let all = "bench --nodes 1 -L 2 -b 64 -e 1G -f 1.01 -n 65536 -w 1";
    let (line, said, well) = first_line(&all.split(' ').collect::<Vec<_>>());
    assert!(line.starts_with("# hfr bench version"), "{line}");
    assert!(well && said.is_empty(), "{said}");
}

#[test]
fn plans_that_nobody_reads_any_more_are_no_failure() {
    let all = "plan simulate -t all_reduce --nodes 2 --ranks-per-node 2 --seeds 300";
    let (line, said, well) = first_line(&all.split(' ').collect::<Vec<_>>());
    assert!(line.contains("300 of 300 seeds right"), "{line}");
    assert!(well && said.is_empty(), "{said}");
}
