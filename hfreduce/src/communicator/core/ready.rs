//! What is checked and agreed before a call becomes a job: the arguments that a rank can check alone, the blocks of uneven shares, and for
//! all_to_all_v the counts of every pair, which no rank knows alone. Invariant: an error here starts nothing, and where it concerns other
//! ranks' arguments every rank finds the same one.

use super::{Core, RawCall};
use crate::{
    call::Call,
    dtype::DType,
    engine::{Block, Blocks},
    error::{Error, Kind},
    kernel::{Kernel, Variant},
    op::ReduceOp,
    plan::Collective,
};
use std::sync::Arc;

/// A call whose arguments make sense.
pub struct Ready {
    pub kernel: Option<Kernel>,
    /// Elements that the extent is made for: where shares differ, of the longest.
    pub count: usize,
    pub blocks: Option<Arc<Blocks>>,
    /// Stands for the lengths of uneven shares, which all ranks must agree on.
    lengths: u64,
}

impl Ready {
    /// What the other ranks see of it.
    pub fn call(&self, raw: &RawCall, sequence: u64) -> Call {
        let factor = match (&self.kernel, raw.collective) {
            // A message's factor is its tag.
            (Some(_), _) | (None, Collective::SendRecv) => raw.op.factor().map_or(0, f64::to_bits),
            _ => 0,
        };
        Call {
            sequence,
            count: self.count as u64,
            root: raw.collective.root().unwrap_or(u32::MAX),
            collective: Call::code(raw.collective),
            dtype: raw.dtype as u8,
            op: match &self.kernel {
                Some(_) => raw.op.code() + 1,
                None => 0,
            },
            uneven: u8::from(self.lengths != 0),
            factor: factor ^ self.lengths,
        }
    }
}

/// One number for a list of lengths (FNV-1a).
fn digest(lengths: impl Iterator<Item = usize>) -> u64 {
    lengths.fold(0xcbf2_9ce4_8422_2325, |hash, length| {
        (hash ^ length as u64).wrapping_mul(0x100_0000_01b3)
    })
}

impl Core {
    fn invalid(&self, raw: &RawCall, cause: String, remedy: &str) -> Error {
        let mut error = self.here(Error::new(Kind::InvalidArgument, cause, remedy));
        error.operation = Some(raw.collective.name().to_owned());
        error
    }

