//! Threads that work for calls run where the description of the machine says that is near, inside what the process has inherited, and the
//! caller's own threads are left alone. One test looks at all threads of its process, so that the other starts processes.

use hfr_standin::library_folder;
use hfr_tests::{free_port, job::Plan, ranks};
use hfr_topology::Cpus;
use hfreduce::{Communicator, Config, ReduceOp, Wire};
use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

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

/// A machine whose CPUs are these, on two memory nodes. The stand-in's first device is on the second of them, its second on the first.
fn description(halves: [&Cpus; 2], all: &Cpus, name: &str) -> PathBuf {
    let mut text = format!("hfreduce machine 1\nname halves\nallowed {all}\n");
    for (number, half) in halves.iter().enumerate() {
        text += &format!("numa {number} cpus {half} bytes 1073741824 distances 10 20\n");
    }
    let cores: Vec<String> = all.iter().map(|cpu| cpu.to_string()).collect();
    text += &format!("socket 0 cores {}\n", cores.join(" "));
    text += "device 0000:00 host\n  device 0000:00:01.0 bridge\n    device 0000:01:00.0 gpu 10de:20f1 numa 1\n";
    text += "  device 0000:00:02.0 bridge\n    device 0000:02:00.0 gpu 10de:20f1 numa 0\n";
    let path = std::env::temp_dir().join(format!("hfr-{name}-{}.txt", std::process::id()));
    fs::write(&path, text).expect("a file");
    path
}

/// Where workers and channels run in a group of two ranks, on one node or on two that this host plays, and whether callers stay where they were.
fn seen(nodes: &[usize], change: impl Fn(&mut Config) + Sync) -> [BTreeSet<Cpus>; 2] {
    let before = own();
    let all = ranks(nodes, Wire::Auto, change, |comm: Communicator| {
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
    let path = description([&first, &second], &all, "halves");
    for nodes in [&[2][..], &[1, 1]] {
        let bound = seen(nodes, |config| config.topology = Some(path.clone()));
        // With many CPUs a rank has a part of its half; all of the half otherwise.
        for (set, what) in bound.iter().zip(["workers", "channels"]) {
            let (low, high): (Vec<&Cpus>, Vec<&Cpus>) = set.iter().partition(|c| c.within(&first));
            assert!(
                low.len() == 1 && high.len() == 1 && high[0].within(&second),
                "{what}: {set:?}"
            );
        }
    }
    let alone: BTreeSet<Cpus> = [all.clone()].into();
    let off = seen(&[2], |config| {
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

#[test]
fn a_rank_is_near_its_gpu() {
    let all = own();
    if all.len() < 2 {
        println!("skipped: with one CPU there is no choice");
        return;
    }
    let numbers: Vec<usize> = all.iter().collect();
    let halves = numbers.split_at(numbers.len() / 2);
    let (first, second): (Cpus, Cpus) = (
        halves.0.iter().copied().collect(),
        halves.1.iter().copied().collect(),
    );
    let (path, folder) = (
        description([&first, &second], &all, "gpus"),
        library_folder(),
    );
    let search = folder.search_path().into_string().expect("text");
    let plan = Plan::new(&[2], "auto", "20")
        .with("LD_LIBRARY_PATH", &search)
        .with("STANDIN_DEVICES", "2")
        .with("HFR_TOPO_FILE", &path.to_string_lossy());
    for (affinity, expected) in [("on", [&second, &first]), ("off", [&all, &all])] {
        let plan = plan.clone().with("HFR_AFFINITY", affinity);
        let mut job = plan.start(env!("CARGO_BIN_EXE_near"), &[], &[]);
        job.succeeds(Duration::from_secs(60));
        for (rank, expected) in expected.into_iter().enumerate() {
            let said = job.said(rank);
            let cpus = said.iter().find_map(|l| l.strip_prefix("worker on "));
            let cpus: Cpus = cpus.expect("a worker").parse().expect("CPUs");
            let near = cpus.within(expected) && (affinity == "on" || cpus == *expected);
            assert!(near, "rank {rank} with {affinity}: {cpus}, not {expected}");
        }
    }
    fs::remove_file(&path).expect("it was there");
}
