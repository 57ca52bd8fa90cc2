//! Reduction operations: names, codes on the wire, and what each means. Knows nothing of element types or buffers.
//! Invariant: a code and a name each belong to one operation for ever.

use serde::{Deserialize, Serialize};

/// How the inputs of all ranks become one result.
///
/// A sum of floats is `((t0 + t1) + t2) + ...` in the order of the plan. Sums and products of integers wrap.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReduceOp {
    /// Sum.
    Sum,
    /// Product.
    Prod,
    /// Smallest; a NaN anywhere gives NaN, and -0 is smaller than +0.
    Min,
    /// Largest; a NaN anywhere gives NaN, and +0 is larger than -0.
    Max,
    /// Sum, divided by the number of ranks once, in the last pass. Integers truncate toward zero.
    Avg,
    /// Sum of the inputs, each multiplied by this factor first. For integers the factor must be an integer of their type. Any rank of a
    /// node may do the multiplication, so all ranks pass the same factor (unlike NCCL); a call with factors that differ is an error.
    PremulSum(f64),
    /// Bitwise and; integers only.
    BAnd,
    /// Bitwise or; integers only.
    BOr,
    /// Bitwise exclusive or; integers only.
    BXor,
}

impl ReduceOp {
    /// Every operation, in order of its code; `PremulSum` with factor 1.
    pub const ALL: [ReduceOp; 9] = [
        ReduceOp::Sum,
        ReduceOp::Prod,
        ReduceOp::Min,
        ReduceOp::Max,
        ReduceOp::Avg,
        ReduceOp::PremulSum(1.0),
        ReduceOp::BAnd,
        ReduceOp::BOr,
        ReduceOp::BXor,
    ];

    /// The name nccl-tests prints and accepts; the bitwise ones are ours. The factor of `PremulSum` is not part of it.
    pub const fn name(self) -> &'static str {
        match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Prod => "prod",
            ReduceOp::Min => "min",
            ReduceOp::Max => "max",
            ReduceOp::Avg => "avg",
            ReduceOp::PremulSum(_) => "mulsum",
            ReduceOp::BAnd => "band",
            ReduceOp::BOr => "bor",
            ReduceOp::BXor => "bxor",
        }
    }

    /// The operation of this name. `mulsum:0.5` is `PremulSum(0.5)`; a bare `mulsum` has factor 1.
    pub fn from_name(name: &str) -> Option<ReduceOp> {
        if let Some(factor) = name.strip_prefix("mulsum:") {
            return factor.parse().ok().map(ReduceOp::PremulSum);
        }
        ReduceOp::ALL.into_iter().find(|op| op.name() == name)
    }

    /// The operation's number. Two `PremulSum` share theirs: compare [`ReduceOp::factor`] too.
    pub const fn code(self) -> u8 {
        match self {
            ReduceOp::Sum => 0,
            ReduceOp::Prod => 1,
            ReduceOp::Min => 2,
            ReduceOp::Max => 3,
            ReduceOp::Avg => 4,
            ReduceOp::PremulSum(_) => 5,
            ReduceOp::BAnd => 6,
            ReduceOp::BOr => 7,
            ReduceOp::BXor => 8,
        }
    }

    /// What each raw input is multiplied by; `None` where nothing is.
    pub const fn factor(self) -> Option<f64> {
        match self {
            ReduceOp::PremulSum(factor) => Some(factor),
            _ => None,
        }
    }

    /// True for the bitwise operations, which only integers have.
    pub const fn is_bitwise(self) -> bool {
        matches!(self, ReduceOp::BAnd | ReduceOp::BOr | ReduceOp::BXor)
    }
}

impl std::fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.factor() {
            Some(factor) => write!(f, "{}:{factor}", self.name()),
            None => f.write_str(self.name()),
        }
    }
}
