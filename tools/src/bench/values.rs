//! Inputs whose reduction is exact in every element type, and that reduction. Inputs repeat with a prime period, so that a template of
//! a few thousand elements fills and checks buffers of any size. Invariant: whatever order or grouping ranks are reduced in, every
//! partial result is representable, so one wrong, missing, doubled or misplaced term shows; nothing here knows a buffer's length.

use half::{bf16, f16};
use hfreduce::{
    dtype::{DType, F8E4M3, F8E5M2},
    op::ReduceOp,
};

/// Elements after which inputs repeat: a prime, so that no piece or share of a buffer is a multiple of it by accident.
pub const PERIOD: usize = 4093;

/// Largest value of inputs where the type would allow far more.
const LARGEST: u64 = 1000;

fn hash(rank: usize, element: usize) -> u64 {
    let mut z =
        ((rank as u64 + 1) << 32) ^ (element as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A choice that all ranks make alike for an element.
fn common(element: usize) -> u64 {
    hash(usize::MAX >> 33, element)
}

/// Every integer from 0 to this is representable.
fn whole(dtype: DType) -> u64 {
    match dtype {
        DType::F64 => 1 << 53,
        DType::F32 => 1 << 24,
        DType::F16 => 1 << 11,
        DType::BF16 => 1 << 8,
        DType::F8E4M3 => 16,
        DType::F8E5M2 => 8,
        DType::I8 => i8::MAX as u64,
        DType::U8 => u8::MAX.into(),
        DType::I32 => i32::MAX as u64,
        DType::U32 => u32::MAX.into(),
        DType::I64 | DType::U64 => i64::MAX as u64,
    }
}

/// Every power of two up to this exponent is representable.
fn doublings(dtype: DType) -> u64 {
    match dtype {
        DType::F64 | DType::F32 | DType::BF16 => 100,
        DType::F16 | DType::F8E5M2 => 15,
        DType::F8E4M3 => 8,
        DType::I8 => 6,
        DType::U8 => 7,
        DType::I32 | DType::U32 => 30,
        DType::I64 | DType::U64 => 62,
    }
}

fn is_signed(dtype: DType) -> bool {
    !matches!(dtype, DType::U8 | DType::U32 | DType::U64)
}

/// Whether results of `op` can be checked exactly; a sentence where not.
///
/// # Errors
/// Factors of `mulsum` that round, and more ranks than an unsigned average can add up.
pub fn checkable(dtype: DType, op: ReduceOp, ranks: usize) -> Result<(), String> {
    if let Some(factor) = op.factor()
        && !(factor.fract() == 0.0 && factor.abs() >= 1.0 && factor.abs() <= 4.0)
    {
        return Err(format!(
            "mulsum:{factor} cannot be checked exactly: take an integer from 1 to 4, or its negative, or -c 0"
        ));
    }
    if op == ReduceOp::Avg && !is_signed(dtype) && ranks as u64 >= whole(dtype) {
        return Err(format!(
            "avg of {dtype} over {ranks} ranks overflows: take -c 0"
        ));
    }
    Ok(())
}

/// The input of `rank` at `element`, as a number (bits, for the bitwise operations).
pub fn input(dtype: DType, op: ReduceOp, ranks: usize, rank: usize, element: usize) -> i128 {
    let n = ranks as u64;
    let shared = common(element);
    let own = hash(rank, element);
    // Where not all ranks can have their say in one element, this rotation lets each in some.
    let turn = (rank as u64 + shared % n) % n;
    let sign = |value: u64| {
        let negative = is_signed(dtype) && shared >> 40 & 1 == 1;
        if negative {
            -i128::from(value)
        } else {
            i128::from(value)
        }
    };
    match op {
        ReduceOp::Sum | ReduceOp::PremulSum(_) => {
            let room = whole(dtype) / op.factor().map_or(1, |f| f.abs() as u64);
            let each = (room / n).min(LARGEST);
            if each > 0 {
                sign(own % (each + 1))
            } else {
                sign(u64::from(turn < room))
            }
        }
        ReduceOp::Prod => i128::from(1 + u64::from(turn < doublings(dtype) && own & 1 == 1)),
        ReduceOp::Min | ReduceOp::Max => {
            // One rank decides each element, by a value that no other has.
            let top = whole(dtype).min(LARGEST);
            let best = shared / n % top;
            let worse = if turn == 0 {
                best
            } else {
                best + 1 + own % (top - best)
            };
            let value = if op == ReduceOp::Min {
                worse
            } else {
                top - worse
            };
            i128::from(value)
                - if is_signed(dtype) {
                    i128::from(top / 2)
                } else {
                    0
                }
        }
        ReduceOp::Avg => {
            // All have the average, but one has one more and its neighbour one less.
            let most = ((whole(dtype) - 1) / n).min(LARGEST);
            let average = if most > 0 { 1 + shared / n % most } else { 0 };
            let step = i128::from(turn == 0) - i128::from((turn + 1).is_multiple_of(n));
            i128::from(average) + step
        }
        ReduceOp::BAnd => i128::from(!(own & own >> 21 & own >> 42)),
        ReduceOp::BOr => i128::from(own & own >> 21 & own >> 42),
        ReduceOp::BXor => i128::from(own),
    }
}

/// The reduction over all ranks at `element`.
pub fn reduced(dtype: DType, op: ReduceOp, ranks: usize, element: usize) -> i128 {
    let inputs = (0..ranks).map(|rank| input(dtype, op, ranks, rank, element));
    match op {
        ReduceOp::Sum => inputs.sum(),
        ReduceOp::PremulSum(factor) => inputs.sum::<i128>() * factor as i128,
        ReduceOp::Prod => inputs.product(),
        ReduceOp::Min => inputs.min().unwrap_or(0),
        ReduceOp::Max => inputs.max().unwrap_or(0),
        ReduceOp::Avg => inputs.sum::<i128>() / ranks as i128,
        ReduceOp::BAnd => inputs.fold(-1, |a, b| a & b),
        ReduceOp::BOr => inputs.fold(0, |a, b| a | b),
        ReduceOp::BXor => inputs.fold(0, |a, b| a ^ b),
    }
}

/// Appends `value` as one element; it must be representable, or for integers its low bytes are taken.
pub fn encode(dtype: DType, value: i128, into: &mut Vec<u8>) {
    let low = value as u64;
    match dtype {
        DType::F64 => into.extend((value as f64).to_ne_bytes()),
        DType::F32 => into.extend((value as f32).to_ne_bytes()),
        DType::F16 => into.extend(f16::from_f32(value as f32).to_ne_bytes()),
        DType::BF16 => into.extend(bf16::from_f32(value as f32).to_ne_bytes()),
        DType::F8E4M3 => into.push(F8E4M3::from_f32(value as f32).0),
        DType::F8E5M2 => into.push(F8E5M2::from_f32(value as f32).0),
        DType::I8 | DType::U8 => into.push(low as u8),
        DType::I32 | DType::U32 => into.extend((low as u32).to_ne_bytes()),
        DType::I64 | DType::U64 => into.extend(low.to_ne_bytes()),
    }
}

/// One period of a buffer, from any element on.
pub struct Template {
    /// Two periods, so that a whole one starts at every element.
    bytes: Vec<u8>,
    size: usize,
}

impl Template {
    fn new(dtype: DType, value: impl Fn(usize) -> i128) -> Template {
        let mut bytes = Vec::with_capacity(2 * PERIOD * dtype.size());
        (0..PERIOD).for_each(|element| encode(dtype, value(element), &mut bytes));
        bytes.extend_from_within(..);
        Template {
            bytes,
            size: dtype.size(),
        }
    }

    /// What `rank` contributes to a reduction.
    pub fn input(dtype: DType, op: ReduceOp, ranks: usize, rank: usize) -> Template {
        Template::new(dtype, |element| input(dtype, op, ranks, rank, element))
    }

    /// The reduction's result.
    pub fn reduced(dtype: DType, op: ReduceOp, ranks: usize) -> Template {
        Template::new(dtype, |element| reduced(dtype, op, ranks, element))
    }

    /// What `rank` has to give where nothing is reduced: any bits, a NaN's too.
    pub fn raw(dtype: DType, rank: usize) -> Template {
        let bytes: Vec<u8> = (0..PERIOD)
            .flat_map(|element| {
                hash(rank, element)
                    .to_ne_bytes()
                    .into_iter()
                    .take(dtype.size())
            })
            .collect();
        Template {
            bytes: bytes.repeat(2),
            size: dtype.size(),
        }
    }

    fn period(&self, first: usize) -> &[u8] {
        let at = first % PERIOD * self.size;
        &self.bytes[at..at + PERIOD * self.size]
    }

    /// Fills `buffer`, whose first element is number `first`.
    pub fn fill(&self, buffer: &mut [u8], first: usize) {
        let period = self.period(first);
        for part in buffer.chunks_mut(period.len()) {
            part.copy_from_slice(&period[..part.len()]);
        }
    }

    /// Elements of `buffer`, whose first is number `first`, that are not as they should be, bit by bit.
    pub fn wrong(&self, buffer: &[u8], first: usize) -> u64 {
        let period = self.period(first);
        let mut wrong = 0;
        for part in buffer.chunks(period.len()) {
            let right = &period[..part.len()];
            if part != right {
                let pairs = part.chunks(self.size).zip(right.chunks(self.size));
                wrong += pairs.filter(|(got, wanted)| got != wanted).count() as u64;
            }
        }
        wrong
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
