//! Finds the model whose formula comes nearest to measured times. It measures nothing, and knows of the formula only the times it gives. Invariant: what it
//! returns comes at least as near as what it began with, and figures that the samples cannot tell are left as they were.

use super::{Cost, Model, Shape, choose::Terms};
use std::collections::BTreeMap;

/// What was measured of one plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Index of the plan among the candidates.
    pub plan: usize,
    /// Bytes of the buffer.
    pub bytes: usize,
    /// Bytes per piece, as the model bounds them.
    pub piece: usize,
    /// Seconds of the slowest rank.
    pub seconds: f64,
}

/// A figure of a model.
type Figure = fn(&mut Model) -> &mut f64;

/// No figure becomes more than this many times larger or smaller: one that would has stopped to mean anything.
const FARTHEST: f64 = 100.0;
/// What a figure's squared logarithm from the start counts beside the mean of those from the samples: next to nothing, but a figure that the samples hardly
/// tell stays where it was.
const PULL: f64 = 3e-5;
/// A search's first stride and the one at which it ends, as logarithms: from every start, and then from the best place found.
const ROUGH: (f64, f64) = (1.0, 0.05);
const FINE: (f64, f64) = (0.05, 0.004);
/// How far from the start other searches begin.
const ASIDE: f64 = 2.3;
/// Rounds of a search, at most; most take fewer than a hundred.
const ROUNDS: usize = 1000;
/// The largest piece that is considered is never smaller than this: a fit to few sizes says little of others.
const LEAST_MOST_PIECE: usize = 96 << 10;

/// Mean squared logarithm of what the model says over what was measured. A sample counts less the slower it was than the best of its size: the model is
/// asked which plan is fastest, and how slow the slowest are does not matter.
pub fn misfit(model: &Model, shape: &Shape, costs: &[Cost], samples: &[Sample]) -> f64 {
    mean(model, shape, costs, &weighed(samples))
}

/// The samples, each with how much it counts; in all they count 1.
fn weighed(samples: &[Sample]) -> Vec<(Sample, f64)> {
    let best = best(samples);
    let weight = |s: &Sample| best[&s.bytes].seconds / s.seconds;
    let all: f64 = samples.iter().map(weight).sum();
    samples.iter().map(|s| (*s, weight(s) / all)).collect()
}

fn mean(model: &Model, shape: &Shape, costs: &[Cost], samples: &[(Sample, f64)]) -> f64 {
    let of = |cost| Terms::of(model, shape, cost);
    let terms: Vec<Terms> = costs.iter().map(of).collect();
    let far = |(s, weight): &(Sample, f64)| {
        let said = terms[s.plan].time(s.bytes, s.piece);
        weight * (said / s.seconds).ln().powi(2)
    };
    samples.iter().map(far).sum()
}

/// The fastest sample of each size.
fn best(samples: &[Sample]) -> BTreeMap<usize, Sample> {
    let mut best = BTreeMap::new();
    for sample in samples {
        let known: &mut Sample = best.entry(sample.bytes).or_insert(*sample);
        if sample.seconds < known.seconds {
            *known = *sample;
        }
    }
    best
}

/// The figures that samples of such a group tell.
fn told(model: &Model, shape: &Shape) -> Vec<Figure> {
    let mut told: Vec<Figure> = vec![|m| &mut m.step];
    let waits: [Figure; 2] = match (model.shares_cores(shape), shape.widest()) {
        (true, _) => [|m| &mut m.wake, |m| &mut m.byte],
        (false, 1) => [|m| &mut m.hand_over, |m| &mut m.byte],
        (false, _) => [|m| &mut m.hand_over, |m| &mut m.cross],
    };
    told.extend(waits);
    if shape.nodes() > 1 {
        let between: [Figure; 3] = [|m| &mut m.send, |m| &mut m.hop, |m| &mut m.wire];
        told.extend(between);
    }
    told
}

