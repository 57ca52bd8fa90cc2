//! How long a plan takes to build, and to prove, from one node to 1,024 of 8 ranks. It runs none of them. Invariant: both are of the double tree,
//! the plan that large groups use.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hfr_topology::double_tree;
use hfreduce::plan::{Plan, Shape};
use std::{hint::black_box, time::Duration};

fn plans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    for nodes in [1, 16, 64, 1024] {
        let shape = Shape::uniform(nodes, 8);
        let build = || Plan::all_reduce_trees(&shape, &double_tree(nodes));
        group.bench_function(format!("build {shape}"), |bencher| {
            bencher.iter(|| black_box(build()));
        });
        let plan = build();
        group.bench_function(format!("check {shape}"), |bencher| {
            bencher.iter_batched(
                || plan.clone(),
                |plan| plan.check().expect("the double tree is right"),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, plans);
criterion_main!(benches);
