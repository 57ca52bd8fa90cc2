//! The trainer as a job of real processes, of several shapes: every shape trains as one rank with the same global batch does, and all
//! ranks of a job end with the same weights. It knows the program's output and nothing of its inside.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

/// Epochs per run; long enough that the loss falls to a third.
const EPOCHS: usize = 4;

/// Losses of two runs differ by less than this, relative to the loss: ranks add up the same products in another order, which in f32
/// is worth some 1e-7 a step; the steps of the epochs, with momentum, carry that on.
const TOLERANCE: f64 = 1e-4;

/// Starts the rank of a job of `nodes` x `per_node`.
fn start(rank: usize, nodes: usize, per_node: usize, port: u16, wire: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_hfr-example-digits"))
        .args(["--epochs", &EPOCHS.to_string()])
        .env("HFR_RANK", rank.to_string())
        .env("HFR_WORLD_SIZE", (nodes * per_node).to_string())
        .env("HFR_COMM_ID", format!("127.0.0.1:{port}"))
        .env("HFR_COOKIE", "digits")
        .env("HFR_NODE", format!("node {}", rank / per_node))
        .env("HFR_TRANSPORT", wire)
        .env("HFR_TIMEOUT", "60")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example starts")
}

/// Runs the job; returns rank 0's lines.
fn run(nodes: usize, per_node: usize, wire: &str) -> Vec<String> {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound").port()
    };
    let ranks: Vec<Child> = (0..nodes * per_node)
        .map(|rank| start(rank, nodes, per_node, port, wire))
        .collect();
    let mut printed = Vec::new();
    for (rank, child) in ranks.into_iter().enumerate() {
        let done = child.wait_with_output().expect("it can be waited for");
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success(),
            "rank {rank} of {nodes}x{per_node} {wire}: {errors}"
        );
        let output = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(output.is_empty(), rank > 0, "only rank 0 prints: {output}");
        printed.extend(output.lines().map(str::to_owned));
    }
    printed
}

/// The loss of each epoch.
fn losses(lines: &[String]) -> Vec<f64> {
    lines
        .iter()
        .filter(|line| line.starts_with("epoch"))
        .map(|line| {
            let mut words = line.split_whitespace().skip_while(|w| *w != "loss");
            words.nth(1).expect("a loss").parse().expect("a number")
        })
        .collect()
}

#[test]
fn every_shape_trains_as_one_rank_does_and_ends_with_equal_weights() {
    let one = losses(&run(1, 1, "auto"));
    assert_eq!(one.len(), EPOCHS);
    assert!(one[EPOCHS - 1] < one[0] / 3.0, "{one:?}");
    for (nodes, per_node, wire) in [(1, 4, "auto"), (2, 4, "local"), (2, 4, "tcp")] {
        let lines = run(nodes, per_node, wire);
        let what = format!("{nodes}x{per_node} {wire}");
        let found = losses(&lines);
        assert_eq!(found.len(), EPOCHS, "{what}");
        for (epoch, (loss, expected)) in found.iter().zip(&one).enumerate() {
            assert!(
                (loss - expected).abs() < TOLERANCE * expected,
                "{what}, epoch {}: {loss}, by one rank {expected}",
                epoch + 1
            );
        }
        let last = lines.last().expect("it prints");
        assert!(last.ends_with("identical on all ranks"), "{what}: {last}");
        assert!(
            lines[0].starts_with(&format!("ranks {}  nodes {nodes} ", nodes * per_node)),
            "{what} ran as another shape: {}",
            lines[0]
        );
    }
}

#[test]
fn a_run_ends_with_the_same_bits_when_repeated_and_over_another_wire() {
    let weights = |wire| run(2, 2, wire).pop();
    let first = weights("local");
    assert!(first.is_some());
    assert_eq!(first, weights("local"));
    assert_eq!(first, weights("tcp"));
}
