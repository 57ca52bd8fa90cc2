//! Random groups, counts, collectives and operations against a reference in f64. Values are so small that every result but an average is
//! exact, in whatever order it is added.

use crate::value::random as mix;
use hfr_tests::ranks;
use hfreduce::{Communicator, ReduceOp, Wire};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Case {
    collective: u8,
    count: usize,
    op: ReduceOp,
    root: usize,
    in_place: bool,
    /// Bit r: rank r has registered memory.
    registered: u32,
}

fn case() -> impl Strategy<Value = Case> {
    let op = prop_oneof![
        Just(ReduceOp::Sum),
        Just(ReduceOp::Prod),
        Just(ReduceOp::Min),
        Just(ReduceOp::Max),
        Just(ReduceOp::Avg),
        Just(ReduceOp::PremulSum(0.5)),
    ];
    let count = prop_oneof![0..70usize, 0..3000usize, 20_000..40_000usize];
    (0..5u8, count, op, 0..9usize, any::<bool>(), any::<u32>()).prop_map(
        |(collective, count, op, root, in_place, registered)| Case {
            collective,
            count,
            op,
            root,
            in_place,
            registered,
        },
    )
}

fn input(seed: usize, rank: usize, i: usize) -> f32 {
    [-2.0, -1.0, 1.0, 2.0, 0.5]
        [mix((seed as u64) << 40 ^ (rank as u64) << 32 ^ i as u64) as usize % 5]
}

fn reference(op: ReduceOp, seed: usize, n: usize, i: usize) -> f64 {
    let all = (0..n).map(|r| f64::from(input(seed, r, i)));
    match op {
        ReduceOp::Sum => all.sum(),
        ReduceOp::Prod => all.product(),
        ReduceOp::Min => all.fold(f64::INFINITY, f64::min),
        ReduceOp::Max => all.fold(f64::NEG_INFINITY, f64::max),
        ReduceOp::Avg => all.sum::<f64>() / n as f64,
        ReduceOp::PremulSum(factor) => factor * all.sum::<f64>(),
        _ => panic!("not among the cases"),
    }
}

/// Runs a case; `Err` says what is wrong.
fn run(comm: &Communicator, seed: usize, case: &Case) -> Result<(), String> {
    let (me, n, count, op) = (comm.rank(), comm.size(), case.count, case.op);
    let root = case.root % n;
    let (ins, outs) = match case.collective {
        1 => (count * n, count),
        2 => (count, count * n),
        _ => (count, count),
    };
    let fill = |memory: &mut [f32]| (0..ins).for_each(|i| memory[i] = input(seed, me, i));
    let (mut own, mut own_out, mut shared, mut shared_out);
    let (buffer, out): (&mut [f32], &mut [f32]) = if case.registered >> me & 1 == 1 {
        shared = comm
            .alloc::<f32>(ins.max(outs))
            .map_err(|e| e.to_string())?;
        shared_out = comm.alloc::<f32>(outs).map_err(|e| e.to_string())?;
        (&mut shared, &mut shared_out)
    } else {
        own = vec![0.0; ins.max(outs)];
        own_out = vec![0.0; outs];
        (&mut own, &mut own_out)
    };
    fill(buffer);
    let result = match (case.collective, case.in_place) {
        (0, true) => comm.all_reduce(&mut buffer[..count], op),
        (0, false) => comm.all_reduce_into(&buffer[..count], out, op),
        (1, true) => comm.reduce_scatter_in_place(&mut buffer[..ins], op),
        (1, false) => comm.reduce_scatter(&buffer[..ins], out, op),
        (2, true) => {
            buffer.copy_within(0..count, me * count);
            comm.all_gather_in_place(&mut buffer[..outs])
        }
        (2, false) => comm.all_gather(&buffer[..count], out),
        (3, _) => comm.broadcast(&mut buffer[..count], root),
        _ => comm.reduce(&mut buffer[..count], op, root),
    };
    result.map_err(|e| e.to_string())?;
    let got: &[f32] = match (case.collective, case.in_place) {
        (0..=2, false) => out,
        (1, true) => &buffer[me * count..][..count],
        _ => buffer,
    };
    for (i, &got) in got[..outs].iter().enumerate() {
        let wanted = match case.collective {
            0 => reference(op, seed, n, i),
            1 => reference(op, seed, n, me * count + i),
            2 => f64::from(input(seed, i / count, i % count)),
            3 => f64::from(input(seed, root, i)),
            _ if me == root => reference(op, seed, n, i),
            _ => f64::from(input(seed, me, i)),
        };
        if (f64::from(got) - wanted).abs() > 1e-6 * wanted.abs() {
            return Err(format!("rank {me}, element {i}: {got} and not {wanted}"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_groups_and_calls(
        nodes in prop::collection::vec(1..4usize, 1..4),
        tcp in any::<bool>(),
        calls in prop::collection::vec(case(), 1..8),
    ) {
        let wire = if tcp { Wire::Tcp } else { Wire::Local };
        let results = ranks(&nodes, wire, |_| (), |comm| {
            let run = |(seed, case)| run(&comm, seed, case).map_err(|e| format!("{case:?}: {e}"));
            // All calls, also behind a wrong one: ranks that stop early would only show as lost.
            calls.iter().enumerate().map(run).collect::<Vec<_>>()
        });
        for result in results.into_iter().flatten() {
            prop_assert!(result.is_ok(), "{}", result.unwrap_err());
        }
    }
}
