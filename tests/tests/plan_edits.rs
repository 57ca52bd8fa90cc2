//! Every single edit of every builder's plan, on small shapes: the proof refuses it with a flaw, or the simulator finds every element
//! right. A wrong result, a run that is stuck or a panic behind an accepted edit is a hole in the proof. It knows nothing of how
//! the proof works; the named edits at the end pin which flaw each kind of mistake is.

use hfreduce::{
    plan::{Act, CellId, Collective, Flaw, Piece, Plan, Shape, candidates},
    simulate::{Scenario, simulate},
};
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Hands out copies of a plan, each with one change.
struct Editor<'a> {
    plan: &'a Plan,
    found: Vec<(String, Plan)>,
}

impl Editor<'_> {
    fn edit(&mut self, what: String, change: impl FnOnce(&mut Plan)) {
        let mut plan = self.plan.clone();
        change(&mut plan);
        if plan != *self.plan {
            self.found.push((what, plan));
        }
    }

    fn all(mut self) -> Vec<(String, Plan)> {
        for turns in 0..=3 {
            self.edit(format!("turns {turns}"), |p| p.turns = turns);
        }
        for n in 0..=3 {
            self.edit(format!("blocks {n}"), |p| p.blocks = n);
            self.edit(format!("parts {n}"), |p| p.parts = n);
        }
        for i in 0..self.plan.cells.len() {
            self.cell(i);
        }
        for i in 0..self.plan.stages.len() {
            self.stage(i);
            self.act(i);
        }
        self.found
    }

    fn cell(&mut self, i: usize) {
        for node in 0..=self.plan.shape.nodes() as u32 {
            self.edit(format!("cell {i} on node {node}"), |p| {
                p.cells[i].node = node
            });
        }
        for home in 0..=self.plan.shape.ranks() as u32 {
            self.edit(format!("cell {i} of rank {home}"), |p| {
                p.cells[i].home = home
            });
        }
        self.edit(format!("cell {i} with or without bytes"), |p| {
            p.cells[i].bytes ^= true
        });
    }

    /// All cells, one that does not exist among them.
    fn cells(&self) -> impl Iterator<Item = CellId> + use<> {
        (0..=self.plan.cells.len() as u32).map(CellId)
    }

    fn stage(&mut self, i: usize) {
        self.edit(format!("stage {i} removed"), |p| {
            p.stages.remove(i);
        });
        self.edit(format!("stage {i} twice"), |p| {
            p.stages.insert(i, p.stages[i].clone())
        });
        if i > 0 {
            self.edit(format!("stages {} and {i} swapped", i - 1), |p| {
                p.stages.swap(i - 1, i)
            });
        }
        for rank in 0..=self.plan.shape.ranks() as u32 {
            self.edit(format!("stage {i} by rank {rank}"), |p| {
                p.stages[i].worker = rank
            });
        }
        self.edit(format!("stage {i} to nothing"), |p| p.stages[i].to = None);
        for cell in self.cells() {
            self.edit(format!("stage {i} to {cell:?}"), |p| {
                p.stages[i].to = Some(cell)
            });
            self.edit(format!("stage {i} also after {cell:?}"), |p| {
                p.stages[i].after.push(cell)
            });
        }
        for k in 0..self.plan.stages[i].after.len() {
            self.edit(format!("stage {i} without wait {k}"), |p| {
                p.stages[i].after.remove(k);
            });
        }
    }

    fn act(&mut self, i: usize) {
        match self.plan.stages[i].act.clone() {
            Act::Take { piece } => {
                for piece in self.pieces(piece) {
                    self.edit(format!("stage {i} takes {piece:?}"), |p| {
                        p.stages[i].act = Act::Take { piece }
                    });
                }
            }
            Act::Give { from, piece } => {
                for piece in self.pieces(piece) {
                    self.edit(format!("stage {i} gives {piece:?}"), |p| {
                        p.stages[i].act = Act::Give { from, piece }
                    });
                }
                for from in self.cells() {
                    self.edit(format!("stage {i} gives from {from:?}"), |p| {
                        p.stages[i].act = Act::Give { from, piece }
                    });
                }
            }
            Act::Put { .. } => {
                for from in self.cells() {
                    self.edit(format!("stage {i} puts {from:?}"), |p| {
                        p.stages[i].act = Act::Put { from }
                    });
                }
            }
            Act::Reduce { terms } => self.terms(i, &terms),
            Act::Signal | Act::Wait => {}
        }
    }

    fn terms(&mut self, i: usize, terms: &[CellId]) {
        let mut with = |what: String, change: &dyn Fn(&mut Vec<CellId>)| {
            let mut terms = terms.to_vec();
            change(&mut terms);
            self.edit(format!("stage {i} {what}"), |p| {
                p.stages[i].act = Act::Reduce { terms }
            });
        };
        for k in 0..terms.len() {
            with(format!("without term {k}"), &|t| {
                t.remove(k);
            });
            with(format!("term {k} twice"), &|t| t.insert(k, t[k]));
            for other in k + 1..terms.len() {
                with(format!("terms {k} and {other} swapped"), &|t| {
                    t.swap(k, other)
                });
            }
        }
        let cells: Vec<CellId> = self.cells().collect();
        let mut with = |what: String, terms: Vec<CellId>| {
            self.edit(format!("stage {i} {what}"), |p| {
                p.stages[i].act = Act::Reduce { terms }
            });
        };
        for cell in cells {
            for k in 0..terms.len() {
                let mut terms = terms.to_vec();
                terms[k] = cell;
                with(format!("term {k} is {cell:?}"), terms);
            }
            with(
                format!("also adds {cell:?}"),
                [terms, &[cell]].concat().to_vec(),
            );
        }
    }

    /// Every other block or part, and one behind the last of each.
    fn pieces(&self, piece: Piece) -> Vec<Piece> {
        let blocks = self.plan.input_blocks().max(self.plan.output_blocks());
        let other_block = (0..=blocks).map(|block| Piece { block, ..piece });
        let other_part = (0..=self.plan.parts).map(|part| Piece { part, ..piece });
        other_block.chain(other_part).collect()
    }
}

