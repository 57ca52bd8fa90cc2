//! The one reduction loop, written over `Lanes`: a group of elements of one type in the registers of one instruction set.
//! It knows no instruction set and no element type. Invariants: each block of all terms is read before that block of the
//! destination is written (so in place is sound), every term is read once, and the terms are folded strictly in order.

use super::copy;

/// Terms are asked for so many bytes before they are added. The narrower the elements, the more instructions a line takes, and the fewer lines a
/// core has under way by itself; and no core foresees lines that another has just written.
const AHEAD: usize = 2 << 10;

/// What one call of a kernel works on.
pub(super) struct Call<'a> {
    pub terms: &'a [*const u8],
    /// The first `raw` terms are inputs nobody has scaled yet.
    pub raw: usize,
    pub dst: *mut u8,
    pub elements: usize,
    /// Elements of every term behind those, to be added next.
    pub next: usize,
    /// The result is complete after this pass.
    pub last: bool,
    /// Non-temporal stores where the instruction set has them.
    pub stream: bool,
    pub constants: Constants,
}

/// What an operation needs besides its terms, in every accumulator type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constants {
    pub ranks: u64,
    pub factor_f64: f64,
    pub factor_f32: f32,
    /// The integer factor modulo 2^64: multiplication wraps, so the lower bits serve every width and both signs.
    pub factor_int: u64,
}

