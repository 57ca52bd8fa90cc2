//! What is measured: every plan of a group in pieces of several sizes, for buffers of several sizes. It measures nothing. Invariant: a combination is
//! asked only for sizes at which its pieces make a difference, and only where the library would give the plan such pieces.

use super::sample::Way;
use anyhow::{Result, anyhow};
use hfreduce::{
    layout::{Layout, MOST_SLOTS, largest},
    plan::{Collective, Cost, Model, Plan, Sample, Shape, Wanted, candidates, choose},
};

/// Sizes of the smallest and the largest buffer; each is four times the one before.
const BUFFERS: (usize, usize) = (1 << 10, 16 << 20);
/// The largest piece. The smallest is the usual model's, and each is four times the one before.
const LARGEST: usize = 1 << 20;

fn rungs((first, last): (usize, usize)) -> impl Iterator<Item = usize> + Clone {
    std::iter::successors(Some(first), |rung| Some(rung * 4)).take_while(move |r| *r <= last)
}

/// A plan and the bytes of its pieces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combination {
    pub plan: usize,
    pub piece: usize,
}

/// A combination on buffers of one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Index of the combination.
    pub combination: usize,
    pub bytes: usize,
    /// What it took; 0 before it was measured.
    pub seconds: f64,
}

/// All that is measured.
pub struct Grid {
    pub plans: Vec<Plan>,
    pub costs: Vec<Cost>,
    pub combinations: Vec<Combination>,
    /// By size, the smallest first.
    pub cells: Vec<Cell>,
    usual: Model,
}

impl Grid {
    /// The grid for groups of this shape.
    ///
    /// # Errors
    /// A group without a plan.
    pub fn new(usual: &Model, shape: &Shape) -> Result<Grid> {
        let plans = candidates(Collective::AllReduce, shape);
        let costs: Vec<Cost> = plans.iter().map(Plan::cost).collect();
        let mut grid = Grid {
            plans,
            costs,
            combinations: Vec::new(),
            cells: Vec::new(),
            usual: *usual,
        };
        for plan in 0..grid.plans.len() {
            for piece in rungs((usual.piece.0, LARGEST)) {
                let wanted = |bytes: &usize| grid.differs(plan, piece, *bytes);
                if grid.gets(plan, piece) && rungs(BUFFERS).any(|bytes| wanted(&bytes)) {
                    grid.combinations.push(Combination { plan, piece });
                }
            }
        }
        for bytes in rungs(BUFFERS) {
            for (combination, c) in grid.combinations.iter().enumerate() {
                if grid.differs(c.plan, c.piece, bytes) {
                    grid.cells.push(Cell {
                        combination,
                        bytes,
                        seconds: 0.0,
                    });
                }
            }
        }
        if grid.cells.is_empty() {
            return Err(anyhow!("no plan of this group has room for its slots"));
        }
        Ok(grid)
    }

    /// Whether a buffer of this size is larger than what the next smaller piece takes whole.
    fn differs(&self, plan: usize, piece: usize, bytes: usize) -> bool {
        piece == self.usual.piece.0 || piece / 4 * self.costs[plan].pieces < bytes
    }

    /// Whether the library gives the plan such pieces.
    fn gets(&self, plan: usize, piece: usize) -> bool {
        let model = Model {
            piece: (piece, piece),
            ..self.usual
        };
        let plan_of = &self.plans[plan];
        let (most, window) = largest(&model, plan_of, &self.costs[plan]);
        let layout = Layout::new(plan_of, piece, window);
        let fits = |node| layout.bytes(node) <= MOST_SLOTS;
        most == piece && (0..plan_of.shape.nodes()).all(fits)
    }

    /// What the usual model expects.
    pub fn seconds(&self, combination: usize, bytes: usize) -> f64 {
        let Combination { plan, piece } = self.combinations[combination];
        let plan_of = &self.plans[plan];
        self.usual
            .time(&plan_of.shape, &self.costs[plan], bytes, piece)
    }

    /// The cells with their times, of those sizes all of whose cells were measured.
    pub fn whole(&self, ways: &[Way]) -> Vec<Cell> {
        let times: Vec<Option<f64>> = ways.iter().map(Way::seconds).collect();
        let measured = |bytes| {
            let mut of = self.cells.iter().zip(&times);
            of.all(|(cell, time)| cell.bytes != bytes || time.is_some())
        };
        let timed = self.cells.iter().zip(&times);
        let whole = timed.filter(|(cell, _)| measured(cell.bytes));
        whole
            .map(|(cell, time)| Cell {
                seconds: time.unwrap_or(0.0),
                ..*cell
            })
            .collect()
    }

    /// The cells as samples of the fit.
    pub fn samples(&self, cells: &[Cell]) -> Vec<Sample> {
        let sample = |cell: &Cell| {
            let Combination { plan, piece } = self.combinations[cell.combination];
            Sample {
                plan,
                piece,
                bytes: cell.bytes,
                seconds: cell.seconds,
            }
        };
        cells.iter().map(sample).collect()
    }

    /// The fastest cell of each size.
    pub fn best(&self, cells: &[Cell]) -> Vec<Cell> {
        let best = |bytes| {
            let of = cells.iter().filter(move |cell| cell.bytes == bytes);
            of.min_by(|a, b| a.seconds.total_cmp(&b.seconds)).copied()
        };
        rungs(BUFFERS).filter_map(best).collect()
    }

    /// What a group that goes by this model uses.
    pub fn choice(&self, model: &Model, bytes: usize) -> Combination {
        let shape = &self.plans[0].shape;
        let choice = choose(model, shape, &self.costs, Wanted { bytes });
        let cost = &self.costs[choice.plan];
        let (most, _) = largest(model, &self.plans[choice.plan], cost);
        Combination {
            plan: choice.plan,
            piece: choice.piece.min(most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_is_asked_at_every_size() {
        for shape in [
            Shape::uniform(2, 2),
            Shape::uniform(1, 3),
            Shape::new(&[2, 4, 1]),
        ] {
            let usual = Model::usual(2, "local", false);
            let grid = Grid::new(&usual, &shape).expect("plans");
            for bytes in rungs(BUFFERS) {
                for plan in 0..grid.plans.len() {
                    let of = |cell: &&Cell| {
                        cell.bytes == bytes && grid.combinations[cell.combination].plan == plan
                    };
                    assert!(grid.cells.iter().any(|cell| of(&cell)), "{bytes} {plan}");
                }
            }
            let smallest = grid.cells.iter().filter(|cell| cell.bytes == BUFFERS.0);
            assert_eq!(
                smallest.count(),
                grid.plans.len(),
                "no piece makes a difference"
            );
            assert!(grid.cells.is_sorted_by_key(|cell| cell.bytes));
            // Pieces over 64K are not for one-shot plans.
            let one_shot = grid
                .combinations
                .iter()
                .filter(|c| grid.plans[c.plan].name == "one_shot");
            assert_eq!(one_shot.map(|c| c.piece).max(), Some(64 << 10));
        }
    }
}
