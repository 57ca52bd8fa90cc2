//! Two nodes in two network namespaces that share nothing but a virtual cable, as two machines would. Needs root and `ip`; without them the
//! test says so and passes. Invariant: the namespaces are gone afterwards, whatever fails.

use super::*;
use std::process::Command;

/// The two namespaces.
struct Lab([String; 2]);

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.0 {
            if let Err(error) = ip(&format!("netns del {name}")) {
                eprintln!("namespace {name} is left over: {error}");
            }
        }
    }
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output();
    let output = output.map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {words}: {}", why.trim()))
}

/// Namespaces with a cable between them, or why there can be none.
fn lab() -> Result<Lab, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces need root".into());
    }
    let names = ["a", "b"].map(|end| format!("hfrp{}{end}", std::process::id()));
    ip(&format!("netns add {}", names[0]))?;
    let made = ip(&format!("netns add {}", names[1]));
    let lab = Lab(names);
    let [a, b] = &lab.0;
    made?;
    ip(&format!(
        "link add cable netns {a} type veth peer name cable netns {b}"
    ))?;
    for (node, name) in lab.0.iter().enumerate() {
        ip(&format!(
            "-n {name} addr add 10.83.9.{}/24 dev cable",
            node + 1
        ))?;
        ip(&format!("-n {name} link set cable up"))?;
        ip(&format!("-n {name} link set lo up"))?;
    }
    Ok(lab)
}

fn plan(lab: &Lab, timeout: &str) -> Plan {
    let mut plan = Plan::new(&[2, 2], "tcp", timeout);
    plan.rendezvous = format!("10.83.9.1:{}", hfr_tests::free_port());
    let inside = |name: &String| ["ip", "netns", "exec", name].map(str::to_owned).to_vec();
    plan.wrappers = lab.0.iter().map(inside).collect();
    plan
}

#[test]
fn between_two_network_namespaces() {
    let lab = match lab() {
        Ok(lab) => lab,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    start(&plan(&lab, "20"), &["loop:300000:10", "loop:1000:100"]).succeeds(LONG);

    for dead in [0, 3] {
        let mut job = start(&plan(&lab, "20"), &["loop:300000:1000000"]);
        job.hears(&[0, 1, 2, 3], "looping");
        job.kill(dead);
        let error = job.fails_alike(&others(4, dead), SOON);
        assert!(
            error.contains(&format!("rank {dead} ")) && error.contains("killed"),
            "{error}"
        );
    }

    // The cable is pulled. The two sides cannot agree on one word any more, but each ends, and names a rank of the other.
    let mut job = start(&plan(&lab, "2"), &["loop:300000:1000000"]);
    job.hears(&[0, 1, 2, 3], "looping");
    ip(&format!("-n {} link set cable down", lab.0[0])).expect("the cable can be pulled");
    let here = job.fails_alike(&[0, 1], Duration::from_secs(8));
    let there = job.fails_alike(&[2, 3], Duration::from_secs(8));
    assert!(
        here.contains("rank 2 ") || here.contains("rank 3 "),
        "{here}"
    );
    assert!(there.contains("rank 0 "), "{there}");
}
