//! The training loop: stochastic gradient descent with momentum, data parallel.
//!
//! It knows the data, the network and the group of ranks, and nothing of the command line or of printing. Invariant: a step moves
//! the parameters by the mean gradient of the GLOBAL batch, of which each rank computes a share: gradients are sums, added up over
//! the ranks and divided by the size of the global batch. All ranks get the same sums bit for bit, so their weights stay the same.

use clap::Args;
use hfreduce::{Communicator, Error, ReduceOp};

use crate::data::{self, CLASSES, Images, PIXELS};
use crate::net::{Net, Outcome, Pass};
use crate::rng::Rng;

/// Widths of the network: pixels, two hidden layers, classes.
const WIDTHS: [usize; 4] = [PIXELS, 64, 32, CLASSES];

/// What a run can vary.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// How many times to go through the training images
    #[arg(long, default_value_t = 30)]
    pub epochs: usize,
    /// Images per step, over all ranks
    #[arg(long, default_value_t = 96, value_parser = parse_batch)]
    pub batch: usize,
    /// Learning rate
    #[arg(long, default_value_t = 0.05)]
    pub rate: f32,
    /// Share of the last step that goes into the next one
    #[arg(long, default_value_t = 0.9)]
    pub momentum: f32,
    /// Seed of the first weights and of the order of the images
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A global batch: at least one image, at most all of them.
fn parse_batch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(batch) if (1..=data::TRAINING).contains(&batch) => Ok(batch),
        _ => Err(format!("a batch is a number from 1 to {}", data::TRAINING)),
    }
}

/// How an epoch went.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    /// Mean cross entropy of the training images as they came by, in nats.
    pub loss: f64,
    /// Share of the test images that the network recognises after the epoch.
    pub accuracy: f64,
}

/// A network in training.
pub struct Trainer<'c> {
    comm: &'c Communicator,
    settings: Settings,
    /// Where the order of each epoch comes from; equal on all ranks at all times.
    rng: Rng,
    net: Net,
    /// One bucket per layer, as the network's parameters.
    grads: Vec<Vec<f32>>,
    velocity: Vec<Vec<f32>>,
    training: Images,
    test: Images,
    /// The images of the step in work.
    batch: Images,
    pass: Pass,
}