/// A kernel: a whole call for one instruction set, element type and operation.
pub(super) type Run = unsafe fn(&Call<'_>);

/// A group of `WIDTH` elements of one type, held in registers as `Acc`.
///
/// # Safety
///
/// Every method may be called only where the instruction set of the implementor is available. The pointers of `load`,
/// `store` and `stream` are good for `WIDTH` elements; that of `stream` is also a multiple of that many bytes.
pub(super) trait Lanes {
    /// The accumulator: f32 for all floats of up to 32 bits.
    type Acc: Copy;
    /// The same element type one element at a time, for what is left at either end. Gives the same bits.
    type Tail: Lanes;
    /// Bytes per element in memory.
    const BYTES: usize;
    /// Elements per group.
    const WIDTH: usize;
    /// Groups per block (1, 2 or 4), chosen so that a block's accumulators stay in registers.
    const UNROLL: usize;

    unsafe fn load(src: *const u8) -> Self::Acc;
    /// Rounds once, and makes every NaN canonical: x86 passes on the payload of whichever operand comes first, so bits would
    /// otherwise depend on the instruction set and on how the compiler orders operands.
    unsafe fn store(dst: *mut u8, acc: Self::Acc);
    unsafe fn stream(dst: *mut u8, acc: Self::Acc);
    unsafe fn add(a: Self::Acc, b: Self::Acc) -> Self::Acc;
}

/// Lanes that have the other operations too. Safety as for [`Lanes`].
pub(super) trait Arithmetic: Lanes {
    unsafe fn mul(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    unsafe fn min(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    unsafe fn max(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    /// The factor of `PremulSum` in every lane.
    unsafe fn factor(constants: &Constants) -> Self::Acc;
    /// Divides by the number of ranks.
    unsafe fn average(acc: Self::Acc, constants: &Constants) -> Self::Acc;
}

/// Lanes that also have the bitwise operations. Safety as for [`Lanes`].
pub(super) trait Bits: Arithmetic {
    unsafe fn and(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    unsafe fn or(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    unsafe fn xor(a: Self::Acc, b: Self::Acc) -> Self::Acc;
}

/// What an operation does to terms. Safety as for [`Lanes`].
pub(super) trait Fold<L: Lanes> {
    /// How one more term joins the accumulator.
    unsafe fn fold(acc: L::Acc, term: L::Acc) -> L::Acc;

    /// A term that is an input nobody has scaled yet.
    #[inline(always)]
    unsafe fn scale(raw: L::Acc, _: &Constants) -> L::Acc {
        raw
    }

    /// The result, when it is complete.
    #[inline(always)]
    unsafe fn complete(acc: L::Acc, _: &Constants) -> L::Acc {
        acc
    }
}

pub(super) struct Sum;
pub(super) struct Avg;
pub(super) struct PremulSum;
pub(super) struct Prod;
pub(super) struct Min;
pub(super) struct Max;
pub(super) struct BAnd;
pub(super) struct BOr;
pub(super) struct BXor;

macro_rules! fold {
    ($op:ident: $lanes:ident.$method:ident $($more:item)*) => {
        impl<L: $lanes> Fold<L> for $op {
            #[inline(always)]
            unsafe fn fold(acc: L::Acc, term: L::Acc) -> L::Acc {
                // SAFETY: the caller's promise is the same.
                unsafe { L::$method(acc, term) }
            }

            $(#[inline(always)] $more)*
        }
    };
}

fold!(Sum: Lanes.add);
fold!(Avg: Arithmetic.add
    unsafe fn complete(acc: L::Acc, constants: &Constants) -> L::Acc {
        // SAFETY: the caller's promise is the same.
        unsafe { L::average(acc, constants) }
    }
);
fold!(PremulSum: Arithmetic.add
    unsafe fn scale(raw: L::Acc, constants: &Constants) -> L::Acc {
        // SAFETY: the caller's promise is the same.
        unsafe { L::mul(raw, L::factor(constants)) }
    }
);
fold!(Prod: Arithmetic.mul);
fold!(Min: Arithmetic.min);
fold!(Max: Arithmetic.max);
fold!(BAnd: Bits.and);
fold!(BOr: Bits.or);
fold!(BXor: Bits.xor);

/// Runs a whole call: full blocks, then full groups, then single elements.
///
/// # Safety
///
/// As for [`Lanes`]; the terms and the destination of `call` are as `Kernel::reduce` demands.
#[inline(always)]
pub(super) unsafe fn drive<L, O>(call: &Call<'_>)
where
    L: Lanes,
    O: Fold<L> + Fold<L::Tail>,
{
    let group = L::WIDTH * L::BYTES;
    let end = call.elements * L::BYTES;
    // Bytes until the destination is aligned. Where elements straddle the alignment there is no such point: cached stores.
    let head = call.dst.addr().wrapping_neg() % group;
    // SAFETY: every offset passed on is at most `end` less the bytes the callee touches; the rest is the caller's promise.
    unsafe {
        if call.stream && L::WIDTH > 1 && head.is_multiple_of(L::BYTES) {
            let head = head.min(end);
            groups::<L::Tail, O, 1>(call, 0, head, false);
            let at = blocks::<L, O>(call, head, end, true);
            groups::<L::Tail, O, 1>(call, at, end, false);
        } else {
            let at = blocks::<L, O>(call, 0, end, false);
            groups::<L::Tail, O, 1>(call, at, end, false);
        }
    }
}

/// As many whole groups as lie between the byte offsets `at` and `end`; returns the offset where they stop.
#[inline(always)]
unsafe fn blocks<L: Lanes, O: Fold<L>>(
    call: &Call<'_>,
    at: usize,
    end: usize,
    stream: bool,
) -> usize {
    // SAFETY: the caller's promise is the same.
    unsafe {
        let at = match L::UNROLL {
            1 => at,
            2 => groups::<L, O, 2>(call, at, end, stream),
            _ => groups::<L, O, 4>(call, at, end, stream),
        };
        groups::<L, O, 1>(call, at, end, stream)
    }
}

/// As many whole blocks of `N` groups as lie between `at` and `end`; returns the offset where they stop.
#[inline(always)]
unsafe fn groups<L: Lanes, O: Fold<L>, const N: usize>(
    call: &Call<'_>,
    mut at: usize,
    end: usize,
    stream: bool,
) -> usize {
    let bytes = N * L::WIDTH * L::BYTES;
    // SAFETY: the block from `at` lies inside the call's elements, which the caller vouches for.
    unsafe {
        let reach = (call.elements + call.next) * L::BYTES;
        while at + bytes <= end {
            // Never past what is to be added: what lies there may be another rank's to write.
            if L::WIDTH > 1 && at + AHEAD + bytes <= reach {
                for &term in call.terms {
                    copy::need(term.wrapping_add(at + AHEAD), bytes);
                }
            }
            block::<L, O, N>(call, at, stream);
            at += bytes;
        }
    }
    at
}

/// `N` groups from the byte offset `at`: all terms are read, then the result is written.
#[inline(always)]
unsafe fn block<L: Lanes, O: Fold<L>, const N: usize>(call: &Call<'_>, at: usize, stream: bool) {
    let group = L::WIDTH * L::BYTES;
    let Some((&first, rest)) = call.terms.split_first() else {
        return;
    };
    // SAFETY: every term and the destination are good for `N` groups from `at`; `stream` is set only where `at` is aligned.
    unsafe {
        let mut acc = [L::load(first.add(at)); N];
        for (i, acc) in acc.iter_mut().enumerate() {
            let term = L::load(first.add(at + i * group));
            *acc = if call.raw > 0 {
                O::scale(term, &call.constants)
            } else {
                term
            };
        }
        for (t, &term) in rest.iter().enumerate() {
            let raw = t + 1 < call.raw;
            for (i, acc) in acc.iter_mut().enumerate() {
                let term = L::load(term.add(at + i * group));
                let term = if raw {
                    O::scale(term, &call.constants)
                } else {
                    term
                };
                *acc = O::fold(*acc, term);
            }
        }
        for (i, &acc) in acc.iter().enumerate() {
            let acc = if call.last {
                O::complete(acc, &call.constants)
            } else {
                acc
            };
            let dst = call.dst.add(at + i * group);
            if stream {
                L::stream(dst, acc)
            } else {
                L::store(dst, acc)
            }
        }
    }
}
