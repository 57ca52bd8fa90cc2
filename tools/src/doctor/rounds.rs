//! Who measures with whom, and when: every pair once, in rounds in which nobody has two partners. Pure; it knows only how many there are.
//! Invariant: a round keeps as many busy as can be, so that all pairs take as few rounds as there are others.

/// The rounds of `count` partners; in each, pairs with the smaller number first.
pub fn rounds(count: usize) -> Vec<Vec<(usize, usize)>> {
    // One stays, the others walk in a circle; with an odd number, who meets the empty seat rests.
    let seats = count + count % 2;
    let meet = |round: usize, seat: usize| {
        let circle = seats - 1;
        let (a, b) = if seat == 0 {
            (circle, round)
        } else {
            ((round + seat) % circle, (round + circle - seat) % circle)
        };
        (a.max(b) < count).then_some((a.min(b), a.max(b)))
    };
    let round = |round| {
        (0..seats / 2)
            .filter_map(|seat| meet(round, seat))
            .collect()
    };
    (0..seats.saturating_sub(1)).map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::rounds;
    use std::collections::BTreeSet;

    #[test]
    fn every_pair_meets_once_and_nobody_is_in_two_places() {
        for count in 0..40 {
            let all = rounds(count);
            let mut met = BTreeSet::new();
            for round in &all {
                let mut busy = BTreeSet::new();
                for &(a, b) in round {
                    assert!(a < b && b < count, "{count}: {a} {b}");
                    assert!(
                        busy.insert(a) && busy.insert(b),
                        "{count}: {a} or {b} twice in a round"
                    );
                    assert!(met.insert((a, b)), "{count}: {a} and {b} meet twice");
                }
                assert!(busy.len() + count % 2 == count, "{count}: somebody rests");
            }
            assert_eq!(met.len(), count * count.saturating_sub(1) / 2, "{count}");
        }
    }
}
