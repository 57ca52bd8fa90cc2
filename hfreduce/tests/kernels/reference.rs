//! What a reduction should give, worked out apart from the library: formats by their definition in f64, integers in i128.
//! Invariant: uses nothing of the kernels. An f32 operation is done in f64 and rounded: f64 has more than twice the bits, so
//! the second rounding changes nothing.

use crate::support::Shape;
use hfreduce::dtype::DType;
use hfreduce::op::ReduceOp;

/// A small float format.
struct Format {
    mantissa: i32,
    exponent: i32,
    /// E4M3: no infinity, and only all ones is NaN.
    finite: bool,
    nan: u64,
}

fn format(dtype: DType) -> Format {
    match dtype {
        DType::F32 => Format {
            mantissa: 23,
            exponent: 8,
            finite: false,
            nan: 0x7fc0_0000,
        },
        DType::F16 => Format {
            mantissa: 10,
            exponent: 5,
            finite: false,
            nan: 0x7e00,
        },
        DType::BF16 => Format {
            mantissa: 7,
            exponent: 8,
            finite: false,
            nan: 0x7fc0,
        },
        DType::F8E4M3 => Format {
            mantissa: 3,
            exponent: 4,
            finite: true,
            nan: 0x7f,
        },
        DType::F8E5M2 => Format {
            mantissa: 2,
            exponent: 5,
            finite: false,
            nan: 0x7f,
        },
        _ => panic!("{dtype} is no narrow float"),
    }
}

/// Exactly 2^`exponent`, which `powi` does not promise.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

