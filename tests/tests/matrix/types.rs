//! Every type with every operation, on one node and on two, over both wires: the right value, or an error that names both. It knows the
//! reference and the public API only.

use crate::value::{Value, factor, judge, random};
use half::{bf16, f16};
use hfr_tests::ranks;
use hfreduce::{
    Communicator, Kind, ReduceOp, Wire,
    dtype::{F8E4M3, F8E5M2},
};

const COUNT: usize = 331;

/// What `rank` has at `i`.
pub fn input<T: Value>(call: usize, rank: usize, i: usize) -> T {
    T::make(random((call as u64) << 40 ^ (rank as u64) << 32 ^ i as u64))
}

fn every_op<T: Value>(comm: &Communicator) {
    for (call, op) in ReduceOp::ALL.into_iter().enumerate() {
        let op = match op {
            ReduceOp::PremulSum(_) => ReduceOp::PremulSum(factor::<T>()),
            op => op,
        };
        let what = format!("{op} of {} on {} ranks", T::DTYPE, comm.size());
        let mut buffer: Vec<T> = (0..COUNT).map(|i| input(call, comm.rank(), i)).collect();
        let before = buffer.clone();
        let result = comm.all_reduce(&mut buffer, op);
        if op.is_bitwise() && !T::DTYPE.is_integer() {
            refused::<T>(op, result);
            assert!(buffer == before, "{what}: a refused call changes nothing");
            continue;
        }
        result.expect(&what);
        for (i, &got) in buffer.iter().enumerate() {
            let inputs: Vec<T> = (0..comm.size()).map(|r| input(call, r, i)).collect();
            judge(op, &inputs, got, &what);
        }
    }
    if T::DTYPE.is_integer() {
        let op = ReduceOp::PremulSum(0.5);
        refused::<T>(op, comm.all_reduce(&mut [T::make(1)], op));
    }
    comm.barrier()
        .expect("the communicator stays usable after a refusal");
}

fn refused<T: Value>(op: ReduceOp, result: Result<(), hfreduce::Error>) {
    let error = result.expect_err("there is no such combination");
    assert_eq!(error.kind, Kind::InvalidArgument, "{error}");
    let text = error.to_string();
    assert!(
        text.contains(op.name()) && text.contains(T::DTYPE.name()),
        "names both: {text}"
    );
}

fn every_type(nodes: &[usize], wire: Wire) {
    ranks(
        nodes,
        wire,
        |_| (),
        |comm| {
            every_op::<f64>(&comm);
            every_op::<f32>(&comm);
            every_op::<f16>(&comm);
            every_op::<bf16>(&comm);
            every_op::<F8E4M3>(&comm);
            every_op::<F8E5M2>(&comm);
            every_op::<i8>(&comm);
            every_op::<u8>(&comm);
            every_op::<i32>(&comm);
            every_op::<u32>(&comm);
            every_op::<i64>(&comm);
            every_op::<u64>(&comm);
        },
    );
}

#[test]
fn every_type_and_operation_inside_a_node() {
    every_type(&[3], Wire::Auto);
}

#[test]
fn every_type_and_operation_between_nodes() {
    every_type(&[2, 2], Wire::Local);
    every_type(&[2, 2], Wire::Tcp);
}

/// Slices that begin anywhere in a cache line, of ordinary and registered memory, ranks differing in which they have.
fn misaligned<T: Value>(comm: &Communicator) {
    let sum = ReduceOp::Sum;
    for (call, (offset, count)) in [(1, 1), (1, 63), (3, 200), (5, 4099), (31, 1000)]
        .into_iter()
        .enumerate()
    {
        let offset = offset + comm.rank() % 2;
        let mut ordinary = vec![T::make(7); offset + count + 3];
        let mut registered = comm.alloc::<T>(offset + count + 3).expect("memory");
        registered.fill(T::make(7));
        for which in 0..3 {
            let use_registered = which == 1 || which == 2 && comm.rank() == 0;
            let whole: &mut [T] = if use_registered {
                &mut registered
            } else {
                &mut ordinary
            };
            let call = call * 3 + which;
            let slice = &mut whole[offset..offset + count];
            for (i, x) in slice.iter_mut().enumerate() {
                *x = input(call, comm.rank(), i);
            }
            comm.all_reduce(slice, sum).expect("all_reduce");
            for (i, &got) in slice.iter().enumerate() {
                let inputs: Vec<T> = (0..comm.size()).map(|r| input(call, r, i)).collect();
                judge(sum, &inputs, got, "misaligned sum");
            }
            let around = whole[..offset].iter().chain(&whole[offset + count..]);
            assert!(around.copied().all(|x| x == T::make(7)), "wrote outside");
        }
    }
}

#[test]
fn misaligned_slices_of_ordinary_and_registered_memory() {
    for (nodes, wire) in [(&[3][..], Wire::Auto), (&[2, 2], Wire::Local)] {
        ranks(
            nodes,
            wire,
            |_| (),
            |comm| {
                misaligned::<u8>(&comm);
                misaligned::<f16>(&comm);
                misaligned::<f32>(&comm);
                misaligned::<i64>(&comm);
            },
        );
    }
}

#[test]
fn factors_that_differ_are_told_and_not_mixed() {
    let errors = ranks(
        &[3],
        Wire::Auto,
        |_| (),
        |comm| {
            let mut buffer = vec![1.5f32; 100];
            let same = ReduceOp::PremulSum(2.0);
            comm.all_reduce(&mut buffer, same).expect("equal factors");
            assert!(buffer.iter().all(|x| *x == 9.0));
            let own = ReduceOp::PremulSum(if comm.rank() == 1 { 0.5 } else { 0.25 });
            let error = comm.all_reduce(&mut buffer, own).expect_err("differ");
            assert_eq!(error.kind, Kind::Mismatch, "{error}");
            error.to_string()
        },
    );
    assert!(
        errors.iter().all(|e| *e == errors[0]),
        "one cause: {errors:?}"
    );
    assert!(
        errors[0].contains("0.5") && errors[0].contains("0.25"),
        "{}",
        errors[0]
    );
}
