//! Results of floats are the same bits on all ranks, from run to run, over every wire, from any kind of memory, and whatever the size of pieces.
//! Inputs have magnitudes so different that any other order of addition shows.

use crate::value::random;
use hfr_tests::ranks;
use hfreduce::{
    ReduceOp, Wire,
    layout::Extent,
    plan::{Collective, Piece, Shape, candidates},
};

const COUNTS: [usize; 4] = [5, 900, 20_000, 150_000];

fn input(rank: usize, i: usize) -> f32 {
    let r = random((rank as u64) << 32 ^ i as u64);
    let value = (r >> 40) as f32 * (2f32).powi((r & 31) as i32 - 30);
    if r & 64 == 0 { value } else { -value }
}

/// The bits that every rank has in the end.
fn run(nodes: &[usize], wire: Wire, algorithm: &str, registered: bool) -> Vec<u32> {
    let change = |config: &mut hfreduce::Config| config.algorithm = Some(algorithm.to_owned());
    let all = ranks(nodes, wire, change, |comm| {
        let mut bits = Vec::new();
        for count in COUNTS {
            let mine: Vec<f32> = (0..count).map(|i| input(comm.rank(), i)).collect();
            if registered {
                let mut buffer = comm.alloc::<f32>(count).expect("memory");
                buffer.copy_from_slice(&mine);
                comm.all_reduce(&mut buffer, ReduceOp::Sum).expect("sum");
                bits.extend(buffer.iter().map(|x| x.to_bits()));
            } else {
                let mut out = vec![0.0; count];
                comm.all_reduce_into(&mine, &mut out, ReduceOp::Sum)
                    .expect("sum");
                bits.extend(out.iter().map(|x| x.to_bits()));
            }
        }
        bits
    });
    assert!(
        all.iter().all(|bits| *bits == all[0]),
        "ranks differ: {algorithm} on {nodes:?} over {wire:?}"
    );
    all.into_iter().next().expect("a rank")
}

#[test]
fn floats_are_the_same_bits_everywhere_and_every_time() {
    for algorithm in ["one_shot", "double_tree", "ring"] {
        let nodes = &[2, 1, 2];
        let first = run(nodes, Wire::Local, algorithm, false);
        for (wire, registered) in [
            (Wire::Local, false),
            (Wire::Local, true),
            (Wire::Tcp, false),
            (Wire::Tcp, true),
        ] {
            let again = run(nodes, wire, algorithm, registered);
            assert!(
                again == first,
                "{algorithm} over {wire:?}, registered {registered}"
            );
        }
    }
    let first = run(&[4], Wire::Auto, "inside_node", false);
    assert!(first == run(&[4], Wire::Auto, "inside_node", true));
}

/// The proof has it that all parts of a block are added in one order; here: the block of an element is a matter of its position alone.
#[test]
fn the_block_of_an_element_does_not_depend_on_the_size_of_pieces() {
    for nodes in 1..=6 {
        let shape = Shape::uniform(nodes, 3);
        for plan in candidates(Collective::AllReduce, &shape) {
            for count in [0, 1, 63, 64, 65, 1000, 4099] {
                let blocks = |piece: usize| {
                    let extent = Extent::new(&plan, count, 4, piece);
                    let mut of = vec![None; count];
                    for chunk in 0..extent.chunks() {
                        for block in 0..plan.blocks {
                            for part in 0..plan.parts {
                                let (at, n) = extent.span(Piece { block, part }, chunk);
                                // An empty piece may begin behind the end.
                                for element in of.iter_mut().skip(at).take(n) {
                                    assert_eq!(*element, None, "covered twice");
                                    *element = Some(block);
                                }
                            }
                        }
                    }
                    assert!(of.iter().all(Option::is_some), "an element is left out");
                    of
                };
                let usual = blocks(4096);
                for piece in [4, 64, 100, 256, 1 << 20] {
                    assert_eq!(blocks(piece), usual, "{} {shape} {count}", plan.name);
                }
            }
        }
    }
}
