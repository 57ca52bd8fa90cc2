//! Element types: their names, sizes, codes on the wire, and the two 8-bit floats that no standard crate rounds as we need.
//! Knows nothing of operations or buffers. Invariant: a code, a name and a size each belong to one type for ever; conversions
//! to an 8-bit float round to nearest even, keep denormals exact, and turn every NaN into the one canonical NaN.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// The type of one element of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum DType {
    /// IEEE 754 binary64.
    F64 = 0,
    /// IEEE 754 binary32.
    F32 = 1,
    /// IEEE 754 binary16.
    F16 = 2,
    /// The upper half of a binary32.
    BF16 = 3,
    /// 8-bit float, 4 bits of exponent, 3 of mantissa, no infinity (OCP "E4M3", torch `float8_e4m3fn`).
    F8E4M3 = 4,
    /// 8-bit float, 5 bits of exponent, 2 of mantissa (OCP "E5M2", torch `float8_e5m2`).
    F8E5M2 = 5,
    /// Signed 8-bit integer.
    I8 = 6,
    /// Unsigned 8-bit integer.
    U8 = 7,
    /// Signed 32-bit integer.
    I32 = 8,
    /// Unsigned 32-bit integer.
    U32 = 9,
    /// Signed 64-bit integer.
    I64 = 10,
    /// Unsigned 64-bit integer.
    U64 = 11,
}

impl DType {
    /// Every type, in order of its code.
    pub const ALL: [DType; 12] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::I8,
        DType::U8,
        DType::I32,
        DType::U32,
        DType::I64,
        DType::U64,
    ];

    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::F8E4M3 | DType::F8E5M2 | DType::I8 | DType::U8 => 1,
        }
    }

    /// The name nccl-tests prints and accepts.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "double",
            DType::F32 => "float",
            DType::F16 => "half",
            DType::BF16 => "bfloat16",
            DType::F8E4M3 => "f8e4m3",
            DType::F8E5M2 => "f8e5m2",
            DType::I8 => "int8",
            DType::U8 => "uint8",
            DType::I32 => "int32",
            DType::U32 => "uint32",
            DType::I64 => "int64",
            DType::U64 => "uint64",
        }
    }

    /// The type of this name: nccl-tests' own, Rust's (`f32`, `i64`) or torch's (`float32`, `float8_e5m2`).
    pub fn from_name(name: &str) -> Option<DType> {
        Some(match name {
            "double" | "f64" | "float64" => DType::F64,
            "float" | "f32" | "float32" => DType::F32,
            "half" | "f16" | "float16" | "fp16" => DType::F16,
            "bfloat16" | "bf16" => DType::BF16,
            "f8e4m3" | "e4m3" | "fp8e4m3" | "float8_e4m3fn" => DType::F8E4M3,
            "f8e5m2" | "e5m2" | "fp8e5m2" | "float8_e5m2" => DType::F8E5M2,
            "int8" | "i8" => DType::I8,
            "uint8" | "u8" => DType::U8,
            "int32" | "i32" => DType::I32,
            "uint32" | "u32" => DType::U32,
            "int64" | "i64" => DType::I64,
            "uint64" | "u64" => DType::U64,
            _ => return None,
        })
    }

    /// The type whose `repr(u8)` value this is.
    pub fn from_code(code: u8) -> Option<DType> {
        DType::ALL.get(usize::from(code)).copied()
    }

    /// True for the integers, which alone have the bitwise operations.
    pub const fn is_integer(self) -> bool {
        matches!(
            self,
            DType::I8 | DType::U8 | DType::I32 | DType::U32 | DType::I64 | DType::U64
        )
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type whose slices may be handed to a collective. All are plain bytes: any bit pattern is a value.
pub trait Element: Pod + Send + Sync + 'static {
    /// The element type a slice of `Self` holds.
    const DTYPE: DType;
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for F8E4M3 {
    const DTYPE: DType = DType::F8E4M3;
}
impl Element for F8E5M2 {
    const DTYPE: DType = DType::F8E5M2;
}
impl Element for i8 {
    const DTYPE: DType = DType::I8;
}
impl Element for u8 {
    const DTYPE: DType = DType::U8;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}
impl Element for i64 {
    const DTYPE: DType = DType::I64;
}
impl Element for u64 {
    const DTYPE: DType = DType::U64;
}

/// 8-bit float with 4 bits of exponent (bias 7) and 3 of mantissa: no infinity, one NaN per sign, largest value 448.
///
/// Overflow saturates to 448, infinity too. The field does not agree here: torch 2.15 saturates, torch 2.9 gave NaN. One
/// outlier that turns a gradient into NaN costs a training step, so we chose saturation, and say so.
///
/// Equality compares bits: `-0 != +0`, and a NaN equals itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct F8E4M3(
    /// Sign, exponent and mantissa, from the highest bit down.
    pub u8,
);

