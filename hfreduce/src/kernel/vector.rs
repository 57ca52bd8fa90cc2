//! Lanes for any vector instruction set, and the conversions between narrow floats and f32, written once over registers.
//! It knows how formats lie in bits, and no instruction set. Invariants: every conversion equals the scalar one bit for bit;
//! decoding may permute the elements of a register, and encoding undoes exactly that permutation.

use super::lanes::{Arithmetic, Bits, Constants, Lanes, Run};
use super::scalar::{Double, Int, Integer, Single};
use super::select::{Entry, float, integer};
use crate::dtype::{DType, F8E4M3, F8E5M2};
use crate::op::ReduceOp;
use half::{bf16, f16};
use std::marker::PhantomData;

/// Functions that may be called only where the implementor's instructions are available, written without the ceremony.
macro_rules! instructions {
    ($(fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: the caller vouches for the instruction set, and for the memory behind any pointer.
            unsafe { $body }
        }
    )*};
}
pub(super) use instructions;

/// A register of bits, and what the conversions need of it. Safety as for [`Lanes`].
pub(super) trait Register: Copy {
    const BYTES: usize;

    unsafe fn load(src: *const u8) -> Self;
    unsafe fn store(dst: *mut u8, a: Self);
    unsafe fn stream(dst: *mut u8, a: Self);
    unsafe fn and(a: Self, b: Self) -> Self;
    unsafe fn or(a: Self, b: Self) -> Self;
    unsafe fn xor(a: Self, b: Self) -> Self;

    unsafe fn splat16(value: u16) -> Self;
    unsafe fn add16(a: Self, b: Self) -> Self;
    unsafe fn min16(a: Self, b: Self) -> Self;
    /// `a`, or-ed with `bits` where `b` equals `c`.
    unsafe fn or_where_equal16(a: Self, b: Self, c: Self, bits: Self) -> Self;
    /// `a`, or `other` where `b` is above `c`; both are below 2^15.
    unsafe fn other_where_above16(a: Self, b: Self, c: Self, other: Self) -> Self;
    unsafe fn shift_right16<const BY: u32>(a: Self) -> Self;
    /// Shifts copies of the sign in.
    unsafe fn shift_right_signed16<const BY: u32>(a: Self) -> Self;
    /// Each byte as the upper half of 16 bits, in an order that [`Register::narrow8`] undoes.
    unsafe fn widen8(a: Self) -> [Self; 2];
    /// 16-bit numbers below 256 as bytes.
    unsafe fn narrow8(a: [Self; 2]) -> Self;

    unsafe fn splat32(value: u32) -> Self;
    unsafe fn add32(a: Self, b: Self) -> Self;
    unsafe fn shift_left32<const BY: u32>(a: Self) -> Self;
    unsafe fn shift_right32<const BY: u32>(a: Self) -> Self;
    /// Sets bit `AT` where any bit below it is set.
    unsafe fn sticky32<const AT: u32>(a: Self) -> Self;
    /// The lower 16 bits of each 32 from `low`, the upper from `high`.
    unsafe fn merge16(low: Self, high: Self) -> Self;
}

/// Integer arithmetic on a register of `T`; sums and products wrap. Safety as for [`Lanes`].
pub(super) trait Ints<T>: Register {
    unsafe fn splat(value: T) -> Self;
    unsafe fn add(a: Self, b: Self) -> Self;
    unsafe fn mul(a: Self, b: Self) -> Self;
    unsafe fn min(a: Self, b: Self) -> Self;
    unsafe fn max(a: Self, b: Self) -> Self;
}

/// A register of f32 or f64. Safety as for [`Lanes`].
pub(super) trait Float: Copy {
    type Bits: Register;

    unsafe fn from_bits(bits: Self::Bits) -> Self;
    unsafe fn to_bits(a: Self) -> Self::Bits;
    unsafe fn factor(constants: &Constants) -> Self;
    unsafe fn ranks(constants: &Constants) -> Self;
    unsafe fn add(a: Self, b: Self) -> Self;
    unsafe fn mul(a: Self, b: Self) -> Self;
    unsafe fn div(a: Self, b: Self) -> Self;
    /// IEEE 754-2019 `minimum`, except for the bits of a NaN.
    unsafe fn min(a: Self, b: Self) -> Self;
    /// IEEE 754-2019 `maximum`, except for the bits of a NaN.
    unsafe fn max(a: Self, b: Self) -> Self;
    /// Every NaN as the canonical one.
    unsafe fn canonical(a: Self) -> Self;
}

