//! One rank of a job for the process tests: joins the group that the environment describes and does the steps its arguments name. What it
//! says on standard output is what the tests judge: `connected`, `looping`, `ready`, `ok STEP`, `error KIND|TEXT`, `done`. Invariant: a
//! wrong result is reported as `wrong`, and only a rank that did all its steps says `done` and exits with 0.
//!
//! A step is `VERB[:ARGUMENT]...`, before it perhaps `@RANK,RANK=` for steps of some ranks only.

use hfr_tests::ranks;
use hfreduce::{Communicator, Element, Error, ReduceOp, Wire};
use std::{
    io::{BufRead, Write},
    process::ExitCode,
    time::Duration,
};

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A test that has gone away wants to hear nothing.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn main() -> ExitCode {
    let steps: Vec<String> = std::env::args().skip(1).collect();
    if steps[0] == "cycles" {
        return cycles();
    }
    let mut comm = match Communicator::from_env() {
        Ok(comm) => Some(comm),
        Err(error) => return failed(&error),
    };
    say("connected");
    let rank = comm.as_ref().map_or(0, Communicator::rank);
    for step in &steps {
        let mut step = step.as_str();
        if let Some((ranks, rest)) = step.strip_prefix('@').and_then(|s| s.split_once('=')) {
            if !ranks.split(',').any(|r| r.parse() == Ok(rank)) {
                continue;
            }
            step = rest;
        }
        if step == "turn" {
            // The same ranks in reverse order; the first group ends.
            let turned = comm.as_ref().map(|c| c.split(Some(7), -(rank as i64)));
            match turned {
                Some(Ok(group)) => comm = group,
                Some(Err(error)) => return failed(&error),
                None => panic!("steps behind `drop` need no group"),
            }
        } else if step == "drop" {
            comm = None;
            say("dropped");
        } else if let Err(error) = act(comm.as_ref(), step) {
            // The first failure stays: whatever is called now fails in the same words, and at once.
            // A message fails in words of its own, and so does what comes behind `split`.
            if let Some(comm) = comm
                && !step.starts_with("split")
                && !step.starts_with("ring")
                && comm.barrier().err().as_ref() != Some(&error)
            {
                say("wrong: a later call does not return the first failure");
            }
            return failed(&error);
        }
    }
    drop(comm);
    say("done");
    ExitCode::SUCCESS
}

fn failed(error: &Error) -> ExitCode {
    say(&format!("error {:?}|{error}", error.kind));
    ExitCode::from(3)
}

fn act(comm: Option<&Communicator>, step: &str) -> Result<(), Error> {
    let words: Vec<&str> = step.split(':').collect();
    let number = |i: usize| words[i].parse::<usize>().expect("a number");
    let comm = || comm.expect("steps behind `drop` need no group");
    match words[0] {
        "ready" => say("ready"),
        "wait" => {
            let _ = std::io::stdin().lock().read_line(&mut String::new());
        }
        "sleep" => std::thread::sleep(Duration::from_millis(number(1) as u64)),
        "abort" => comm().abort(words[1]),
        "barrier" => comm().barrier()?,
        "overlap" => overlap(comm(), number(1))?,
        "split" => {
            let color = (comm().rank() % 2) as u32;
            let half = comm().split(Some(color), 0)?.expect("a color");
            for_times(&half, number(1), number(2))?;
        }
        "ring" => ring(comm(), number(1), number(2))?,
        "loop" => for_times(comm(), number(1), number(2))?,
        "move" => move_about(comm(), number(1), number(2))?,
        "call" => {
            let root = number(5);
            match words[3] {
                "f32" => call::<f32>(comm(), words[1], number(2), words[4], root)?,
                "f64" => call::<f64>(comm(), words[1], number(2), words[4], root)?,
                "i32" => call::<i32>(comm(), words[1], number(2), words[4], root)?,
                other => panic!("no type {other} here"),
            }
            say(&format!("ok {step}"));
        }
        other => panic!("no step {other}"),
    }
    Ok(())
}

/// All-reduces whose results are checked; says `looping` behind the third.
fn for_times(comm: &Communicator, count: usize, times: usize) -> Result<(), Error> {
    let n = comm.size();
    let mut buffer = vec![0f32; count];
    for time in 0..times {
        let input = |i: usize| ((i + time) % 89 + 1) as f32;
        for (i, x) in buffer.iter_mut().enumerate() {
            *x = input(i) * (comm.rank() + 1) as f32;
        }
        comm.all_reduce(&mut buffer, ReduceOp::Sum)?;
        let factor = (n * (n + 1) / 2) as f32;
        if let Some(i) = (0..count).find(|&i| buffer[i] != input(i) * factor) {
            say(&format!(
                "wrong: element {i} of call {time} is {}",
                buffer[i]
            ));
        }
        if time == 2 {
            say("looping");
        }
    }
    Ok(())
}

