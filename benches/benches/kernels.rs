//! Reduction kernels in GB/s, bytes read plus bytes written, beside a memcpy that moves the same number of bytes.
//! It knows no plan and no rank: one thread, warm memory. Invariant: the floor and the kernels of one size share a group, so
//! they stand side by side.

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use hfreduce::dtype::DType;
use hfreduce::kernel::{Kernel, Store, Variant, copy};
use hfreduce::op::ReduceOp;
use std::hint::black_box;
use std::time::Duration;

const TYPES: [DType; 7] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8E4M3,
    DType::F8E5M2,
    DType::F64,
    DType::I32,
];

/// Bytes that are moderate numbers in every type: exponents in the middle, mantissas mixed.
fn input(dtype: DType, bytes: usize, seed: usize) -> Vec<u8> {
    let element = |at: usize| {
        let value = ((at * 37 + seed * 101) % 251) as f32 / 64.0 + 0.25;
        let wide = value.to_bits().to_le_bytes();
        match dtype {
            DType::F64 => f64::from(value).to_le_bytes().to_vec(),
            DType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
            DType::BF16 => wide[2..].to_vec(),
            DType::F8E4M3 => vec![hfreduce::dtype::F8E4M3::from_f32(value).0],
            DType::F8E5M2 => vec![hfreduce::dtype::F8E5M2::from_f32(value).0],
            _ => wide.to_vec(),
        }
    };
    (0..bytes / dtype.size()).flat_map(element).collect()
}

/// The floor: ordinary and non-temporal copies that read and write `moved` bytes together, in pieces of one term.
fn floor(group: &mut BenchmarkGroup<'_, WallTime>, terms: usize, bytes: usize) {
    let moved = (terms + 1) * bytes;
    let src = vec![7u8; moved / 2];
    let mut dst = vec![1u8; moved / 2];
    for store in [Store::Cached, Store::Streaming] {
        group.bench_function(format!("memcpy/{store:?}"), |bencher| {
            bencher.iter(|| {
                // SAFETY: both have `moved / 2` bytes and are separate allocations.
                unsafe {
                    copy(
                        black_box(src.as_ptr()),
                        black_box(dst.as_mut_ptr()),
                        moved / 2,
                        store,
                    )
                }
            });
        });
    }
}

fn kernels(criterion: &mut Criterion) {
    for (bytes, size) in [(64 << 10, "64KiB"), (16 << 20, "16MiB")] {
        for terms in [2, 8] {
            let mut group = criterion.benchmark_group(format!("{size} x {terms}"));
            group.throughput(Throughput::Bytes(((terms + 1) * bytes) as u64));
            group
                .sample_size(10)
                .warm_up_time(Duration::from_millis(100))
                .measurement_time(Duration::from_millis(300));
            floor(&mut group, terms, bytes);
            for dtype in TYPES {
                sums(&mut group, dtype, terms, bytes);
            }
            group.finish();
        }
    }
}

/// All variants of one type's sum; non-temporal stores where the result is too large for a cache.
fn sums(group: &mut BenchmarkGroup<'_, WallTime>, dtype: DType, terms: usize, bytes: usize) {
    let inputs: Vec<Vec<u8>> = (0..terms).map(|seed| input(dtype, bytes, seed)).collect();
    let pointers: Vec<*const u8> = inputs.iter().map(|input| input.as_ptr()).collect();
    let mut dst = vec![1u8; bytes];
    let stores: &[Store] = if bytes > 1 << 20 {
        &[Store::Cached, Store::Streaming]
    } else {
        &[Store::Cached]
    };
    for variant in Variant::available() {
        for &store in stores {
            if variant == Variant::Scalar && store == Store::Streaming {
                // The same code as Cached.
                continue;
            }
            let Ok(kernel) = Kernel::new(variant, dtype, ReduceOp::Sum, terms) else {
                continue;
            };
            group.bench_function(format!("{dtype}/{}/{store:?}", variant.name()), |bencher| {
                bencher.iter(|| {
                    let dst = black_box(dst.as_mut_ptr());
                    // SAFETY: every term and the destination have `bytes` bytes and are separate allocations.
                    unsafe {
                        kernel.reduce(
                            black_box(&pointers),
                            terms,
                            dst,
                            bytes / dtype.size(),
                            true,
                            store,
                        )
                    }
                });
            });
        }
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