/// 8-bit float with 5 bits of exponent (bias 15) and 2 of mantissa: the upper byte of a binary16, largest value 57344.
///
/// Overflow gives infinity, as in IEEE 754 (and in every torch). Equality compares bits: `-0 != +0`, and a NaN equals itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct F8E5M2(
    /// Sign, exponent and mantissa, from the highest bit down.
    pub u8,
);

impl F8E4M3 {
    /// The canonical NaN, the one torch and CUDA produce.
    pub const NAN: F8E4M3 = F8E4M3(0x7f);

    /// The exact value.
    pub fn to_f32(self) -> f32 {
        E4M3_VALUES[usize::from(self.0)]
    }

    /// Rounds to nearest even; overflow and infinity saturate to 448 of their sign.
    pub fn from_f32(value: f32) -> F8E4M3 {
        // 480 would be the next value: from 464 on, rounding alone would leave the range. 0x7e is 448.
        F8E4M3(encode::<3>(value, 0x7e))
    }
}

impl F8E5M2 {
    /// The canonical NaN, the one torch and CUDA produce.
    pub const NAN: F8E5M2 = F8E5M2(0x7f);

    /// The exact value.
    pub fn to_f32(self) -> f32 {
        E5M2_VALUES[usize::from(self.0)]
    }

    /// Rounds to nearest even; overflow gives infinity of its sign.
    pub fn from_f32(value: f32) -> F8E5M2 {
        F8E5M2(encode::<2>(value, 0x7c))
    }
}

const fn values<const MANTISSA: u32>() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode::<MANTISSA>(code as u8);
        code += 1;
    }
    table
}

static E4M3_VALUES: [f32; 256] = values::<3>();
static E5M2_VALUES: [f32; 256] = values::<2>();

/// Decodes by arithmetic; used only to build the tables.
const fn decode<const MANTISSA: u32>(code: u8) -> f32 {
    let exponent_bits = 7 - MANTISSA;
    let bias = (1 << (exponent_bits - 1)) - 1;
    let mantissa = (code & ((1 << MANTISSA) - 1)) as u32;
    let exponent = ((code & 0x7f) >> MANTISSA) as u32;
    let top = (1 << exponent_bits) - 1;
    if exponent == top && MANTISSA == 2 {
        // E5M2 is IEEE-like: the top exponent is infinity or NaN.
        if mantissa == 0 {
            return if code & 0x80 == 0 {
                f32::INFINITY
            } else {
                f32::NEG_INFINITY
            };
        }
        return f32::NAN;
    }
    if MANTISSA == 3 && code & 0x7f == 0x7f {
        return f32::NAN;
    }
    let magnitude = if exponent == 0 {
        // Denormal: mantissa times 2^(1 - bias - MANTISSA), a power of two that f32 holds as a normal number.
        mantissa as f32 * f32::from_bits((127 + 1 - bias - MANTISSA) << 23)
    } else {
        f32::from_bits(((exponent + 127 - bias) << 23) | (mantissa << (23 - MANTISSA)))
    };
    if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// Rounds `value` to nearest even with `MANTISSA` bits of mantissa; codes above `largest` become `largest`.
fn encode<const MANTISSA: u32>(value: f32, largest: u32) -> u8 {
    let bias: u32 = (1 << (6 - MANTISSA)) - 1;
    let bits = value.to_bits();
    let sign = (bits >> 24) as u8 & 0x80;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return 0x7f;
    }
    let smallest_normal = (127 + 1 - bias) << 23;
    let code = if magnitude < smallest_normal {
        // Adding a number whose last mantissa bit weighs as much as the last bit of a denormal lets the adder round.
        let weight = f32::from_bits((127 + 1 - bias - MANTISSA + 23) << 23);
        (f32::from_bits(magnitude) + weight).to_bits() - weight.to_bits()
    } else {
        let drop = 23 - MANTISSA;
        let odd = (magnitude >> drop) & 1;
        ((magnitude + (1 << (drop - 1)) - 1 + odd) >> drop) - ((127 - bias) << MANTISSA)
    };
    sign | code.min(largest) as u8
}
