//! One element at a time, in portable Rust: the definition every other variant must equal bit for bit, the tail of all of
//! them, and what miri runs. It knows no instruction set. Invariant: plain IEEE 754 arithmetic in the accumulator, one
//! rounding at the store, canonical NaN.

use super::lanes::{Arithmetic, Bits, Call, Constants, Fold, Lanes, Run, drive};
use super::select::{Entry, float, integer};
use crate::dtype::{DType, F8E4M3, F8E5M2};
use crate::op::ReduceOp;
use half::{bf16, f16};
use std::marker::PhantomData;

/// The kernel of this element type and operation; `None` where there is none.
pub(super) fn select(dtype: DType, op: ReduceOp) -> Option<Run> {
    match dtype {
        DType::F64 => float::<Portable, Double>(op),
        DType::F32 => float::<Portable, Single<f32>>(op),
        DType::F16 => float::<Portable, Single<f16>>(op),
        DType::BF16 => float::<Portable, Single<bf16>>(op),
        DType::F8E4M3 => float::<Portable, Single<F8E4M3>>(op),
        DType::F8E5M2 => float::<Portable, Single<F8E5M2>>(op),
        DType::I8 => integer::<Portable, Integer<i8>>(op),
        DType::U8 => integer::<Portable, Integer<u8>>(op),
        DType::I32 => integer::<Portable, Integer<i32>>(op),
        DType::U32 => integer::<Portable, Integer<u32>>(op),
        DType::I64 => integer::<Portable, Integer<i64>>(op),
        DType::U64 => integer::<Portable, Integer<u64>>(op),
    }
}

struct Portable;

impl Entry for Portable {
    fn entry<L: Lanes, O: Fold<L> + Fold<L::Tail>>() -> Run {
        run::<L, O>
    }
}

unsafe fn run<L: Lanes, O: Fold<L> + Fold<L::Tail>>(call: &Call<'_>) {
    // SAFETY: the caller's promise is the same; this set needs no instructions beyond the baseline.
    unsafe { drive::<L, O>(call) }
}

/// A float in memory that is accumulated in f32.
pub(super) trait Narrow: Copy {
    /// The exact value.
    fn decode(self) -> f32;
    /// Rounds to nearest even; any NaN becomes the canonical one.
    fn encode(value: f32) -> Self;
}

impl Narrow for f32 {
    #[inline(always)]
    fn decode(self) -> f32 {
        self
    }
    #[inline(always)]
    fn encode(value: f32) -> f32 {
        if value.is_nan() {
            f32::from_bits(0x7fc0_0000)
        } else {
            value
        }
    }
}