fn scenarios(plan: &Plan) -> Vec<Scenario> {
    let counts = match plan.collective {
        Collective::Barrier => vec![0; 4],
        other if other.shares(1).is_some() => vec![30, 0, 9],
        _ => vec![100, 0, 41],
    };
    (0..6)
        .map(|seed| Scenario {
            seed,
            counts: counts.clone(),
            piece: 64,
            window: 1 + seed as usize % 3 % 2,
            in_place: seed & 1 == 1,
            registered: seed & 2 == 2,
            devices: 0,
            gathers: seed % 3 != 2,
            reach: seed % 4 != 3,
            withdrawn: None,
            faults: Vec::new(),
        })
        .collect()
}

/// Checks and, where accepted, simulates; returns the flaw's name.
fn judge(name: &str, what: &str, plan: Plan) -> String {
    let verdict = catch_unwind(AssertUnwindSafe(|| {
        let checked = match plan.check() {
            Ok(checked) => checked,
            Err(flaw) => return Ok(Some(flaw)),
        };
        for scenario in scenarios(checked.plan()) {
            simulate(&checked, &scenario).map_err(|failure| format!("{scenario:?}: {failure}"))?;
        }
        Ok::<_, String>(None)
    }));
    match verdict {
        Err(_) => panic!("{name}, {what}: panic"),
        Ok(Err(wrong)) => panic!("{name}, {what}: accepted, but {wrong}"),
        Ok(Ok(None)) => "(right)".to_owned(),
        Ok(Ok(Some(flaw))) => {
            let text = format!("{flaw:?}");
            let end = text
                .find(|c: char| !c.is_alphanumeric())
                .unwrap_or(text.len());
            text[..end].to_owned()
        }
    }
}

fn collectives(shape: &Shape) -> Vec<Collective> {
    let last = shape.ranks() as u32 - 1;
    // All_to_all is all_to_all_v with equal blocks, by the same builder.
    let mut all = Collective::all(last).to_vec();
    all.retain(|c| *c != Collective::AllToAll);
    if shape.ranks() == 2 {
        all.push(Collective::SendRecv);
    }
    all
}

fn every_edit(shape: &[usize]) {
    let shape = Shape::new(shape);
    let mut flaws: BTreeMap<String, usize> = BTreeMap::new();
    for collective in collectives(&shape) {
        for plan in candidates(collective, &shape) {
            let name = format!("{} by {} on {shape}", collective.name(), plan.name);
            let edits = Editor {
                plan: &plan,
                found: Vec::new(),
            }
            .all();
            assert!(!edits.is_empty());
            for (what, edited) in edits {
                *flaws.entry(judge(&name, &what, edited)).or_default() += 1;
            }
        }
    }
    let right = flaws.get("(right)").copied().unwrap_or(0);
    let all: usize = flaws.values().sum();
    println!("{shape}: {all} edits, {right} proved right by simulation, by flaw: {flaws:?}");
    assert!(
        all > right,
        "a proof that refuses nothing is none: {flaws:?}"
    );
}

#[test]
fn every_edit_inside_one_node() {
    for shape in [&[1][..], &[2], &[3]] {
        every_edit(shape);
    }
}

