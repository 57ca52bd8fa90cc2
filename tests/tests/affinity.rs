//! Threads that work for calls run where the description of the machine says that is near, inside what the process has inherited, and the
//! caller's own threads are left alone. One test, because it looks at all threads of its process.

use hfr_tests::{free_port, ranks};
use hfr_topology::Cpus;
use hfreduce::{Communicator, Config, ReduceOp, Wire};
use std::{collections::BTreeSet, fs, path::PathBuf};

/// The CPUs of the threads with this name; of a thread of the process itself, if the name is empty.
fn threads(name: &str) -> Vec<Cpus> {
    let tasks = fs::read_dir("/proc/self/task").expect("this process's threads");
    let mut found = Vec::new();
    for task in tasks.flatten() {
        // A thread may end while it is looked at.
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            found.extend(allowed(&read("status")));
        }
    }
    found
}

fn allowed(status: &str) -> Option<Cpus> {
    let list = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
    list.trim().parse().ok()
}

fn own() -> Cpus {
    let status = fs::read_to_string("/proc/thread-self/status").expect("this thread");
    allowed(&status).expect("its CPUs")
}

/// A machine whose CPUs are these, on two memory nodes.
fn description(halves: [&Cpus; 2], all: &Cpus) -> PathBuf {
    let mut text = format!("hfreduce machine 1\nname halves\nallowed {all}\n");
    for (number, half) in halves.iter().enumerate() {
        text += &format!("numa {number} cpus {half} bytes 1073741824 distances 10 20\n");
    }
    let cores: Vec<String> = all.iter().map(|cpu| cpu.to_string()).collect();
    text += &format!("socket 0 cores {}\n", cores.join(" "));
    let path = std::env::temp_dir().join(format!("hfr-halves-{}.txt", std::process::id()));
    fs::write(&path, text).expect("a file");
    path
}

/// Where workers and channels run in a group of two ranks, and whether callers stay where they were.
fn seen(change: impl Fn(&mut Config) + Sync) -> [BTreeSet<Cpus>; 2] {
    let before = own();
    let all = ranks(&[2], Wire::Auto, change, |comm: Communicator| {
        let (rank, other) = (comm.rank(), 1 - comm.rank());
        let mut sum = vec![rank as i64 + 1; 100];
        comm.scope(|s| s.all_reduce(&mut sum, ReduceOp::Sum)?.wait())
            .expect("all_reduce");
        assert!(sum.iter().all(|x| *x == 3));
        let mut got = [0i64];
        if rank == 0 {
            comm.send(&[7i64], other).expect("send");
        } else {
            comm.recv(&mut got, other).expect("recv");
            assert_eq!(got, [7]);
        }
        comm.barrier().expect("barrier");
        let found = ["hfr-worker", "hfr-channel"].map(|name| threads(name).into_iter().collect());
        comm.barrier().expect("barrier");
        (own(), found)
    });
    let (after, found): (Vec<Cpus>, Vec<_>) = all.into_iter().unzip();
    assert_eq!(after, [before.clone(), before], "callers are left alone");
    found.into_iter().next().expect("rank 0")
}

#[test]
fn threads_that_work_are_bound_inside_what_was_inherited() {
    let all = own();
    if all.len() < 2 {
        println!("skipped: with one CPU there is no choice");
        return;
    }
    let numbers: Vec<usize> = all.iter().collect();
    let halves = numbers.split_at(numbers.len() / 2);
    let (first, second) = (
        halves.0.iter().copied().collect(),
        halves.1.iter().copied().collect(),
    );
    let path = description([&first, &second], &all);
    let bound = seen(|config| config.topology = Some(path.clone()));
    // With many CPUs a rank has a part of its half; all of the half otherwise.
    for (set, what) in bound.iter().zip(["workers", "channels"]) {
        let (low, high): (Vec<&Cpus>, Vec<&Cpus>) = set.iter().partition(|c| c.within(&first));
        assert!(
            low.len() == 1 && high.len() == 1 && high[0].within(&second),
            "{what}: {set:?}"
        );
    }
    let alone: BTreeSet<Cpus> = [all.clone()].into();
    let off = seen(|config| {
        config.topology = Some(path.clone());
        config.affinity = false;
    });
    assert_eq!(off, [alone.clone(), alone]);

    // A description that is none.
    fs::write(&path, "hfreduce machine 1\nnuma x\n").expect("a file");
    let mut config = Config::new(0, 2, &format!("127.0.0.1:{}", free_port()), b"affinity");
    config.topology = Some(path.clone());
    let other = {
        let mut other = config.clone();
        other.rank = 1;
        std::thread::spawn(move || Communicator::connect(&other).err().map(|e| e.to_string()))
    };
    let texts = [
        Communicator::connect(&config).err().map(|e| e.to_string()),
        other.join().expect("no panic"),
    ];
    fs::remove_file(&path).expect("it was there");
    for text in texts {
        let text = text.expect("no description");
        assert!(
            text.contains("line 2: the memory node is no number: 'x'")
                && text.contains("HFR_TOPO_FILE"),
            "{text}"
        );
    }
}