impl Narrow for f16 {
    #[inline(always)]
    fn decode(self) -> f32 {
        // The constant form is plain arithmetic; the other one asks for the CPU's features in every call.
        self.to_f32_const()
    }
    #[inline(always)]
    fn encode(value: f32) -> f16 {
        if value.is_nan() {
            f16::from_bits(0x7e00)
        } else {
            f16::from_f32_const(value)
        }
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    fn decode(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn encode(value: f32) -> bf16 {
        let bits = value.to_bits();
        let odd = (bits >> 16) & 1;
        // The addition cannot wrap for anything but a NaN, and overflow carries into infinity.
        let rounded = (bits.wrapping_add(0x7fff + odd) >> 16) as u16;
        bf16::from_bits(if value.is_nan() { 0x7fc0 } else { rounded })
    }
}

impl Narrow for F8E4M3 {
    #[inline(always)]
    fn decode(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn encode(value: f32) -> F8E4M3 {
        F8E4M3::from_f32(value)
    }
}

impl Narrow for F8E5M2 {
    #[inline(always)]
    fn decode(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn encode(value: f32) -> F8E5M2 {
        F8E5M2::from_f32(value)
    }
}

/// IEEE 754-2019 `minimum`: NaN propagates, -0 is smaller than +0 (equal numbers differ in the sign of zero at most).
macro_rules! minimum {
    ($a:expr, $b:expr, $type:ident) => {
        if $a < $b {
            $a
        } else if $b < $a {
            $b
        } else if $a == $b {
            $type::from_bits($a.to_bits() | $b.to_bits())
        } else {
            $type::NAN
        }
    };
}

macro_rules! maximum {
    ($a:expr, $b:expr, $type:ident) => {
        if $a > $b {
            $a
        } else if $b > $a {
            $b
        } else if $a == $b {
            $type::from_bits($a.to_bits() & $b.to_bits())
        } else {
            $type::NAN
        }
    };
}

/// One float of up to 32 bits.
pub(super) struct Single<T>(PhantomData<T>);

impl<T: Narrow> Lanes for Single<T> {
    type Acc = f32;
    type Tail = Self;
    const BYTES: usize = size_of::<T>();
    const WIDTH: usize = 1;
    const UNROLL: usize = 4;

    #[inline(always)]
    unsafe fn load(src: *const u8) -> f32 {
        // SAFETY: the caller vouches for one element at `src`.
        unsafe { src.cast::<T>().read_unaligned() }.decode()
    }
    #[inline(always)]
    unsafe fn store(dst: *mut u8, acc: f32) {
        // SAFETY: the caller vouches for one element at `dst`.
        unsafe { dst.cast::<T>().write_unaligned(T::encode(acc)) }
    }
    #[inline(always)]
    unsafe fn stream(dst: *mut u8, acc: f32) {
        // SAFETY: the caller's promise is the same.
        unsafe { Self::store(dst, acc) }
    }
    #[inline(always)]
    unsafe fn add(a: f32, b: f32) -> f32 {
        a + b
    }
}

impl<T: Narrow> Arithmetic for Single<T> {
    #[inline(always)]
    unsafe fn mul(a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    unsafe fn min(a: f32, b: f32) -> f32 {
        minimum!(a, b, f32)
    }
    #[inline(always)]
    unsafe fn max(a: f32, b: f32) -> f32 {
        maximum!(a, b, f32)
    }
    #[inline(always)]
    unsafe fn factor(constants: &Constants) -> f32 {
        constants.factor_f32
    }
    #[inline(always)]
    unsafe fn average(acc: f32, constants: &Constants) -> f32 {
        acc / constants.ranks as f32
    }
}

/// One f64.
pub(super) struct Double;

impl Lanes for Double {
    type Acc = f64;
    type Tail = Self;
    const BYTES: usize = 8;
    const WIDTH: usize = 1;
    const UNROLL: usize = 4;

    #[inline(always)]
    unsafe fn load(src: *const u8) -> f64 {
        // SAFETY: the caller vouches for one element at `src`.
        unsafe { src.cast::<f64>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(dst: *mut u8, acc: f64) {
        let canonical = if acc.is_nan() {
            f64::from_bits(0x7ff8_0000_0000_0000)
        } else {
            acc
        };
        // SAFETY: the caller vouches for one element at `dst`.
        unsafe { dst.cast::<f64>().write_unaligned(canonical) }
    }
    #[inline(always)]
    unsafe fn stream(dst: *mut u8, acc: f64) {
        // SAFETY: the caller's promise is the same.
        unsafe { Self::store(dst, acc) }
    }
    #[inline(always)]
    unsafe fn add(a: f64, b: f64) -> f64 {
        a + b
    }
}

impl Arithmetic for Double {
    #[inline(always)]
    unsafe fn mul(a: f64, b: f64) -> f64 {
        a * b
    }
    #[inline(always)]
    unsafe fn min(a: f64, b: f64) -> f64 {
        minimum!(a, b, f64)
    }
    #[inline(always)]
    unsafe fn max(a: f64, b: f64) -> f64 {
        maximum!(a, b, f64)
    }
    #[inline(always)]
    unsafe fn factor(constants: &Constants) -> f64 {
        constants.factor_f64
    }
    #[inline(always)]
    unsafe fn average(acc: f64, constants: &Constants) -> f64 {
        acc / constants.ranks as f64
    }
}

/// What the integer lanes need of an integer type.
pub(super) trait Int: Copy + Ord {
    fn wrapping_add(self, other: Self) -> Self;
    fn wrapping_mul(self, other: Self) -> Self;
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    /// The lower bits.
    fn truncate(value: u64) -> Self;
    /// Truncates toward zero, also where `ranks` is no value of this type.
    fn divide(self, ranks: u64) -> Self;
}

macro_rules! int {
    ($($type:ident as $wide:ident),*) => {$(
        impl Int for $type {
            #[inline(always)]
            fn wrapping_add(self, other: Self) -> Self {
                $type::wrapping_add(self, other)
            }
            #[inline(always)]
            fn wrapping_mul(self, other: Self) -> Self {
                $type::wrapping_mul(self, other)
            }
            #[inline(always)]
            fn and(self, other: Self) -> Self {
                self & other
            }
            #[inline(always)]
            fn or(self, other: Self) -> Self {
                self | other
            }
            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }
            #[inline(always)]
            fn truncate(value: u64) -> Self {
                value as $type
            }
            #[inline(always)]
            fn divide(self, ranks: u64) -> Self {
                ($wide::from(self) / ranks as $wide) as $type
            }
        }
    )*};
}

int!(
    i8 as i64, i32 as i64, i64 as i64, u8 as u64, u32 as u64, u64 as u64
);

/// One integer.
pub(super) struct Integer<T>(PhantomData<T>);

impl<T: Int> Lanes for Integer<T> {
    type Acc = T;
    type Tail = Self;
    const BYTES: usize = size_of::<T>();
    const WIDTH: usize = 1;
    const UNROLL: usize = 4;

    #[inline(always)]
    unsafe fn load(src: *const u8) -> T {
        // SAFETY: the caller vouches for one element at `src`.
        unsafe { src.cast::<T>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(dst: *mut u8, acc: T) {
        // SAFETY: the caller vouches for one element at `dst`.
        unsafe { dst.cast::<T>().write_unaligned(acc) }
    }
    #[inline(always)]
    unsafe fn stream(dst: *mut u8, acc: T) {
        // SAFETY: the caller's promise is the same.
        unsafe { Self::store(dst, acc) }
    }
    #[inline(always)]
    unsafe fn add(a: T, b: T) -> T {
        a.wrapping_add(b)
    }
}

impl<T: Int> Arithmetic for Integer<T> {
    #[inline(always)]
    unsafe fn mul(a: T, b: T) -> T {
        a.wrapping_mul(b)
    }
    #[inline(always)]
    unsafe fn min(a: T, b: T) -> T {
        a.min(b)
    }
    #[inline(always)]
    unsafe fn max(a: T, b: T) -> T {
        a.max(b)
    }
    #[inline(always)]
    unsafe fn factor(constants: &Constants) -> T {
        T::truncate(constants.factor_int)
    }
    #[inline(always)]
    unsafe fn average(acc: T, constants: &Constants) -> T {
        acc.divide(constants.ranks)
    }
}

impl<T: Int> Bits for Integer<T> {
    #[inline(always)]
    unsafe fn and(a: T, b: T) -> T {
        a.and(b)
    }
    #[inline(always)]
    unsafe fn or(a: T, b: T) -> T {
        a.or(b)
    }
    #[inline(always)]
    unsafe fn xor(a: T, b: T) -> T {
        a.xor(b)
    }
}
