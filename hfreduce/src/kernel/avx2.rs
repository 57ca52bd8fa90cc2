//! The registers of AVX2 and F16C: 32 bytes each. It knows instructions, no element formats beyond what they convert.
//! Invariant: every method equals its scalar counterpart bit for bit; nothing contracts, flushes or approximates.

use super::lanes::{Call, Constants, Fold, Lanes, Run, drive};
use super::select::Entry;
use super::vector::{Float, Ints, Isa, Register, Wide, instructions};
use std::arch::x86_64::*;

pub(super) struct Avx2;

impl Avx2 {
    pub(super) fn is_available() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
    }
}

impl Entry for Avx2 {
    fn entry<L: Lanes, O: Fold<L> + Fold<L::Tail>>() -> Run {
        run::<L, O>
    }
}

#[target_feature(enable = "avx2,f16c")]
unsafe fn run<L: Lanes, O: Fold<L> + Fold<L::Tail>>(call: &Call<'_>) {
    // SAFETY: the caller's promise is the same; the features are this function's own.
    unsafe { drive::<L, O>(call) }
}

impl Isa for Avx2 {
    type I = __m256i;
    type F = __m256;
    type D = __m256d;
}

impl Register for __m256i {
    const BYTES: usize = 32;

    instructions! {
        fn load(src: *const u8) -> Self { _mm256_loadu_si256(src.cast()) }
        fn store(dst: *mut u8, a: Self) { _mm256_storeu_si256(dst.cast(), a) }
        fn stream(dst: *mut u8, a: Self) { _mm256_stream_si256(dst.cast(), a) }
        fn and(a: Self, b: Self) -> Self { _mm256_and_si256(a, b) }
        fn or(a: Self, b: Self) -> Self { _mm256_or_si256(a, b) }
        fn xor(a: Self, b: Self) -> Self { _mm256_xor_si256(a, b) }
        fn splat16(value: u16) -> Self { _mm256_set1_epi16(value.cast_signed()) }
        fn add16(a: Self, b: Self) -> Self { _mm256_add_epi16(a, b) }
        fn min16(a: Self, b: Self) -> Self { _mm256_min_epu16(a, b) }
        fn or_where_equal16(a: Self, b: Self, c: Self, bits: Self) -> Self {
            _mm256_or_si256(a, _mm256_and_si256(_mm256_cmpeq_epi16(b, c), bits))
        }
        fn other_where_above16(a: Self, b: Self, c: Self, other: Self) -> Self {
            _mm256_blendv_epi8(a, other, _mm256_cmpgt_epi16(b, c))
        }
        fn widen8(a: Self) -> [Self; 2] {
            let zero = _mm256_setzero_si256();
            [_mm256_unpacklo_epi8(zero, a), _mm256_unpackhi_epi8(zero, a)]
        }
        fn narrow8(a: [Self; 2]) -> Self { _mm256_packus_epi16(a[0], a[1]) }
        fn splat32(value: u32) -> Self { _mm256_set1_epi32(value.cast_signed()) }
        fn add32(a: Self, b: Self) -> Self { _mm256_add_epi32(a, b) }
        fn merge16(low: Self, high: Self) -> Self { _mm256_blend_epi16::<0b1010_1010>(low, high) }
    }

    // The shift count comes from a register: constants of this kind cannot be handed on as the immediate's type.
    #[inline(always)]
    unsafe fn shift_right16<const BY: u32>(a: Self) -> Self {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { _mm256_srl_epi16(a, _mm_cvtsi32_si128(BY.cast_signed())) }
    }
    #[inline(always)]
    unsafe fn shift_right_signed16<const BY: u32>(a: Self) -> Self {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { _mm256_sra_epi16(a, _mm_cvtsi32_si128(BY.cast_signed())) }
    }
    #[inline(always)]
    unsafe fn shift_left32<const BY: u32>(a: Self) -> Self {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(BY.cast_signed())) }
    }
    #[inline(always)]
    unsafe fn shift_right32<const BY: u32>(a: Self) -> Self {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(BY.cast_signed())) }
    }
    #[inline(always)]
    unsafe fn sticky32<const AT: u32>(a: Self) -> Self {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            // What lies below, plus all ones below: bit `AT` is set where that carries.
            let ones = _mm256_set1_epi32((1 << AT) - 1);
            let carried = _mm256_add_epi32(_mm256_and_si256(a, ones), ones);
            _mm256_or_si256(a, _mm256_and_si256(carried, _mm256_set1_epi32(1 << AT)))
        }
    }
}

