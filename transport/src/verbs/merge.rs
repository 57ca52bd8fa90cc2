//! Notices of one peer from several lanes, put together: each is reported once, in the order of the peer's puts, when all parts of its put
//! are here. It knows what came on which lane, no queue pair. Invariants: the main lane alone says what the puts are and in which order;
//! part k of a put comes on lane k, and all parts of one put carry the same notice.

use std::collections::VecDeque;

/// Puts under way for which the queues have room before they have to grow.
const QUEUE: usize = 64;

pub(super) struct Merge {
    /// What the main lane has said and is not reported: notice, and number of parts.
    puts: VecDeque<(u32, usize)>,
    /// Notices on the other lanes that are not reported, by lane.
    parts: Vec<VecDeque<u32>>,
    /// Parts of the put that the main lane says next, where it has announced them.
    announced: Option<usize>,
}

impl Merge {
    pub fn new(lanes: usize) -> Merge {
        let others = 1..lanes.max(1);
        Merge {
            puts: VecDeque::with_capacity(QUEUE),
            parts: others.map(|_| VecDeque::with_capacity(QUEUE)).collect(),
            announced: None,
        }
    }

    /// The next notice of the main lane comes in so many parts.
    pub fn announce(&mut self, parts: u32) -> Result<(), String> {
        let (parts, lanes) = (parts as usize, self.parts.len() + 1);
        if !(2..=lanes).contains(&parts) {
            return Err(format!(
                "it announces a put of {parts} parts over {lanes} lanes; start all ranks from one build"
            ));
        }
        match self.announced.replace(parts) {
            None => Ok(()),
            Some(earlier) => Err(format!(
                "it announces a put of {parts} parts before the one of {earlier} has come"
            )),
        }
    }

    /// A notice has come on a lane; what can be reported now is.
    pub fn notice(
        &mut self,
        lane: usize,
        notice: u32,
        report: &mut impl FnMut(u32),
    ) -> Result<(), String> {
        if lane == 0 {
            let parts = self.announced.take().unwrap_or(1);
            if parts == 1 && self.puts.is_empty() {
                report(notice);
                return Ok(());
            }
            self.puts.push_back((notice, parts));
        } else {
            let queue = self.parts.get_mut(lane - 1);
            queue
                .ok_or_else(|| format!("a notice on lane {lane}, which is not there"))?
                .push_back(notice);
        }
        while let Some(&(notice, parts)) = self.puts.front() {
            let others = &mut self.parts[..parts - 1];
            if others.iter().any(VecDeque::is_empty) {
                break;
            }
            for (at, queue) in others.iter_mut().enumerate() {
                let part = queue.pop_front();
                if part != Some(notice) {
                    let lane = at + 1;
                    return Err(format!(
                        "part {lane} of a put carries notice {part:?} and part 0 {notice}: one was lost or delivered twice"
                    ));
                }
            }
            self.puts.pop_front();
            report(notice);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a lane carries.
    #[derive(Debug, Clone, Copy)]
    enum Said {
        Parts(u32),
        Notice(u32),
    }

    fn hear(
        merge: &mut Merge,
        lane: usize,
        said: Said,
        heard: &mut Vec<u32>,
    ) -> Result<(), String> {
        match said {
            Said::Parts(parts) => merge.announce(parts),
            Said::Notice(notice) => merge.notice(lane, notice, &mut |n| heard.push(n)),
        }
    }

    /// What a sender says on each lane for puts of so many parts, with notices 7, 8, ...
    fn spoken(lanes: usize, puts: &[usize]) -> Vec<VecDeque<Said>> {
        let mut all = vec![VecDeque::new(); lanes];
        for (n, &parts) in puts.iter().enumerate() {
            let parts = parts.min(lanes);
            if parts > 1 {
                all[0].push_back(Said::Parts(parts as u32));
            }
            for lane in &mut all[..parts] {
                lane.push_back(Said::Notice(7 + n as u32));
            }
        }
        all
    }

    proptest! {
        /// However lanes are interleaved, notices come in the order of the puts, and never before all parts.
        #[test]
        fn notices_come_in_order_when_all_parts_are_here(
            lanes in 1usize..5,
            puts in prop::collection::vec(1usize..5, 1..60),
            turns in prop::collection::vec(0usize..5, 400),
        ) {
            let mut merge = Merge::new(lanes);
            let mut left = spoken(lanes, &puts);
            let (mut heard, mut here) = (Vec::new(), vec![0; puts.len()]);
            let mut turns = turns.into_iter().cycle();
            while left.iter().any(|lane| !lane.is_empty()) {
                let lane = turns.next().unwrap() % lanes;
                let lane = (lane..lanes).chain(0..lane).find(|lane| !left[*lane].is_empty()).unwrap();
                let said = left[lane].pop_front().unwrap();
                if let Said::Notice(n) = said {
                    here[n as usize - 7] += 1;
                }
                hear(&mut merge, lane, said, &mut heard).unwrap();
                let whole = here.iter().zip(&puts).take_while(|(got, parts)| **got == (**parts).min(lanes));
                let expected: Vec<u32> = (7..).take(whole.count()).collect();
                prop_assert_eq!(&heard, &expected);
            }
            prop_assert_eq!(heard.len(), puts.len());
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let fails = |said: &[(usize, Said)]| {
            let mut merge = Merge::new(2);
            let mut heard = Vec::new();
            let mut result = Ok(());
            for (lane, said) in said {
                assert_eq!(result, Ok(()), "an error before the last word");
                result = hear(&mut merge, *lane, *said, &mut heard);
            }
            result.unwrap_err()
        };
        use Said::{Notice, Parts};
        assert!(fails(&[(0, Parts(3))]).contains("3 parts over 2 lanes"));
        assert!(fails(&[(0, Parts(1))]).contains("1 parts"));
        assert!(fails(&[(0, Parts(2)), (0, Parts(2))]).contains("before the one of 2"));
        assert!(fails(&[(2, Notice(5))]).contains("lane 2"));
        let swapped = [(1, Notice(6)), (0, Parts(2)), (0, Notice(5))];
        assert!(fails(&swapped).contains("notice Some(6) and part 0 5"));
    }
}
