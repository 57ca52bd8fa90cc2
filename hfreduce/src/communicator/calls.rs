//! The collectives as Rust sees them: slices of one element type. Everything here checks lengths and hands plain addresses to
//! [`Communicator::run`]; nothing here knows how a call is carried out.

use super::{Communicator, core::RawCall};
use crate::{
    dtype::Element,
    engine::{Block, Blocks},
    error::Error,
    op::ReduceOp,
    plan::Collective,
};
use std::sync::Arc;

pub(super) fn raw<T: Element>(
    collective: Collective,
    op: ReduceOp,
    count: usize,
    input: *const T,
    output: *mut T,
) -> RawCall {
    RawCall {
        collective,
        dtype: T::DTYPE,
        op,
        count,
        input: input.cast(),
        output: output.cast(),
        blocks: None,
    }
}

impl Communicator {
    pub(super) fn fits(&self, what: &str, whole: usize, share: usize) -> Result<(), Error> {
        if share.checked_mul(self.size()) == Some(whole) {
            return Ok(());
        }
        Err(self.invalid(
            format!("{what} has {whole} elements, and one share has {share}"),
            &format!("it holds one share for each of the {} ranks", self.size()),
        ))
    }

    fn same(&self, what: &str, input: usize, output: usize) -> Result<(), Error> {
        if input == output {
            return Ok(());
        }
        Err(self.invalid(
            format!("{what}: the input has {input} elements and the output {output}"),
            "both have the same length",
        ))
    }

    fn call<T: Element>(
        &self,
        collective: Collective,
        op: ReduceOp,
        count: usize,
        input: *const T,
        output: *mut T,
    ) -> Result<(), Error> {
        // SAFETY: the callers below pass pointers of slices they hold, of lengths that fit.
        unsafe { self.run(raw(collective, op, count, input, output)) }
    }

    /// Reduces `buffer` over all ranks, in place: afterwards it is the same on all, bit for bit.
    ///
    /// # Errors
    /// An operation that the type does not have; a failure of the group.
    pub fn all_reduce<T: Element>(&self, buffer: &mut [T], op: ReduceOp) -> Result<(), Error> {
        let at = buffer.as_mut_ptr();
        self.call(Collective::AllReduce, op, buffer.len(), at, at)
    }

    /// As [`Communicator::all_reduce`], from `input` into `output` of the same length.
    ///
    /// # Errors
    /// Lengths that differ; as [`Communicator::all_reduce`].
    pub fn all_reduce_into<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Error> {
        self.same("all_reduce", input.len(), output.len())?;
        self.call(
            Collective::AllReduce,
            op,
            input.len(),
            input.as_ptr(),
            output.as_mut_ptr(),
        )
    }

    /// Reduces one block per rank and leaves each rank its own: `input` has `output.len()` elements for each rank.
    ///
    /// # Errors
    /// Lengths that do not fit; as [`Communicator::all_reduce`].
    pub fn reduce_scatter<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Error> {
        self.fits("reduce_scatter's input", input.len(), output.len())?;
        self.call(
            Collective::ReduceScatter,
            op,
            output.len(),
            input.as_ptr(),
            output.as_mut_ptr(),
        )
    }

    /// As [`Communicator::reduce_scatter`], in place: this rank's result takes the place of its block. The other blocks keep their contents.
    ///
    /// # Errors
    /// A length that is no multiple of the number of ranks; as [`Communicator::all_reduce`].
    pub fn reduce_scatter_in_place<T: Element>(
        &self,
        buffer: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Error> {
        let share = buffer.len() / self.size();
        self.fits("reduce_scatter's buffer", buffer.len(), share)?;
        let at = buffer.as_mut_ptr();
        self.call(
            Collective::ReduceScatter,
            op,
            share,
            at,
            at.wrapping_add(self.rank() * share),
        )
    }

    /// Gives every rank every rank's `input`: `output` has one block of `input.len()` elements for each rank, in rank order.
    ///
    /// # Errors
    /// Lengths that do not fit; as [`Communicator::all_reduce`].
    pub fn all_gather<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.fits("all_gather's output", output.len(), input.len())?;
        self.call(
            Collective::AllGather,
            ReduceOp::Sum,
            input.len(),
            input.as_ptr(),
            output.as_mut_ptr(),
        )
    }

