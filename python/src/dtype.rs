//! What the elements of a buffer are, and what a collective makes of them. Knows no Python object but names and type codes.
//! Invariant: a type has one size for ever, and where nothing is reduced any type is moved as plain bytes of that size.

use hfreduce::{DType, ReduceOp};

/// The type of a buffer's elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// One that the library adds up.
    Number(DType),
    /// Truth values, one byte each.
    Bool,
    /// Two numbers of this type.
    Complex(DType),
    /// Anything else without references in it: bytes of an element, and what to call it.
    Other(usize, &'static str),
}

impl Type {
    /// The type that numpy and torch call so (`float32`, `bool`, `complex64`); `None` for names that both do not have alike.
    pub fn from_name(name: &str) -> Option<Type> {
        Some(match name {
            "bool" => Type::Bool,
            "complex64" => Type::Complex(DType::F32),
            "complex128" => Type::Complex(DType::F64),
            "int16" => Type::Other(2, "int16"),
            "uint16" => Type::Other(2, "uint16"),
            "complex32" => Type::Other(4, "complex32"),
            "float8_e4m3fnuz" => Type::Other(1, "float8_e4m3fnuz"),
            "float8_e5m2fnuz" => Type::Other(1, "float8_e5m2fnuz"),
            "float8_e8m0fnu" => Type::Other(1, "float8_e8m0fnu"),
            _ => Type::Number(DType::from_name(name)?),
        })
    }

    /// The type of a kind as the array interface has it (`f`, `i`, ..) with elements of so many bytes. `None` for kinds that hold
    /// references, and for those that only a name tells apart: all void types, and floats of one byte.
    pub fn from_kind(kind: u8, size: usize) -> Option<Type> {
        Some(match (kind, size) {
            (b'f', 8) => Type::Number(DType::F64),
            (b'f', 4) => Type::Number(DType::F32),
            (b'f', 2) => Type::Number(DType::F16),
            (b'f', 1) => return None,
            (b'i', 8) => Type::Number(DType::I64),
            (b'i', 4) => Type::Number(DType::I32),
            (b'i', 1) => Type::Number(DType::I8),
            (b'u', 8) => Type::Number(DType::U64),
            (b'u', 4) => Type::Number(DType::U32),
            (b'u', 1) => Type::Number(DType::U8),
            (b'b', 1) => Type::Bool,
            (b'c', 8) => Type::Complex(DType::F32),
            (b'c', 16) => Type::Complex(DType::F64),
            (b'i', 2) => Type::Other(2, "int16"),
            (b'u', 2) => Type::Other(2, "uint16"),
            (b'f', 1..) => Type::Other(size, "extended float"),
            (b'c', 1..) => Type::Other(size, "extended complex"),
            (b'm' | b'M', 1..) => Type::Other(size, "time"),
            (b'S' | b'U', 1..) => Type::Other(size, "text"),
            _ => return None,
        })
    }

    /// The type of a buffer protocol's format character, native order.
    pub fn from_format(format: u8, size: usize) -> Option<Type> {
        let kind = match format {
            b'?' => b'b',
            b'e' | b'f' | b'd' | b'g' => b'f',
            b'b' | b'h' | b'i' | b'l' | b'q' | b'n' => b'i',
            b'B' | b'H' | b'I' | b'L' | b'Q' | b'N' | b'c' => b'u',
            _ => return None,
        };
        Type::from_kind(kind, size)
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Type::Number(dtype) => dtype.size(),
            Type::Bool => 1,
            Type::Complex(part) => 2 * part.size(),
            Type::Other(size, _) => size,
        }
    }

    /// As what it is moved: elements of the library, and how many of them one of ours is.
    pub fn moved(self) -> (DType, usize) {
        match self {
            Type::Number(dtype) => (dtype, 1),
            Type::Bool => (DType::U8, 1),
            Type::Complex(part) => (part, 2),
            Type::Other(size, _) => (DType::U8, size),
        }
    }

    /// As what it is reduced, with which operation; otherwise why it is not.
    ///
    /// Truth values are one byte, 0 or 1 (some programs write others): the largest is their "or", the smallest their "and".
    pub fn reduced(self, op: ReduceOp) -> Result<(DType, usize, ReduceOp), String> {
        use ReduceOp::{Avg, BAnd, BOr, BXor, Max, Min, PremulSum, Prod, Sum};
        match (self, op) {
            (Type::Number(dtype), _) => Ok((dtype, 1, op)),
            (Type::Bool, Sum | Max | BOr) => Ok((DType::U8, 1, Max)),
            (Type::Bool, Prod | Min | BAnd) => Ok((DType::U8, 1, Min)),
            (Type::Bool, BXor) => Ok((DType::U8, 1, BXor)),
            (Type::Bool, _) => Err(format!(
                "bool has no {}; use max (or), min (and) or bxor, or convert first",
                op.name()
            )),
            (Type::Complex(part), Sum | Avg | PremulSum(_)) => Ok((part, 2, op)),
            (Type::Complex(_), _) => Err(format!(
                "complex numbers have no {}; they have sum, avg and mulsum",
                op.name()
            )),
            (Type::Other(..), _) => Err(format!(
                "elements of type {self} cannot be reduced; convert them to one of float64 float32 float16 bfloat16 \
                 float8_e4m3fn float8_e5m2 int8 uint8 int32 uint32 int64 uint64 bool complex64 complex128 first"
            )),
        }
    }
}

impl std::fmt::Display for Type {
    /// As numpy and torch have it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Type::Number(dtype) => match dtype {
                DType::F64 => "float64",
                DType::F32 => "float32",
                DType::F16 => "float16",
                DType::BF16 => "bfloat16",
                DType::F8E4M3 => "float8_e4m3fn",
                DType::F8E5M2 => "float8_e5m2",
                integer => integer.name(),
            },
            Type::Bool => "bool",
            Type::Complex(DType::F64) => "complex128",
            Type::Complex(_) => "complex64",
            Type::Other(_, name) => name,
        })
    }
}
