//! The ring: who follows whom, and on which way each block travels round it.
//!
//! It knows no bytes: a block is a number in `0..n`, one per label. Invariant: block b ends its reduce-scatter at label b and
//! begins its all-gather there, so the two phases join without a move.

/// A ring over the labels `0..n`, in ascending order and from the last back to 0.
///
/// ```text
///   n = 4          0 ---> 1        each label sends only to the next one
///                  ^      |
///                  |      v
///                  3 <--- 2
///
///   block 0, reduce-scatter:   1 ---> 2 ---> 3 ---> 0      each label adds its own part; 0 has the sum
///   block 0, all-gather:       0 ---> 1 ---> 2 ---> 3      the sum goes on from 0, once round
///
///   which block each label sends, step by step:
///
///                reduce-scatter       all-gather
///      label     step 0  1  2         step 0  1  2
///        0            3  2  1              0  3  2
///        1            0  3  2              1  0  3
///        2            1  0  3              2  1  0
///        3            2  1  0              3  2  1
/// ```
///
/// Both phases take n-1 steps, and in each of them a label sends one block and receives another: 2(n-1)/n of the buffer in
/// all, which is the least possible. Steps are relative to the label: a label that is late holds up its successors only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Number of labels, which is also the number of blocks.
    n: usize,
}

/// The ring over `n` labels.
///
/// # Panics
/// When `n` is 0.
pub fn ring(n: usize) -> Ring {
    assert!(n > 0, "a ring needs at least one node");
    Ring { n }
}

#[allow(clippy::len_without_is_empty)] // a ring has at least one label
impl Ring {
    /// Number of labels, and of blocks.
    pub fn len(self) -> usize {
        self.n
    }

    /// Steps of one phase: n-1.
    pub fn steps(self) -> usize {
        self.n - 1
    }

    /// The label that `label` sends to (itself, when it is alone).
    pub fn next(self, label: usize) -> usize {
        (label + 1) % self.n
    }

    /// The label that `label` receives from (itself, when it is alone).
    pub fn prev(self, label: usize) -> usize {
        (label + self.n - 1) % self.n
    }

    /// The labels that block `block` visits in a reduce-scatter, in order: all n of them, `block` itself last.
    ///
    /// It is also the order of addition: the first label's part, then the second's, and so on.
    pub fn reduce_path(self, block: usize) -> impl Iterator<Item = usize> {
        (1..=self.n).map(move |hop| (block + hop) % self.n)
    }

    /// The labels that block `block` visits in an all-gather, in order: all n of them, `block` itself first.
    pub fn gather_path(self, block: usize) -> impl Iterator<Item = usize> {
        (0..self.n).map(move |hop| (block + hop) % self.n)
    }

    /// The block that `label` sends in step `step` of a reduce-scatter; it holds `step + 1` parts by then.
    pub fn reduce_block(self, label: usize, step: usize) -> usize {
        debug_assert!(step < self.steps() && label < self.n);
        (label + 2 * self.n - 1 - step) % self.n
    }

    /// The block that `label` sends in step `step` of an all-gather.
    pub fn gather_block(self, label: usize, step: usize) -> usize {
        debug_assert!(step < self.steps() && label < self.n);
        (label + self.n - step) % self.n
    }
}
