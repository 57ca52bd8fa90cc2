//! Large puts over several lanes: which pairs of rails two ranks speak on, how the bytes of a put are divided among them, and which
//! divided puts have wholly left. It knows numbers, no device and no clock. Invariants: two ranks come to the same lanes in the same order;
//! the parts of a put cover it once; a divided put is reported as sent when all of its parts are, once.

use std::collections::VecDeque;
use std::ops::Range;

/// Parts begin at whole lines of a cache.
const LINE: usize = 64;

/// On which pairs of rails (its, the other's) two ranks speak, as both compute it from the lower rank's side: the rails that both have, in the
/// lower rank's order; where there is none, both main ones, which leads through the switches above the rails. The first lane is the main one.
pub(super) fn lanes(lower: &[usize], higher: &[usize]) -> Vec<(usize, usize)> {
    let common: Vec<(usize, usize)> = lower
        .iter()
        .filter(|rail| higher.contains(rail))
        .map(|rail| (*rail, *rail))
        .collect();
    if !common.is_empty() {
        return common;
    }
    let mains = lower.first().copied().zip(higher.first().copied());
    mains.into_iter().collect()
}

/// Parts of a message for `lanes` lanes: equal but for the last, of whole lines, and no more of them than there are `least` bytes in the message,
/// so that a small one stays in one piece.
pub(super) fn stripes(
    bytes: usize,
    lanes: usize,
    least: usize,
) -> impl ExactSizeIterator<Item = Range<usize>> {
    let most = (bytes / least.max(1)).clamp(1, lanes.max(1));
    let part = bytes.div_ceil(most).next_multiple_of(LINE).max(LINE);
    let count = bytes.div_ceil(part).max(1);
    (0..count).map(move |at| at * part..((at + 1) * part).min(bytes))
}

/// What has left when a request is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// A put, by its ticket.
    Put(u64),
    /// A part of a divided put, by the number that `Divided` gave that one.
    Part(u64),
}

/// The divided puts to one peer of which some part has not left, in their order.
#[derive(Default)]
pub(super) struct Divided {
    /// Number of the first in the queue.
    first: u64,
    /// Ticket, and parts that have not left.
    open: VecDeque<(u64, usize)>,
}

impl Divided {
    /// Takes in a put of so many parts; its number.
    pub fn begin(&mut self, ticket: u64, parts: usize) -> u64 {
        self.open.push_back((ticket, parts));
        self.first + self.open.len() as u64 - 1
    }

    /// The ticket of the put that has left with this, if one has.
    pub fn sent(&mut self, done: Done) -> Option<u64> {
        let number = match done {
            Done::Put(ticket) => return Some(ticket),
            Done::Part(number) => number,
        };
        let (ticket, left) = self.open.get_mut((number - self.first) as usize)?;
        *left -= 1;
        let ticket = (*left == 0).then_some(*ticket);
        while self.open.pop_front_if(|(_, left)| *left == 0).is_some() {
            self.first += 1;
        }
        ticket
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stripes_cover_a_message_once(bytes in 0usize..10_000_000, lanes in 1usize..9, least in 1usize..1_000_000) {
            let all: Vec<_> = stripes(bytes, lanes, least).collect();
            prop_assert!(all.len() <= lanes && (all.len() == 1 || bytes >= 2 * least));
            let mut at = 0;
            for part in &all {
                prop_assert_eq!(part.start, at);
                prop_assert!(part.start.is_multiple_of(LINE) && (!part.is_empty() || bytes == 0));
                at = part.end;
            }
            prop_assert_eq!(at, bytes);
        }

        #[test]
        fn a_divided_put_is_sent_once_and_with_its_last_part(parts in prop::collection::vec(2usize..5, 1..40), mut seed in any::<u64>()) {
            let mut divided = Divided::default();
            let mut left: Vec<(u64, usize, u64)> = Vec::new();
            for (n, &count) in parts.iter().enumerate() {
                let ticket = 1000 + n as u64;
                left.push((divided.begin(ticket, count), count, ticket));
                // Some leave while later ones are still to begin.
                while !left.is_empty() && (seed & 1 == 1 || n + 1 == parts.len()) {
                    seed = seed.rotate_right(1);
                    let at = (seed % left.len() as u64) as usize;
                    let (number, count, ticket) = &mut left[at];
                    *count -= 1;
                    let expected = (*count == 0).then_some(*ticket);
                    prop_assert_eq!(divided.sent(Done::Part(*number)), expected);
                    if expected.is_some() {
                        left.remove(at);
                    }
                }
                seed = seed.rotate_right(1);
            }
            prop_assert!(divided.open.is_empty());
        }
    }

    #[test]
    fn large_messages_use_all_lanes() {
        assert_eq!(stripes(1 << 20, 4, 256 << 10).len(), 4);
        let two: Vec<_> = stripes(1 << 20, 4, 512 << 10).collect();
        assert_eq!(two, [0..512 << 10, 512 << 10..1 << 20]);
        assert_eq!(stripes(100, 4, 256).len(), 1);
    }

    #[test]
    fn peers_keep_to_their_rails() {
        assert_eq!(lanes(&[3, 1], &[1, 3, 5]), [(3, 3), (1, 1)]);
        assert_eq!(
            lanes(&[2], &[0, 1]),
            [(2, 0)],
            "no common rail: over the switches above"
        );
        assert_eq!(lanes(&[], &[0]), []);
    }

    #[test]
    fn an_undivided_put_is_sent_at_once() {
        let mut divided = Divided::default();
        let number = divided.begin(5, 2);
        assert_eq!(divided.sent(Done::Put(77)), Some(77));
        assert_eq!(divided.sent(Done::Part(number)), None);
        assert_eq!(divided.sent(Done::Part(number)), Some(5));
    }
}
