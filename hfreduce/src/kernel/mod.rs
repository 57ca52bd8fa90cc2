//! Reduction of any number of terms in one pass: n reads and one write per element, whatever the instruction set.
//! It knows element types and operations, nothing of plans, cells or ranks beyond their number. Invariants: every variant
//! gives the same bits as the scalar one; sums run in the order of the terms; nothing allocates.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx512;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod brain;
mod copy;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod fp16;
mod lanes;
mod scalar;
mod select;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod table;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod vector;

use crate::dtype::DType;
use crate::op::ReduceOp;
pub use copy::{copy, copy_shared, expect};
use lanes::{Call, Constants, Run};

/// An instruction set the kernels are written for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Variant {
    /// Portable code, on every machine.
    Scalar,
    /// x86-64 with AVX2 and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW and DQ.
    Avx512,
}

impl Variant {
    /// Every variant, slowest first.
    pub const ALL: [Variant; 3] = [Variant::Scalar, Variant::Avx2, Variant::Avx512];

    /// The variants this machine can run, slowest first.
    pub fn available() -> Vec<Variant> {
        Variant::ALL
            .into_iter()
            .filter(|variant| variant.is_available())
            .collect()
    }

    /// The variant that is fastest for this: not the widest where memory is the bound and nothing is converted. There registers of 512 bits gain nothing, and
    /// a processor that has not used them for a while takes some hundred nanoseconds to have their power again, which small calls notice.
    pub fn best_for(dtype: DType, op: ReduceOp) -> Variant {
        use ReduceOp::{BAnd, BOr, BXor, Sum};
        let plain = match dtype {
            DType::F32 | DType::F64 => true,
            other => other.is_integer() && matches!(op, Sum | BAnd | BOr | BXor),
        };
        if plain && Variant::Avx2.is_available() {
            Variant::Avx2
        } else {
            Variant::best()
        }
    }

    /// The widest variant this machine can run.
    pub fn best() -> Variant {
        Variant::ALL
            .into_iter()
            .rfind(|variant| variant.is_available())
            .unwrap_or(Variant::Scalar)
    }

    /// Whether this machine can run the variant. Under miri only `Scalar` is: it interprets no vector instructions of ours.
    pub fn is_available(self) -> bool {
        match self {
            Variant::Scalar => true,
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Variant::Avx2 => avx2::Avx2::is_available(),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Variant::Avx512 => avx512::Avx512::is_available(),
            #[cfg(not(all(target_arch = "x86_64", not(miri))))]
            Variant::Avx2 | Variant::Avx512 => false,
        }
    }

    /// The name in flags and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Variant::Scalar => "scalar",
            Variant::Avx2 => "avx2",
            Variant::Avx512 => "avx512",
        }
    }

    fn select(self, dtype: DType, op: ReduceOp) -> Option<Run> {
        match self {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Variant::Avx2 => vector::select::<avx2::Avx2>(dtype, op),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Variant::Avx512 => match op {
                ReduceOp::Sum => fp16::sum(dtype)
                    .or_else(|| table::sum(dtype))
                    .or_else(|| brain::sum(dtype)),
                _ => None,
            }
            .or_else(|| vector::select::<avx512::Avx512>(dtype, op)),
            // Elsewhere the others are not available, and `Kernel::new` has said so.
            _ => scalar::select(dtype, op),
        }
    }
}

/// How results are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Store {
    /// Ordinary stores: for results somebody reads soon.
    Cached,
    /// Non-temporal stores, fenced at the end: for large results nobody on this core reads soon. Falls back to ordinary stores
    /// where the destination cannot be aligned or the instruction set has none (`Variant::Scalar`); the bytes are the same.
    Streaming,
}

/// Why there is no such kernel.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum Unsupported {
    /// The element type lacks the operation.
    #[error("{} does not exist for {dtype}; {dtype} has {}", op.name(), operations(*dtype))]
    Op {
        /// The operation asked for.
        op: ReduceOp,
        /// The element type asked for.
        dtype: DType,
    },
    /// The factor is not a value of the integer type.
    #[error("mulsum cannot multiply {dtype} by {factor}: the factor must be a whole number that {dtype} can hold; {dtype} has {}", operations(*dtype))]
    Factor {
        /// The factor asked for.
        factor: f64,
        /// The element type asked for.
        dtype: DType,
    },
    /// This machine cannot run the variant.
    #[error("this machine cannot run the {} kernels ({} of {dtype}); take Variant::best() or Variant::Scalar", variant.name(), op.name())]
    Variant {
        /// The variant asked for.
        variant: Variant,
        /// The operation asked for.
        op: ReduceOp,
        /// The element type asked for.
        dtype: DType,
    },
    /// An average over nobody.
    #[error("{} of {dtype} over 0 ranks has no meaning; the number of ranks must be at least 1", op.name())]
    NoRanks {
        /// The operation asked for.
        op: ReduceOp,
        /// The element type asked for.
        dtype: DType,
    },
}

