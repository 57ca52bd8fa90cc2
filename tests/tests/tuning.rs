//! Groups with measured figures: all ranks choose by those of rank 0, whoever has a file, and so do the groups that come of theirs; a file for
//! something else, or none at all, is told apart. Invariant: whatever the figures, results are right.

use hfr_tests::{free_port, job::Plan, ranks};
use hfreduce::{
    Communicator, Config, ReduceOp, Wire,
    plan::{Model, Shape},
    tuning::{Measured, Tuning},
};
use std::{path::PathBuf, time::Duration};

/// In elements: what one-shot plans and trees are for, and what takes many pieces.
const SIZES: [usize; 6] = [1, 300, 4097, 70_000, 300_001, 1 << 20];

/// Figures unlike the usual ones: by `slow`, everything but bytes takes longer, and pieces are larger.
fn figures(wire: &str, slow: f64) -> Measured {
    let usual = Model::usual(2, wire, false);
    let model = Model {
        step: usual.step * slow,
        wake: usual.wake * slow,
        hand_over: usual.hand_over * slow,
        send: usual.send * slow,
        hop: usual.hop * slow,
        piece: (1024, if slow > 1.0 { 1 << 20 } else { 4096 }),
        ..usual
    };
    Measured::new(model, &Shape::uniform(2, 2), wire, 0)
}

/// A file that goes with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, measured: &Measured) -> File {
        let name = format!("hfr-tuned-{}-{name}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        measured.write(&path).expect("a file");
        File(path)
    }

    fn tuning(&self) -> Option<Tuning> {
        Some(Tuning::File(self.0.clone()))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn adds_up(comm: &Communicator) {
    for count in SIZES {
        let input = |rank: usize, i: usize| (i % 251 + rank * 3) as f32;
        let mut buffer: Vec<f32> = (0..count).map(|i| input(comm.rank(), i)).collect();
        comm.all_reduce(&mut buffer, ReduceOp::Sum).expect("a sum");
        for (i, found) in buffer.iter().enumerate() {
            let sum: f32 = (0..comm.size()).map(|rank| input(rank, i)).sum();
            assert_eq!(*found, sum, "element {i} of {count}");
        }
    }
}

fn has(comm: &Communicator, figures: &Measured) -> bool {
    // Text may lose a figure's last bit.
    let (m, f) = (comm.model(), &figures.model);
    (m.step / f.step - 1.0).abs() < 1e-12 && m.piece == f.piece
}

#[test]
fn all_ranks_choose_by_rank_0s_figures() {
    for (nodes, wire, name) in [
        (&[2, 2][..], Wire::Local, "local"),
        (&[1, 2], Wire::Tcp, "tcp"),
    ] {
        let (slow, quick) = (figures(name, 40.0), figures(name, 0.02));
        let own = File::new(&format!("own-{name}"), &slow);
        let other = File::new(&format!("other-{name}"), &quick);
        for others in [None, other.tuning(), Some(Tuning::File("/no/such".into()))] {
            let change = |config: &mut Config| {
                let first = config.rank == 0;
                config.tuning = if first { own.tuning() } else { others.clone() };
            };
            ranks(nodes, wire, change, |comm| {
                assert!(has(&comm, &slow), "{:?}", comm.model());
                adds_up(&comm);
            });
        }
        // The usual ones, whatever the others have.
        let change = |config: &mut Config| {
            config.tuning = other.tuning().filter(|_| config.rank > 0);
        };
        ranks(nodes, wire, change, |comm| {
            assert!(!has(&comm, &quick));
            adds_up(&comm);
        });
    }
}

#[test]
fn groups_that_come_of_a_group_go_by_its_figures() {
    let slow = figures("local", 40.0);
    let change = |config: &mut Config| {
        config.tuning = (config.rank == 0).then(|| Tuning::Measured(slow.clone()));
    };
    ranks(&[2, 2], Wire::Local, change, |comm| {
        let split = |color: usize, key: i64| {
            let child = comm.split(Some(color as u32), key).expect("a group");
            child.expect("a color")
        };
        // Rank 0 is another one; then a node's own ranks; then each rank alone; and one more generation.
        let turned = split(0, comm.rank() as i64 / 2 * -2);
        let inside = split(comm.node(), 0);
        let alone = split(comm.rank(), 0);
        let grown = turned.split(Some(turned.rank() as u32 % 2), 0);
        let grown = grown.expect("a group").expect("a color");
        for child in [&turned, &inside, &alone, &grown] {
            assert!(has(child, &slow), "{:?}", child.model());
            adds_up(child);
        }
        let quick = figures("local", 0.02);
        let with = comm.split_with(Some(0), 0, |config| {
            config.tuning = Some(Tuning::Measured(quick.clone()));
        });
        let with = with.expect("a group").expect("a color");
        assert!(has(&with, &quick) && has(&comm, &slow));
        adds_up(&with);
    });
}

#[test]
fn figures_for_another_wire_are_left_alone() {
    let other = figures("verbs", 40.0);
    let change = |config: &mut Config| config.tuning = Some(Tuning::Measured(other.clone()));
    ranks(&[1, 1], Wire::Local, change, |comm| {
        assert!(!has(&comm, &other));
        assert_eq!(comm.model().step, Model::usual(2, "local", false).step);
        adds_up(&comm);
    });
    // Inside a node there is no wire, and bytes in memory are what they are.
    ranks(&[2], Wire::Auto, change, |comm| assert!(has(&comm, &other)));
}

#[test]
fn a_file_of_no_use_ends_the_start_of_all() {
    let mut config = Config::new(0, 2, &format!("127.0.0.1:{}", free_port()), b"tuning");
    config.tuning = Some(Tuning::File("/no/such/tuning".into()));
    config.connect_timeout = Duration::from_secs(20);
    let other = {
        let mut other = config.clone();
        other.rank = 1;
        std::thread::spawn(move || Communicator::connect(&other).is_err())
    };
    let error = Communicator::connect(&config).err().expect("no file");
    let text = error.to_string();
    assert!(
        text.contains("HFR_TUNING=/no/such/tuning") && text.contains("hfr tune"),
        "{text}"
    );
    assert!(other.join().expect("no panic"), "it joined nobody");
}

#[test]
fn processes_with_different_files_agree() {
    let own = File::new("job", &figures("local", 40.0));
    let other = File::new("job-other", &figures("local", 0.02));
    let path = |file: &File| file.0.to_string_lossy().into_owned();
    let plan = Plan::new(&[2, 2], "local", "20").only(0, "HFR_TUNING", &path(&own));
    let differ =
        plan.clone()
            .only(1, "HFR_TUNING", &path(&other))
            .only(3, "HFR_TUNING", "/no/such/file");
    for plan in [plan, differ] {
        let calls: Vec<String> = SIZES
            .iter()
            .map(|count| format!("call:all_reduce:{count}:f32:sum:0"))
            .collect();
        let steps: Vec<&str> = calls.iter().map(String::as_str).collect();
        let mut plan = plan;
        plan.rendezvous = format!("127.0.0.1:{}", free_port());
        let mut job = plan.start(env!("CARGO_BIN_EXE_rank"), &steps, &[]);
        job.succeeds(Duration::from_secs(60));
    }
}
