//! Every variant equals the scalar one bit for bit: all types, operations, lengths, alignments, in place, either store.
//! Invariant: the scalar result is computed afresh into separate memory, never taken from the variant under test.

use crate::support::{Placed, Rng, Shape, assert_same, input, ops, reduce, reduce_into};
use hfreduce::dtype::DType;
use hfreduce::kernel::{Store, Variant, copy};

const STORES: [Store; 2] = [Store::Cached, Store::Streaming];

fn lengths() -> Vec<usize> {
    if cfg!(miri) {
        vec![0, 1, 5]
    } else {
        (0..=130).chain([513, 1000, 4099]).collect()
    }
}

fn inputs(dtype: DType, count: usize, elements: usize, rng: &mut Rng) -> Vec<Vec<u8>> {
    (0..count).map(|_| input(dtype, elements, rng)).collect()
}

#[test]
fn all_lengths_and_numbers_of_terms() {
    let lengths = lengths();
    let longest = lengths[lengths.len() - 1];
    for dtype in DType::ALL {
        let mut rng = Rng(dtype as u64);
        let terms = inputs(dtype, 17, longest, &mut rng);
        let pointers: Vec<*const u8> = terms.iter().map(|term| term.as_ptr()).collect();
        for op in ops(dtype) {
            for count in (1..=9).chain([17]) {
                for &elements in &lengths {
                    let raw = rng.next() as usize % (count + 1);
                    let last = rng.next().is_multiple_of(2);
                    let ranks = 1 + rng.next() as usize % 300;
                    let shape = Shape {
                        dtype,
                        op,
                        ranks,
                        raw,
                        last,
                        elements,
                    };
                    let expected = reduce(
                        Variant::Scalar,
                        &shape,
                        &pointers[..count],
                        0,
                        Store::Cached,
                    );
                    for variant in Variant::available() {
                        let store = STORES[rng.next() as usize % 2];
                        let found = reduce(variant, &shape, &pointers[..count], 0, store);
                        assert_same(
                            &found,
                            &expected,
                            &(variant, store, count, shape),
                            dtype.size(),
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn all_alignments() {
    let lengths: &[usize] = if cfg!(miri) { &[3] } else { &[1, 63, 130, 300] };
    let step = if cfg!(miri) { 21 } else { 1 };
    for dtype in DType::ALL {
        let mut rng = Rng(100 + dtype as u64);
        for &elements in lengths {
            let terms = inputs(dtype, 3, elements, &mut rng);
            for offset in (0..64).step_by(step) {
                let mut placed: Vec<Placed> = (0..3)
                    .map(|t| Placed::of(&terms[t], (offset * (t + 1)) % 64))
                    .collect();
                let pointers: Vec<*const u8> = placed
                    .iter_mut()
                    .map(|term| term.as_mut_ptr().cast_const())
                    .collect();
                let all = ops(dtype);
                let op = all[rng.next() as usize % all.len()];
                let shape = Shape {
                    dtype,
                    op,
                    ranks: 3,
                    raw: 2,
                    last: true,
                    elements,
                };
                let expected = reduce(Variant::Scalar, &shape, &pointers, 0, Store::Cached);
                for variant in Variant::available() {
                    for store in STORES {
                        for at in [offset, 63 - offset] {
                            let found = reduce(variant, &shape, &pointers, at, store);
                            assert_same(
                                &found,
                                &expected,
                                &(variant, store, at, shape),
                                dtype.size(),
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn in_place_over_any_term() {
    let lengths: &[usize] = if cfg!(miri) {
        &[3]
    } else {
        &[1, 31, 130, 1031]
    };
    for dtype in DType::ALL {
        let mut rng = Rng(200 + dtype as u64);
        for op in ops(dtype) {
            for &elements in lengths {
                let terms = inputs(dtype, 4, elements, &mut rng);
                let pointers: Vec<*const u8> = terms.iter().map(|term| term.as_ptr()).collect();
                let shape = Shape {
                    dtype,
                    op,
                    ranks: 4,
                    raw: 3,
                    last: true,
                    elements,
                };
                let expected = reduce(Variant::Scalar, &shape, &pointers, 0, Store::Cached);
                for (variant, store) in Variant::available()
                    .into_iter()
                    .flat_map(|v| STORES.map(|s| (v, s)))
                {
                    for over in 0..4 {
                        let mut dst = Placed::of(&terms[over], 24);
                        let mut pointers = pointers.clone();
                        let place = dst.as_mut_ptr();
                        pointers[over] = place;
                        reduce_into(variant, &shape, &pointers, place, store);
                        assert_same(
                            dst.content(),
                            &expected,
                            &(variant, store, over, shape),
                            dtype.size(),
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn more_terms_than_any_node_has() {
    let (count, elements) = if cfg!(miri) { (70, 3) } else { (200, 777) };
    for dtype in DType::ALL {
        let mut rng = Rng(300 + dtype as u64);
        let terms = inputs(dtype, count, elements, &mut rng);
        let pointers: Vec<*const u8> = terms.iter().map(|term| term.as_ptr()).collect();
        for op in ops(dtype) {
            let shape = Shape {
                dtype,
                op,
                ranks: count,
                raw: count - 1,
                last: true,
                elements,
            };
            let expected = crate::reference::reduce(&shape, &terms);
            for variant in Variant::available() {
                let found = reduce(variant, &shape, &pointers, 8, Store::Streaming);
                assert_same(&found, &expected, &(variant, shape), dtype.size());
            }
        }
    }
}

#[test]
fn copies_every_length_from_and_to_every_alignment() {
    let lengths: Vec<usize> = if cfg!(miri) {
        vec![0, 1, 70]
    } else {
        (0..200).chain([4096, 10_001]).collect()
    };
    let mut rng = Rng(400);
    for bytes in lengths {
        for _ in 0..if cfg!(miri) { 2 } else { 40 } {
            let content = input(DType::U8, bytes, &mut rng);
            let mut src = Placed::of(&content, rng.next() as usize % 64);
            for store in STORES {
                let mut dst = Placed::new(bytes, rng.next() as usize % 64);
                // SAFETY: both have `bytes` bytes and are separate allocations.
                unsafe { copy(src.as_mut_ptr(), dst.as_mut_ptr(), bytes, store) };
                assert_eq!(dst.content(), content, "{store:?} of {bytes} bytes");
            }
        }
    }
}
