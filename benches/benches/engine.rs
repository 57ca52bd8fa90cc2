//! What the engine costs per stage when there are no bytes: a chain of signals on one rank (no other core involved), and a barrier between two
//! threads (two cache lines that travel). It knows no wire. Invariant: figures are per stage, or per barrier.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hfr_benches::pair;
use hfr_transport::shm::{Board, DOORBELL_BYTES, Doorbell, Segment};
use hfreduce::{
    call::Call,
    dtype::DType,
    engine::{Engine, Job, Place, compile},
    kernel::Store,
    layout::{Extent, Layout},
    plan::{Collective, Plan, Shape},
};
use std::{
    sync::{Arc, mpsc},
    time::Instant,
};

const WINDOW: usize = 2;

/// A barrier of one rank that takes `stages` steps, each behind the one before.
fn chain(stages: usize) -> Plan {
    let mut plan = Plan::new("chain", &Shape::uniform(1, 1), Collective::Barrier);
    let mut after = Vec::new();
    for _ in 1..stages {
        after = vec![plan.signal(0, 0, after)];
    }
    plan.wait(0, after);
    plan
}

fn stages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    for stages in [2, 16, 128] {
        let checked = chain(stages).check().expect("a chain is a barrier of one");
        let layout = Layout::new(checked.plan(), 64, WINDOW);
        let board_bytes = Board::bytes(layout.counters(0));
        let segment = Arc::new(Segment::heap(
            DOORBELL_BYTES + board_bytes + layout.bytes(0),
        ));
        let board = Board::new(segment.clone(), DOORBELL_BYTES, layout.counters(0));
        let bell = Doorbell::new(segment.clone(), 0, None);
        let place = Place {
            slots: vec![DOORBELL_BYTES + board_bytes],
            counters: vec![0],
        };
        let program = compile(&checked, &layout, &place, 0, false);
        let mut engine = Engine::new(segment, board, vec![bell], 0, None);
        let run = engine.install(program, &layout, WINDOW);
        let job = Job {
            call: Call::default(),
            input: std::ptr::null(),
            output: std::ptr::null_mut(),
            blocks: None,
            sides: Default::default(),
            extent: Extent::new(checked.plan(), 0, 1, 64),
            size: DType::U8.size(),
            kernel: None,
            store: Store::Cached,
            shown_from: usize::MAX,
        };
        group.throughput(Throughput::Elements(stages as u64));
        group.bench_function(format!("chain of {stages} stages"), |bencher| {
            bencher.iter(|| {
                // SAFETY: a barrier touches no user memory.
                let id = unsafe { engine.submit(run, &job) };
                while !engine.finished(id) {
                    engine.step().expect("nothing can fail here");
                }
                // Takes the finished job off the list.
                engine.step().expect("nothing can fail here")
            });
        });
    }
    group.finish();
}

fn barrier(criterion: &mut Criterion) {
    let [mine, other] = pair();
    let (orders, taken) = mpsc::channel::<u64>();
    std::thread::scope(|s| {
        s.spawn(move || {
            for n in taken {
                (0..n).for_each(|_| other.barrier().expect("a barrier"));
            }
        });
        criterion.bench_function("barrier of two threads", |bencher| {
            bencher.iter_custom(|n| {
                orders.send(n).expect("the other rank lives");
                let started = Instant::now();
                (0..n).for_each(|_| mine.barrier().expect("a barrier"));
                started.elapsed()
            });
        });
        drop(orders);
    });
}

criterion_group!(benches, stages, barrier);
criterion_main!(benches);
