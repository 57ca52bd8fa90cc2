//! What an all_reduce on host memory costs a rank that computes meanwhile, and what the computing costs it. One rank of a job (`hfr run`): a thread
//! multiplies matrices; the all_reduce alone, the products alone, and both at once are measured in rounds that take turns; medians count, of the slowest rank; sums are checked.
//! Where every rank has a core, both at once cannot be shorter than one after the other, but for time in which one of them waits. Then the same in the form
//! that other libraries have: the all_reduce is started, products are computed on the thread that started it for about as long as the all_reduce takes
//! alone, and it is waited for.
//!
//! `hfr run --nodes 1 --ranks-per-node 2 -- target/release/examples/overlap [MiB of the all_reduce, 64]`

use hfreduce::{Communicator, ReduceOp};
use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const ROUNDS: usize = 7;
/// Rows of the matrices; all three fit into a core's second cache.
const ROWS: usize = 192;
/// Calls per measurement.
const CALLS: usize = 5;

/// One product, and what it was of, so that nothing is left out.
fn product(a: &[f32], b: &[f32], c: &mut [f32]) {
    for (row, out) in a.chunks_exact(ROWS).zip(c.chunks_exact_mut(ROWS)) {
        out.fill(0.0);
        for (factor, line) in row.iter().zip(b.chunks_exact(ROWS)) {
            for (out, term) in out.iter_mut().zip(line) {
                *out += factor * term;
            }
        }
    }
    black_box(c);
}

/// Multiplies until told to stop: products per second.
fn products(stop: &AtomicBool) -> f64 {
    let (a, b) = (vec![1.5f32; ROWS * ROWS], vec![0.5f32; ROWS * ROWS]);
    let mut c = vec![0.0f32; ROWS * ROWS];
    let (began, mut done) = (Instant::now(), 0u32);
    while !stop.load(Ordering::Relaxed) {
        product(black_box(&a), black_box(&b), &mut c);
        done += 1;
    }
    f64::from(done) / began.elapsed().as_secs_f64()
}

/// Seconds per call.
fn calls(group: &Communicator, buffer: &mut [f32]) -> f64 {
    buffer.fill(1.0);
    group.barrier().expect("a barrier");
    let began = Instant::now();
    for _ in 0..CALLS {
        group.all_reduce(buffer, ReduceOp::Sum).expect("a sum");
    }
    let seconds = began.elapsed().as_secs_f64() / CALLS as f64;
    check(buffer, (group.size() as f32).powi(CALLS as i32));
    seconds
}

fn check(buffer: &[f32], sum: f32) {
    assert!(buffer.iter().all(|x| *x == sum), "a wrong sum");
}

/// Seconds of so many products.
fn compute(count: usize) -> f64 {
    let (a, b) = (vec![1.5f32; ROWS * ROWS], vec![0.5f32; ROWS * ROWS]);
    let mut c = vec![0.0f32; ROWS * ROWS];
    let began = Instant::now();
    for _ in 0..count {
        product(black_box(&a), black_box(&b), &mut c);
    }
    began.elapsed().as_secs_f64()
}

/// Started, computed meanwhile, waited for: seconds in all, and of the products alone in that time.
fn started(group: &Communicator, buffer: &mut [f32], count: usize) -> (f64, f64) {
    buffer.fill(1.0);
    group.barrier().expect("a barrier");
    let began = Instant::now();
    let computing = group.scope(|scope| -> Result<f64, hfreduce::Error> {
        let call = scope.all_reduce(&mut *buffer, ReduceOp::Sum)?;
        let computing = compute(count);
        call.wait()?;
        Ok(computing)
    });
    let seconds = began.elapsed().as_secs_f64();
    check(buffer, group.size() as f32);
    (seconds, computing.expect("a sum"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let group = Communicator::from_env().expect("a job");
    let mib: usize = std::env::args()
        .nth(1)
        .map_or(64, |a| a.parse().expect("MiB"));
    let mut buffer = vec![1.0; mib << 18];
    calls(&group, &mut buffer);
    let (mut alone, mut both, mut free, mut beside) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        alone.push(calls(&group, &mut buffer));
        let stop = AtomicBool::new(false);
        free.push(std::thread::scope(|scope| {
            let thread = scope.spawn(|| products(&stop));
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
            thread.join().expect("products")
        }));
        group.barrier().expect("a barrier");
        stop.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| products(&stop));
            both.push(calls(&group, &mut buffer));
            stop.store(true, Ordering::Relaxed);
            beside.push(thread.join().expect("products"));
        });
    }
    // The slowest rank's; products per second are turned round, so that more is slower there too.
    let mut all = [
        median(alone),
        median(both),
        1.0 / median(free),
        1.0 / median(beside),
    ];
    group.all_reduce(&mut all, ReduceOp::Max).expect("figures");
    let [alone, both, free, beside] = all;
    if group.rank() == 0 {
        println!(
            "all_reduce of {mib} MiB: {:.2} ms alone, {:.2} ms beside products; products: {:.0} us alone, {:.0} us beside it",
            alone * 1e3,
            both * 1e3,
            free * 1e6,
            beside * 1e6
        );
        // What was done in `both` seconds, done one after the other.
        let apart = alone + both / beside * free;
        println!(
            "both at once take {:.2} of the time of one after the other",
            both / apart
        );
    }
    let count = (alone / free).ceil() as usize;
    let (mut comm, mut comp, mut all, mut slowed) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        comm.push(started(&group, &mut buffer, 0).0);
        group.barrier().expect("a barrier");
        comp.push(compute(count));
        let (both, computing) = started(&group, &mut buffer, count);
        all.push(both);
        slowed.push(computing);
    }
    let mut figures = [median(comm), median(comp), median(all), median(slowed)];
    group
        .all_reduce(&mut figures, ReduceOp::Max)
        .expect("figures");
    let [comm, comp, both, slowed] = figures.map(|f| f * 1e3);
    if group.rank() == 0 {
        println!(
            "started and waited for: all_reduce {comm:.2} ms, {count} products {comp:.2} ms, both {both:.2} ms, that is {:.2} of one after the other; products take {:.2} of their time alone",
            both / (comm + comp),
            slowed / comp
        );
    }
}
