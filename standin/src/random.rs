//! Random numbers for delays and for how copies fall apart: a small generator whose numbers follow from the seed. It knows no clock.

/// A generator (splitmix64: every seed will do).
pub struct Random(u64);

impl Random {
    /// Its numbers follow from both.
    pub fn new(seed: u64, who: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ who)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..=most`.
    pub fn up_to(&mut self, most: u64) -> u64 {
        let number = self.next();
        most.checked_add(1).map_or(number, |n| number % n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_the_seed_and_from_who_asks() {
        let some = |seed, who| {
            let mut random = Random::new(seed, who);
            (0..20).map(|_| random.up_to(1000)).collect::<Vec<_>>()
        };
        assert_eq!(some(3, 1), some(3, 1));
        assert_ne!(some(3, 1), some(3, 2));
        assert_ne!(some(3, 1), some(4, 1));
        assert!(some(3, 1).iter().all(|n| *n <= 1000));
        assert!(some(3, 1).iter().any(|n| *n > 300));
        assert_eq!(Random::new(5, 5).up_to(u64::MAX), Random::new(5, 5).next());
    }
}
