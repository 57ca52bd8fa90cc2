//! The plans a group can choose from: for each collective the builders that perform it, proved once. Trees are labelled here so that a
//! rooted collective's trees start at its root's node, and so that a group in several zones crosses between them as rarely as can be.

use super::{Checked, Collective, Flaw, Plan, Shape};
use hfr_topology::{double_tree_of_zones, forest};

/// Largest number of trees that an all_reduce over several nodes spreads its blocks over; more trees even out the nodes' loads but make
/// more and smaller pieces.
const MOST_TREES: usize = 8;

/// The candidates for `collective` on `shape`, in a fixed order.
pub fn candidates(collective: Collective, shape: &Shape) -> Vec<Plan> {
    let nodes = shape.nodes();
    let one_node = nodes == 1 && shape.ranks() > 1;
    // A ring and turned trees move about twice as many bytes between zones, or more, and the model does not know how narrow it is there.
    let one_zone = shape.zones() == 1;
    let rooted = |root: u32| {
        let node = shape.node_of(root as usize);
        double_tree_of_zones(shape.zone(), Some(node))
    };
    let trees = || double_tree_of_zones(shape.zone(), None);
    match collective {
        Collective::AllReduce => {
            let mut plans = vec![
                Plan::all_reduce_one_shot(shape),
                Plan::all_reduce_trees(shape, &trees()),
            ];
            if nodes > 1 && one_zone {
                plans.push(Plan::all_reduce_ring(shape));
            }
            let trees = forest(nodes);
            if one_zone && nodes > 2 && trees.len() > 2 && trees.len() <= MOST_TREES {
                plans.push(Plan::all_reduce_trees(shape, &trees));
            }
            plans
        }
        Collective::ReduceScatter => vec![Plan::reduce_scatter(shape)],
        Collective::AllGather if one_node => {
            vec![Plan::all_gather(shape), Plan::all_gather_single_copy(shape)]
        }
        Collective::AllGather => vec![Plan::all_gather(shape)],
        Collective::Broadcast { root } => {
            vec![Plan::broadcast(shape, root as usize, &rooted(root))]
        }
        Collective::Reduce { root } if one_node => vec![
            Plan::reduce_at_root(shape, root as usize),
            Plan::reduce_to(shape, root as usize, &rooted(root)),
        ],
        Collective::Reduce { root } => {
            vec![Plan::reduce_to(shape, root as usize, &rooted(root))]
        }
        Collective::Barrier => vec![Plan::barrier(shape, &trees()[0])],
        Collective::AllToAll | Collective::AllToAllV if one_node => vec![
            Plan::all_to_all(shape, collective),
            Plan::all_to_all_single_copy(shape, collective),
        ],
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