/// AVX2 multiplies no bytes: those at even places and those at odd ones are multiplied as 16-bit numbers.
#[inline(always)]
unsafe fn mul8(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let even = _mm256_mullo_epi16(a, b);
        let odd = _mm256_mullo_epi16(_mm256_srli_epi16::<8>(a), _mm256_srli_epi16::<8>(b));
        _mm256_or_si256(
            _mm256_and_si256(even, _mm256_set1_epi16(0xff)),
            _mm256_slli_epi16::<8>(odd),
        )
    }
}

/// AVX2 multiplies no 64-bit numbers: three products of their halves.
#[inline(always)]
unsafe fn mul64(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let low = _mm256_mul_epu32(a, b);
        let left = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), b);
        let right = _mm256_mul_epu32(a, _mm256_srli_epi64::<32>(b));
        _mm256_add_epi64(low, _mm256_slli_epi64::<32>(_mm256_add_epi64(left, right)))
    }
}

/// All ones where `a > b`; `flip` has the sign bit for unsigned numbers, nothing for signed ones.
#[inline(always)]
unsafe fn greater64(a: __m256i, b: __m256i, flip: i64) -> __m256i {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let flip = _mm256_set1_epi64x(flip);
        _mm256_cmpgt_epi64(_mm256_xor_si256(a, flip), _mm256_xor_si256(b, flip))
    }
}

macro_rules! ints {
    ($type:ident, $splat:ident as $wide:ident, $add:ident, $mul:ident, $min:expr, $max:expr) => {
        impl Ints<$type> for __m256i {
            instructions! {
                fn splat(value: $type) -> Self { $splat(value as $wide) }
                fn add(a: Self, b: Self) -> Self { $add(a, b) }
                fn mul(a: Self, b: Self) -> Self { $mul(a, b) }
                fn min(a: Self, b: Self) -> Self { $min(a, b) }
                fn max(a: Self, b: Self) -> Self { $max(a, b) }
            }
        }
    };
}

ints!(
    i8,
    _mm256_set1_epi8 as i8,
    _mm256_add_epi8,
    mul8,
    _mm256_min_epi8,
    _mm256_max_epi8
);
ints!(
    u8,
    _mm256_set1_epi8 as i8,
    _mm256_add_epi8,
    mul8,
    _mm256_min_epu8,
    _mm256_max_epu8
);
ints!(
    i32,
    _mm256_set1_epi32 as i32,
    _mm256_add_epi32,
    _mm256_mullo_epi32,
    _mm256_min_epi32,
    _mm256_max_epi32
);
ints!(
    u32,
    _mm256_set1_epi32 as i32,
    _mm256_add_epi32,
    _mm256_mullo_epi32,
    _mm256_min_epu32,
    _mm256_max_epu32
);
ints!(
    i64,
    _mm256_set1_epi64x as i64,
    _mm256_add_epi64,
    mul64,
    min64::<0>,
    max64::<0>
);
ints!(
    u64,
    _mm256_set1_epi64x as i64,
    _mm256_add_epi64,
    mul64,
    min64::<{ i64::MIN }>,
    max64::<{ i64::MIN }>
);

#[inline(always)]
unsafe fn min64<const FLIP: i64>(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { _mm256_blendv_epi8(a, b, greater64(a, b, FLIP)) }
}

