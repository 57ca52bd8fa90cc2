//! Element values as the reference sees them: floats as f64, integers as i128. It uses nothing of the library's arithmetic.
//! Invariant: a value of any type is exact in its wide form.

use half::{bf16, f16};
use hfreduce::{
    Element, ReduceOp,
    dtype::{F8E4M3, F8E5M2},
};

/// A value in the reference's arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wide {
    Float(f64),
    Int(i128),
}

pub trait Value: Element + PartialEq + std::fmt::Debug {
    /// Relative error of one rounding; 0 for integers.
    const EPSILON: f64;
    /// Absolute error of one rounding near zero.
    const TINY: f64;
    fn make(seed: u64) -> Self;
    fn wide(self) -> Wide;
    /// The integer modulo the type's range, in the type.
    fn wrap(value: i128) -> i128;
}

/// splitmix64.
pub fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Of either sign, 0.25 to 2 in magnitude: products of a few neither vanish nor overflow in any type.
fn moderate(seed: u64) -> f64 {
    let r = random(seed);
    let magnitude = 0.25 + (r >> 12) as f64 / (1u64 << 52) as f64 * 1.75;
    if r & 1 == 1 { -magnitude } else { magnitude }
}

macro_rules! floats {
    ($($t:ty, $mantissa:expr, $tiny:expr, $from:expr, $to:expr;)*) => {$(
        impl Value for $t {
            const EPSILON: f64 = 1.0 / (1u64 << ($mantissa + 1)) as f64;
            const TINY: f64 = $tiny;
            fn make(seed: u64) -> Self { $from(moderate(seed)) }
            fn wide(self) -> Wide { Wide::Float($to(self)) }
            fn wrap(value: i128) -> i128 { value }
        }
    )*};
}

floats! {
    f64, 52, 1e-300, |x: f64| x, |x: f64| x;
    f32, 23, 1e-40, |x: f64| x as f32, |x: f32| f64::from(x);
    f16, 10, 1e-7, f16::from_f64, |x: f16| x.to_f64();
    bf16, 7, 1e-40, bf16::from_f64, |x: bf16| x.to_f64();
    F8E4M3, 3, 1.0 / 1024.0, |x: f64| F8E4M3::from_f32(x as f32), |x: F8E4M3| f64::from(x.to_f32());
    F8E5M2, 2, 1.0 / 131072.0, |x: f64| F8E5M2::from_f32(x as f32), |x: F8E5M2| f64::from(x.to_f32());
}

macro_rules! integers {
    ($($t:ty)*) => {$(
        impl Value for $t {
            const EPSILON: f64 = 0.0;
            const TINY: f64 = 0.0;
            fn make(seed: u64) -> Self { random(seed) as $t }
            fn wide(self) -> Wide { Wide::Int(i128::from(self)) }
            fn wrap(value: i128) -> i128 { i128::from(value as $t) }
        }
    )*};
}

integers! { i8 u8 i32 u32 i64 u64 }

/// The factor that a type's premultiplied sums are tested with.
pub fn factor<T: Value>() -> f64 {
    if T::EPSILON == 0.0 { 3.0 } else { 0.75 }
}

/// Compares one result with the reference over all ranks' inputs.
pub fn judge<T: Value>(op: ReduceOp, inputs: &[T], got: T, what: &str) {
    let n = inputs.len();
    match got.wide() {
        Wide::Int(got) => {
            let all = inputs.iter().map(|x| match x.wide() {
                Wide::Int(x) => x,
                Wide::Float(x) => panic!("{x} among integers"),
            });
            let wanted = integer::<T>(op, all, n);
            assert_eq!(got, wanted, "{what} of {inputs:?}");
        }
        Wide::Float(got) => {
            let all: Vec<f64> = inputs
                .iter()
                .map(|x| match x.wide() {
                    Wide::Float(x) => x,
                    Wide::Int(x) => panic!("{x} among floats"),
                })
                .collect();
            let (wanted, slack) = float::<T>(op, &all);
            assert!(
                (got - wanted).abs() <= slack,
                "{what} of {inputs:?}: {got} and not {wanted}, give or take {slack}"
            );
        }
    }
}

fn integer<T: Value>(op: ReduceOp, all: impl Iterator<Item = i128>, n: usize) -> i128 {
    let least = all.reduce(|a, b| match op {
        ReduceOp::Sum | ReduceOp::Avg | ReduceOp::PremulSum(_) => a + b,
        ReduceOp::Prod => a.wrapping_mul(b),
        ReduceOp::Min => a.min(b),
        ReduceOp::Max => a.max(b),
        ReduceOp::BAnd => a & b,
        ReduceOp::BOr => a | b,
        ReduceOp::BXor => a ^ b,
    });
    let value = least.expect("a group has a rank");
    match op {
        ReduceOp::Avg => T::wrap(value) / n as i128,
        ReduceOp::PremulSum(factor) => T::wrap(value * factor as i128),
        _ => T::wrap(value),
    }
}

/// The value, and how far off one rounding per partial result may be.
fn float<T: Value>(op: ReduceOp, all: &[f64]) -> (f64, f64) {
    let n = all.len() as f64;
    let roundings = 2.0 * n;
    let (sum, size): (f64, f64) = (all.iter().sum(), all.iter().map(|x| x.abs()).sum());
    let slack = |size: f64| roundings * (size * T::EPSILON + T::TINY);
    match op {
        ReduceOp::Sum => (sum, slack(size)),
        ReduceOp::Avg => (sum / n, slack(size / n)),
        ReduceOp::PremulSum(factor) => (sum * factor, slack(size * factor)),
        ReduceOp::Prod => {
            let product: f64 = all.iter().product();
            (product, slack(product.abs()))
        }
        ReduceOp::Min => (all.iter().copied().fold(f64::INFINITY, f64::min), 0.0),
        ReduceOp::Max => (all.iter().copied().fold(f64::NEG_INFINITY, f64::max), 0.0),
        ReduceOp::BAnd | ReduceOp::BOr | ReduceOp::BXor => panic!("no float has {op}"),
    }
}
