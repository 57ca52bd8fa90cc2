//! What a bench goes through: every combination of collective, element type and operation that was asked for and exists, and its sizes.
//! It runs nothing. Invariant: a combination that was asked for by name and does not exist is an error, never left out.

use super::values::checkable;
use crate::{job::Call, plan, size};
use anyhow::{Result, bail, ensure};
use hfreduce::{
    dtype::DType,
    kernel::{Kernel, Variant},
    op::ReduceOp,
    plan::Collective,
};

/// What was asked for, in words.
pub struct Asked<'a> {
    /// Collective, or `all`.
    pub collective: &'a str,
    /// Element types, or `all`.
    pub dtypes: &'a [String],
    /// Operations, or `all`.
    pub ops: &'a [String],
    /// Root of broadcast and reduce.
    pub root: u32,
    /// Ranks of the job.
    pub ranks: usize,
    /// Whether results are compared.
    pub check: bool,
}

/// A table's worth: one combination, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Case {
    /// To be measured at every size.
    Run(Collective, DType, ReduceOp),
    /// Part of `all`, but it does not exist.
    Skip(String),
}

/// The instruction sets that additions of these cases run on, narrowest first; `none` where nothing is added.
pub fn simd(cases: &[Case]) -> String {
    let variant = |case: &Case| match case {
        Case::Run(collective, dtype, op) if collective.reduces() => {
            Some(Variant::best_for(*dtype, *op))
        }
        _ => None,
    };
    let used: Vec<_> = cases.iter().filter_map(variant).collect();
    let names: Vec<_> = Variant::ALL
        .into_iter()
        .filter(|variant| used.contains(variant))
        .map(Variant::name)
        .collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(","),
    }
}

/// All cases, in order.
///
/// # Errors
/// Unknown names, and combinations that do not exist.
pub fn cases(asked: &Asked) -> Result<Vec<Case>> {
    ensure!(
        (asked.root as usize) < asked.ranks,
        "root {} is not among the {} ranks",
        asked.root,
        asked.ranks
    );
    let dtypes = named(
        asked.dtypes,
        "element type",
        DType::ALL.to_vec(),
        DType::from_name,
    )?;
    // A factor of 1 would hide a multiplication that is left out.
    let every: Vec<ReduceOp> = ReduceOp::ALL.into_iter().map(plain_mulsum).collect();
    let find = |name: &str| ReduceOp::from_name(name).map(plain_mulsum);
    let ops = named(asked.ops, "operation", every, find)?;
    let lenient = asked
        .dtypes
        .iter()
        .chain(asked.ops)
        .any(|name| name == "all");
    let mut cases = Vec::new();
    for collective in plan::collectives(asked.collective, asked.root)? {
        if collective == Collective::Barrier {
            cases.push(Case::Run(collective, DType::U8, ReduceOp::Sum));
            continue;
        }
        for &dtype in &dtypes {
            if !collective.reduces() {
                cases.push(Case::Run(collective, dtype, ReduceOp::Sum));
                continue;
            }
            for &op in &ops {
                match exists(dtype, op, asked) {
                    Ok(()) => cases.push(Case::Run(collective, dtype, op)),
                    Err(why) if lenient => cases.push(Case::Skip(why)),
                    Err(why) => bail!(why),
                }
            }
        }
    }
    Ok(cases)
}

fn plain_mulsum(op: ReduceOp) -> ReduceOp {
    match op {
        ReduceOp::PremulSum(1.0) => ReduceOp::PremulSum(2.0),
        other => other,
    }
}

fn exists(dtype: DType, op: ReduceOp, asked: &Asked) -> Result<(), String> {
    Kernel::new(Variant::Scalar, dtype, op, asked.ranks).map_err(|error| error.to_string())?;
    if asked.check {
        checkable(dtype, op, asked.ranks)?;
    }
    Ok(())
}

fn named<T>(
    names: &[String],
    what: &str,
    all: Vec<T>,
    find: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>> {
    if names.iter().any(|name| name == "all") {
        return Ok(all);
    }
    let mut found = Vec::new();
    for name in names {
        match find(name) {
            Some(one) => found.push(one),
            None => bail!("no {what} '{name}'"),
        }
    }
    Ok(found)
}

/// How sizes go up.
#[derive(Clone, Copy)]
pub enum Growth {
    /// Multiplied by this.
    Factor(f64),
    /// This many bytes are added.
    Step(usize),
}

/// The calls of a case from `first` to `last` bytes (of the larger buffer), without repetitions.
pub fn calls(
    case: (Collective, DType, ReduceOp),
    ranks: usize,
    first: usize,
    last: usize,
    growth: Growth,
) -> Vec<Call> {
    let (collective, dtype, op) = case;
    if collective == Collective::Barrier {
        return vec![Call {
            collective,
            dtype,
            op,
            count: 0,
            tensors: 1,
        }];
    }
    let mut calls: Vec<Call> = Vec::new();
    let mut bytes = first;
    while bytes <= last {
        let elements = bytes / dtype.size();
        let count = match collective.shares(ranks) {
            Some(_) => elements / ranks,
            None => elements,
        };
        let count = count.max(1);
        if calls.last().is_none_or(|before| before.count != count) {
            calls.push(Call {
                collective,
                dtype,
                op,
                count,
                tensors: 1,
            });
        }
        bytes = match growth {
            Growth::Factor(factor) => ((bytes as f64 * factor) as usize).max(bytes + 1),
            Growth::Step(step) => bytes.saturating_add(step.max(1)),
        };
    }
    calls
}

/// Many tensors in flight at once, as HFReduce's own bench has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tensors {
    /// How many.
    pub number: usize,
    /// Bytes of each.
    pub bytes: usize,
}