/// Collectives that add nothing, of `count` elements from each rank to each, and whose results are checked. What a call was given is written over
/// as soon as it returns. Says `looping` behind the third round, and first whether ranks read each other's memory.
fn move_about(comm: &Communicator, count: usize, times: usize) -> Result<(), Error> {
    let (me, n) = (comm.rank(), comm.size());
    say(&format!("single copy: {}", comm.single_copy()));
    let mut given = vec![0u32; count * n];
    let mut got = vec![0u32; count * n];
    let wrong = |what: &str, time: usize, got: &[u32], wanted: &dyn Fn(usize) -> u32| {
        if let Some(i) = (0..got.len()).find(|&i| got[i] != wanted(i)) {
            say(&format!(
                "wrong: element {i} of {what} {time} is {}",
                got[i]
            ));
        }
    };
    for time in 0..times {
        let word = |rank: usize, i: usize| (rank * 1_000_003 + time * 77 + i) as u32;
        let fill = |given: &mut [u32]| {
            for (i, x) in given.iter_mut().enumerate() {
                *x = word(me, i);
            }
        };
        fill(&mut given);
        comm.all_to_all(&given, &mut got)?;
        given.fill(!0);
        let from = |i: usize| word(i / count, me * count + i % count);
        wrong("all_to_all", time, &got, &from);

        fill(&mut given);
        comm.all_gather(&given[..count], &mut got)?;
        given.fill(!0);
        let shown = |i: usize| word(i / count, i % count);
        wrong("all_gather", time, &got, &shown);

        let root = time % n;
        fill(&mut given[..count]);
        comm.broadcast(&mut given[..count], root)?;
        wrong("broadcast", time, &given[..count], &|i| word(root, i));

        fill(&mut given[..count]);
        comm.reduce(&mut given[..count], ReduceOp::Max, root)?;
        if me == root {
            wrong("reduce", time, &given[..count], &|i| word(n - 1, i));
        }
        if time == 2 {
            say("looping");
        }
    }
    Ok(())
}

/// Messages to the next rank and from the one before, whose contents are checked; says `looping` behind the third.
fn ring(comm: &Communicator, count: usize, times: usize) -> Result<(), Error> {
    let (me, n) = (comm.rank(), comm.size());
    let (next, before) = ((me + 1) % n, (me + n - 1) % n);
    let mut got = vec![0i32; count];
    for time in 0..times {
        let word = |rank: usize, i: usize| (rank * 1000 + time % 89 + i) as i32;
        let own: Vec<i32> = (0..count).map(|i| word(me, i)).collect();
        // A thread for one of the two directions: who sends first waits for who receives.
        std::thread::scope(|s| {
            let sent = s.spawn(|| comm.send(&own, next));
            let received = comm.recv(&mut got, before);
            let sent = sent.join().expect("no panic");
            // Where both fail, one may be the consequence of a neighbour's giving up: the other names the cause.
            let cause = |r: &Result<(), Error>| matches!(r, Err(e) if e.cause.contains("killed"));
            if cause(&received) {
                received
            } else {
                sent.and(received)
            }
        })?;
        if let Some(i) = (0..count).find(|&i| got[i] != word(before, i)) {
            say(&format!(
                "wrong: element {i} of message {time} is {}",
                got[i]
            ));
        }
        if time == 2 {
            say("looping");
        }
    }
    Ok(())
}

/// Calls that overlap, for ever.
fn overlap(comm: &Communicator, count: usize) -> Result<(), Error> {
    let mut buffers = vec![vec![1i32; count]; 4];
    for time in 0.. {
        comm.scope(|s| {
            let mut handles = Vec::new();
            for buffer in &mut buffers {
                handles.push(s.all_reduce(buffer, ReduceOp::Max)?);
            }
            handles.into_iter().try_for_each(|h| h.wait())
        })?;
        if time == 2 {
            say("looping");
        }
    }
    Ok(())
}

fn call<T: Element + Default>(
    comm: &Communicator,
    collective: &str,
    count: usize,
    op: &str,
    root: usize,
) -> Result<(), Error> {
    let op = *ReduceOp::ALL
        .iter()
        .find(|o| o.name() == op)
        .expect("an operation");
    let mut buffer = vec![T::default(); count];
    let mut wide = vec![T::default(); count * comm.size()];
    match collective {
        "all_reduce" => comm.all_reduce(&mut buffer, op),
        "reduce_scatter" => comm.reduce_scatter(&wide, &mut buffer, op),
        "all_gather" => comm.all_gather(&buffer, &mut wide),
        "broadcast" => comm.broadcast(&mut buffer, root),
        "reduce" => comm.reduce(&mut buffer, op, root),
        other => panic!("no collective {other}"),
    }
}

fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Fifty jobs of two ranks, one after the other in this one process; says how many descriptors were open after the first ten and at the end.
fn cycles() -> ExitCode {
    for (nodes, wire) in [
        (&[2][..], Wire::Auto),
        (&[1, 1], Wire::Local),
        (&[1, 1], Wire::Tcp),
    ] {
        let job = || {
            ranks(
                nodes,
                wire,
                |_| (),
                |comm| for_times(&comm, 1000, 2).expect("a healthy group"),
            )
        };
        for _ in 0..4 {
            job();
        }
        let before = open();
        for _ in 0..13 {
            job();
        }
        // Threads that close the last descriptors need not have run yet.
        for _ in 0..100 {
            if open() <= before {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        say(&format!("descriptors {before} {}", open()));
    }
    say("done");
    ExitCode::SUCCESS
}