#[test]
fn every_edit_between_single_ranks() {
    every_edit(&[1, 1]);
    every_edit(&[1, 1, 1]);
}

#[test]
fn every_edit_between_even_nodes() {
    every_edit(&[2, 2]);
}

#[test]
fn every_edit_between_uneven_nodes() {
    every_edit(&[1, 2]);
}

/// The first stage that `is` likes.
fn find(plan: &Plan, is: impl Fn(&Act) -> bool) -> usize {
    let found = plan.stages.iter().position(|s| is(&s.act));
    found.expect("the plan has such a stage")
}

/// The flaw of `plan` after `change`.
fn flaw(mut plan: Plan, change: impl FnOnce(&mut Plan)) -> Flaw {
    let name = plan.name;
    change(&mut plan);
    match plan.check() {
        Ok(_) => panic!("{name}: a mistake is accepted"),
        Err(flaw) => flaw,
    }
}

fn first(collective: Collective, nodes: &[usize]) -> Plan {
    candidates(collective, &Shape::new(nodes)).remove(0)
}

fn terms(plan: &mut Plan) -> &mut Vec<CellId> {
    let i = find(plan, |a| matches!(a, Act::Reduce { .. }));
    match &mut plan.stages[i].act {
        Act::Reduce { terms } => terms,
        _ => panic!("found a reduction just now"),
    }
}

#[test]
fn mistakes_in_a_sum_have_their_names() {
    for nodes in [&[3][..], &[2, 2], &[1, 2]] {
        let shape = Shape::new(nodes);
        for plan in candidates(Collective::AllReduce, &shape) {
            if plan.name == "one_shot" && nodes.len() == 1 {
                let other = flaw(plan.clone(), |p| terms(p).swap(0, 1));
                assert!(matches!(other, Flaw::OtherOrder { .. }), "{other:?}");
            }
            if terms(&mut plan.clone()).len() > 1 {
                let less = flaw(plan.clone(), |p| {
                    terms(p).pop();
                });
                assert!(matches!(less, Flaw::Incomplete { .. }), "{less:?}");
            }
            let more = flaw(plan.clone(), |p| {
                let again = terms(p)[0];
                terms(p).insert(0, again);
            });
            assert!(matches!(more, Flaw::AddedTwice { .. }), "{more:?}");
            let none = flaw(plan.clone(), |p| terms(p).clear());
            assert!(matches!(none, Flaw::NoTerms { .. }), "{none:?}");
            let give = find(&plan, |a| matches!(a, Act::Give { .. }));
            let never = flaw(plan.clone(), |p| drop(p.stages.remove(give)));
            assert!(matches!(never, Flaw::NeverGiven { .. }), "{never:?}");
            let twice = flaw(plan.clone(), |p| {
                p.stages.insert(give, p.stages[give].clone());
            });
            assert!(matches!(twice, Flaw::GivenTwice { .. }), "{twice:?}");
            let take = find(&plan, |a| matches!(a, Act::Take { .. }));
            let unwritten = flaw(plan, |p| drop(p.stages.remove(take)));
            assert!(
                matches!(unwritten, Flaw::NotWritten { .. }),
                "{unwritten:?}"
            );
        }
    }
}

#[test]
fn mistakes_in_the_flow_have_their_names() {
    // Without the tokens that climb back nothing tells the root that its slot has been read.
    for nodes in [&[3][..], &[2, 2], &[1, 1, 1]] {
        let silent = flaw(first(Collective::Broadcast { root: 0 }, nodes), |p| {
            p.stages
                .retain(|s| !matches!(s.act, Act::Signal | Act::Wait));
            p.stages.iter_mut().for_each(|s| s.after.clear());
        });
        assert!(matches!(silent, Flaw::Overwritten { .. }), "{silent:?}");
        let hasty = flaw(first(Collective::Barrier, nodes), |p| {
            let wait = p.stages.iter().rposition(|s| s.act == Act::Wait);
            p.stages.remove(wait.expect("ranks wait in a barrier"));
        });
        assert!(matches!(hasty, Flaw::Hole { .. }), "{hasty:?}");
    }
    // A token that comes to rank 1 although only rank 2 waits for it: rank 1 may be gone before it comes.
    let left = flaw(first(Collective::Barrier, &[1, 2]), |p| {
        let token = p.signal(0, 1, Vec::new());
        p.wait(2, vec![token]);
    });
    assert!(matches!(left, Flaw::Unattended { rank: 1, .. }), "{left:?}");
    let turned = flaw(first(Collective::AllReduce, &[2]), |p| p.turns = 3);
    assert!(matches!(turned, Flaw::Turns(3)), "{turned:?}");
}
