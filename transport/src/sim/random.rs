//! The simulator's dice: splitmix64. It knows nothing but its state; the same seed gives the same numbers everywhere.

/// A seeded generator.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// A generator of its own for every seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..=most`.
    pub fn up_to(&mut self, most: u64) -> u64 {
        // The bias of the multiplication is below 2^-32 for every range used here.
        ((u128::from(self.next()) * (u128::from(most) + 1)) >> 64) as u64
    }

    /// True in half of all cases.
    pub fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_splitmix64_and_stay_in_range() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
        let drawn: Vec<u64> = (0..1000).map(|_| random.up_to(6)).collect();
        assert!((0..=6).all(|n| drawn.contains(&n)) && drawn.iter().all(|&n| n <= 6));
    }
}
