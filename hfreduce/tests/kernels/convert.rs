//! Conversions of the narrow floats: every code decoded, every rounding boundary met, in every variant.
//! Invariant: the expected bits come from `reference`, which works in f64 from the definition of the format.

use crate::reference;
use crate::support::{Rng, Shape, assert_same, reduce};
use half::{bf16, f16};
use hfreduce::dtype::{DType, F8E4M3, F8E5M2};
use hfreduce::kernel::{Store, Variant};
use hfreduce::op::ReduceOp;

const NARROW: [DType; 4] = [DType::F16, DType::BF16, DType::F8E4M3, DType::F8E5M2];

/// All codes of the type (under miri some), in order, as bytes; `shift` codes further on.
fn codes(dtype: DType, shift: u64) -> Vec<u8> {
    let count = 1u64 << (8 * dtype.size());
    let step = if cfg!(miri) { count / 32 - 1 } else { 1 };
    let codes = (0..count).step_by(step as usize);
    codes
        .flat_map(|code| (code + shift).to_le_bytes()[..dtype.size()].to_vec())
        .collect()
}

fn check(dtype: DType, op: ReduceOp, terms: &[Vec<u8>]) {
    let elements = terms[0].len() / dtype.size();
    let shape = Shape {
        dtype,
        op,
        ranks: 1,
        raw: terms.len(),
        last: true,
        elements,
    };
    let pointers: Vec<*const u8> = terms.iter().map(|term| term.as_ptr()).collect();
    let expected = reference::reduce(&shape, terms);
    for variant in Variant::available() {
        let found = reduce(variant, &shape, &pointers, 0, Store::Cached);
        assert_same(&found, &expected, &(variant, shape), dtype.size());
    }
}

#[test]
fn every_code_goes_through_a_kernel_unchanged() {
    for dtype in NARROW {
        check(dtype, ReduceOp::Sum, &[codes(dtype, 0)]);
        // Doubling and halving move codes across the border of the denormals and over the top.
        for factor in [2.0, 0.5, 0.25, 1.0 / 65536.0] {
            check(dtype, ReduceOp::PremulSum(factor), &[codes(dtype, 0)]);
        }
    }
}

#[test]
fn every_midpoint_and_its_neighbours_round_to_nearest_even() {
    // Half of a code plus half of the next is their midpoint, exactly; an ulp more or less of the factor moves it off.
    let half = 0.5f32;
    for factor in [half, half.next_up(), half.next_down()] {
        for dtype in NARROW {
            check(
                dtype,
                ReduceOp::PremulSum(f64::from(factor)),
                &[codes(dtype, 0), codes(dtype, 1)],
            );
        }
    }
}

#[test]
fn any_f32_is_rounded_alike() {
    // One times a factor is any f32 we like; the other codes come along.
    let mut rng = Rng(7);
    let random = if cfg!(miri) { 4 } else { 3000 };
    let special = [
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        1e-45,
        f32::MIN_POSITIVE,
        464.0,
        464.1,
        61440.0,
    ];
    for factor in (0..random)
        .map(|_| f32::from_bits(rng.next() as u32))
        .chain(special)
    {
        for dtype in [DType::F8E4M3, DType::F8E5M2] {
            check(
                dtype,
                ReduceOp::PremulSum(f64::from(factor)),
                &[codes(dtype, 0)],
            );
        }
    }
}

#[test]
fn bytes_decode_exactly() {
    for code in 0..=255u8 {
        let same = |found: f32, dtype| {
            let expected = reference::decode(dtype, u64::from(code)) as f32;
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{dtype} {code:#x}"
            );
        };
        same(F8E4M3(code).to_f32(), DType::F8E4M3);
        same(F8E5M2(code).to_f32(), DType::F8E5M2);
    }
}

#[test]
fn f32_encodes_to_the_nearest_byte() {
    let step = if cfg!(miri) { 40_000_003 } else { 1021 };
    for bits in (0..=u32::MAX).step_by(step) {
        let value = f32::from_bits(bits);
        let wide = f64::from(value);
        assert_eq!(
            u64::from(F8E4M3::from_f32(value).0),
            reference::encode(DType::F8E4M3, wide),
            "{value:e}"
        );
        assert_eq!(
            u64::from(F8E5M2::from_f32(value).0),
            reference::encode(DType::F8E5M2, wide),
            "{value:e}"
        );
    }
}

#[test]
fn known_bytes() {
    for (value, code) in [
        (448.0, 0x7e),
        (464.0, 0x7e),
        (1e9, 0x7e),
        (f32::INFINITY, 0x7e),
        (f32::NEG_INFINITY, 0xfe),
    ] {
        assert_eq!(F8E4M3::from_f32(value).0, code, "{value}");
    }
    for (value, code) in [
        (57344.0, 0x7b),
        (61439.0, 0x7b),
        (61440.0, 0x7c),
        (-1e9, 0xfc),
        (f32::INFINITY, 0x7c),
    ] {
        assert_eq!(F8E5M2::from_f32(value).0, code, "{value}");
    }
    assert_eq!(F8E4M3::from_f32(-f32::NAN), F8E4M3::NAN);
    assert_eq!(F8E5M2::from_f32(-f32::NAN), F8E5M2::NAN);
    assert_eq!(F8E4M3::from_f32(1.0 / 512.0).0, 1);
    assert_eq!(F8E5M2::from_f32(1.0 / 65536.0).0, 1);
}

#[test]
fn the_reference_agrees_with_the_half_crate() {
    let step = if cfg!(miri) { 4099 } else { 1 };
    for code in (0..=u16::MAX).step_by(step) {
        let pairs = [
            (DType::F16, f16::from_bits(code).to_f64_const()),
            (DType::BF16, bf16::from_bits(code).to_f64_const()),
        ];
        for (dtype, value) in pairs {
            let found = reference::decode(dtype, u64::from(code));
            assert!(
                found.to_bits() == value.to_bits() || found.is_nan() && value.is_nan(),
                "{dtype} {code:#x}"
            );
            if !value.is_nan() {
                assert_eq!(
                    reference::encode(dtype, value),
                    u64::from(code),
                    "{dtype} {code:#x}"
                );
            }
        }
    }
}