/// The names of the operations an element type has, for an error a person can act on.
fn operations(dtype: DType) -> String {
    let names: Vec<&str> = ReduceOp::ALL
        .into_iter()
        .filter(|op| dtype.is_integer() || !op.is_bitwise())
        .map(ReduceOp::name)
        .collect();
    names.join(", ")
}

/// A resolved reduction: one function for one variant, element type and operation.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    run: Run,
    constants: Constants,
    dtype: DType,
    /// Whether a single term is the result as it is.
    keeps: bool,
    /// Elements of every term behind those that are added, to be added next.
    next: usize,
}

impl Kernel {
    /// Resolves the kernel for `op` on `dtype`; `ranks` is what `Avg` divides by.
    ///
    /// # Errors
    ///
    /// [`Unsupported`] where the element type has no such operation or cannot hold the factor, where this machine cannot run
    /// the variant, or where `ranks` is 0. Never another operation in its place.
    pub fn new(
        variant: Variant,
        dtype: DType,
        op: ReduceOp,
        ranks: usize,
    ) -> Result<Kernel, Unsupported> {
        if !variant.is_available() {
            return Err(Unsupported::Variant { variant, op, dtype });
        }
        if ranks == 0 {
            return Err(Unsupported::NoRanks { op, dtype });
        }
        let run = variant
            .select(dtype, op)
            .ok_or(Unsupported::Op { op, dtype })?;
        let factor = op.factor().unwrap_or(1.0);
        let factor_int = if dtype.is_integer() {
            whole(factor, dtype).ok_or(Unsupported::Factor { factor, dtype })?
        } else {
            1
        };
        let constants = Constants {
            ranks: ranks as u64,
            factor_f64: factor,
            factor_f32: factor as f32,
            factor_int,
        };
        Ok(Kernel {
            run,
            constants,
            dtype,
            keeps: ranks == 1 && op.factor().is_none(),
            next: 0,
        })
    }

    /// The same kernel for a part of the terms, behind which lie `next` elements that are added next: it asks for them meanwhile.
    pub fn before(self, next: usize) -> Kernel {
        Kernel { next, ..self }
    }

    /// The element type this kernel reduces.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether one rank's input is its result as it is, though NaNs keep what they carry then. So nothing need be done in place.
    pub fn keeps_one(&self) -> bool {
        self.keeps
    }

    /// `dst[i] = op over all terms [i]`, in the order of the terms, in one pass.
    ///
    /// The first `raw` terms are inputs as ranks gave them: `PremulSum` multiplies those and no others. With `last` the result
    /// is complete: `Avg` divides then. Floats below f32 are accumulated in f32 over all terms and rounded once. Any
    /// alignment will do, even one that is no multiple of the element size.
    ///
    /// # Panics
    ///
    /// If there are no terms.
    ///
    /// # Safety
    ///
    /// Each term must be readable and `dst` writable for `elements` elements of the kernel's type, and nobody may write the
    /// terms or touch `dst` meanwhile. `dst` may be equal to one or several of the terms; otherwise it must not overlap any.
    pub unsafe fn reduce(
        &self,
        terms: &[*const u8],
        raw: usize,
        dst: *mut u8,
        elements: usize,
        last: bool,
        store: Store,
    ) {
        assert!(!terms.is_empty(), "a reduction needs at least one term");
        let stream = store == Store::Streaming;
        let call = Call {
            terms,
            raw,
            dst,
            elements,
            next: self.next,
            last,
            stream,
            constants: self.constants,
        };
        // SAFETY: `new` found the variant's instructions available; the rest is the caller's promise.
        unsafe { (self.run)(&call) }
        if stream {
            copy::fence();
        }
    }
}

/// The factor modulo 2^64, if it is a whole number within the range of the integer type.
fn whole(factor: f64, dtype: DType) -> Option<u64> {
    let bits = 8 * dtype.size();
    let signed = matches!(dtype, DType::I8 | DType::I32 | DType::I64);
    // The bounds are powers of two, exact in f64 (`powi` promises no exactness); the upper one is excluded.
    let power = |exponent: usize| (1u128 << exponent) as f64;
    let (low, high) = if signed {
        (-power(bits - 1), power(bits - 1))
    } else {
        (0.0, power(bits))
    };
    if factor.trunc() != factor || factor < low || factor >= high {
        return None;
    }
    Some(if signed {
        factor as i64 as u64
    } else {
        factor as u64
    })
}
