//! The values are what they promise: exact in their type in any order, and every rank's input counts.

use super::*;
use hfreduce::kernel::{Kernel, Store, Variant};

fn decode(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::F64 => f64::from_ne_bytes(bytes.try_into().expect("8 bytes")),
        DType::F32 => f32::from_ne_bytes(bytes.try_into().expect("4 bytes")).into(),
        DType::F16 => f16::from_ne_bytes(bytes.try_into().expect("2 bytes")).into(),
        DType::BF16 => bf16::from_ne_bytes(bytes.try_into().expect("2 bytes")).into(),
        DType::F8E4M3 => F8E4M3(bytes[0]).to_f32().into(),
        DType::F8E5M2 => F8E5M2(bytes[0]).to_f32().into(),
        DType::I8 => (bytes[0] as i8).into(),
        DType::U8 => bytes[0].into(),
        DType::I32 => i32::from_ne_bytes(bytes.try_into().expect("4 bytes")).into(),
        DType::U32 => u32::from_ne_bytes(bytes.try_into().expect("4 bytes")).into(),
        DType::I64 => i64::from_ne_bytes(bytes.try_into().expect("8 bytes")) as f64,
        DType::U64 => u64::from_ne_bytes(bytes.try_into().expect("8 bytes")) as f64,
    }
}

fn survives(dtype: DType, value: i128) -> bool {
    let mut bytes = Vec::new();
    encode(dtype, value, &mut bytes);
    assert_eq!(bytes.len(), dtype.size());
    decode(dtype, &bytes) == value as f64
}

fn combinations() -> Vec<(DType, ReduceOp, usize)> {
    let mut all = Vec::new();
    for dtype in DType::ALL {
        for op in ReduceOp::ALL.into_iter().chain([ReduceOp::PremulSum(2.0)]) {
            for ranks in [1, 2, 3, 7, 8, 16, 33, 100] {
                let exists = Kernel::new(Variant::Scalar, dtype, op, ranks).is_ok();
                if exists && checkable(dtype, op, ranks).is_ok() {
                    all.push((dtype, op, ranks));
                }
            }
        }
    }
    assert!(all.len() > 500, "only {} combinations", all.len());
    all
}

#[test]
fn every_partial_result_is_exact() {
    for (dtype, op, ranks) in combinations() {
        if op.is_bitwise() {
            continue;
        }
        for element in 0..200 {
            let inputs: Vec<i128> = (0..ranks)
                .map(|rank| input(dtype, op, ranks, rank, element))
                .collect();
            let right = |value| {
                assert!(
                    survives(dtype, value),
                    "{dtype} {op} of {ranks}: {value} at {element}"
                )
            };
            inputs.iter().copied().for_each(right);
            right(reduced(dtype, op, ranks, element));
            // The extremes over all groups of ranks: the positive ones together, and the negative ones.
            match op {
                ReduceOp::Sum | ReduceOp::Avg | ReduceOp::PremulSum(_) => {
                    let factor = op.factor().unwrap_or(1.0) as i128;
                    right(factor * inputs.iter().filter(|v| **v > 0).sum::<i128>());
                    right(factor * inputs.iter().filter(|v| **v < 0).sum::<i128>());
                }
                ReduceOp::Prod => right(inputs.iter().product()),
                _ => {}
            }
        }
    }
}

#[test]
fn an_average_has_no_remainder() {
    for (dtype, op, ranks) in combinations() {
        if op == ReduceOp::Avg {
            for element in 0..200 {
                let sum: i128 = (0..ranks)
                    .map(|rank| input(dtype, op, ranks, rank, element))
                    .sum();
                assert_eq!(sum % ranks as i128, 0, "{dtype} of {ranks} at {element}");
            }
        }
    }
}

/// A rank that is left out, or stands in for its neighbour, changes the result somewhere.
#[test]
fn every_rank_matters() {
    for (dtype, op, ranks) in combinations() {
        if ranks == 1 || ranks > 16 {
            continue;
        }
        for lost in 0..ranks {
            let shows = (0..PERIOD).any(|element| {
                let all = (0..ranks).map(|rank| {
                    let stand_in = if rank == lost {
                        (rank + 1) % ranks
                    } else {
                        rank
                    };
                    input(dtype, op, ranks, stand_in, element)
                });
                let result = match op {
                    ReduceOp::Sum | ReduceOp::PremulSum(_) | ReduceOp::Avg => {
                        let factor = op.factor().unwrap_or(1.0) as i128;
                        let before: i128 = (0..ranks)
                            .map(|r| input(dtype, op, ranks, r, element))
                            .sum();
                        return factor * all.sum::<i128>() != factor * before;
                    }
                    ReduceOp::Prod => all.product(),
                    ReduceOp::Min => all.min().expect("ranks"),
                    ReduceOp::Max => all.max().expect("ranks"),
                    ReduceOp::BAnd => all.fold(-1, |a, b| a & b),
                    ReduceOp::BOr => all.fold(0, |a, b| a | b),
                    ReduceOp::BXor => all.fold(0, |a, b| a ^ b),
                };
                result != reduced(dtype, op, ranks, element)
            });
            assert!(
                shows,
                "{dtype} {op} of {ranks}: nobody would miss rank {lost}"
            );
        }
    }
}

#[test]
fn the_kernels_agree() {
    for (dtype, op, ranks) in combinations() {
        if ranks > 16 {
            continue;
        }
        let kernel = Kernel::new(Variant::Scalar, dtype, op, ranks).expect("it exists");
        let inputs: Vec<Template> = (0..ranks)
            .map(|rank| Template::input(dtype, op, ranks, rank))
            .collect();
        let bytes = PERIOD * dtype.size();
        let terms: Vec<*const u8> = inputs
            .iter()
            .map(|template| template.bytes.as_ptr())
            .collect();
        let mut result = vec![0u8; bytes];
        // SAFETY: every term and the result hold PERIOD elements, the result belongs to nobody else, and nobody writes the terms.
        unsafe {
            kernel.reduce(
                &terms,
                ranks,
                result.as_mut_ptr(),
                PERIOD,
                true,
                Store::Cached,
            )
        };
        let wrong = Template::reduced(dtype, op, ranks).wrong(&result, 0);
        assert_eq!(wrong, 0, "{dtype} {op} of {ranks}");
    }
}

#[test]
fn one_flipped_bit_is_one_wrong_element() {
    let template = Template::input(DType::F32, ReduceOp::Sum, 8, 3);
    let mut buffer = vec![0u8; 4 * (2 * PERIOD + 100)];
    template.fill(&mut buffer, 4090);
    assert_eq!(template.wrong(&buffer, 4090), 0);
    assert!(
        template.wrong(&buffer, 4091) > 1000,
        "a shifted buffer was taken for right"
    );
    buffer[4 * PERIOD + 41] ^= 0x10;
    assert_eq!(template.wrong(&buffer, 4090), 1);
    let raw = Template::raw(DType::F16, 2);
    let mut buffer = vec![0u8; 2 * 9000];
    raw.fill(&mut buffer, 0);
    assert_eq!(raw.wrong(&buffer, 0), 0);
    assert!(
        Template::raw(DType::F16, 3).wrong(&buffer, 0) > 8000,
        "ranks' bits are alike"
    );
}