    /// As [`Communicator::all_gather`], in place: this rank's input is its own block of `buffer`.
    ///
    /// # Errors
    /// A length that is no multiple of the number of ranks; as [`Communicator::all_reduce`].
    pub fn all_gather_in_place<T: Element>(&self, buffer: &mut [T]) -> Result<(), Error> {
        let share = buffer.len() / self.size();
        self.fits("all_gather's buffer", buffer.len(), share)?;
        let at = buffer.as_mut_ptr();
        self.call(
            Collective::AllGather,
            ReduceOp::Sum,
            share,
            at.wrapping_add(self.rank() * share),
            at,
        )
    }

    /// Gives every rank the root's `buffer`.
    ///
    /// # Errors
    /// A root that is no rank; as [`Communicator::all_reduce`].
    pub fn broadcast<T: Element>(&self, buffer: &mut [T], root: usize) -> Result<(), Error> {
        let root = self.root(root)?;
        let at = buffer.as_mut_ptr();
        self.call(
            Collective::Broadcast { root },
            ReduceOp::Sum,
            buffer.len(),
            at,
            at,
        )
    }

    /// Reduces `buffer` over all ranks; the root's becomes the result, the others' keep their contents.
    ///
    /// # Errors
    /// As [`Communicator::broadcast`].
    pub fn reduce<T: Element>(
        &self,
        buffer: &mut [T],
        op: ReduceOp,
        root: usize,
    ) -> Result<(), Error> {
        let root = self.root(root)?;
        let at = buffer.as_mut_ptr();
        self.call(Collective::Reduce { root }, op, buffer.len(), at, at)
    }

    /// Returns when all ranks have come here.
    ///
    /// # Errors
    /// A failure of the group.
    pub fn barrier(&self) -> Result<(), Error> {
        let nothing: *mut u8 = std::ptr::null_mut();
        self.call(Collective::Barrier, ReduceOp::Sum, 0, nothing, nothing)
    }

    fn root(&self, root: usize) -> Result<u32, Error> {
        if root < self.size() {
            return Ok(root as u32);
        }
        Err(self.invalid(
            format!("root {root} in a group of {} ranks", self.size()),
            "the root is a rank of the group",
        ))
    }