#[inline(always)]
unsafe fn max64<const FLIP: i64>(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { _mm256_blendv_epi8(b, a, greater64(a, b, FLIP)) }
}

impl Float for __m256 {
    type Bits = __m256i;

    instructions! {
        fn from_bits(bits: __m256i) -> Self { _mm256_castsi256_ps(bits) }
        fn to_bits(a: Self) -> __m256i { _mm256_castps_si256(a) }
        fn factor(constants: &Constants) -> Self { _mm256_set1_ps(constants.factor_f32) }
        fn ranks(constants: &Constants) -> Self { _mm256_set1_ps(constants.ranks as f32) }
        fn add(a: Self, b: Self) -> Self { _mm256_add_ps(a, b) }
        fn mul(a: Self, b: Self) -> Self { _mm256_mul_ps(a, b) }
        fn div(a: Self, b: Self) -> Self { _mm256_div_ps(a, b) }
        // The instruction answers with its second operand for two zeros or a NaN. Asked both ways, the two answers differ
        // only then: or-ed, a -0 wins and a NaN stays one.
        fn min(a: Self, b: Self) -> Self { _mm256_or_ps(_mm256_min_ps(a, b), _mm256_min_ps(b, a)) }
        // And-ed, a +0 wins, but a NaN may be lost, and is put back.
        fn max(a: Self, b: Self) -> Self {
            let both = _mm256_and_ps(_mm256_max_ps(a, b), _mm256_max_ps(b, a));
            _mm256_or_ps(both, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, b))
        }
        fn canonical(a: Self) -> Self {
            let nan = _mm256_set1_ps(f32::from_bits(0x7fc0_0000));
            _mm256_blendv_ps(a, nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a))
        }
    }
}

impl Wide for __m256 {
    instructions! {
        fn splat(value: f32) -> Self { _mm256_set1_ps(value) }
        fn from_f16(bits: __m256i) -> [Self; 2] {
            let high = _mm256_extracti128_si256::<1>(bits);
            [_mm256_cvtph_ps(_mm256_castsi256_si128(bits)), _mm256_cvtph_ps(high)]
        }
        fn to_f16(a: [Self; 2]) -> __m256i {
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[0]);
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[1]);
            _mm256_set_m128i(high, low)
        }
        fn to_f16_truncated(a: [Self; 2]) -> __m256i {
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_ZERO>(a[0]);
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_ZERO>(a[1]);
            _mm256_set_m128i(high, low)
        }
    }
}

impl Float for __m256d {
    type Bits = __m256i;

    instructions! {
        fn from_bits(bits: __m256i) -> Self { _mm256_castsi256_pd(bits) }
        fn to_bits(a: Self) -> __m256i { _mm256_castpd_si256(a) }
        fn factor(constants: &Constants) -> Self { _mm256_set1_pd(constants.factor_f64) }
        fn ranks(constants: &Constants) -> Self { _mm256_set1_pd(constants.ranks as f64) }
        fn add(a: Self, b: Self) -> Self { _mm256_add_pd(a, b) }
        fn mul(a: Self, b: Self) -> Self { _mm256_mul_pd(a, b) }
        fn div(a: Self, b: Self) -> Self { _mm256_div_pd(a, b) }
        // As for f32.
        fn min(a: Self, b: Self) -> Self { _mm256_or_pd(_mm256_min_pd(a, b), _mm256_min_pd(b, a)) }
        fn max(a: Self, b: Self) -> Self {
            let both = _mm256_and_pd(_mm256_max_pd(a, b), _mm256_max_pd(b, a));
            _mm256_or_pd(both, _mm256_cmp_pd::<_CMP_UNORD_Q>(a, b))
        }
        fn canonical(a: Self) -> Self {
            let nan = _mm256_set1_pd(f64::from_bits(0x7ff8_0000_0000_0000));
            _mm256_blendv_pd(a, nan, _mm256_cmp_pd::<_CMP_UNORD_Q>(a, a))
        }
    }
}
