//! A job that MPI has started: `mpirun -n 4 target/release/examples/average`. Every rank checks every element, and MPI's own calls go on beside.
//! It knows no variable of ours. Invariant: it ends with an error on every rank or on none.

use hfreduce::ReduceOp;
use mpi::{
    collective::{CommunicatorCollectives, SystemOperation},
    topology::Communicator,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let universe = mpi::initialize().ok_or("MPI has begun already")?;
    let world = universe.world();
    let group = hfreduce_mpi::connect(&world)?;
    assert_eq!(
        (group.rank(), group.size()),
        (world.rank() as usize, world.size() as usize)
    );
    let mut gradient: Vec<f32> = (0..100_000)
        .map(|at| (world.rank() + at % 7) as f32)
        .collect();
    group.all_reduce(&mut gradient, ReduceOp::Avg)?;
    let mean = (world.size() - 1) as f32 / 2.0;
    let wrong = (gradient.iter().zip(0..)).filter(|(g, at)| **g != mean + (at % 7) as f32);
    let (own, mut all) = (wrong.count() as u64, 0u64);
    world.all_reduce_into(&own, &mut all, SystemOperation::sum());
    // The even and the odd ranks are a group each.
    let half = world
        .split_by_color(mpi::topology::Color::with_value(world.rank() % 2))
        .ok_or("no half")?;
    let mut sum = vec![i64::from(world.rank()) + 1; 1000];
    hfreduce_mpi::connect(&half)?.all_reduce(&mut sum, ReduceOp::Sum)?;
    let expected: i64 = (0..i64::from(world.size()))
        .filter(|rank| rank % 2 == i64::from(world.rank()) % 2)
        .map(|rank| rank + 1)
        .sum();
    if all > 0 || sum.iter().any(|s| *s != expected) {
        return Err(format!("{all} elements are wrong, or those of the halves").into());
    }
    if world.rank() == 0 {
        println!(
            "{} ranks: {:.2} {:.2} {:.2}",
            world.size(),
            gradient[0],
            gradient[1],
            gradient[2]
        );
    }
    Ok(())
}
