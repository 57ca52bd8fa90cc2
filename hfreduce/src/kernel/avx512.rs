//! The registers of AVX-512 F, BW and DQ: 64 bytes each. It knows instructions, no element formats beyond what they convert.
//! Invariant: every method equals its scalar counterpart bit for bit; nothing contracts, flushes or approximates.

use super::lanes::{Call, Constants, Fold, Lanes, Run, drive};
use super::select::Entry;
use super::vector::{Float, Ints, Isa, Register, Wide, instructions};
use std::arch::x86_64::*;

pub(super) struct Avx512;

impl Avx512 {
    pub(super) fn is_available() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
    }
}

impl Entry for Avx512 {
    fn entry<L: Lanes, O: Fold<L> + Fold<L::Tail>>() -> Run {
        run::<L, O>
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
unsafe fn run<L: Lanes, O: Fold<L> + Fold<L::Tail>>(call: &Call<'_>) {
    // SAFETY: the caller's promise is the same; the features are this function's own.
    unsafe { drive::<L, O>(call) }
}

impl Isa for Avx512 {
    type I = __m512i;
    type F = __m512;
    type D = __m512d;
}

impl Register for __m512i {
    const BYTES: usize = 64;

    instructions! {
        fn load(src: *const u8) -> Self { _mm512_loadu_si512(src.cast()) }
        fn store(dst: *mut u8, a: Self) { _mm512_storeu_si512(dst.cast(), a) }
        fn stream(dst: *mut u8, a: Self) { _mm512_stream_si512(dst.cast(), a) }
        fn and(a: Self, b: Self) -> Self { _mm512_and_si512(a, b) }
        fn or(a: Self, b: Self) -> Self { _mm512_or_si512(a, b) }
        fn xor(a: Self, b: Self) -> Self { _mm512_xor_si512(a, b) }
        fn splat16(value: u16) -> Self { _mm512_set1_epi16(value.cast_signed()) }
        fn add16(a: Self, b: Self) -> Self { _mm512_add_epi16(a, b) }
        fn min16(a: Self, b: Self) -> Self { _mm512_min_epu16(a, b) }
        fn or_where_equal16(a: Self, b: Self, c: Self, bits: Self) -> Self {
            _mm512_mask_mov_epi16(a, _mm512_cmpeq_epi16_mask(b, c), _mm512_or_si512(a, bits))
        }
        fn other_where_above16(a: Self, b: Self, c: Self, other: Self) -> Self {
            _mm512_mask_mov_epi16(a, _mm512_cmpgt_epi16_mask(b, c), other)
        }
        fn widen8(a: Self) -> [Self; 2] {
            let zero = _mm512_setzero_si512();
            [_mm512_unpacklo_epi8(zero, a), _mm512_unpackhi_epi8(zero, a)]
        }
        fn narrow8(a: [Self; 2]) -> Self { _mm512_packus_epi16(a[0], a[1]) }
        fn splat32(value: u32) -> Self { _mm512_set1_epi32(value.cast_signed()) }
        fn add32(a: Self, b: Self) -> Self { _mm512_add_epi32(a, b) }
        fn merge16(low: Self, high: Self) -> Self { _mm512_mask_mov_epi16(low, 0xaaaa_aaaa, high) }
    }

    #[inline(always)]
    unsafe fn shift_right16<const BY: u32>(a: Self) -> Self {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { _mm512_srli_epi16::<BY>(a) }
    }
    #[inline(always)]
    unsafe fn shift_right_signed16<const BY: u32>(a: Self) -> Self {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { _mm512_srai_epi16::<BY>(a) }
    }
    #[inline(always)]
    unsafe fn shift_left32<const BY: u32>(a: Self) -> Self {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { _mm512_slli_epi32::<BY>(a) }
    }
    #[inline(always)]
    unsafe fn shift_right32<const BY: u32>(a: Self) -> Self {
        // SAFETY: the caller vouches for the instruction set.
        unsafe { _mm512_srli_epi32::<BY>(a) }
    }
    #[inline(always)]
    unsafe fn sticky32<const AT: u32>(a: Self) -> Self {
        // SAFETY: the caller vouches for the instruction set.
        unsafe {
            let below = _mm512_test_epi32_mask(a, _mm512_set1_epi32((1 << AT) - 1));
            _mm512_mask_or_epi32(a, below, a, _mm512_set1_epi32(1 << AT))
        }
    }
}

/// There is no product of bytes: those at even places and those at odd ones are multiplied as 16-bit numbers.
#[inline(always)]
unsafe fn mul8(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let even = _mm512_mullo_epi16(a, b);
        let odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(a), _mm512_srli_epi16::<8>(b));
        _mm512_or_si512(
            _mm512_and_si512(even, _mm512_set1_epi16(0xff)),
            _mm512_slli_epi16::<8>(odd),
        )
    }
}

