//! Trains a small network on handwritten digits.
//!
//! Prints each epoch's loss and test accuracy, and at the end a hash of the weights: two runs that print the same hash did the
//! same arithmetic to the bit. So far one process trains alone.

mod data;
mod net;
mod rng;
mod train;

use clap::Parser;

use crate::train::{Settings, Trainer};

/// Trains a small network on handwritten digits
#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    settings: Settings,
}

fn main() {
    let CommandLine { settings } = CommandLine::parse();
    let epochs = settings.epochs;
    let mut trainer = Trainer::new(settings);
    for epoch in 1..=epochs {
        let went = trainer.epoch();
        println!(
            "epoch {:3}  loss {:.4}  test accuracy {:.2} %",
            epoch,
            went.loss,
            100.0 * went.accuracy
        );
    }
    println!("weights {:016x}", trainer.hash());
}
