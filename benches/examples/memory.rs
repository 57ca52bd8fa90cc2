//! How much memory a group takes: the node's segment after connecting, after the first all_reduce of 64 MiB, after the first of 8 bytes, which goes by
//! a plan with slots of its own, and with eight more groups; and what the processes take, each with its part of what it shares. One rank of a job of one
//! node (`hfr run`). Figures are read before they are gathered, since gathering is a call and may bring slots along.
//!
//! `hfr run --nodes 1 --ranks-per-node 4 -- target/release/examples/memory [MiB of the all_reduce, 64]`

use hfreduce::{Communicator, ReduceOp};
use std::os::unix::fs::MetadataExt;

const MIB: f64 = (1 << 20) as f64;

/// MiB of this process, with its part of the pages it shares and has touched.
fn process() -> f64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux says it");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.expect("a figure in KiB") / 1024.0
}

/// MiB of pages reserved in the segments this process has open: a segment's length is virtual.
fn segments() -> f64 {
    let open = std::fs::read_dir("/proc/self/fd").expect("Linux lists them");
    let ours = open.flatten().map(|fd| fd.path()).filter(|path| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("hfreduce"))
    });
    let blocks = ours.filter_map(|path| Some(std::fs::metadata(path).ok()?.blocks()));
    (blocks.sum::<u64>() * 512) as f64 / MIB
}

fn main() {
    let before = process();
    let group = Communicator::from_env().unwrap_or_else(|e| panic!("{e}"));
    let mib: usize = std::env::args()
        .nth(1)
        .map_or(64, |a| a.parse().expect("MiB"));
    let mut own = process() - before;
    let mut rows = vec![("connected", segments(), own)];
    let mut buffer = vec![1.0f32; mib << 18];
    for (what, count) in [("first large call", buffer.len()), ("first small call", 2)] {
        let part = &mut buffer[..count];
        part.fill(1.0);
        let at = process();
        group
            .all_reduce(part, ReduceOp::Sum)
            .unwrap_or_else(|e| panic!("{e}"));
        // A page counts less in each process, the more of them have touched it.
        group.barrier().unwrap_or_else(|e| panic!("{e}"));
        own += process() - at;
        rows.push((what, segments(), own));
        let sum = group.size() as f32;
        assert!(part.iter().all(|x| *x == sum), "a wrong sum");
    }
    let at = process();
    let split = |_| group.split(Some(0), 0).unwrap_or_else(|e| panic!("{e}"));
    let more: Vec<_> = (0..8).map(split).collect();
    rows.push(("eight more groups", segments(), own + process() - at));
    for (what, reserved, own) in rows {
        let mut all = [own];
        group
            .all_reduce(&mut all, ReduceOp::Sum)
            .unwrap_or_else(|e| panic!("{e}"));
        if group.rank() == 0 {
            println!(
                "{} ranks, {what}: {reserved:.2} MiB reserved in the node's segments; all processes together {:.1} MiB more than before connecting, buffers apart",
                group.size(),
                all[0]
            );
        }
    }
    drop(more);
}
