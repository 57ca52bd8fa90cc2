//! Trains a small network on handwritten digits, data parallel over the ranks of the job it is started in, or by itself.
//!
//! Rank 0 prints each epoch's loss and test accuracy, and at the end a hash of the weights, compared between all ranks: ranks
//! that have the same hash did the same arithmetic to the bit. It knows nothing of launchers; the library finds the job.

mod data;
mod net;
mod rng;
mod train;

use anyhow::ensure;
use clap::Parser;
use hfreduce::Communicator;

use crate::train::{Settings, Trainer};

/// Trains a small network on handwritten digits
#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    settings: Settings,
}

fn main() -> anyhow::Result<()> {
    let CommandLine { settings } = CommandLine::parse();
    let comm = Communicator::from_env()?;
    let prints = comm.rank() == 0;
    if prints {
        println!(
            "ranks {}  nodes {}  images per step {}  transport {}",
            comm.size(),
            comm.nodes(),
            settings.batch,
            comm.transport()
        );
    }
    let epochs = settings.epochs;
    let mut trainer = Trainer::new(&comm, settings);
    for epoch in 1..=epochs {
        let went = trainer.epoch()?;
        if prints {
            println!(
                "epoch {:3}  loss {:.6}  test accuracy {:.2} %",
                epoch,
                went.loss,
                100.0 * went.accuracy
            );
        }
    }
    let mut hashes = vec![0; comm.size()];
    comm.all_gather(&[trainer.hash()], &mut hashes)?;
    let differ: Vec<usize> = (0..comm.size())
        .filter(|&rank| hashes[rank] != hashes[0])
        .collect();
    ensure!(
        differ.is_empty(),
        "ranks {differ:?} ended with other weights than rank 0"
    );
    if prints {
        println!("weights {:016x}, identical on all ranks", hashes[0]);
    }
    Ok(())
}
