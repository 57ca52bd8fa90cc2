//! Operations that a program makes: sums with a factor. Knows no call. Invariant: an operation is good for its communicator and its type alone,
//! and its number is never given out again.

use crate::{
    comm::{Comm, Handle, lock, on},
    fail::{Fail, Outcome, put},
    stream::Stream,
    value::{self, Code, FIRST_BITWISE, HOST_IMMEDIATE, ON_DEVICE, OPS},
};
use half::{bf16, f16};
use hfr::{
    DType, ReduceOp, device,
    dtype::{F8E4M3, F8E5M2},
};
use std::{
    ffi::{c_int, c_void},
    sync::atomic::{AtomicI32, Ordering},
};

/// The next number: they begin at `hfrNumOps`.
static NEXT: AtomicI32 = AtomicI32::new(OPS.len() as c_int);

/// A sum with a factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// The factor is known.
    Known(f64),
    /// It lies at this address, for a device to read: each call that uses it looks.
    OnDevice(usize),
}

/// The operation that `number` stands for on `comm`, for elements of `dtype`, in a call on `stream`.
pub fn operation(comm: &Comm, number: c_int, dtype: DType, stream: Stream) -> Outcome<ReduceOp> {
    if let Some(op) = value::op(number) {
        return Ok(op);
    }
    let made = lock(&comm.operations).get(&number).copied();
    match made {
        Some((of, Operation::Known(factor))) if of == dtype => Ok(ReduceOp::PremulSum(factor)),
        Some((of, Operation::OnDevice(at))) if of == dtype => {
            let mut element = [0; 8];
            let element = &mut element[..dtype.size()];
            // SAFETY: good for an element, as who made the operation has promised.
            unsafe { device::read(at as *const u8, element, device::Stream::new(stream)) }?;
            // SAFETY: an element was read.
            let factor = unsafe { scalar(element.as_ptr().cast(), dtype) }?;
            Ok(ReduceOp::PremulSum(factor))
        }
        Some((of, _)) => Err(Fail::argument(format!(
            "operation {number} was made for {of} and is used for {dtype}; make one for each type"
        ))),
        None => Err(Fail::argument(format!(
            "{number} is no hfrRedOp_t, and no operation that this communicator has made"
        ))),
    }
}

/// Reads a scalar of any type.
///
/// # Safety
/// `at` is good for one element of `dtype`, however aligned.
unsafe fn scalar(at: *const c_void, dtype: DType) -> Outcome<f64> {
    /// # Safety
    /// As `scalar`.
    unsafe fn one<T: Copy>(at: *const c_void) -> T {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<T>().read_unaligned() }
    }
    let exact = |number: i128| {
        let near = number as f64;
        if near as i128 == number {
            return Ok(near);
        }
        Err(Fail::argument(format!(
            "the scalar {number} has more digits than a double holds; use one below 2^53"
        )))
    };
    // SAFETY: the caller's promise, of the type that each arm reads.
    unsafe {
        Ok(match dtype {
            DType::F64 => one::<f64>(at),
            DType::F32 => one::<f32>(at).into(),
            DType::F16 => one::<f16>(at).into(),
            DType::BF16 => one::<bf16>(at).into(),
            DType::F8E4M3 => one::<F8E4M3>(at).to_f32().into(),
            DType::F8E5M2 => one::<F8E5M2>(at).to_f32().into(),
            DType::I8 => one::<i8>(at).into(),
            DType::U8 => one::<u8>(at).into(),
            DType::I32 => one::<i32>(at).into(),
            DType::U32 => one::<u32>(at).into(),
            DType::I64 => exact(one::<i64>(at).into())?,
            DType::U64 => exact(one::<u64>(at).into())?,
        })
    }
}

/// Makes a sum with a factor.
///
/// # Safety
/// `op` is NULL or good for a number; `scalar` is NULL or good for one element of `datatype`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrRedOpCreatePreMulSum(
    op: *mut c_int,
    scalar: *mut c_void,
    datatype: c_int,
    residence: c_int,
    comm: Handle,
) -> Code {
    on("hfrRedOpCreatePreMulSum", comm, |comm| {
        comm.ready()?;
        let dtype = value::dtype(datatype)?;
        if scalar.is_null() {
            return Err(Fail::argument("scalar is NULL; pass where the factor is"));
        }
        let made = match residence {
            // SAFETY: not NULL, and then good for an element, as the caller promises.
            HOST_IMMEDIATE => Operation::Known(unsafe { self::scalar(scalar, dtype) }?),
            ON_DEVICE if device::in_use() => Operation::OnDevice(scalar.addr()),
            ON_DEVICE => {
                return Err(Fail::argument(
                    "the scalar is to be read from a device, and this process uses none; pass hfrScalarHostImmediate",
                ));
            }
            _ => {
                return Err(Fail::argument(format!(
                    "{residence} is no hfrScalarResidence_t; pass hfrScalarDevice or hfrScalarHostImmediate"
                )));
            }
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if !(0..FIRST_BITWISE).contains(&number) {
            // Numbers are not used twice, so that a stale one is found out; a thousand million are enough.
            NEXT.store(FIRST_BITWISE, Ordering::Relaxed);
            return Err(Fail::usage(
                "all numbers for operations have been used in this process",
            ));
        }
        // SAFETY: the caller's promise.
        unsafe { put(op, "op", number) }?;
        lock(&comm.operations).insert(number, (dtype, made));
        Ok(Code::Success)
    })
}

/// Forgets an operation.
///
/// # Safety
/// None needed: `op` is looked up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hfrRedOpDestroy(op: c_int, comm: Handle) -> Code {
    on("hfrRedOpDestroy", comm, |comm| {
        if lock(&comm.operations).remove(&op).is_some() {
            return Ok(Code::Success);
        }
        Err(Fail::argument(format!(
            "{op} is no operation that this communicator has made; pass what hfrRedOpCreatePreMulSum gave, once"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(value: T, dtype: DType) -> Outcome<f64> {
        // SAFETY: one element, of the type that each test names.
        unsafe { scalar((&raw const value).cast(), dtype) }
    }

    #[test]
    fn a_scalar_is_read_as_its_type() {
        for (read, expected) in [
            (read(-0.375f64, DType::F64), -0.375),
            (read(1.5f32, DType::F32), 1.5),
            (read(f16::from_f32(0.125), DType::F16), 0.125),
            (read(bf16::from_f32(3.0), DType::BF16), 3.0),
            (read(F8E4M3::from_f32(-2.5), DType::F8E4M3), -2.5),
            (read(F8E5M2::from_f32(0.75), DType::F8E5M2), 0.75),
            (read(-7i8, DType::I8), -7.0),
            (read(200u8, DType::U8), 200.0),
            (read(-70_000i32, DType::I32), -70_000.0),
            (read(4_000_000_000u32, DType::U32), 4e9),
            (read(-(1i64 << 60), DType::I64), -(2f64.powi(60))),
            (read(1u64 << 63, DType::U64), 2f64.powi(63)),
        ] {
            assert_eq!(read, Ok(expected));
        }
    }

    #[test]
    fn an_integer_that_a_double_does_not_hold_is_refused() {
        for (read, digits) in [
            (read((1i64 << 53) + 1, DType::I64), "9007199254740993"),
            (read(u64::MAX, DType::U64), "18446744073709551615"),
            (read(i64::MAX, DType::I64), "9223372036854775807"),
        ] {
            assert!(read.expect_err("too long").text.contains(digits));
        }
    }
}
