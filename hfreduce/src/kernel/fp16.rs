//! Sums of two halves, or 8-bit floats as halves, where the processor adds those: 32 to an instruction, no way to f32 and back. Knows AVX-512 alone.
//! Invariant: the same bits as by way of f32. Of two halves that rounds a sum twice, which gives what rounding once does, since f32 has 24 bits, two more
//! than twice the 11 of a half (and what is denormal is exact in both). Of two 8-bit floats a sum needs more than the 11 bits of a half only where the smaller one is at most an
//! eighth of the last place that the result keeps, and then both ways round to the larger one; any other sum is exact here. With a third term that
//! is no longer so.

use super::lanes::{Call, Lanes, Run, Sum, drive};
use super::scalar::Single;
use super::table::Tabled;
use super::vector::{E5M2, Floats, Half, Register, e4m3_moved, instructions, round16};
use crate::dtype::{DType, F8E4M3, F8E5M2};
use half::f16;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// The kernel that sums this element type, where there is one for this processor.
pub(super) fn sum(dtype: DType) -> Option<Run> {
    // All that have the first have the second.
    if !is_x86_feature_detected!("avx512fp16") || !is_x86_feature_detected!("avx512vbmi") {
        return None;
    }
    match dtype {
        DType::F16 => Some(run::<Halves<f16>, Floats<__m512, Half, 2>>),
        DType::F8E4M3 => Some(run::<Halves<F8E4M3>, Tabled>),
        DType::F8E5M2 => Some(run::<Halves<F8E5M2>, Floats<__m512, E5M2, 4>>),
        _ => None,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512fp16,avx512vbmi")]
unsafe fn run<Two: Lanes, More: Lanes>(call: &Call<'_>) {
    // SAFETY: the caller's promise is the same; the features are this function's own.
    unsafe {
        match call.terms {
            [_, _] => drive::<Two, Sum>(call),
            _ => drive::<More, Sum>(call),
        }
    }
}

/// As many elements of format `T` as a register holds.
struct Halves<T>(PhantomData<T>);

impl Lanes for Halves<f16> {
    type Acc = __m512i;
    type Tail = Single<f16>;
    const BYTES: usize = 2;
    const WIDTH: usize = 32;
    const UNROLL: usize = 4;

    instructions! {
        fn load(src: *const u8) -> __m512i { __m512i::load(src) }
        fn store(dst: *mut u8, acc: __m512i) { __m512i::store(dst, canonical(acc)) }
        fn stream(dst: *mut u8, acc: __m512i) { __m512i::stream(dst, canonical(acc)) }
        fn add(a: __m512i, b: __m512i) -> __m512i { add_halves(a, b) }
    }
}

/// Their halves, in the order of [`Register::widen8`], and which of them are NaN beside what their halves say.
type Acc = ([__m512i; 2], __mmask64);

// No closures in these: what they call would not become part of a function that has the instructions.
instructions! {
    fn add(a: Acc, b: Acc) -> Acc {
        ([add_halves(a.0[0], b.0[0]), add_halves(a.0[1], b.0[1])], a.1 | b.1)
    }
    fn add_halves(a: __m512i, b: __m512i) -> __m512i {
        _mm512_castph_si512(_mm512_add_ph(_mm512_castsi512_ph(a), _mm512_castsi512_ph(b)))
    }

    fn canonical(a: __m512i) -> __m512i {
        let nan = _mm512_cmp_ph_mask::<_CMP_UNORD_Q>(_mm512_castsi512_ph(a), _mm512_castsi512_ph(a));
        _mm512_mask_mov_epi16(a, nan, _mm512_set1_epi16(0x7e00))
    }

    // The halves as bytes, without their signs, rounded to what is above the lowest bits.
    fn code7(a: Acc) -> __m512i {
        narrow([round16::<_, 7>(magnitude(a.0[0])), round16::<_, 7>(magnitude(a.0[1]))])
    }
    fn code8(a: Acc) -> __m512i {
        narrow([round16::<_, 8>(magnitude(a.0[0])), round16::<_, 8>(magnitude(a.0[1]))])
    }
    fn magnitude(a: __m512i) -> __m512i { _mm512_and_si512(a, _mm512_set1_epi16(0x7fff)) }
    fn narrow(a: [__m512i; 2]) -> __m512i { __m512i::narrow8(a) }

    // `codes` with the signs of the halves, but the code of NaN where it is one.
    fn finish(a: Acc, codes: __m512i, nan: __mmask64) -> __m512i {
        // Negative 16-bit numbers saturate to negative bytes.
        let signs = _mm512_packs_epi16(a.0[0], a.0[1]);
        let low = _mm512_set1_epi8(0x7f);
        // Bits of `codes` where `low` is set, of `signs` elsewhere.
        let signed = _mm512_ternarylogic_epi32::<0xca>(low, codes, signs);
        _mm512_mask_mov_epi8(signed, nan, low)
    }

    fn load_e4m3(src: *const u8) -> Acc {
        let (bits, low) = (__m512i::load(src), _mm512_set1_epi8(0x7f));
        let nan = _mm512_cmpeq_epi8_mask(_mm512_and_si512(bits, low), low);
        let [low, high] = __m512i::widen8(bits);
        ([e4m3_moved(low), e4m3_moved(high)], nan)
    }
    fn encode_e4m3(a: Acc) -> __m512i {
        let codes = _mm512_min_epu8(code7(a), _mm512_set1_epi8(0x7e));
        finish(a, codes, a.1)
    }

    fn load_e5m2(src: *const u8) -> Acc { (__m512i::widen8(__m512i::load(src)), 0) }
    fn encode_e5m2(a: Acc) -> __m512i {
        let codes = code8(a);
        let nan = _mm512_cmpgt_epu8_mask(codes, _mm512_set1_epi8(0x7c));
        finish(a, codes, nan)
    }
}

macro_rules! lanes {
    ($format:ty, $load:ident, $encode:ident) => {
        impl Lanes for Halves<$format> {
            type Acc = Acc;
            type Tail = Single<$format>;
            const BYTES: usize = 1;
            const WIDTH: usize = 64;
            const UNROLL: usize = 2;

            instructions! {
                fn load(src: *const u8) -> Acc { $load(src) }
                fn store(dst: *mut u8, acc: Acc) { __m512i::store(dst, $encode(acc)) }
                fn stream(dst: *mut u8, acc: Acc) { __m512i::stream(dst, $encode(acc)) }
                fn add(a: Acc, b: Acc) -> Acc { add(a, b) }
            }
        }
    };
}

lanes!(F8E4M3, load_e4m3, encode_e4m3);
lanes!(F8E5M2, load_e5m2, encode_e5m2);