/// What the narrow floats need of a register of f32. Safety as for [`Lanes`].
pub(super) trait Wide: Float {
    unsafe fn splat(value: f32) -> Self;
    unsafe fn from_f16(bits: Self::Bits) -> [Self; 2];
    /// Rounds to nearest even.
    unsafe fn to_f16(a: [Self; 2]) -> Self::Bits;
    /// Truncates; what is too large for f16 becomes its largest number.
    unsafe fn to_f16_truncated(a: [Self; 2]) -> Self::Bits;
}

/// An instruction set: its registers, and its way into the shared loop.
pub(super) trait Isa: Entry {
    type I: Ints<i8> + Ints<u8> + Ints<i32> + Ints<u32> + Ints<i64> + Ints<u64>;
    type F: Wide<Bits = Self::I>;
    type D: Float<Bits = Self::I>;
}

/// The kernel of this element type and operation; `None` where there is none.
pub(super) fn select<S: Isa>(dtype: DType, op: ReduceOp) -> Option<Run> {
    match dtype {
        DType::F64 => float::<S, Floats<S::D, AsIs<Double>, 1>>(op),
        DType::F32 => float::<S, Floats<S::F, AsIs<Single<f32>>, 1>>(op),
        DType::F16 => float::<S, Floats<S::F, Half, 2>>(op),
        DType::BF16 => float::<S, Floats<S::F, Brain, 2>>(op),
        // Products would notice, and so would a factor, where what it makes is too large for f32.
        DType::F8E4M3 => match op {
            ReduceOp::Prod | ReduceOp::PremulSum(_) => float::<S, Floats<S::F, E4M3<false>, 4>>(op),
            _ => float::<S, Floats<S::F, E4M3<true>, 4>>(op),
        },
        DType::F8E5M2 => float::<S, Floats<S::F, E5M2, 4>>(op),
        DType::I8 => integer::<S, Integers<S::I, i8>>(op),
        DType::U8 => integer::<S, Integers<S::I, u8>>(op),
        DType::I32 => integer::<S, Integers<S::I, i32>>(op),
        DType::U32 => integer::<S, Integers<S::I, u32>>(op),
        DType::I64 => integer::<S, Integers<S::I, i64>>(op),
        DType::U64 => integer::<S, Integers<S::I, u64>>(op),
    }
}

/// How one register of elements becomes `N` registers of accumulators and back. Safety as for [`Lanes`].
pub(super) trait Codec<V: Float, const N: usize> {
    type Tail: Arithmetic;

    unsafe fn decode(bits: V::Bits) -> [V; N];
    /// Rounds to nearest even; any NaN becomes the canonical one.
    unsafe fn encode(a: [V; N]) -> V::Bits;
}

/// f32 and f64 are accumulated as they are.
pub(super) struct AsIs<T>(PhantomData<T>);

impl<V: Float, T: Arithmetic> Codec<V, 1> for AsIs<T> {
    type Tail = T;

    instructions! {
        fn decode(bits: V::Bits) -> [V; 1] { [V::from_bits(bits)] }
        fn encode(a: [V; 1]) -> V::Bits { V::to_bits(V::canonical(a[0])) }
    }
}

/// binary16.
pub(super) struct Half;

impl<V: Wide> Codec<V, 2> for Half {
    type Tail = Single<f16>;

    instructions! {
        fn decode(bits: V::Bits) -> [V; 2] { V::from_f16(bits) }
        fn encode(a: [V; 2]) -> V::Bits { V::to_f16([V::canonical(a[0]), V::canonical(a[1])]) }
    }
}

/// bfloat16. Rounded with integers: the processors' own conversion flushes denormals to zero.
pub(super) struct Brain;

#[inline(always)]
unsafe fn round_to_bf16<V: Wide>(a: V) -> V::Bits {
    type R<V> = <V as Float>::Bits;
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let bits = V::to_bits(V::canonical(a));
        let odd = R::<V>::and(R::<V>::shift_right32::<16>(bits), R::<V>::splat32(1));
        R::<V>::add32(bits, R::<V>::add32(odd, R::<V>::splat32(0x7fff)))
    }
}

impl<V: Wide> Codec<V, 2> for Brain {
    type Tail = Single<bf16>;

    instructions! {
        // Elements at even places, then those at odd ones.
        fn decode(bits: V::Bits) -> [V; 2] {
            let odd = V::Bits::and(bits, V::Bits::splat32(0xffff_0000));
            [V::from_bits(V::Bits::shift_left32::<16>(bits)), V::from_bits(odd)]
        }
        fn encode(a: [V; 2]) -> V::Bits {
            V::Bits::merge16(V::Bits::shift_right32::<16>(round_to_bf16(a[0])), round_to_bf16(a[1]))
        }
    }
}

