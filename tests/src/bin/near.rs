//! One rank of a job whose GPU is chosen before its group starts, for `tests/affinity.rs`: it starts a call, and says on which CPUs the library's
//! thread for such calls runs. It uses the device its rank names, of as many as the stand-in for the driver has.

use hfreduce::{Communicator, ReduceOp};
use std::{fs, process::ExitCode};

fn main() -> ExitCode {
    let rank = std::env::var("HFR_RANK").expect("a rank");
    hfr_tests::gpu::choose(rank.parse().expect("a number"));
    let comm = Communicator::from_env().unwrap_or_else(|e| panic!("{e}"));
    let mut sum = vec![comm.rank() as i64 + 1; 100];
    comm.scope(|s| s.all_reduce(&mut sum, ReduceOp::Sum)?.wait())
        .unwrap_or_else(|e| panic!("{e}"));
    let expected = (1..=comm.size() as i64).sum::<i64>();
    if sum.iter().any(|x| *x != expected) {
        println!("wrong sums");
    }
    for task in fs::read_dir("/proc/self/task").expect("threads").flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == "hfr-worker" {
            let status = read("status");
            let list = status
                .lines()
                .find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
            println!("worker on {}", list.unwrap_or_default().trim());
        }
    }
    ExitCode::SUCCESS
}
