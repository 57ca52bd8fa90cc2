//! The scalar kernels against the reference, and what does not depend on a variant: names, codes, errors.
//! Invariant: the expected bits come from `reference`, never from the library.

use crate::reference;
use crate::support::{Rng, Shape, assert_same, input, ops, reduce};
use hfreduce::dtype::DType;
use hfreduce::kernel::{Kernel, Store, Unsupported, Variant};
use hfreduce::op::ReduceOp;

#[test]
fn scalar_gives_what_the_definition_says() {
    let elements = if cfg!(miri) { 12 } else { 3000 };
    let counts = if cfg!(miri) {
        vec![2, 5]
    } else {
        vec![1, 2, 3, 5, 9, 17]
    };
    let mut rng = Rng(1);
    for dtype in DType::ALL {
        for op in ops(dtype) {
            for count in counts.clone() {
                let terms: Vec<Vec<u8>> = (0..count)
                    .map(|_| input(dtype, elements, &mut rng))
                    .collect();
                let pointers: Vec<*const u8> = terms.iter().map(|term| term.as_ptr()).collect();
                let raw = rng.next() as usize % (count + 2);
                let ranks = 1 + rng.next() as usize % 300;
                let last = rng.next().is_multiple_of(2);
                let shape = Shape {
                    dtype,
                    op,
                    ranks,
                    raw,
                    last,
                    elements,
                };
                let found = reduce(Variant::Scalar, &shape, &pointers, 0, Store::Cached);
                assert_same(
                    &found,
                    &reference::reduce(&shape, &terms),
                    &(shape, count),
                    dtype.size(),
                );
            }
        }
    }
}

#[test]
fn all_pairs_of_bytes() {
    let step = if cfg!(miri) { 51 } else { 1 };
    let codes = || (0..=255u8).step_by(step);
    let left: Vec<u8> = codes().flat_map(|a| codes().map(move |_| a)).collect();
    let right: Vec<u8> = codes().flat_map(|_| codes()).collect();
    let pointers = [left.as_ptr(), right.as_ptr()];
    let terms = [left.clone(), right.clone()];
    for dtype in [DType::I8, DType::U8, DType::F8E4M3, DType::F8E5M2] {
        for op in ops(dtype) {
            for ranks in [2, 3, 200] {
                let shape = Shape {
                    dtype,
                    op,
                    ranks,
                    raw: 2,
                    last: true,
                    elements: left.len(),
                };
                let expected = reference::reduce(&shape, &terms);
                for variant in Variant::available() {
                    let found = reduce(variant, &shape, &pointers, 0, Store::Cached);
                    assert_same(&found, &expected, &(variant, shape), 1);
                }
            }
        }
    }
}

/// A sum of two halves is what rounding it once gives, whether the processor adds halves, or f32 and rounds twice.
#[test]
fn every_half_with_halves_from_everywhere() {
    const EDGES: [u16; 12] = [
        0, 1, 0x3ff, 0x400, 0x401, 0x3c00, 0x7bff, 0x7c00, 0x7c01, 0x7e00, 0x83ff, 0xfc00,
    ];
    let (step, far) = if cfg!(miri) {
        (8191, 20_011)
    } else {
        (1, 4001)
    };
    let bytes =
        |halves: Vec<u16>| -> Vec<u8> { halves.iter().flat_map(|h| h.to_le_bytes()).collect() };
    let left: Vec<u16> = (0..=u16::MAX).step_by(step).collect();
    for other in (0..=u16::MAX).step_by(far).chain(EDGES) {
        let terms = [bytes(left.clone()), bytes(vec![other; left.len()])];
        let pointers = [terms[0].as_ptr(), terms[1].as_ptr()];
        let shape = Shape {
            dtype: DType::F16,
            op: ReduceOp::Sum,
            ranks: 2,
            raw: 2,
            last: true,
            elements: left.len(),
        };
        let expected = reference::reduce(&shape, &terms);
        for variant in Variant::available() {
            let found = reduce(variant, &shape, &pointers, 0, Store::Cached);
            assert_same(&found, &expected, &(variant, other), 2);
        }
    }
}

