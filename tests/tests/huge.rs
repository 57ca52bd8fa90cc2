//! More than 2^31 elements in one call, from ordinary memory on one rank and registered memory on the other. A test of its own program, so that
//! nothing else large runs beside it. Invariant: the pattern has no period that a wrong 32-bit offset could hide behind.

use hfr_tests::ranks;
use hfreduce::{Communicator, ReduceOp, Wire};

const COUNT: usize = (1 << 31) + 12_345;
/// Prime, so that no power of two is a period.
const PERIOD: usize = 65_521;

/// A stretch of the pattern of `rank`: each repetition differs from its neighbours by its number.
fn stretch(rank: usize, number: usize) -> impl Iterator<Item = u8> {
    let salt = number.wrapping_mul(0x9e37_79b1) >> 11;
    (0..PERIOD).map(move |i| (i * (3 + 2 * rank) + salt) as u8)
}

fn reduce(comm: &Communicator, buffer: &mut [u8]) {
    for (number, part) in buffer.chunks_mut(PERIOD).enumerate() {
        let values = stretch(comm.rank(), number);
        part.iter_mut().zip(values).for_each(|(x, v)| *x = v);
    }
    comm.all_reduce(buffer, ReduceOp::Sum).expect("all_reduce");
    for (number, part) in buffer.chunks(PERIOD).enumerate() {
        let wanted = stretch(0, number).zip(stretch(1, number));
        let right = part
            .iter()
            .zip(wanted)
            .all(|(x, (a, b))| *x == a.wrapping_add(b));
        assert!(right, "a wrong element in stretch {number}");
    }
}

#[test]
fn more_than_two_to_the_31_elements() {
    ranks(
        &[2],
        Wire::Auto,
        |_| (),
        |comm| {
            if comm.rank() == 0 {
                reduce(&comm, &mut vec![0; COUNT]);
            } else {
                reduce(&comm, &mut comm.alloc(COUNT).expect("memory"));
            }
        },
    );
}