/// Fits the model to the samples, from `start` on: the best of several pattern searches over the logarithms of its figures. The bounds of pieces
/// become those of the samples that were the best of their size.
pub fn fit(start: &Model, shape: &Shape, costs: &[Cost], samples: &[Sample]) -> Model {
    let told = told(start, shape);
    let at = |point: &[f64]| {
        let mut model = *start;
        for (figure, log) in told.iter().zip(point) {
            *figure(&mut model) *= log.exp();
        }
        model
    };
    let (farthest, weighed) = (FARTHEST.ln(), weighed(samples));
    let far = |point: &[f64]| {
        if point.iter().any(|log| log.abs() > farthest) {
            return f64::INFINITY;
        }
        let pull: f64 = point.iter().map(|log| PULL * log * log).sum();
        mean(&at(point), shape, costs, &weighed) + pull
    };
    // The formula is full of maxima, and so has valleys that end. From where one figure is far off, the search comes down another one.
    let mut starts = vec![vec![0.0; told.len()]];
    for i in 0..told.len() {
        for log in [ASIDE, -ASIDE] {
            let mut aside = starts[0].clone();
            aside[i] = log;
            starts.push(aside);
        }
    }
    let mut found = (starts[0].clone(), far(&starts[0]));
    for start in starts {
        let end = search(start, ROUGH, &far);
        if end.1 < found.1 {
            found = end;
        }
    }
    found = search(found.0, FINE, &far);
    let used = best(samples).into_values().map(|s| s.piece);
    let most = used.fold(
        start.piece.1.min(LEAST_MOST_PIECE).max(start.piece.0),
        usize::max,
    );
    Model {
        piece: (start.piece.0, most),
        ..at(&found.0)
    }
}

/// A pattern search (Hooke and Jeeves): the point it ends at, and how far that is.
fn search(start: Vec<f64>, strides: (f64, f64), far: &impl Fn(&[f64]) -> f64) -> (Vec<f64>, f64) {
    let (mut least, mut here, mut stride) = (far(&start), start, strides.0);
    for _ in 0..ROUNDS {
        if stride < strides.1 {
            break;
        }
        let before = here.clone();
        explore(&mut here, &mut least, stride, far);
        if here == before {
            stride /= 2.0;
            continue;
        }
        // What helped once often helps again.
        let mut ahead: Vec<f64> = here.iter().zip(&before).map(|(h, b)| 2.0 * h - b).collect();
        let mut ahead_least = far(&ahead);
        explore(&mut ahead, &mut ahead_least, stride, far);
        if ahead_least < least {
            (here, least) = (ahead, ahead_least);
        }
    }
    (here, least)
}

