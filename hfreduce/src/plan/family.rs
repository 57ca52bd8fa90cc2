//! The plans a group can choose from: for each collective the builders that perform it, proved once. Trees are labelled here so that a
//! rooted collective's trees start at its root's node.

use super::{Checked, Collective, Flaw, Plan, Shape};
use hfr_topology::{Tree, double_tree, forest};

/// Largest number of trees that an all_reduce over several nodes spreads its blocks over; more trees even out the nodes' loads but make
/// more and smaller pieces.
const MOST_TREES: usize = 8;

/// The candidates for `collective` on `shape`, in a fixed order.
pub fn candidates(collective: Collective, shape: &Shape) -> Vec<Plan> {
    let nodes = shape.nodes();
    match collective {
        Collective::AllReduce => {
            let mut plans = vec![
                Plan::all_reduce_one_shot(shape),
                Plan::all_reduce_trees(shape, &double_tree(nodes)),
            ];
            if nodes > 1 {
                plans.push(Plan::all_reduce_ring(shape));
            }
            let trees = forest(nodes);
            if nodes > 2 && trees.len() > 2 && trees.len() <= MOST_TREES {
                plans.push(Plan::all_reduce_trees(shape, &trees));
            }
            plans
        }
        Collective::ReduceScatter => vec![Plan::reduce_scatter(shape)],
        Collective::AllGather => vec![Plan::all_gather(shape)],
        Collective::Broadcast { root } => {
            let trees = rooted(nodes, shape.node_of(root as usize));
            vec![Plan::broadcast(shape, root as usize, &trees)]
        }
        Collective::Reduce { root } => {
            let trees = rooted(nodes, shape.node_of(root as usize));
            vec![Plan::reduce_to(shape, root as usize, &trees)]
        }
        Collective::Barrier => vec![Plan::barrier(shape, &double_tree(nodes)[0])],
        Collective::AllToAll | Collective::AllToAllV => vec![Plan::all_to_all(shape, collective)],
        Collective::Gather { root } => vec![Plan::gather(shape, root as usize)],
        Collective::Scatter { root } => vec![Plan::scatter(shape, root as usize)],
        Collective::SendRecv => vec![Plan::send_recv(shape)],
    }
}

/// The candidates, proved.
pub fn checked(collective: Collective, shape: &Shape) -> Result<Vec<Checked>, Flaw> {
    candidates(collective, shape)
        .into_iter()
        .map(Plan::check)
        .collect()
}

/// The double tree, each tree's labels rotated so that its root is `root`.
fn rooted(nodes: usize, root: usize) -> [Tree; 2] {
    double_tree(nodes).map(|tree| {
        let turn = nodes + root - tree.root;
        let names: Vec<usize> = (0..nodes).map(|label| (label + turn) % nodes).collect();
        tree.relabel(&names)
    })
}