impl Format {
    fn bias(&self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    fn decode(&self, bits: u64) -> f64 {
        let sign = if bits >> (self.mantissa + self.exponent) & 1 == 1 {
            -1.0
        } else {
            1.0
        };
        let mantissa = bits & ((1 << self.mantissa) - 1);
        let exponent = (bits >> self.mantissa & ((1 << self.exponent) - 1)) as i32;
        let top = (1 << self.exponent) - 1;
        let all_ones = mantissa == (1 << self.mantissa) - 1;
        if exponent == top && !self.finite {
            return if mantissa == 0 {
                sign * f64::INFINITY
            } else {
                f64::NAN
            };
        }
        if exponent == top && all_ones {
            return f64::NAN;
        }
        let (lead, power) = if exponent == 0 {
            (0.0, 1)
        } else {
            (1.0, exponent)
        };
        let fraction = mantissa as f64 / power_of_two(self.mantissa);
        sign * (lead + fraction) * power_of_two(power - self.bias())
    }

    fn encode(&self, value: f64) -> u64 {
        if value.is_nan() {
            return self.nan;
        }
        let sign = u64::from(value.is_sign_negative()) << (self.mantissa + self.exponent);
        let top = (1u64 << self.exponent) - 1;
        let (limit, beyond) = if self.finite {
            let largest = (top << self.mantissa) + (1 << self.mantissa) - 2;
            (self.decode(largest), largest)
        } else {
            (
                self.decode((top << self.mantissa) - 1),
                top << self.mantissa,
            )
        };
        // The exponent of the last place, then the nearest multiple of it, ties to even.
        let magnitude = value.abs();
        let mut power = 1 - self.bias();
        while power < self.bias() + 2 && magnitude >= power_of_two(power + 1) {
            power += 1;
        }
        let place = power_of_two(power - self.mantissa);
        let rounded = (magnitude / place).round_ties_even() * place;
        if rounded > limit {
            return sign | beyond;
        }
        // `rounded` is a value of the format: count places from the exponent's first value.
        if rounded >= power_of_two(power + 1) {
            power += 1;
        }
        if rounded < power_of_two(1 - self.bias()) {
            return sign | (rounded / place) as u64;
        }
        let exponent = (power + self.bias()) as u64;
        let mantissa = ((rounded / power_of_two(power) - 1.0) * power_of_two(self.mantissa)) as u64;
        sign | exponent << self.mantissa | mantissa
    }
}

/// The value of a narrow float's bits.
pub fn decode(dtype: DType, bits: u64) -> f64 {
    format(dtype).decode(bits)
}

/// The bits of the nearest value.
pub fn encode(dtype: DType, value: f64) -> u64 {
    format(dtype).encode(value)
}

fn bits_at(bytes: &[u8], at: usize, size: usize) -> u64 {
    let mut bits = [0; 8];
    bits[..size].copy_from_slice(&bytes[at * size..(at + 1) * size]);
    u64::from_le_bytes(bits)
}

/// The expected bytes of one call.
pub fn reduce(shape: &Shape, terms: &[Vec<u8>]) -> Vec<u8> {
    let size = shape.dtype.size();
    let mut out = Vec::with_capacity(shape.elements * size);
    for at in 0..shape.elements {
        let bits: Vec<u64> = terms.iter().map(|term| bits_at(term, at, size)).collect();
        let result = if shape.dtype.is_integer() {
            integer(shape, &bits)
        } else {
            float(shape, &bits)
        };
        out.extend_from_slice(&result.to_le_bytes()[..size]);
    }
    out
}

fn float(shape: &Shape, bits: &[u64]) -> u64 {
    let double = shape.dtype == DType::F64;
    // Rounds to the accumulator.
    let round = |value: f64| {
        if double {
            value
        } else {
            f64::from(value as f32)
        }
    };
    let factor = shape.op.factor().map(round);
    let mut acc = 0.0;
    for (t, &bits) in bits.iter().enumerate() {
        let mut term = if double {
            f64::from_bits(bits)
        } else {
            decode(shape.dtype, bits)
        };
        if let Some(factor) = factor
            && t < shape.raw
        {
            term = round(term * factor);
        }
        acc = if t == 0 {
            term
        } else {
            round(fold(shape.op, acc, term))
        };
    }
    if shape.op == ReduceOp::Avg && shape.last {
        acc = round(acc / shape.ranks as f64);
    }
    match (double, acc.is_nan()) {
        (true, true) => 0x7ff8_0000_0000_0000,
        (true, false) => acc.to_bits(),
        (false, _) => encode(shape.dtype, acc),
    }
}

fn fold(op: ReduceOp, a: f64, b: f64) -> f64 {
    let smaller = |a: f64, b: f64| a < b || (a == b && a.is_sign_negative());
    match op {
        ReduceOp::Sum | ReduceOp::Avg | ReduceOp::PremulSum(_) => a + b,
        ReduceOp::Prod => a * b,
        _ if a.is_nan() || b.is_nan() => f64::NAN,
        ReduceOp::Min => {
            if smaller(a, b) {
                a
            } else {
                b
            }
        }
        ReduceOp::Max => {
            if smaller(a, b) {
                b
            } else {
                a
            }
        }
        other => panic!("{other} of floats"),
    }
}

fn integer(shape: &Shape, bits: &[u64]) -> u64 {
    let width = 8 * shape.dtype.size();
    let signed = matches!(shape.dtype, DType::I8 | DType::I32 | DType::I64);
    // The value within the type's range that is equal modulo 2^width.
    let wrap = |value: i128| {
        let low = value & ((1 << width) - 1);
        if signed && low >> (width - 1) == 1 {
            low - (1 << width)
        } else {
            low
        }
    };
    let mut acc = 0;
    for (t, &bits) in bits.iter().enumerate() {
        let mut term = wrap(i128::from(bits));
        if let Some(factor) = shape.op.factor()
            && t < shape.raw
        {
            term = wrap(term * factor as i128);
        }
        acc = if t == 0 {
            term
        } else {
            wrap(match shape.op {
                ReduceOp::Sum | ReduceOp::Avg | ReduceOp::PremulSum(_) => acc + term,
                ReduceOp::Prod => acc.wrapping_mul(term),
                ReduceOp::Min => acc.min(term),
                ReduceOp::Max => acc.max(term),
                ReduceOp::BAnd => acc & term,
                ReduceOp::BOr => acc | term,
                ReduceOp::BXor => acc ^ term,
            })
        };
    }
    if shape.op == ReduceOp::Avg && shape.last {
        acc /= shape.ranks as i128;
    }
    acc as u64
}