    /// As [`Communicator::all_gather`] with inputs of different lengths: `counts[r]` elements of rank r, the same list on all ranks.
    ///
    /// # Errors
    /// Lengths that do not fit `counts`; lists that differ between ranks; as [`Communicator::all_reduce`].
    pub fn all_gather_v<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        counts: &[usize],
    ) -> Result<(), Error> {
        self.own_count("all_gather_v's input", input.len(), counts)?;
        let blocks = Blocks {
            input: Vec::new(),
            output: self.cut("all_gather_v's output", output, counts)?,
        };
        self.call_in_blocks(
            Collective::AllGather,
            ReduceOp::Sum,
            input.len(),
            input,
            output,
            blocks,
        )
    }

    /// As [`Communicator::reduce_scatter`] with results of different lengths: rank r gets `counts[r]` elements, the same list on all ranks.
    ///
    /// # Errors
    /// As [`Communicator::all_gather_v`].
    pub fn reduce_scatter_v<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        counts: &[usize],
        op: ReduceOp,
    ) -> Result<(), Error> {
        self.own_count("reduce_scatter_v's output", output.len(), counts)?;
        let blocks = Blocks {
            input: self.cut("reduce_scatter_v's input", input, counts)?,
            output: Vec::new(),
        };
        let own = output.len();
        self.call_in_blocks(Collective::ReduceScatter, op, own, input, output, blocks)
    }

    /// Sends every rank a block of `input` and gets one from each: block r of `output` is rank r's block for this rank.
    ///
    /// # Errors
    /// Lengths that differ or are no multiple of the number of ranks; as [`Communicator::all_reduce`].
    pub fn all_to_all<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.same("all_to_all", input.len(), output.len())?;
        let share = input.len() / self.size();
        self.fits("all_to_all's input", input.len(), share)?;
        self.call(
            Collective::AllToAll,
            ReduceOp::Sum,
            share,
            input.as_ptr(),
            output.as_mut_ptr(),
        )
    }

    /// As [`Communicator::all_to_all`] with blocks of any length: `sent[r]` elements go to rank r, `received[r]` come from it, one behind the other.
    ///
    /// # Errors
    /// Lengths that do not fit; counts on which two ranks disagree, with the same error on every rank and nothing done.
    pub fn all_to_all_v<T: Element>(
        &self,
        input: &[T],
        sent: &[usize],
        output: &mut [T],
        received: &[usize],
    ) -> Result<(), Error> {
        let blocks = Blocks {
            input: self.cut("all_to_all_v's input", input, sent)?,
            output: self.cut("all_to_all_v's output", output, received)?,
        };
        self.call_in_blocks(
            Collective::AllToAllV,
            ReduceOp::Sum,
            0,
            input,
            output,
            blocks,
        )
    }

    /// Gives the root every rank's `input`: its `output` has one block of `input.len()` elements for each rank, in rank order. The others'
    /// `output` is left alone and may be empty.
    ///
    /// # Errors
    /// Lengths that do not fit; as [`Communicator::broadcast`].
    pub fn gather<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        root: usize,
    ) -> Result<(), Error> {
        let at = self.root(root)?;
        if root == self.rank() {
            self.fits("gather's output", output.len(), input.len())?;
        }
        self.call(
            Collective::Gather { root: at },
            ReduceOp::Sum,
            input.len(),
            input.as_ptr(),
            output.as_mut_ptr(),
        )
    }

    /// Shares the root's `input` out: rank r's `output` becomes block r of it. The others' `input` is not read and may be empty.
    ///
    /// # Errors
    /// As [`Communicator::gather`].
    pub fn scatter<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        root: usize,
    ) -> Result<(), Error> {
        let at = self.root(root)?;
        if root == self.rank() {
            self.fits("scatter's input", input.len(), output.len())?;
        }
        self.call(
            Collective::Scatter { root: at },
            ReduceOp::Sum,
            output.len(),
            input.as_ptr(),
            output.as_mut_ptr(),
        )
    }

    fn own_count(&self, what: &str, len: usize, counts: &[usize]) -> Result<(), Error> {
        match counts.get(self.rank()) {
            Some(&count) if count == len => Ok(()),
            own => Err(self.invalid(
                format!("{what} has {len} elements, and the list of counts says {own:?}"),
                "the list has a count for every rank, this rank's own among them",
            )),
        }
    }

    /// The blocks of these lengths, one behind the other, in `whole`.
    fn cut<T: Element>(
        &self,
        what: &str,
        whole: &[T],
        counts: &[usize],
    ) -> Result<Vec<Block>, Error> {
        let sum = counts.iter().try_fold(0usize, |sum, c| sum.checked_add(*c));
        if counts.len() != self.size() || sum != Some(whole.len()) {
            return Err(self.invalid(
                format!(
                    "{what} has {} elements, and the list of {} counts another sum",
                    whole.len(),
                    counts.len()
                ),
                &format!("give one count for each of the {} ranks", self.size()),
            ));
        }
        let mut first = 0;
        let block = |&count: &usize| {
            let at = whole.as_ptr().wrapping_add(first).cast_mut().cast();
            first += count;
            Block { at, count }
        };
        Ok(counts.iter().map(block).collect())
    }

    fn call_in_blocks<T: Element>(
        &self,
        collective: Collective,
        op: ReduceOp,
        count: usize,
        input: &[T],
        output: &mut [T],
        blocks: Blocks,
    ) -> Result<(), Error> {
        let mut call = raw(collective, op, count, input.as_ptr(), output.as_mut_ptr());
        call.blocks = Some(Arc::new(blocks));
        // SAFETY: the callers above pass slices they hold and blocks within them.
        unsafe { self.run(call) }
    }
}