/// As f16, fit to be rounded again: where anything lies below bit `STICKY` of the f32, that bit says so. It is to be the second below the last
/// that the format keeps; rounding twice then gives what rounding once would have given. Denormals of f16 keep it too, where they do not round
/// to zero in any case.
#[inline(always)]
pub(super) unsafe fn to_f16_odd<V: Wide, const STICKY: u32>(a: [V; 2]) -> V::Bits {
    type R<V> = <V as Float>::Bits;
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let low = R::<V>::sticky32::<STICKY>(V::to_bits(a[0]));
        let high = R::<V>::sticky32::<STICKY>(V::to_bits(a[1]));
        V::to_f16_truncated([V::from_bits(low), V::from_bits(high)])
    }
}

/// To nearest even, dropping `BY` bits.
#[inline(always)]
pub(super) unsafe fn round16<R: Register, const BY: u32>(a: R) -> R {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let odd = R::and(R::shift_right16::<BY>(a), R::splat16(1));
        R::shift_right16::<BY>(R::add16(a, R::add16(odd, R::splat16((1 << (BY - 1)) - 1))))
    }
}

/// `rounded`, the code of the f16 `a` without its sign, with it; the code of NaN where `magnitude` is that of one.
#[inline(always)]
unsafe fn signed_code<R: Register>(a: R, magnitude: R, rounded: R) -> R {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let sign = R::and(R::shift_right16::<8>(a), R::splat16(0x80));
        let (infinity, nan) = (R::splat16(0x7c00), R::splat16(0x7f));
        R::other_where_above16(R::or(rounded, sign), magnitude, infinity, nan)
    }
}

/// E5M2 is the upper byte of binary16.
pub(super) struct E5M2;

#[inline(always)]
unsafe fn f16_to_e5m2<R: Register>(a: R) -> R {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let magnitude = R::and(a, R::splat16(0x7fff));
        signed_code(a, magnitude, round16::<R, 8>(magnitude))
    }
}

impl<V: Wide> Codec<V, 4> for E5M2 {
    type Tail = Single<F8E5M2>;

    instructions! {
        fn decode(bits: V::Bits) -> [V; 4] {
            let [low, high] = V::Bits::widen8(bits);
            let ([a, b], [c, d]) = (V::from_f16(low), V::from_f16(high));
            [a, b, c, d]
        }
        fn encode(a: [V; 4]) -> V::Bits {
            let low = to_f16_odd::<V, 19>([a[0], a[1]]);
            let high = to_f16_odd::<V, 19>([a[2], a[3]]);
            V::Bits::narrow8([f16_to_e5m2(low), f16_to_e5m2(high)])
        }
    }
}

/// E4M3 has the exponent of binary16 with one bit less: read as f16 after a shift, its numbers are 2^8 too small, denormals
/// included. `SMALL` accumulators stay so, which sums and comparisons do not notice: f32 has room enough below.
pub(super) struct E4M3<const SMALL: bool>;

/// seeeemmm00000000 as s0eeeemmm0000000. All ones in e and m is NaN, and 2^-8 times 480 then.
#[inline(always)]
pub(super) unsafe fn e4m3_moved<R: Register>(a: R) -> R {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { R::and(R::shift_right_signed16::<1>(a), R::splat16(0xbf80)) }
}

#[inline(always)]
unsafe fn e4m3_to_f16<R: Register>(a: R) -> R {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let moved = e4m3_moved(a);
        // f16 needs a full exponent for a NaN.
        let ones = R::splat16(0x3f80);
        R::or_where_equal16(moved, R::and(moved, ones), ones, R::splat16(0x7e00))
    }
}

#[inline(always)]
pub(super) unsafe fn f16_to_e4m3<R: Register>(a: R) -> R {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let magnitude = R::and(a, R::splat16(0x7fff));
        // The largest number, 448, 2^8 too small.
        let bounded = R::min16(magnitude, R::splat16(0x3f00));
        signed_code(a, magnitude, round16::<R, 7>(bounded))
    }
}

impl<V: Wide, const SMALL: bool> Codec<V, 4> for E4M3<SMALL> {
    type Tail = Single<F8E4M3>;