macro_rules! ints {
    ($type:ident, $splat:ident as $wide:ident, $add:ident, $mul:ident, $min:ident, $max:ident) => {
        impl Ints<$type> for __m512i {
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
    _mm512_set1_epi8 as i8,
    _mm512_add_epi8,
    mul8,
    _mm512_min_epi8,
    _mm512_max_epi8
);
ints!(
    u8,
    _mm512_set1_epi8 as i8,
    _mm512_add_epi8,
    mul8,
    _mm512_min_epu8,
    _mm512_max_epu8
);
ints!(
    i32,
    _mm512_set1_epi32 as i32,
    _mm512_add_epi32,
    _mm512_mullo_epi32,
    _mm512_min_epi32,
    _mm512_max_epi32
);
ints!(
    u32,
    _mm512_set1_epi32 as i32,
    _mm512_add_epi32,
    _mm512_mullo_epi32,
    _mm512_min_epu32,
    _mm512_max_epu32
);
ints!(
    i64,
    _mm512_set1_epi64 as i64,
    _mm512_add_epi64,
    _mm512_mullo_epi64,
    _mm512_min_epi64,
    _mm512_max_epi64
);
ints!(
    u64,
    _mm512_set1_epi64 as i64,
    _mm512_add_epi64,
    _mm512_mullo_epi64,
    _mm512_min_epu64,
    _mm512_max_epu64
);

impl Float for __m512 {
    type Bits = __m512i;

    instructions! {
        fn from_bits(bits: __m512i) -> Self { _mm512_castsi512_ps(bits) }
        fn to_bits(a: Self) -> __m512i { _mm512_castps_si512(a) }
        fn factor(constants: &Constants) -> Self { _mm512_set1_ps(constants.factor_f32) }
        fn ranks(constants: &Constants) -> Self { _mm512_set1_ps(constants.ranks as f32) }
        fn add(a: Self, b: Self) -> Self { _mm512_add_ps(a, b) }
        fn mul(a: Self, b: Self) -> Self { _mm512_mul_ps(a, b) }
        fn div(a: Self, b: Self) -> Self { _mm512_div_ps(a, b) }
        // The instruction answers with its second operand for two zeros or a NaN. Asked both ways, the two answers differ
        // only then: or-ed, a -0 wins and a NaN stays one.
        fn min(a: Self, b: Self) -> Self { _mm512_or_ps(_mm512_min_ps(a, b), _mm512_min_ps(b, a)) }
        // And-ed, a +0 wins, but a NaN may be lost, and is put back.
        fn max(a: Self, b: Self) -> Self {
            let both = _mm512_and_ps(_mm512_max_ps(a, b), _mm512_max_ps(b, a));
            let nan = _mm512_set1_ps(f32::NAN);
            _mm512_mask_mov_ps(both, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b), nan)
        }
        fn canonical(a: Self) -> Self {
            let nan = _mm512_set1_ps(f32::from_bits(0x7fc0_0000));
            _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a), nan)
        }
    }
}

impl Wide for __m512 {
    instructions! {
        fn splat(value: f32) -> Self { _mm512_set1_ps(value) }
        fn from_f16(bits: __m512i) -> [Self; 2] {
            let high = _mm512_extracti64x4_epi64::<1>(bits);
            [_mm512_cvtph_ps(_mm512_castsi512_si256(bits)), _mm512_cvtph_ps(high)]
        }
        fn to_f16(a: [Self; 2]) -> __m512i {
            let low = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[0]);
            let high = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a[1]);
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
        fn to_f16_truncated(a: [Self; 2]) -> __m512i {
            let low = _mm512_cvtps_ph::<_MM_FROUND_TO_ZERO>(a[0]);
            let high = _mm512_cvtps_ph::<_MM_FROUND_TO_ZERO>(a[1]);
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }
}

impl Float for __m512d {
    type Bits = __m512i;

    instructions! {
        fn from_bits(bits: __m512i) -> Self { _mm512_castsi512_pd(bits) }
        fn to_bits(a: Self) -> __m512i { _mm512_castpd_si512(a) }
        fn factor(constants: &Constants) -> Self { _mm512_set1_pd(constants.factor_f64) }
        fn ranks(constants: &Constants) -> Self { _mm512_set1_pd(constants.ranks as f64) }
        fn add(a: Self, b: Self) -> Self { _mm512_add_pd(a, b) }
        fn mul(a: Self, b: Self) -> Self { _mm512_mul_pd(a, b) }
        fn div(a: Self, b: Self) -> Self { _mm512_div_pd(a, b) }
        // As for f32.
        fn min(a: Self, b: Self) -> Self { _mm512_or_pd(_mm512_min_pd(a, b), _mm512_min_pd(b, a)) }
        fn max(a: Self, b: Self) -> Self {
            let both = _mm512_and_pd(_mm512_max_pd(a, b), _mm512_max_pd(b, a));
            let nan = _mm512_set1_pd(f64::NAN);
            _mm512_mask_mov_pd(both, _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(a, b), nan)
        }
        fn canonical(a: Self) -> Self {
            let nan = _mm512_set1_pd(f64::from_bits(0x7ff8_0000_0000_0000));
            _mm512_mask_mov_pd(a, _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(a, a), nan)
        }
    }
}
