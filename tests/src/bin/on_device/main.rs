//! One rank of a job with buffers on a GPU, for the tests in `tests/device`: joins the group that the environment describes and does the steps
//! its arguments name. It says what `rank` says: `looping`, `error KIND|TEXT`, `wrong ...`, `done`. The reference is the library's own host
//! path, which the other tests check: the same call with the same inputs, bit for bit.

mod compare;

use compare::{compare, matrix, shapes, types};
use hfr_tests::gpu::{self, OnDevice, UserStream};
use hfreduce::{Collective, Communicator, DType, Error, Pending, RawCall, ReduceOp, Reducer};
use std::{
    io::Write,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A test that has gone away wants to hear nothing.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn main() -> ExitCode {
    let comm = match Communicator::from_env() {
        Ok(comm) => Arc::new(comm),
        Err(error) => return failed(&error),
    };
    // Several ranks share a device where there are fewer devices.
    let devices = std::env::var("STANDIN_DEVICES").map_or(1, |n| n.parse().expect("a number"));
    gpu::choose(comm.local_rank() as i32 % devices);
    for step in std::env::args().skip(1) {
        let words: Vec<&str> = step.split(':').collect();
        let number = |i: usize| words[i].parse::<usize>().expect("a number");
        let done = match words[0] {
            "matrix" => matrix(&comm, number(1)),
            "types" => types(&comm),
            "stream" => on_one_stream(&comm, number(1)),
            "queue" => queue(&comm, number(1)),
            "ring" => ring(&comm, number(1)),
            "reducer" => reducer(&comm),
            "refused" => refused(&comm),
            "registered" => registered(&comm, number(1)),
            "stuck" => stuck(&comm, number(1), number(2)),
            "loop" => endless(&comm, number(1)),
            other => panic!("no step {other}"),
        };
        if let Err(error) = done {
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

fn floats(bytes: &[u8]) -> Vec<f32> {
    let word = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    bytes.chunks_exact(4).map(word).collect()
}

fn bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|f| f.to_le_bytes()).collect()
}

fn all_reduce(count: usize, input: *const u8, output: *mut u8) -> RawCall {
    RawCall {
        collective: Collective::AllReduce,
        dtype: DType::F32,
        op: ReduceOp::Sum,
        count,
        input,
        output,
        blocks: None,
    }
}

/// Work in front of the call, the call, work behind it, round after round, and the host waits for nothing in between.
fn on_one_stream(comm: &Communicator, count: usize) -> Result<(), Error> {
    let n = comm.size();
    let (one, two) = (UserStream::default(), UserStream::default());
    let start: Vec<f32> = (0..count).map(|i| (i % 13) as f32).collect();
    let source = OnDevice::of(&bytes(&start));
    let buffer = OnDevice::of(&vec![0x7f; 4 * count]);
    let seen = OnDevice::of(&vec![0x7f; 4 * count]);
    let began = Instant::now();
    let mut last = None;
    for round in 0..4 {
        // What the call reads is there only when the stream has come so far.
        one.compute(Duration::from_millis(30));
        if round == 0 {
            one.copy(&source, &buffer);
        }
        // SAFETY: the buffer lives until both streams have been waited for.
        let call = unsafe { comm.enqueue(all_reduce(count, buffer.at, buffer.at), one.handle()) }?;
        call.block(one.handle())?;
        call.block(two.handle())?;
        last = Some(call);
    }
    two.copy(&buffer, &seen);
    let slow = std::env::var("STANDIN_NO_MEMOPS").is_ok();
    if began.elapsed() > Duration::from_millis(100) && !slow {
        say("wrong: the host has waited");
    }
    two.synchronize();
    let factor = n.pow(4) as f32;
    let right: Vec<f32> = start.iter().map(|x| x * factor).collect();
    if floats(&seen.get()) != right {
        say("wrong: the other stream has not waited for the result");
    }
    one.synchronize();
    last.expect("four rounds").pending().wait()
}

/// Many calls under way at once, in turn on the device and on the host, on one plan.
fn queue(comm: &Communicator, count: usize) -> Result<(), Error> {
    let n = comm.size();
    let stream = UserStream::default();
    let input = |turn: usize, i: usize| ((turn * 7 + i) % 29) as f32;
    let fill = |turn: usize| -> Vec<f32> { (0..count).map(|i| input(turn, i)).collect() };
    let mut host: Vec<Vec<f32>> = (0..12).map(fill).collect();
    let device: Vec<OnDevice> = (0..12).map(|t| OnDevice::of(&bytes(&fill(t)))).collect();
    let mut pending: Vec<Pending> = Vec::new();
    for turn in 0..12 {
        // Which calls are on the device differs between ranks.
        pending.push(if (turn + comm.rank()).is_multiple_of(3) {
            let at: *mut u8 = host[turn].as_mut_ptr().cast();
            // SAFETY: the buffer is left alone until the call has ended.
            unsafe { comm.start(all_reduce(count, at, at)) }
        } else {
            let at = device[turn].at;
            // SAFETY: as above.
            let call = unsafe { comm.enqueue(all_reduce(count, at, at), stream.handle()) }?;
            call.pending().clone()
        });
    }
    for (turn, pending) in pending.iter().enumerate() {
        pending.wait()?;
        let got = if (turn + comm.rank()).is_multiple_of(3) {
            host[turn].clone()
        } else {
            floats(&device[turn].get())
        };
        if (0..count).any(|i| got[i] != input(turn, i) * n as f32) {
            say(&format!("wrong: call {turn} of the queue"));
        }
    }
    Ok(())
}

/// Messages around the ring, from and into device memory.
fn ring(comm: &Communicator, count: usize) -> Result<(), Error> {
    let (me, n) = (comm.rank(), comm.size());
    let (next, before) = ((me + 1) % n, (me + n - 1) % n);
    let stream = UserStream::default();
    let word = |rank: usize, i: usize| (rank * 100 + i % 50) as f32;
    let own: Vec<f32> = (0..count).map(|i| word(me, i)).collect();
    let from = OnDevice::of(&bytes(&own));
    let into = OnDevice::of(&vec![0x7f; 4 * count]);
    for _ in 0..3 {
        into.put(&vec![0x7f; 4 * count]);
        // SAFETY: both buffers live until the stream has come by.
        let (sent, received) = unsafe {
            (
                comm.enqueue_send(DType::F32, count, from.at, next, 5, stream.handle())?,
                comm.enqueue_recv(DType::F32, count, into.at, before, 5, stream.handle())?,
            )
        };
        sent.block(stream.handle())?;
        received.block(stream.handle())?;
        stream.synchronize();
        sent.pending().wait()?;
        received.pending().wait()?;
        let right: Vec<f32> = (0..count).map(|i| word(before, i)).collect();
        if floats(&into.get()) != right {
            say("wrong: the message of the rank before");
        }
    }
    Ok(())
}

/// HFReduce's own shape: named tensors, a fused destination, one synchronization.
fn reducer(comm: &Arc<Communicator>) -> Result<(), Error> {
    let counts = [1000, 1, 4096, 70_000];
    let stream = UserStream::default();
    let mut reducer = Reducer::new(comm.clone(), DType::F32, ReduceOp::Avg);
    for (i, count) in counts.iter().enumerate() {
        reducer.register(&format!("t{i}"), *count)?;
    }
    let fused = OnDevice::of(&vec![0x7f; 4 * reducer.total()]);
    // SAFETY: the buffer lives until the reducer is dropped.
    unsafe { reducer.set_fused_destination(fused.at) };
    let content = |t: usize, rank: usize, i: usize| (t + i % 31 + 4 * rank) as f32;
    let tensor = |t: usize| -> OnDevice {
        let all: Vec<f32> = (0..counts[t]).map(|i| content(t, comm.rank(), i)).collect();
        OnDevice::of(&bytes(&all))
    };
    let tensors: Vec<OnDevice> = (0..counts.len()).map(tensor).collect();
    for (t, count) in counts.iter().enumerate().rev() {
        // SAFETY: the tensors live until the stream has come by.
        unsafe { reducer.enqueue(&format!("t{t}"), tensors[t].at, *count, stream.handle()) }?;
    }
    let names = reducer.synchronize_on(stream.handle())?;
    if names != ["t3", "t2", "t1", "t0"] {
        say(&format!("wrong: the names {names:?}"));
    }
    stream.synchronize();
    let mean = (comm.size() - 1) as f32 * 2.0;
    let right = |t: usize| (0..counts[t]).map(move |i| content(t, 0, i) + mean);
    if floats(&fused.get()) != (0..counts.len()).flat_map(right).collect::<Vec<f32>>() {
        say("wrong: the fused destination");
    }
    Ok(())
}

/// What is refused, with nothing started: the group goes on.
fn refused(comm: &Communicator) -> Result<(), Error> {
    let stream = UserStream::default();
    let memory = OnDevice::of(&[1; 64]);
    let mut host = [1.0f32; 16];
    let at: *mut u8 = host.as_mut_ptr().cast();
    let expect = |outcome: Result<hfreduce::Enqueued, Error>, words: &str| match outcome {
        Err(error) if error.to_string().contains(words) => {}
        Err(error) => say(&format!("wrong: {error}, and not {words}")),
        Ok(_) => say(&format!("wrong: no error that says {words}")),
    };
    // SAFETY: nothing of it is started.
    unsafe {
        let on_host = comm.enqueue(all_reduce(16, at, at), stream.handle());
        expect(on_host, "ordinary host memory");
        let half = comm.enqueue(all_reduce(16, memory.at, at), stream.handle());
        expect(half, "ordinary host memory");
        stream.capture();
        let captured = comm.enqueue(all_reduce(16, memory.at, memory.at), stream.handle());
        expect(captured, "recording a CUDA graph");
        stream.end_capture();
    }
    if std::env::var("STANDIN_DEVICES").is_ok_and(|n| n == "2") {
        compare(
            comm,
            &shapes(comm, 9, 4)[0],
            (DType::F32, ReduceOp::Sum),
            9,
            false,
            !0,
        )?;
        gpu::choose((comm.local_rank() as i32 + 1) % 2);
        let other = UserStream::default();
        let memory = OnDevice::of(&[1; 64]);
        // SAFETY: nothing of it is started.
        let moved = unsafe { comm.enqueue(all_reduce(16, memory.at, memory.at), other.handle()) };
        expect(moved, "has worked on device");
        drop((other, memory));
        gpu::choose(comm.local_rank() as i32 % 2);
    }
    compare(
        comm,
        &shapes(comm, 16, 4)[0],
        (DType::F32, ReduceOp::Sum),
        16,
        true,
        !0,
    )
}

/// Rank 0 is on the host with registered memory, where others read and write it themselves; all others are on devices.
fn registered(comm: &Communicator, count: usize) -> Result<(), Error> {
    let stream = UserStream::default();
    let content = |rank: usize, i: usize| (rank * 7 + i % 23) as f32;
    let own: Vec<f32> = (0..count).map(|i| content(comm.rank(), i)).collect();
    for collective in [Collective::AllReduce, Collective::Broadcast { root: 0 }] {
        let make = |at: *mut u8| RawCall {
            collective,
            ..all_reduce(count, at, at)
        };
        let got = if comm.rank() == 0 {
            let mut buffer = comm.alloc::<f32>(count)?;
            buffer.copy_from_slice(&own);
            // SAFETY: the buffer lives until the call has ended.
            unsafe { comm.run(make(buffer.as_mut_ptr().cast())) }?;
            buffer.to_vec()
        } else {
            let buffer = OnDevice::of(&bytes(&own));
            // SAFETY: as above.
            let call = unsafe { comm.enqueue(make(buffer.at), stream.handle()) }?;
            call.pending().wait()?;
            floats(&buffer.get())
        };
        let sum = |i: usize| (0..comm.size()).map(|r| content(r, i)).sum::<f32>();
        let right = |i: usize| match collective {
            Collective::AllReduce => sum(i),
            _ => content(0, i),
        };
        if (0..count).any(|i| got[i] != right(i)) {
            say(&format!(
                "wrong: {} beside registered memory",
                collective.name()
            ));
        }
    }
    Ok(())
}

/// The stream of rank `late` comes to its second call only after `time` milliseconds: longer than the timeout.
fn stuck(comm: &Communicator, late: usize, time: usize) -> Result<(), Error> {
    let stream = UserStream::default();
    let buffer = OnDevice::of(&bytes(&[1.5; 64]));
    let mut last = Ok(());
    for round in 0..2 {
        if round == 1 && comm.rank() == late {
            stream.compute(Duration::from_millis(time as u64));
        }
        // SAFETY: the buffer lives until the stream has come by.
        let call = unsafe { comm.enqueue(all_reduce(64, buffer.at, buffer.at), stream.handle()) }?;
        call.block(stream.handle())?;
        last = call.pending().wait();
    }
    // Everything behind the failed call goes on.
    stream.synchronize();
    last
}

/// Calls until one fails; then everything that waits on the stream must go on, and every later call fails in the same words.
fn endless(comm: &Communicator, count: usize) -> Result<(), Error> {
    let stream = UserStream::default();
    let start: Vec<f32> = (0..count).map(|i| (i % 5) as f32).collect();
    let buffer = OnDevice::of(&bytes(&start));
    let copy = OnDevice::of(&vec![0; 4 * count]);
    for time in 0.. {
        // SAFETY: the buffer lives until the stream has come by.
        let call =
            unsafe { comm.enqueue(all_reduce(count, buffer.at, buffer.at), stream.handle()) };
        let outcome = call.and_then(|call| {
            call.block(stream.handle())?;
            stream.copy(&buffer, &copy);
            call.pending().wait()
        });
        if let Err(error) = outcome {
            let until = Instant::now() + Duration::from_secs(5);
            while error.kind != hfreduce::Kind::Device && !stream.is_idle() {
                if Instant::now() > until {
                    say("wrong: the stream waits for a call that has failed");
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            if comm.barrier().err().as_ref() != Some(&error) {
                say("wrong: a later call does not return the first failure");
            }
            // Freed with the process: a device that has failed takes nothing back.
            std::mem::forget((stream, buffer, copy));
            return Err(error);
        }
        if time == 2 {
            say("looping");
        }
    }
    Ok(())
}