    /// Checks the arguments that this rank can check alone.
    pub(super) fn prepare_call(&self, raw: &RawCall) -> Result<Ready, Error> {
        let ranks = self.shape.ranks();
        if let Some(root) = raw.collective.root()
            && root as usize >= ranks
        {
            return Err(self.invalid(
                raw,
                format!("root {root} in a group of {ranks} ranks"),
                "the root is a rank of the group",
            ));
        }
        if raw.collective == Collective::SendRecv && ranks != 2 {
            return Err(self.invalid(raw, "not for groups".into(), "use send and recv"));
        }
        let bytes = raw.count.checked_mul(raw.dtype.size() * ranks);
        if bytes.is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(self.invalid(
                raw,
                format!("{} elements are more than memory can hold", raw.count),
                "check the count, which is in elements",
            ));
        }
        let apart = raw.blocks.is_some() || raw.input != raw.output.cast_const() || raw.count == 0;
        if raw.collective == Collective::AllToAll && !apart && ranks > 1 {
            return Err(self.invalid(
                raw,
                "input and output are the same memory".into(),
                "give it an output of its own: it does not work in place",
            ));
        }
        let kernel = if raw.collective.reduces() {
            let variant = Variant::best_for(raw.dtype, raw.op);
            let kernel = Kernel::new(variant, raw.dtype, raw.op, ranks);
            let explain = |why: crate::kernel::Unsupported| {
                self.invalid(raw, why.to_string(), "choose a supported combination")
            };
            Some(kernel.map_err(explain)?)
        } else {
            None
        };
        let (count, blocks, lengths) = self.shares(raw)?;
        self.apart(raw)?;
        Ok(Ready {
            kernel,
            count,
            blocks,
            lengths,
        })
    }

    /// Checks the blocks of a call: how many there are, and their lengths. Returns the longest, the blocks of both sides, and a number for
    /// lengths that differ.
    fn shares(&self, raw: &RawCall) -> Result<(usize, Option<Arc<Blocks>>, u64), Error> {
        let Some(blocks) = &raw.blocks else {
            if raw.collective == Collective::AllToAllV {
                return Err(self.invalid(raw, "no blocks".into(), "give a block for every rank"));
            }
            return Ok((raw.count, None, 0));
        };
        let expected = raw.collective.shares(self.shape.ranks());
        let (input, output) = expected.unwrap_or((0, 0));
        let root = |r: u32| r as usize == self.rank;
        let (here_in, here_out) = match raw.collective {
            Collective::Scatter { root: r } => (root(r), true),
            Collective::Gather { root: r } => (true, root(r)),
            _ => (true, true),
        };
        for (what, list, wanted, here) in [
            ("input", &blocks.input, input, here_in),
            ("output", &blocks.output, output, here_out),
        ] {
            let optional = list.is_empty() && raw.collective != Collective::AllToAllV;
            if !optional && here && list.len() != wanted {
                return Err(self.invalid(
                    raw,
                    format!("{} blocks of {what}, and {wanted} are needed", list.len()),
                    "give one block for every rank",
                ));
            }
        }
        let uneven = match raw.collective {
            Collective::AllGather => &blocks.output,
            Collective::ReduceScatter => &blocks.input,
            Collective::AllToAllV => return Ok((0, raw.blocks.clone(), 0)),
            _ => &Vec::new(),
        };
        let differ = uneven.iter().any(|b| b.count != uneven[0].count);
        let own = uneven.get(self.rank).map_or(raw.count, |b| b.count);
        let all = blocks.input.iter().chain(&blocks.output);
        let wrong = all.clone().find(|b| b.count != raw.count);
        let own_side = match raw.collective {
            Collective::AllGather => &blocks.input,
            _ => &blocks.output,
        };
        let other = differ && own_side.iter().any(|b| b.count != raw.count);
        if own != raw.count || other || !differ && wrong.is_some() {
            let theirs = wrong.map_or(own, |b| b.count);
            return Err(self.invalid(
                raw,
                format!(
                    "a block of {theirs} elements, where {} are expected",
                    raw.count
                ),
                "a rank's own share has the same length on both sides",
            ));
        }
        if !differ {
            return Ok((raw.count, raw.blocks.clone(), 0));
        }
        let longest = uneven.iter().map(|b| b.count).max().unwrap_or(0);
        let mut both = Blocks::clone(blocks);
        let whole = |at: *mut u8| {
            vec![Block {
                at,
                count: raw.count,
            }]
        };
        let (own_side, at) = match raw.collective {
            Collective::AllGather => (&mut both.input, raw.input.cast_mut()),
            _ => (&mut both.output, raw.output),
        };
        if own_side.is_empty() {
            *own_side = whole(at);
        }
        let lengths = digest(uneven.iter().map(|b| b.count));
        Ok((longest, Some(Arc::new(both)), lengths))
    }

    /// No block of the output lies over another, or over a block of the input, but the own share over itself where the collective has that.
    fn apart(&self, raw: &RawCall) -> Result<(), Error> {
        let Some(blocks) = &raw.blocks else {
            return Ok(());
        };
        let size = raw.dtype.size();
        let list = |blocks: &[Block], whole: *mut u8, shares: usize| -> Vec<(usize, usize)> {
            let span = |b: &Block| (b.at as usize, b.at as usize + b.count * size);
            match blocks {
                [] if whole.is_null() => Vec::new(),
                [] => {
                    let block = |i: usize| Block {
                        at: whole.wrapping_add(i * raw.count * size),
                        count: raw.count,
                    };
                    (0..shares).map(|i| span(&block(i))).collect()
                }
                some => some.iter().map(span).collect(),
            }
        };
        let shares = raw.collective.shares(self.shape.ranks());
        let (i, o) = shares.unwrap_or((1, 1));
        let inputs = list(&blocks.input, raw.input.cast_mut(), i);
        let outputs = list(&blocks.output, raw.output, o);
        // The share that may lie on itself: this rank's on the side that has all, the only one on the other.
        let own = |spans: &[(usize, usize)]| match spans {
            [one] => Some(*one),
            all => all.get(self.rank).copied(),
        };
        let alone = self.shape.ranks() == 1;
        let in_place = (i != o || alone) && own(&inputs) == own(&outputs);
        let own_input = own(&inputs);
        let mut spans: Vec<(usize, usize, bool)> = Vec::new();
        spans.extend(outputs.iter().map(|s| (s.0, s.1, true)));
        let others = inputs
            .iter()
            .filter(|s| !in_place || Some(**s) != own_input);
        spans.extend(others.map(|s| (s.0, s.1, false)));
        spans.retain(|(from, to, _)| from < to);
        spans.sort_unstable();
        let (mut any, mut output) = (0, 0);
        for (from, to, written) in spans {
            if from < output || written && from < any {
                return Err(self.invalid(
                    raw,
                    "a block of the output lies over another block".into(),
                    "give every block of the output memory of its own",
                ));
            }
            any = any.max(to);
            if written {
                output = output.max(to);
            }
        }
        Ok(())
    }

    /// The ranks show each other what each sends to each and expects of each; all must fit. Returns the most that any sends to any.
    pub(super) fn agree_on_counts(&mut self, raw: &RawCall) -> Result<usize, Error> {
        let ranks = self.shape.ranks();
        let Some(blocks) = &raw.blocks else {
            return Ok(0);
        };
        let sides = blocks.input.iter().chain(&blocks.output);
        let mine: Vec<u64> = sides.map(|b| b.count as u64).collect();
        let mut all = vec![0u64; 2 * ranks * ranks];
        let exchange = RawCall {
            collective: Collective::AllGather,
            dtype: DType::U64,
            op: ReduceOp::Sum,
            count: 2 * ranks,
            input: mine.as_ptr().cast(),
            output: all.as_mut_ptr().cast(),
            blocks: None,
        };
        // SAFETY: both vectors live until the call has ended here, or the engine is never stepped again.
        let running = unsafe { self.submit(&exchange, None) }?;
        let done = self.run(|core| core.finished(&running));
        self.ended(&running, done.is_ok());
        done?;
        let mut most = 0;
        for from in 0..ranks {
            for to in 0..ranks {
                let sent = all[2 * ranks * from + to];
                let expected = all[2 * ranks * to + ranks + from];
                if sent != expected {
                    let mut error = self.invalid(
                        raw,
                        format!(
                            "rank {from} sends {sent} elements to rank {to}, which expects {expected}"
                        ),
                        "the counts of both ranks must be the same",
                    );
                    // The same text on every rank.
                    (error.rank, error.node, error.peer) = (None, None, Some(to));
                    return Err(error);
                }
                most = most.max(sent);
            }
        }
        Ok(most as usize)
    }
}
