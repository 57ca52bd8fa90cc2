//! `hfr doctor` between three network namespaces on a bridge, one of which sends through a slow port, as a host behind a bad cable would. Needs root,
//! `ip` and `tc`; without them the test says so and passes. Invariant: namespaces and processes are gone afterwards, whatever fails.

use serde_json::Value;
use std::{
    io::Read,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const NODES: usize = 3;
/// The node that sends slowly.
const SLOW: usize = 2;
const LONG: Duration = Duration::from_secs(120);

/// The namespaces: the nodes', and the bridge's behind them.
struct Lab(Vec<String>);

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.0 {
            if let Err(error) = run(&format!("ip netns del {name}")) {
                eprintln!("namespace {name} is left over: {error}");
            }
        }
    }
}

/// Processes that end with the test.
struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended already is what we want.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output();
    let output = output.map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{line}: {}", why.trim()))
}

/// Nodes at 10.83.7.1 and so on, or why there can be none.
fn lab() -> Result<Lab, String> {
    let process = std::process::id();
    let mut lab = Lab(Vec::new());
    for number in 0..=NODES {
        let name = format!("hfrd{process}n{number}");
        run(&format!("ip netns add {name}"))?;
        lab.0.push(name);
    }
    let bridge = &lab.0[NODES];
    run(&format!("ip -n {bridge} link add bridge type bridge"))?;
    run(&format!("ip -n {bridge} link set bridge up"))?;
    for (number, name) in lab.0[..NODES].iter().enumerate() {
        let address = number + 1;
        for line in [
            format!(
                "ip link add cable netns {name} type veth peer name port{number} netns {bridge}"
            ),
            format!("ip -n {bridge} link set port{number} master bridge"),
            format!("ip -n {bridge} link set port{number} up"),
            format!("ip -n {name} addr add 10.83.7.{address}/24 dev cable"),
            format!("ip -n {name} link set cable up"),
            format!("ip -n {name} link set lo up"),
        ] {
            run(&line)?;
        }
    }
    let slow = &lab.0[SLOW];
    run(&format!(
        "ip netns exec {slow} tc qdisc add dev cable root tbf rate 200mbit burst 64kb latency 400ms"
    ))?;
    Ok(lab)
}

/// A rank in each namespace; what the first has printed.
fn doctor(lab: &Lab) -> String {
    let start = |rank: usize| {
        Command::new("ip")
            .args(["netns", "exec", &lab.0[rank], env!("CARGO_BIN_EXE_hfr")])
            .args(["doctor", "--quick", "--json"])
            .env("HFR_RANK", rank.to_string())
            .env("HFR_WORLD_SIZE", NODES.to_string())
            .env("HFR_NODE", rank.to_string())
            .env("HFR_COMM_ID", "10.83.7.1:29600")
            .env("HFR_COOKIE", "a secret of the tests")
            .env("HFR_TRANSPORT", "tcp")
            .env("HFR_CONNECT_TIMEOUT", "30")
            .env("HFR_TIMEOUT", "30")
            .stdin(Stdio::null())
            .stdout(if rank == 0 {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .spawn()
            .expect("hfr starts")
    };
    let mut ranks = Ranks((0..NODES).map(start).collect());
    let mut out = ranks.0[0].stdout.take().expect("piped");
    let heard = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).expect("text");
        text
    });
    let until = Instant::now() + LONG;
    while ranks
        .0
        .iter_mut()
        .any(|rank| rank.try_wait().expect("our child").is_none())
    {
        assert!(
            Instant::now() < until,
            "the ranks have not ended after {LONG:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    heard.join().expect("it has heard all")
}

#[test]
fn a_host_behind_a_slow_port_is_named() {
    let lab = match lab() {
        Ok(lab) => lab,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let text = doctor(&lab);
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let checks = report["job"].as_array().expect("checks").iter();
    let slow: Vec<&Value> = checks
        .filter(|check| check["check"] == "slow-rank")
        .collect();
    let subject = slow.first().and_then(|check| check["subject"].as_str());
    assert!(
        subject.is_some_and(|text| text.starts_with("rank 2 (node 2 ")),
        "{report}"
    );
    assert_eq!(slow[0]["outcome"], "fail", "{report}");
    // 200 Mbit/s are 0.025 GB/s, and the burst adds a little.
    let sends = slow[0]["figures"]["sending_gb_s"]
        .as_f64()
        .expect("a figure");
    assert!((0.001..0.04).contains(&sends), "{report}");
    assert!(
        slow[0]["finding"]
            .as_str()
            .is_some_and(|text| text.contains("sending 0.0")),
        "{report}"
    );
}
