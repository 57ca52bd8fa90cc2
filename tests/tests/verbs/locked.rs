//! A limit of locked memory that is too small, for real: a process of its own that has lost the capability which lifts it. What it may not have must be
//! said before the first put where it is known, and at the put at the latest.

use super::ends::{end, pair, put, usual};
use hfr_transport::verbs::lockable;
use hfr_transport::{Error, Transport};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// CAP_IPC_LOCK.
const MAY_LOCK: i32 = 14;
const LIMIT: u64 = 2 << 20;

/// Not a test by itself: what `a_small_memlock_limit_is_said_with_the_number_that_is_needed` starts.
#[test]
fn who_may_lock_little() {
    if std::env::var_os("HFR_TEST_LOCKED").is_none() {
        return;
    }
    let error = lockable(264 << 20).unwrap_err();
    println!("before: {error}");
    lockable(1 << 20).unwrap();
    // A block of 4 MiB does not fit.
    let [mut a, mut b] = pair(8 << 20, 0..8 << 20, usual());
    a.0.put(put(1, 0, 100_000, 7)).ok();
    let mut found: [Option<Error>; 2] = [None, None];
    let started = std::time::Instant::now();
    while found.iter().all(Option::is_none) && started.elapsed().as_secs() < 30 {
        found = [
            a.0.poll(&mut Vec::new()).err(),
            b.0.poll(&mut Vec::new()).err(),
        ];
    }
    let error = found.into_iter().flatten().next().expect("an error");
    println!("at a put: {error}");
    drop(end(2, 8192, 0..8192, usual()));
}

#[test]
fn a_small_memlock_limit_is_said_with_the_number_that_is_needed() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "locked::who_may_lock_little", "--nocapture"]);
    child.env("HFR_TEST_LOCKED", "1");
    // SAFETY: two system calls between fork and exec, neither of which allocates.
    unsafe {
        child.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: LIMIT,
                rlim_max: LIMIT,
            };
            if libc::prctl(libc::PR_CAPBSET_DROP, MAY_LOCK, 0, 0, 0) != 0
                || libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let line = |start: &str| {
        said.lines()
            .find(|line| line.contains(start))
            .unwrap_or_else(|| panic!("no {start} in {said}"))
    };
    let (before, put) = (line("before: "), line("at a put: "));
    for part in ["2097152 bytes", "276824064 bytes", "ulimit -l unlimited"] {
        assert!(before.contains(part), "{part}: {before}");
    }
    for part in [
        "cannot register 4194304 bytes",
        "2097152 bytes and needs 4194304",
        "ulimit -l unlimited",
    ] {
        assert!(put.contains(part), "{part}: {put}");
    }
}
