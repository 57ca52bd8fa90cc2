//! Sums of bfloat16 rounded by the processor (AVX512-BF16), which takes denormals for zero and keeps what NaNs carry: a block in which there is either is rounded
//! with integers, as everywhere else. Knows AVX-512 alone. Invariant: the same bits as every other way.

use super::lanes::{Call, Run, Sum, drive};
use super::scalar::Single;
use super::vector::{Brain, Codec, Floats, Register, instructions};
use crate::dtype::DType;
use half::bf16;
use std::arch::x86_64::*;

/// The kernel that sums this element type, where there is one for this processor.
pub(super) fn sum(dtype: DType) -> Option<Run> {
    (dtype == DType::BF16 && is_x86_feature_detected!("avx512bf16")).then_some(run)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn run(call: &Call<'_>) {
    // SAFETY: the caller's promise is the same; the features are this function's own.
    unsafe { drive::<Floats<__m512, Native, 2>, Sum>(call) }
}

/// [`Brain`], but for the way back.
struct Native;

/// A quiet NaN, a denormal, or a signalling NaN.
const OTHERS: i32 = 0x01 | 0x20 | 0x80;

/// From the lower halves of a register, one after the other, and then the upper ones, to the order of memory.
static ORDER: [u16; 32] = {
    let (mut order, mut element) = ([0; 32], 0);
    while element < 32 {
        order[element] = (16 * (element % 2) + element / 2) as u16;
        element += 1;
    }
    order
};

impl Codec<__m512, 2> for Native {
    type Tail = Single<bf16>;

    instructions! {
        fn decode(bits: __m512i) -> [__m512; 2] { Brain::decode(bits) }
        fn encode(a: [__m512; 2]) -> __m512i {
            let [even, odd] = a;
            let others = _mm512_fpclass_ps_mask::<OTHERS>(even) | _mm512_fpclass_ps_mask::<OTHERS>(odd);
            if others != 0 {
                return Brain::encode(a);
            }
            let rounded = _mm512_cvtne2ps_pbh(odd, even);
            let rounded = std::mem::transmute::<__m512bh, __m512i>(rounded);
            _mm512_permutexvar_epi16(__m512i::load(ORDER.as_ptr().cast()), rounded)
        }
    }
}
