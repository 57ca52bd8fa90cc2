//! all_reduce of f32 end to end between two threads of one node, from ordinary and from registered memory, beside a memcpy of the same bytes by
//! one thread. It knows no plan. Invariant: all three of one size share a group, so they stand side by side.

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use hfr_benches::pair;
use hfreduce::{Communicator, ReduceOp};
use std::{
    hint::black_box,
    sync::mpsc,
    time::{Duration, Instant},
};

/// The buffer of one rank.
fn buffer(comm: &Communicator, count: usize, registered: bool) -> Box<dyn AsMut<[f32]> + '_> {
    struct Shared(hfreduce::Registered<f32>);
    impl AsMut<[f32]> for Shared {
        fn as_mut(&mut self) -> &mut [f32] {
            &mut self.0
        }
    }
    let mut buffer: Box<dyn AsMut<[f32]>> = if registered {
        let memory = comm.alloc(count).unwrap_or_else(|e| panic!("{e}"));
        Box::new(Shared(memory))
    } else {
        Box::new(vec![0f32; count])
    };
    // Numbers that differ between elements and ranks.
    for (i, x) in (*buffer).as_mut().iter_mut().enumerate() {
        *x = (1 << (i % 11)) as f32 + comm.rank() as f32;
    }
    buffer
}

fn reduce(group: &mut BenchmarkGroup<'_, WallTime>, comms: &[Communicator; 2], bytes: usize) {
    let count = bytes / 4;
    for registered in [false, true] {
        let (orders, taken) = mpsc::channel::<u64>();
        let call = |comm: &Communicator, buffer: &mut [f32]| {
            // Averages stay in range, however often they are taken.
            comm.all_reduce(buffer, ReduceOp::Avg)
                .unwrap_or_else(|e| panic!("{e}"));
        };
        std::thread::scope(|s| {
            s.spawn(move || {
                let mut mine = buffer(&comms[1], count, registered);
                for n in taken {
                    (0..n).for_each(|_| call(&comms[1], (*mine).as_mut()));
                }
            });
            let mut mine = buffer(&comms[0], count, registered);
            let name = if registered { "registered" } else { "ordinary" };
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|n| {
                    orders.send(n).expect("the other rank lives");
                    let started = Instant::now();
                    (0..n).for_each(|_| call(&comms[0], (*mine).as_mut()));
                    started.elapsed()
                });
            });
            drop(orders);
        });
    }
}

fn all_reduce(criterion: &mut Criterion) {
    let comms = pair();
    for (bytes, name) in [
        (8, "8 B"),
        (64 << 10, "64 KiB"),
        (1 << 20, "1 MiB"),
        (64 << 20, "64 MiB"),
    ] {
        let mut group = criterion.benchmark_group(format!("all_reduce 1x2 {name}"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1))
            .throughput(Throughput::Bytes(bytes as u64));
        let source = vec![7u8; bytes];
        let mut target = vec![1u8; bytes];
        group.bench_function("memcpy", |bencher| {
            bencher.iter(|| black_box(&mut target[..]).copy_from_slice(black_box(&source)));
        });
        reduce(&mut group, &comms, bytes);
        group.finish();
    }
    // Both leave together, as the ranks of a job do.
    let [mine, other] = comms;
    std::thread::scope(|s| {
        s.spawn(move || drop(other));
        drop(mine);
    });
}

criterion_group!(benches, all_reduce);
criterion_main!(benches);