    instructions! {
        fn decode(bits: V::Bits) -> [V; 4] {
            let [low, high] = V::Bits::widen8(bits);
            let ([a, b], [c, d]) = (V::from_f16(e4m3_to_f16(low)), V::from_f16(e4m3_to_f16(high)));
            let up = V::splat(256.0);
            if SMALL { [a, b, c, d] } else { [a, b, c, d].map(|x| V::mul(x, up)) }
        }
        fn encode(a: [V; 4]) -> V::Bits {
            // Exact, but for numbers so small that they round to zero either way.
            let down = V::splat(1.0 / 256.0);
            let a = if SMALL { a } else { a.map(|x| V::mul(x, down)) };
            let low = to_f16_odd::<V, 18>([a[0], a[1]]);
            let high = to_f16_odd::<V, 18>([a[2], a[3]]);
            V::Bits::narrow8([f16_to_e4m3(low), f16_to_e4m3(high)])
        }
    }
}

/// One register of floats of format `C` in memory, `N` registers of `V` as accumulators.
pub(super) struct Floats<V, C, const N: usize>(PhantomData<(V, C)>);

macro_rules! each {
    ($a:ident, $b:expr, $op:ident) => {{
        let (mut out, b) = ($a, $b);
        for (out, b) in out.iter_mut().zip(b) {
            *out = V::$op(*out, b);
        }
        out
    }};
}

impl<V: Float, C: Codec<V, N>, const N: usize> Lanes for Floats<V, C, N> {
    type Acc = [V; N];
    type Tail = C::Tail;
    const BYTES: usize = C::Tail::BYTES;
    const WIDTH: usize = V::Bits::BYTES / C::Tail::BYTES;
    const UNROLL: usize = 4 / N;

    instructions! {
        fn load(src: *const u8) -> [V; N] { C::decode(V::Bits::load(src)) }
        fn store(dst: *mut u8, acc: [V; N]) { V::Bits::store(dst, C::encode(acc)) }
        fn stream(dst: *mut u8, acc: [V; N]) { V::Bits::stream(dst, C::encode(acc)) }
        fn add(a: [V; N], b: [V; N]) -> [V; N] { each!(a, b, add) }
    }
}

impl<V: Float, C: Codec<V, N>, const N: usize> Arithmetic for Floats<V, C, N> {
    instructions! {
        fn mul(a: [V; N], b: [V; N]) -> [V; N] { each!(a, b, mul) }
        fn min(a: [V; N], b: [V; N]) -> [V; N] { each!(a, b, min) }
        fn max(a: [V; N], b: [V; N]) -> [V; N] { each!(a, b, max) }
        fn factor(constants: &Constants) -> [V; N] { [V::factor(constants); N] }
        fn average(acc: [V; N], constants: &Constants) -> [V; N] { each!(acc, [V::ranks(constants); N], div) }
    }
}

/// One register of integers.
pub(super) struct Integers<R, T>(PhantomData<(R, T)>);

impl<R: Ints<T>, T: Int> Lanes for Integers<R, T> {
    type Acc = R;
    type Tail = Integer<T>;
    const BYTES: usize = size_of::<T>();
    const WIDTH: usize = R::BYTES / size_of::<T>();
    const UNROLL: usize = 4;

    instructions! {
        fn load(src: *const u8) -> R { R::load(src) }
        fn store(dst: *mut u8, acc: R) { R::store(dst, acc) }
        fn stream(dst: *mut u8, acc: R) { R::stream(dst, acc) }
        fn add(a: R, b: R) -> R { R::add(a, b) }
    }
}

impl<R: Ints<T>, T: Int> Arithmetic for Integers<R, T> {
    instructions! {
        fn mul(a: R, b: R) -> R { R::mul(a, b) }
        fn min(a: R, b: R) -> R { R::min(a, b) }
        fn max(a: R, b: R) -> R { R::max(a, b) }
        fn factor(constants: &Constants) -> R { R::splat(T::truncate(constants.factor_int)) }
        fn average(acc: R, constants: &Constants) -> R {
            // No vector unit divides integers; averages of integers are rare enough to go one by one.
            let mut bytes = [0u8; 64];
            R::store(bytes.as_mut_ptr(), acc);
            for element in bytes[..R::BYTES].chunks_exact_mut(size_of::<T>()) {
                let place = element.as_mut_ptr();
                Integer::<T>::store(place, Integer::<T>::average(Integer::<T>::load(place), constants));
            }
            R::load(bytes.as_ptr())
        }
    }
}

impl<R: Ints<T>, T: Int> Bits for Integers<R, T> {
    instructions! {
        fn and(a: R, b: R) -> R { R::and(a, b) }
        fn or(a: R, b: R) -> R { R::or(a, b) }
        fn xor(a: R, b: R) -> R { R::xor(a, b) }
    }
}
