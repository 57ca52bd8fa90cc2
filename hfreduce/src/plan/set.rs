//! A set of ranks, shared where it does not change: a proof over thousands of ranks holds one set per stage, and most of them
//! are equal to a neighbour's. Invariant: `One` and `Many` compare by content only through the methods here.

use std::rc::Rc;

/// A set of ranks.
#[derive(Clone, Debug)]
pub enum RankSet {
    /// A single rank.
    One(u32),
    /// Bits by rank; shared until changed.
    Many(Rc<Vec<u64>>),
}

impl RankSet {
    /// The empty set.
    pub fn empty() -> RankSet {
        RankSet::Many(Rc::new(Vec::new()))
    }

    /// Whether `rank` is in it.
    pub fn contains(&self, rank: u32) -> bool {
        match self {
            RankSet::One(r) => *r == rank,
            RankSet::Many(bits) => bits
                .get(rank as usize / 64)
                .is_some_and(|w| w >> (rank % 64) & 1 == 1),
        }
    }

    /// Number of ranks in it.
    pub fn len(&self) -> usize {
        match self {
            RankSet::One(_) => 1,
            RankSet::Many(bits) => bits.iter().map(|w| w.count_ones() as usize).sum(),
        }
    }

    /// Whether it holds nobody.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lowest rank that both hold.
    pub fn common(&self, other: &RankSet) -> Option<u32> {
        match (self, other) {
            (RankSet::One(r), set) | (set, RankSet::One(r)) => set.contains(*r).then_some(*r),
            (RankSet::Many(a), RankSet::Many(b)) => {
                let i = a.iter().zip(b.iter()).position(|(x, y)| x & y != 0)?;
                Some(i as u32 * 64 + (a[i] & b[i]).trailing_zeros())
            }
        }
    }

    /// The lowest rank below `ranks` that is not in it.
    pub fn first_missing(&self, ranks: usize) -> Option<u32> {
        match self {
            RankSet::One(r) => (0..ranks as u32).find(|x| x != r),
            RankSet::Many(bits) => {
                let full = bits.iter().take_while(|w| **w == u64::MAX).count();
                (full as u32 * 64..ranks as u32).find(|r| !self.contains(*r))
            }
        }
    }

    /// Adds all of `other`. `width` is the number of ranks in the group.
    pub fn add(&mut self, other: &RankSet, width: usize) {
        if let RankSet::One(r) = other
            && self.contains(*r)
        {
            return;
        }
        if let (RankSet::Many(a), RankSet::Many(b)) = (&*self, other)
            && Rc::ptr_eq(a, b)
        {
            return;
        }
        if self.is_nobody() {
            *self = other.clone();
            return;
        }
        let words = width.div_ceil(64);
        if let RankSet::One(r) = *self {
            let mut bits = vec![0; words];
            bits[r as usize / 64] |= 1 << (r % 64);
            *self = RankSet::Many(Rc::new(bits));
        }
        let RankSet::Many(mine) = self else {
            unreachable!("made Many just above")
        };
        let mine = Rc::make_mut(mine);
        mine.resize(words, 0);
        match other {
            RankSet::One(r) => mine[*r as usize / 64] |= 1 << (r % 64),
            RankSet::Many(bits) => mine.iter_mut().zip(bits.iter()).for_each(|(m, b)| *m |= b),
        }
    }

    fn is_nobody(&self) -> bool {
        matches!(self, RankSet::Many(bits) if bits.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_and_finds() {
        let mut s = RankSet::empty();
        for r in [3, 64, 70, 3] {
            s.add(&RankSet::One(r), 100);
        }
        assert_eq!(s.len(), 3);
        assert!(s.contains(64) && !s.contains(65));
        assert_eq!(s.first_missing(100), Some(0));
        let before = s.clone();
        s.add(&RankSet::One(0), 100);
        assert_eq!(
            before.len(),
            3,
            "a shared set must not change under its other holders"
        );
        assert_eq!(s.common(&RankSet::One(70)), Some(70));
        assert_eq!(before.common(&RankSet::One(0)), None);
        let mut all = RankSet::One(1);
        for r in 0..130 {
            all.add(&RankSet::One(r), 130);
        }
        assert_eq!(all.first_missing(130), None);
        assert_eq!(all.common(&s), Some(0));
    }
}