impl Tensors {
    /// Reads `46x4M`.
    ///
    /// # Errors
    /// A sentence, when the text is nothing of the kind.
    pub fn parse(text: &str) -> Result<Tensors, String> {
        let wrong = || format!("'{text}' is not a number of tensors and their size, such as 46x4M");
        let (number, bytes) = text.split_once('x').ok_or_else(wrong)?;
        let number = number.parse().map_err(|_| wrong())?;
        let bytes = size::parse(bytes)?;
        if !(1..=4096).contains(&number) || bytes == 0 || bytes > usize::MAX / number {
            return Err(format!("{text}: from 1 to 4096 tensors of at least a byte"));
        }
        Ok(Tensors { number, bytes })
    }

    /// The one call-shaped thing that all of them are together.
    pub fn call(self, (collective, dtype, op): (Collective, DType, ReduceOp)) -> Call {
        Call {
            collective,
            dtype,
            op,
            count: self.number * (self.bytes / dtype.size()).max(1),
            tensors: self.number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_read_or_refused() {
        let read = Tensors::parse("46x4M").expect("as in the help");
        assert_eq!((read.number, read.bytes), (46, 4 << 20));
        let call = read.call((Collective::AllReduce, DType::F16, ReduceOp::Sum));
        assert_eq!((call.count, call.tensors), (46 << 21, 46));
        for wrong in [
            "", "46", "x4M", "46x", "0x4M", "46x0", "5000x1", "-1x4", "46*4M",
        ] {
            assert!(Tensors::parse(wrong).is_err(), "{wrong} was taken");
        }
    }

    fn ask(collective: &str, dtype: &str, op: &str) -> Result<Vec<Case>> {
        cases(&Asked {
            collective,
            dtypes: &[dtype.to_owned()],
            ops: &[op.to_owned()],
            root: 1,
            ranks: 8,
            check: true,
        })
    }

    #[test]
    fn what_does_not_exist_is_refused_or_skipped() {
        let error = ask("all_reduce", "float", "band")
            .expect_err("floats have no bits")
            .to_string();
        assert!(error.contains("band"), "{error}");
        let every = ask("all_reduce", "all", "all").expect("all");
        let skipped = every
            .iter()
            .filter(|case| matches!(case, Case::Skip(_)))
            .count();
        assert_eq!((every.len(), skipped), (12 * 9, 6 * 3));
        assert!(ask("all_reduce", "quad", "sum").is_err());
        assert!(ask("all_reduce", "float", "median").is_err());
        assert_eq!(
            ask("broadcast", "half", "sum").expect("broadcast"),
            [Case::Run(
                Collective::Broadcast { root: 1 },
                DType::F16,
                ReduceOp::Sum
            )]
        );
        assert_eq!(ask("all", "half", "sum").expect("all").len(), 10);
    }

    #[test]
    fn the_instruction_sets_are_those_of_what_is_added() {
        let used = |collective, dtypes, op| simd(&ask(collective, dtypes, op).expect("it exists"));
        let best = |dtype| Variant::best_for(dtype, ReduceOp::Sum).name();
        assert_eq!(used("all_reduce", "float", "sum"), best(DType::F32));
        assert_eq!(used("all_reduce", "bfloat16", "sum"), best(DType::BF16));
        assert_eq!(used("broadcast", "float", "sum"), "none");
        let (narrow, wide) = (best(DType::F32), best(DType::BF16));
        let both = match narrow == wide {
            true => wide.to_owned(),
            false => format!("{narrow},{wide}"),
        };
        assert_eq!(used("all", "all", "all"), both);
    }

    #[test]
    fn sizes_are_those_of_the_larger_buffer() {
        let sizes = |collective, first, last, growth| -> Vec<usize> {
            calls(
                (collective, DType::F32, ReduceOp::Sum),
                8,
                first,
                last,
                growth,
            )
            .iter()
            .map(|call| call.count)
            .collect()
        };
        assert_eq!(
            sizes(Collective::AllReduce, 8, 128, Growth::Factor(4.0)),
            [2, 8, 32]
        );
        assert_eq!(
            sizes(Collective::AllReduce, 8, 24, Growth::Step(8)),
            [2, 4, 6]
        );
        assert_eq!(
            sizes(Collective::AllGather, 8, 128, Growth::Factor(2.0)),
            [1, 2, 4]
        );
        assert_eq!(sizes(Collective::Barrier, 8, 128, Growth::Factor(2.0)), [0]);
        assert_eq!(
            sizes(Collective::AllReduce, 8, 12, Growth::Factor(1.0)),
            [2, 3],
            "a factor of 1 ends"
        );
    }
}
