//! The numbers of the header: results, types, operations. Knows no communicator. Invariant: every number that comes from C is looked up here
//! and nowhere taken for an enum; the numbers are NCCL's, and ours lie where NCCL has none.

use crate::fail::{Fail, Outcome};
use hfr::{DType, Kind, ReduceOp};
use std::ffi::{c_char, c_int};

/// `hfrResult_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Code {
    /// No error.
    Success = 0,
    /// A device or its driver failed.
    UnhandledCudaError = 1,
    /// Memory, threads or the start of the group.
    SystemError = 2,
    /// A bug of the library.
    InternalError = 3,
    /// An argument makes no sense; nothing was started.
    InvalidArgument = 4,
    /// Ranks made different calls, or a call came when it must not.
    InvalidUsage = 5,
    /// A rank is gone, stalls or has aborted, or a connection broke.
    RemoteError = 6,
    /// Under way.
    InProgress = 7,
}

impl Code {
    /// All, in their order.
    pub const ALL: [Code; 8] = [
        Code::Success,
        Code::UnhandledCudaError,
        Code::SystemError,
        Code::InternalError,
        Code::InvalidArgument,
        Code::InvalidUsage,
        Code::RemoteError,
        Code::InProgress,
    ];

    /// The code of a failure of the library.
    pub fn of(kind: Kind) -> Code {
        match kind {
            Kind::InvalidArgument => Code::InvalidArgument,
            Kind::Mismatch => Code::InvalidUsage,
            Kind::Timeout | Kind::PeerLost | Kind::Wire | Kind::Aborted => Code::RemoteError,
            Kind::Memory | Kind::Start => Code::SystemError,
            Kind::Device => Code::UnhandledCudaError,
        }
    }

    /// What `hfrGetErrorString` says.
    pub fn text(self) -> &'static std::ffi::CStr {
        match self {
            Code::Success => c"no error",
            Code::UnhandledCudaError => c"unhandled cuda error: a device or its driver failed",
            Code::SystemError => c"system error: memory, threads or the start of the group",
            Code::InternalError => c"internal error: a bug of the library",
            Code::InvalidArgument => c"invalid argument",
            Code::InvalidUsage => c"invalid usage: different calls on different ranks, or a call when it must not come",
            Code::RemoteError => c"remote error: a rank is gone, stalls or has aborted, or a connection broke",
            Code::InProgress => c"in progress",
        }
    }
}

/// Types in the order of `hfrDataType_t`.
pub const TYPES: [DType; 12] = [
    DType::I8,
    DType::U8,
    DType::I32,
    DType::U32,
    DType::I64,
    DType::U64,
    DType::F16,
    DType::F32,
    DType::F64,
    DType::BF16,
    DType::F8E4M3,
    DType::F8E5M2,
];

/// Operations in the order of `hfrRedOp_t`, below `hfrNumOps`.
pub const OPS: [ReduceOp; 5] = [
    ReduceOp::Sum,
    ReduceOp::Prod,
    ReduceOp::Max,
    ReduceOp::Min,
    ReduceOp::Avg,
];

/// `hfrBand`, and those behind it: our own, far above what NCCL counts.
pub const FIRST_BITWISE: c_int = 0x4000_0000;

/// The bitwise operations, from `FIRST_BITWISE` on.
pub const BITWISE: [ReduceOp; 3] = [ReduceOp::BAnd, ReduceOp::BOr, ReduceOp::BXor];

/// `hfrScalarDevice`.
pub const ON_DEVICE: c_int = 0;

/// `hfrScalarHostImmediate`.
pub const HOST_IMMEDIATE: c_int = 1;

/// `HFR_SPLIT_NOCOLOR`.
pub const NO_COLOR: c_int = -1;

/// `hfrUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Id {
    /// Its bytes.
    pub internal: [c_char; 128],
}

/// The type that `number` stands for.
pub fn dtype(number: c_int) -> Outcome<DType> {
    usize::try_from(number)
        .ok()
        .and_then(|i| TYPES.get(i).copied())
        .ok_or_else(|| Fail::argument(format!("{number} is no hfrDataType_t; use one of 0 to 11")))
}

/// The operation that `number` stands for, if it is none that a program made.
pub fn op(number: c_int) -> Option<ReduceOp> {
    let find = |ops: &[ReduceOp], first: c_int| {
        let i = usize::try_from(number.checked_sub(first)?).ok()?;
        ops.get(i).copied()
    };
    find(&OPS, 0).or_else(|| find(&BITWISE, FIRST_BITWISE))
}