/// Tries each figure a stride up and down, and then each two of them together, since some make up for others; keeps what helps.
fn explore(here: &mut [f64], least: &mut f64, stride: f64, far: &impl Fn(&[f64]) -> f64) {
    let mut attempt = |here: &mut [f64], moves: &[(usize, f64)]| {
        let was: Vec<f64> = moves.iter().map(|(i, _)| here[*i]).collect();
        moves.iter().for_each(|(i, by)| here[*i] += by);
        let now = far(here);
        if now < *least {
            *least = now;
        } else {
            moves
                .iter()
                .zip(was)
                .for_each(|((i, _), was)| here[*i] = was);
        }
    };
    for i in 0..here.len() {
        attempt(here, &[(i, stride)]);
        attempt(here, &[(i, -stride)]);
    }
    for i in 0..here.len() {
        for j in i + 1..here.len() {
            for (up, down) in [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)] {
                attempt(here, &[(i, up * stride), (j, down * stride)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Collective, Wanted, candidates, choose};

    const SIZES: [usize; 8] = [
        1 << 10,
        4 << 10,
        16 << 10,
        64 << 10,
        256 << 10,
        1 << 20,
        4 << 20,
        16 << 20,
    ];
    const PIECES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

    /// Numbers from 0 to 1, always the same.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005) + 1;
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    fn costs(shape: &Shape) -> Vec<Cost> {
        let plans = candidates(Collective::AllReduce, shape);
        plans.iter().map(|plan| plan.cost()).collect()
    }

    fn samples(truth: &Model, shape: &Shape, noise: f64, dice: &mut Dice) -> Vec<Sample> {
        let mut all = Vec::new();
        for (plan, cost) in costs(shape).iter().enumerate() {
            for bytes in SIZES {
                for piece in PIECES {
                    let off = 1.0 + noise * (2.0 * dice.roll() - 1.0);
                    let seconds = truth.time(shape, cost, bytes, piece) * off;
                    all.push(Sample {
                        plan,
                        bytes,
                        piece,
                        seconds,
                    });
                }
            }
        }
        all
    }

    /// How much longer than need be the model's choices take in truth, at the worst size.
    fn regret(model: &Model, truth: &Model, shape: &Shape) -> f64 {
        let costs = costs(shape);
        let worst = SIZES.map(|bytes| {
            let chosen = choose(model, shape, &costs, Wanted { bytes });
            let best = choose(truth, shape, &costs, Wanted { bytes });
            truth.time(shape, &costs[chosen.plan], bytes, chosen.piece) / best.seconds
        });
        worst.into_iter().fold(1.0, f64::max)
    }

    /// Machines unlike the usual one, on which its choices are wrong.
    fn machines(cores: usize) -> Vec<(Model, Model)> {
        let mut all = Vec::new();
        for wire in ["local", "tcp"] {
            let start = Model::usual(cores, wire, false);
            let factors = [
                [8.0, 0.2, 1.0, 0.1, 5.0],
                [0.3, 12.0, 20.0, 6.0, 0.2],
                [3.0, 4.0, 3.0, 20.0, 15.0],
                [0.2, 0.5, 0.3, 0.2, 0.5],
            ];
            for [step, wait, send, hop, wire] in factors {
                let mut truth = start;
                truth.step *= step;
                truth.hand_over *= wait;
                truth.wake *= wait;
                truth.send *= send;
                truth.hop *= hop;
                truth.wire *= wire;
                truth.byte *= 2.0;
                truth.cross *= 2.0;
                truth.piece.1 = 1 << 20;
                all.push((start, truth));
            }
        }
        all
    }

    #[test]
    fn choices_by_a_fitted_model_are_nearly_the_best() {
        let mut dice = Dice(7);
        let mut before = 1.0;
        for shape in [
            Shape::uniform(1, 4),
            Shape::uniform(2, 2),
            Shape::new(&[3, 4, 2]),
        ] {
            for cores in [2, 16] {
                for (start, truth) in machines(cores) {
                    before = f64::max(before, regret(&start, &truth, &shape));
                    for (noise, within) in [(0.0, 1.03), (0.1, 1.08)] {
                        let samples = samples(&truth, &shape, noise, &mut dice);
                        let fitted = fit(&start, &shape, &costs(&shape), &samples);
                        let found = regret(&fitted, &truth, &shape);
                        assert!(
                            found < within,
                            "{shape:?} noise {noise}: {found}\ntruth {truth:?}\nfitted {fitted:?}"
                        );
                    }
                }
            }
        }
        assert!(before > 1.3, "the usual model was good enough: {before}");
    }

    #[test]
    fn it_comes_no_farther_from_the_samples() {
        let mut dice = Dice(3);
        let shape = Shape::uniform(2, 3);
        for (start, truth) in machines(4) {
            for noise in [0.0, 0.5] {
                let samples = samples(&truth, &shape, noise, &mut dice);
                let of = |model: &Model| misfit(model, &shape, &costs(&shape), &samples);
                let fitted = fit(&start, &shape, &costs(&shape), &samples);
                assert!(of(&fitted) <= of(&start));
            }
            // Where there is nothing to mend, nothing changes.
            let samples = samples(&start, &shape, 0.0, &mut dice);
            let same = fit(&start, &shape, &costs(&shape), &samples);
            assert_eq!((same.step, same.wire), (start.step, start.wire));
        }
    }

    #[test]
    fn what_the_samples_cannot_tell_stays() {
        let mut dice = Dice(5);
        let start = Model::usual(8, "none", false);
        let truth = Model {
            step: 5e-6,
            hand_over: 4e-6,
            ..start
        };
        let shape = Shape::uniform(1, 4);
        let some = samples(&truth, &shape, 0.1, &mut dice);
        let fitted = fit(&start, &shape, &costs(&shape), &some);
        let left = |m: &Model| (m.wake, m.send, m.hop, m.wire, m.cores);
        assert_eq!(left(&fitted), left(&start));
        assert!(fitted.step > 3e-6 && fitted.hand_over != start.hand_over);
        assert!(
            fitted.piece.0 == start.piece.0
                && fitted.piece.1 >= start.piece.1.min(LEAST_MOST_PIECE)
        );
    }
}
