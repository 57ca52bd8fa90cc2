//! Sums of E4M3 whose f32 come out of a table, where the processor looks up 64 bytes at once (AVX-512 VBMI): that takes two thirds of the time of moving
//! the bits about. (E5M2 is the upper byte of f16, from which there is an instruction, and gains nothing.) Knows AVX-512 alone. Invariant: the same bits
//! as every other way, since the table's numbers are exact.

use super::lanes::{Call, Run, Sum, drive};
use super::scalar::Single;
use super::vector::{Codec, Floats, Register, f16_to_e4m3, instructions, to_f16_odd};
use crate::dtype::{DType, F8E4M3};
use std::arch::x86_64::*;

/// 64 elements and their accumulators.
pub(super) type Tabled = Floats<__m512, Table, 4>;

/// The kernel that sums this element type, where there is one for this processor.
pub(super) fn sum(dtype: DType) -> Option<Run> {
    (dtype == DType::F8E4M3 && is_x86_feature_detected!("avx512vbmi")).then_some(run)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi")]
unsafe fn run(call: &Call<'_>) {
    // SAFETY: the caller's promise is the same; the features are this function's own.
    unsafe { drive::<Tabled, Sum>(call) }
}

/// By the code without its sign, the lower and the upper byte of the number as bfloat16, 2^8 too small, so that f16 rounds denormals where E4M3 does.
#[repr(align(64))]
struct Bytes([[u8; 128]; 2]);

static BYTES: Bytes = {
    let (mut bytes, mut code) = ([[0; 128]; 2], 0);
    while code < 128 {
        let (exponent, fraction) = (code as u32 / 8, code as u32 % 8);
        // Denormals have the exponent of the smallest others, and no leading one.
        let (exponent, eighths) = match exponent {
            0 => (1, fraction),
            _ => (exponent, 8 + fraction),
        };
        // 2^(exponent - 7 - 3 - 8).
        let unit = f32::from_bits((127 + exponent - 18) << 23);
        let value = match code {
            127 => f32::NAN,
            _ => eighths as f32 * unit,
        };
        [_, _, bytes[0][code], bytes[1][code]] = value.to_bits().to_le_bytes();
        code += 1;
    }
    Bytes(bytes)
};

/// Where the byte of each element is behind `narrow8`.
static ORDER: [u8; 64] = {
    let (mut order, mut element) = ([0; 64], 0);
    while element < 64 {
        // Of each 16 bytes `decode` makes eight words in one register and eight in another; of those it takes even ones first.
        let (lane, upper, word) = (element / 16, element % 16 / 8, element % 8);
        let place = 16 * (word % 2) + 4 * lane + word / 2;
        order[element] = (16 * (place / 8) + 8 * upper + place % 8) as u8;
        element += 1;
    }
    order
};

// No closures in these: what they call would not become part of a function that has the instructions.
instructions! {
    fn look_up(table: &[u8; 128], codes: __m512i) -> __m512i {
        let [first, second] = [table.as_ptr(), table.as_ptr().add(64)];
        _mm512_permutex2var_epi8(__m512i::load(first), codes, __m512i::load(second))
    }

    // bfloat16 is the upper half of f32.
    fn even(words: __m512i) -> __m512 { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)) }
    fn odd(words: __m512i) -> __m512 {
        let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
        _mm512_castsi512_ps(_mm512_and_si512(words, upper))
    }
}

/// The codec of E4M3 by its table.
pub(super) struct Table;

impl Codec<__m512, 4> for Table {
    type Tail = Single<F8E4M3>;

    instructions! {
        fn decode(bits: __m512i) -> [__m512; 4] {
            let [lower, upper] = [look_up(&BYTES.0[0], bits), look_up(&BYTES.0[1], bits)];
            // With the sign of the code.
            let upper = _mm512_ternarylogic_epi32::<0xf8>(upper, bits, _mm512_set1_epi8(-128));
            let (low, high) = (_mm512_unpacklo_epi8(lower, upper), _mm512_unpackhi_epi8(lower, upper));
            [even(low), odd(low), even(high), odd(high)]
        }
        fn encode(a: [__m512; 4]) -> __m512i {
            let low = to_f16_odd::<__m512, 18>([a[0], a[1]]);
            let high = to_f16_odd::<__m512, 18>([a[2], a[3]]);
            let codes = __m512i::narrow8([f16_to_e4m3(low), f16_to_e4m3(high)]);
            _mm512_permutexvar_epi8(__m512i::load(ORDER.as_ptr()), codes)
        }
    }
}