impl<'c> Trainer<'c> {
    /// A network with random weights, which depend on the seed alone; trained together by the ranks of `comm`.
    pub fn new(comm: &'c Communicator, settings: Settings) -> Trainer<'c> {
        let mut rng = Rng::new(settings.seed);
        let net = Net::new(&WIDTHS, &mut rng);
        let (grads, velocity) = (net.zero_buckets(), net.zero_buckets());
        let (training, test) = data::load();
        Trainer {
            comm,
            settings,
            rng,
            net,
            grads,
            velocity,
            training,
            test,
            batch: Images::default(),
            pass: Pass::default(),
        }
    }

    /// Goes once through the training images, in a new order. Images that do not fill a batch are left out; another epoch's
    /// order brings them in.
    ///
    /// # Errors
    /// A failure of the group.
    pub fn epoch(&mut self) -> Result<Epoch, Error> {
        let mut order: Vec<usize> = (0..self.training.len()).collect();
        self.rng.shuffle(&mut order);
        let global_batches = order.chunks_exact(self.settings.batch);
        let images = global_batches.len() * self.settings.batch;
        let mut loss = [0.0f64];
        for global_batch in global_batches {
            loss[0] += self.step(global_batch)?.loss;
        }
        self.comm.all_reduce(&mut loss, ReduceOp::Sum)?;
        Ok(Epoch {
            loss: loss[0] / images as f64,
            accuracy: self.accuracy(),
        })
    }

    /// One step over `global_batch`, given as numbers of training images; returns how this rank's share went.
    ///
    /// Each layer's gradients are on their way as soon as they are final, while the layers below are still computed.
    fn step(&mut self, global_batch: &[usize]) -> Result<Outcome, Error> {
        let share = data::share(global_batch.len(), self.comm.rank(), self.comm.size());
        self.training.gather(&global_batch[share], &mut self.batch);
        let outcome = self.net.forward(&self.batch, &mut self.pass);
        let Trainer {
            comm,
            net,
            grads,
            batch,
            pass,
            ..
        } = self;
        comm.scope(|s| {
            let mut handles = Vec::new();
            net.backward(batch, pass, grads, |_, bucket| {
                handles.push(s.all_reduce(bucket, ReduceOp::Sum)?);
                Ok::<_, Error>(())
            })?;
            handles.into_iter().try_for_each(|handle| handle.wait())
        })?;
        self.update();
        Ok(outcome)
    }

    /// Moves the parameters against the gradients, which are sums over the global batch.
    fn update(&mut self) {
        let scale = self.settings.rate / self.settings.batch as f32;
        let params = self.net.params_mut().iter_mut().flatten();
        for ((param, velocity), grad) in params
            .zip(self.velocity.iter_mut().flatten())
            .zip(self.grads.iter().flatten())
        {
            *velocity = self.settings.momentum * *velocity - scale * grad;
            *param += *velocity;
        }
    }

    /// Share of the test images that the network recognises.
    fn accuracy(&mut self) -> f64 {
        let outcome = self.net.forward(&self.test, &mut self.pass);
        outcome.right as f64 / self.test.len() as f64
    }

    /// A hash of the network's parameters, bit for bit.
    pub fn hash(&self) -> u64 {
        self.net.hash()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use hfreduce::Config;

    use super::*;

    fn alone() -> Communicator {
        Communicator::connect(&Config::new(0, 1, "", b"")).expect("a group of one needs nobody")
    }

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        settings: Settings,
    }

    fn settings(arguments: &[&str]) -> Settings {
        CommandLine::parse_from([&["digits"], arguments].concat()).settings
    }

    #[test]
    fn training_lowers_the_loss_and_recognises_digits_it_never_saw() {
        let comm = alone();
        for seed in ["1", "2"] {
            let settings = settings(&["--seed", seed]);
            let epochs = settings.epochs;
            let mut trainer = Trainer::new(&comm, settings);
            let untrained = trainer.accuracy();
            assert!(untrained < 0.4, "{untrained} before training");
            let run: Vec<Epoch> = (0..epochs)
                .map(|_| trainer.epoch().expect("nobody fails"))
                .collect();
            let (first, last) = (run[0], run[epochs - 1]);
            assert!(
                run[4].loss < first.loss / 2.0 && last.loss < 0.1 * first.loss,
                "{first:?} to {last:?}"
            );
            assert!(last.accuracy >= 0.95, "{last:?}");
        }
    }

    #[test]
    fn equal_seeds_end_in_equal_bits_and_others_do_not() {
        let comm = alone();
        let run = |arguments: &[&str]| {
            let mut trainer = Trainer::new(&comm, settings(arguments));
            trainer.epoch().expect("nobody fails");
            trainer.epoch().expect("nobody fails");
            trainer.hash()
        };
        assert_eq!(run(&["--seed", "7"]), run(&["--seed", "7"]));
        assert_ne!(run(&["--seed", "7"]), run(&["--seed", "8"]));
    }

    #[test]
    fn a_step_moves_by_the_mean_gradient_and_then_on_by_momentum() {
        let comm = alone();
        let settings = settings(&["--batch", "4", "--rate", "0.5", "--momentum", "0.25"]);
        let mut trainer = Trainer::new(&comm, settings);
        trainer
            .grads
            .iter_mut()
            .flatten()
            .enumerate()
            .for_each(|(i, grad)| *grad = (i % 5) as f32);
        let before: Vec<f32> = trainer.net.params_mut().concat();
        trainer.update();
        trainer.update();
        // 0.5 / 4 * grad, then a quarter of that more: 2.25 times in all.
        for (i, (after, before)) in trainer
            .net
            .params_mut()
            .concat()
            .iter()
            .zip(before)
            .enumerate()
        {
            let moved = 2.25 * 0.125 * (i % 5) as f32;
            assert!(
                (before - after - moved).abs() < 1e-6,
                "parameter {i}: {before} to {after}"
            );
        }
    }

    #[test]
    fn a_batch_that_cannot_be_filled_is_refused() {
        for batch in ["0", "1537", "many"] {
            assert!(CommandLine::try_parse_from(["digits", "--batch", batch]).is_err());
        }
    }
}