#[test]
fn average_of_passes_divides_once() {
    let inputs = [[1i32, -7, 9], [2, -8, 9], [4, -5, 9]];
    let pointers: Vec<*const u8> = inputs.iter().map(|input| input.as_ptr().cast()).collect();
    let shape = |last| Shape {
        dtype: DType::I32,
        op: ReduceOp::Avg,
        ranks: 3,
        raw: 2,
        last,
        elements: 3,
    };
    for variant in Variant::available() {
        let half = reduce(variant, &shape(false), &pointers[..2], 0, Store::Cached);
        let whole = reduce(
            variant,
            &shape(true),
            &[half.as_ptr(), pointers[2]],
            0,
            Store::Cached,
        );
        let expected: Vec<u8> = [2i32, -6, 9]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert_eq!(whole, expected, "{variant:?}");
    }
}

#[test]
fn what_does_not_exist_is_an_error_that_names_it() {
    for dtype in DType::ALL {
        for op in ReduceOp::ALL {
            for variant in Variant::available() {
                let made = Kernel::new(variant, dtype, op, 2);
                if dtype.is_integer() || !op.is_bitwise() {
                    assert!(made.is_ok(), "{variant:?} {dtype} {op}");
                    continue;
                }
                let error = made.unwrap_err();
                assert_eq!(error, Unsupported::Op { op, dtype });
                let text = error.to_string();
                for word in [op.name(), dtype.name(), "sum, prod, min, max, avg, mulsum"] {
                    assert!(text.contains(word), "{text:?} lacks {word:?}");
                }
            }
        }
    }
    let bad = [
        (DType::I8, 128.0),
        (DType::I8, -129.0),
        (DType::U8, 256.0),
        (DType::U32, -1.0),
        (DType::I32, 0.5),
        (DType::I64, 9_223_372_036_854_775_808.0),
        (DType::U64, f64::NAN),
        (DType::U64, f64::INFINITY),
    ];
    for (dtype, factor) in bad {
        let error =
            Kernel::new(Variant::Scalar, dtype, ReduceOp::PremulSum(factor), 2).unwrap_err();
        assert!(matches!(error, Unsupported::Factor { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("mulsum") && text.contains(dtype.name()) && text.contains("bxor"),
            "{text:?}"
        );
    }
    for (dtype, factor) in [
        (DType::I8, -128.0),
        (DType::U8, 255.0),
        (DType::I64, -9_223_372_036_854_775_808.0),
    ] {
        assert!(Kernel::new(Variant::Scalar, dtype, ReduceOp::PremulSum(factor), 2).is_ok());
    }
    let nobody = Kernel::new(Variant::Scalar, DType::F32, ReduceOp::Avg, 0).unwrap_err();
    assert!(matches!(nobody, Unsupported::NoRanks { .. }));
    for variant in Variant::ALL
        .into_iter()
        .filter(|variant| !variant.is_available())
    {
        let error = Kernel::new(variant, DType::F32, ReduceOp::Sum, 2).unwrap_err();
        assert!(error.to_string().contains(variant.name()));
    }
}

#[test]
fn names_and_codes_lead_back() {
    for (code, dtype) in DType::ALL.into_iter().enumerate() {
        assert_eq!(dtype as usize, code);
        assert_eq!(DType::from_code(code as u8), Some(dtype));
        assert_eq!(DType::from_name(dtype.name()), Some(dtype));
        let alias = format!("{dtype:?}").to_lowercase();
        assert_eq!(DType::from_name(&alias), Some(dtype), "{alias}");
        assert_eq!(
            serde_json::to_string(&dtype).unwrap(),
            format!("\"{alias}\"")
        );
    }
    assert_eq!(DType::from_code(12), None);
    assert_eq!(DType::from_name("float8"), None);
    for (code, op) in ReduceOp::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(op.code()), code);
        assert_eq!(ReduceOp::from_name(op.name()), Some(op));
        assert_eq!(ReduceOp::from_name(&op.to_string()), Some(op));
        let text = serde_json::to_string(&op).unwrap();
        assert_eq!(serde_json::from_str::<ReduceOp>(&text).unwrap(), op);
    }
    assert_eq!(
        ReduceOp::from_name("mulsum:-0.25"),
        Some(ReduceOp::PremulSum(-0.25))
    );
    assert_eq!(ReduceOp::from_name("mulsum:x"), None);
    assert_eq!(ReduceOp::from_name("plus"), None);
}
