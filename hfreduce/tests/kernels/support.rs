//! Inputs and calls for the kernel tests. It knows no expected result. Invariant: equal seeds give equal inputs.

use hfreduce::dtype::DType;
use hfreduce::kernel::{Kernel, Store, Variant};
use hfreduce::op::ReduceOp;

/// SplitMix64: small, seedable, good enough to fill buffers.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Every operation the type has, with factors that show rounding, sign and wrap-around.
pub fn ops(dtype: DType) -> Vec<ReduceOp> {
    let factors: &[f64] = match dtype {
        DType::I8 | DType::I32 | DType::I64 => &[-3.0, 77.0],
        DType::U8 | DType::U32 | DType::U64 => &[3.0, 201.0],
        _ => &[0.3, -1.0e-3],
    };
    let plain = ReduceOp::ALL.into_iter().filter(|op| op.factor().is_none());
    plain
        .filter(|op| dtype.is_integer() || !op.is_bitwise())
        .chain(factors.iter().map(|&f| ReduceOp::PremulSum(f)))
        .collect()
}

/// Bit patterns worth meeting often: zeros, ones, denormals, extremes, infinities, quiet and signalling NaNs.
fn awkward(dtype: DType) -> &'static [u64] {
    match dtype {
        DType::F64 => &[
            0,
            1 << 63,
            0x3ff0_0000_0000_0000,
            1,
            0x800f_ffff_ffff_ffff,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0xfff0_0000_0000_0000,
            0xfff8_0000_0000_1234,
            0x7ff0_0000_0000_0001,
        ],
        DType::F32 => &[
            0,
            0x8000_0000,
            0x3f80_0000,
            1,
            0x807f_ffff,
            0x7f7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0xffc0_1234,
            0x7f80_0001,
        ],
        DType::F16 => &[
            0, 0x8000, 0x3c00, 1, 0x83ff, 0x7bff, 0x7c00, 0xfc00, 0xfe12, 0x7c01,
        ],
        DType::BF16 => &[
            0, 0x8000, 0x3f80, 1, 0x807f, 0x7f7f, 0x7f80, 0xff80, 0xffd2, 0x7f81,
        ],
        DType::F8E4M3 => &[0, 0x80, 0x38, 1, 0x87, 0x7e, 0xfe, 0x7f, 0xff],
        DType::F8E5M2 => &[0, 0x80, 0x3c, 1, 0x83, 0x7b, 0x7c, 0xfc, 0x7d, 0xff],
        DType::I8 | DType::U8 => &[0, 1, 0x7f, 0x80, 0xff],
        DType::I32 | DType::U32 => &[0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff],
        DType::I64 | DType::U64 => &[0, 1, u64::MAX >> 1, 1 << 63, u64::MAX],
    }
}

/// One element: random bits, a moderate value, or (one in eight) an awkward one.
fn element(dtype: DType, rng: &mut Rng) -> u64 {
    let bits = rng.next();
    let awkward = awkward(dtype);
    match bits >> 61 {
        0 => awkward[(bits >> 8) as usize % awkward.len()],
        1..=3 => rng.next(),
        _ => {
            let moderate = (bits as i32 as f64) / (1u64 << 28) as f64;
            match dtype {
                DType::F64 => moderate.to_bits(),
                DType::F32 => (moderate as f32).to_bits().into(),
                DType::F16 => half::f16::from_f64(moderate).to_bits().into(),
                DType::BF16 => half::bf16::from_f64(moderate).to_bits().into(),
                // Middle exponents of either format.
                DType::F8E4M3 | DType::F8E5M2 => (bits & 0x9f) | 0x20,
                _ => bits % 100,
            }
        }
    }
}

/// `elements` elements of the type as bytes.
pub fn input(dtype: DType, elements: usize, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(elements * dtype.size());
    for _ in 0..elements {
        bytes.extend_from_slice(&element(dtype, rng).to_le_bytes()[..dtype.size()]);
    }
    bytes
}

/// One call: everything but the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub dtype: DType,
    pub op: ReduceOp,
    pub ranks: usize,
    pub raw: usize,
    pub last: bool,
    pub elements: usize,
}

const GUARD: usize = 64;

/// Memory that begins at a multiple of 64, so that an offset into it is a misalignment.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
struct Line([u8; 64]);

/// Bytes at a chosen distance from a 64-byte boundary, with guard bytes on either side.
pub struct Placed {
    lines: Vec<Line>,
    start: usize,
    bytes: usize,
}

impl Placed {
    pub fn new(bytes: usize, offset: usize) -> Placed {
        let lines = vec![Line([0xa5; 64]); (GUARD + offset + bytes + GUARD).div_ceil(64)];
        Placed {
            lines,
            start: GUARD + offset,
            bytes,
        }
    }

    pub fn of(content: &[u8], offset: usize) -> Placed {
        let mut placed = Placed::new(content.len(), offset);
        let start = placed.start;
        placed.all_mut()[start..start + content.len()].copy_from_slice(content);
        placed
    }

    fn all(&self) -> &[u8] {
        bytemuck::cast_slice(&self.lines)
    }

    fn all_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }

    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        let start = self.start;
        self.all_mut()[start..].as_mut_ptr()
    }

    /// The content, after a check that nobody wrote beside it.
    pub fn content(&self) -> &[u8] {
        let (before, rest) = self.all().split_at(self.start);
        let (content, after) = rest.split_at(self.bytes);
        assert!(
            before.iter().chain(after).all(|&byte| byte == 0xa5),
            "a kernel wrote outside its destination"
        );
        content
    }
}

/// Runs the kernel of `variant` on these terms (each of at least the shape's elements) into fresh memory at `offset`.
pub fn reduce(
    variant: Variant,
    shape: &Shape,
    terms: &[*const u8],
    offset: usize,
    store: Store,
) -> Vec<u8> {
    let mut dst = Placed::new(shape.elements * shape.dtype.size(), offset);
    reduce_into(variant, shape, terms, dst.as_mut_ptr(), store);
    dst.content().to_vec()
}

/// Runs the kernel of `variant` on these terms into `dst`.
pub fn reduce_into(
    variant: Variant,
    shape: &Shape,
    terms: &[*const u8],
    dst: *mut u8,
    store: Store,
) {
    let kernel = Kernel::new(variant, shape.dtype, shape.op, shape.ranks).unwrap();
    // SAFETY: the callers' terms and destination have the shape's number of elements.
    unsafe { kernel.reduce(terms, shape.raw, dst, shape.elements, shape.last, store) };
}

/// Compares, and names the first element that differs.
pub fn assert_same(found: &[u8], expected: &[u8], what: &dyn std::fmt::Debug, size: usize) {
    if found == expected {
        return;
    }
    assert_eq!(found.len(), expected.len(), "{what:?}");
    let at = found
        .iter()
        .zip(expected)
        .position(|(a, b)| a != b)
        .unwrap()
        / size;
    let range = at * size..(at + 1) * size;
    panic!(
        "{what:?}: element {at} is {:02x?}, expected {:02x?}",
        &found[range.clone()],
        &expected[range]
    );
}
