//! A network of fully connected layers with ReLU between them and softmax cross entropy at the end.
//!
//! It knows no ranks: gradients are sums over the images it is given, never means, so that the sums of several ranks add up to
//! the gradient of the global batch. Each layer's parameters, and likewise its gradients, lie in one bucket: the weights, input
//! by input, then the biases. Backward hands out each bucket as soon as it is final, last layer first.

use crate::data::Images;
use crate::rng::Rng;

/// One layer's inputs and outputs.
#[derive(Clone, Copy)]
struct Shape {
    inputs: usize,
    outputs: usize,
}

impl Shape {
    /// Numbers in the layer's bucket.
    fn bucket_len(self) -> usize {
        self.inputs * self.outputs + self.outputs
    }
}

/// The network: shapes and parameters.
pub struct Net {
    shapes: Vec<Shape>,
    /// One bucket per layer.
    params: Vec<Vec<f32>>,
}

/// What one pass over a batch leaves behind for the way back; kept from step to step so that no step allocates.
#[derive(Default)]
pub struct Pass {
    /// Per layer its outputs, image by image; of the last layer the probabilities of the classes.
    outputs: Vec<Vec<f32>>,
    /// The gradient of the loss by the inputs of the layer in work, and by its outputs.
    by_inputs: Vec<f32>,
    by_outputs: Vec<f32>,
}

/// What [`Net::forward`] found out about a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Sum of the images' cross entropies, in nats.
    pub loss: f64,
    /// Images whose most probable class is their label.
    pub right: usize,
}

impl Net {
    /// A network with `widths[0]` inputs and layers of `widths[1..]` outputs; the last layer's are the classes.
    ///
    /// Weights are uniform within +-sqrt(6 / inputs), which keeps the size of activations through ReLU (He et al. 2015).
    pub fn new(widths: &[usize], rng: &mut Rng) -> Net {
        let shapes: Vec<Shape> = widths
            .windows(2)
            .map(|pair| Shape {
                inputs: pair[0],
                outputs: pair[1],
            })
            .collect();
        let params = shapes
            .iter()
            .map(|shape| {
                let limit = (6.0 / shape.inputs as f32).sqrt();
                let weights = (0..shape.inputs * shape.outputs).map(|_| limit * rng.symmetric());
                weights
                    .chain(std::iter::repeat_n(0.0, shape.outputs))
                    .collect()
            })
            .collect();
        Net { shapes, params }
    }

    /// Buffers of the parameters' shapes, one per layer, filled with zeros: for gradients and for momentum.
    pub fn zero_buckets(&self) -> Vec<Vec<f32>> {
        self.shapes
            .iter()
            .map(|shape| vec![0.0; shape.bucket_len()])
            .collect()
    }

    /// The parameters, one bucket per layer.
    pub fn params_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.params
    }

    /// Runs `batch` through the network and leaves in `pass` what [`Net::backward`] needs.
    pub fn forward(&self, batch: &Images, pass: &mut Pass) -> Outcome {
        let last = self.shapes.len() - 1;
        pass.outputs.resize(self.shapes.len(), Vec::new());
        for (layer, (shape, params)) in self.shapes.iter().zip(&self.params).enumerate() {
            let (before, from_here) = pass.outputs.split_at_mut(layer);
            let inputs = before.last().unwrap_or(&batch.pixels);
            let outputs = &mut from_here[0];
            outputs.clear();
            outputs.resize(batch.len() * shape.outputs, 0.0);
            affine(*shape, params, inputs, outputs);
            if layer < last {
                outputs.iter_mut().for_each(|x| *x = x.max(0.0));
            }
        }
        let mut outcome = Outcome::default();
        for (scores, &label) in pass.outputs[last]
            .chunks_exact_mut(self.shapes[last].outputs)
            .zip(&batch.labels)
        {
            let (loss, right) = softmax(scores, usize::from(label));
            outcome.loss += loss;
            outcome.right += usize::from(right);
        }
        outcome
    }

    /// The gradients of the summed loss of the last [`Net::forward`], which must have been over the same `batch`.
    ///
    /// Calls `ready(layer, bucket)` as soon as a layer's bucket is final, last layer first, before it goes on to the layer
    /// below. The bucket is lent for as long as `grads` is, so `ready` may pass it on to a reduction that runs meanwhile.
    ///
    /// # Errors
    /// The first error of `ready`, at which it stops.
    pub fn backward<'g, E>(
        &self,
        batch: &Images,
        pass: &mut Pass,
        grads: &'g mut [Vec<f32>],
        mut ready: impl FnMut(usize, &'g mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Pass {
            outputs,
            by_inputs,
            by_outputs,
        } = pass;
        let last = self.shapes.len() - 1;
        // Of softmax and cross entropy together the gradient by the scores is: probabilities, less 1 at the label.
        by_outputs.clone_from(&outputs[last]);
        for (image, &label) in batch.labels.iter().enumerate() {
            by_outputs[image * self.shapes[last].outputs + usize::from(label)] -= 1.0;
        }
        for (layer, grad) in grads.iter_mut().enumerate().rev() {
            let shape = self.shapes[layer];
            let inputs = if layer == 0 {
                &batch.pixels
            } else {
                &outputs[layer - 1]
            };
            gradient(shape, inputs, by_outputs, grad);
            ready(layer, grad)?;
            if layer > 0 {
                by_inputs.clear();
                by_inputs.resize(inputs.len(), 0.0);
                pull_back(shape, &self.params[layer], inputs, by_outputs, by_inputs);
                std::mem::swap(by_inputs, by_outputs);
            }
        }
        Ok(())
    }

    /// A hash (FNV-1a, 64 bits) of the parameters' bits: equal on two ranks only if their networks are the same to the bit.
    pub fn hash(&self) -> u64 {
        let bytes = self
            .params
            .iter()
            .flatten()
            .flat_map(|x| x.to_bits().to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
    }
}

/// `outputs` = weights x `inputs` + biases, for each image.
fn affine(shape: Shape, params: &[f32], inputs: &[f32], outputs: &mut [f32]) {
    let (weights, biases) = params.split_at(shape.inputs * shape.outputs);
    for (x, y) in inputs
        .chunks_exact(shape.inputs)
        .zip(outputs.chunks_exact_mut(shape.outputs))
    {
        y.copy_from_slice(biases);
        for (&x, row) in x.iter().zip(weights.chunks_exact(shape.outputs)) {
            for (y, &w) in y.iter_mut().zip(row) {
                *y += x * w;
            }
        }
    }
}

/// Turns scores into probabilities; returns the cross entropy against `label`, and whether `label` is the most probable.
fn softmax(scores: &mut [f32], label: usize) -> (f64, bool) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let right = scores[label] == most;
    // From the scores, not from the probability, which may round to 0. In f64, so that the gradient check can see small steps.
    let sum_of_exps: f64 = scores
        .iter()
        .map(|&score| f64::from(score - most).exp())
        .sum();
    let loss = sum_of_exps.ln() - f64::from(scores[label] - most);
    for score in scores {
        *score = (f64::from(*score - most).exp() / sum_of_exps) as f32;
    }
    (loss, right)
}

/// The layer's bucket of gradients, from its inputs and the gradient by its outputs.
fn gradient(shape: Shape, inputs: &[f32], by_outputs: &[f32], grad: &mut [f32]) {
    grad.fill(0.0);
    let (weights, biases) = grad.split_at_mut(shape.inputs * shape.outputs);
    for (x, dy) in inputs
        .chunks_exact(shape.inputs)
        .zip(by_outputs.chunks_exact(shape.outputs))
    {
        for (&x, row) in x.iter().zip(weights.chunks_exact_mut(shape.outputs)) {
            for (dw, &dy) in row.iter_mut().zip(dy) {
                *dw += x * dy;
            }
        }
        for (db, &dy) in biases.iter_mut().zip(dy) {
            *db += dy;
        }
    }
}

/// The gradient by the layer's inputs, through the ReLU that made them: nothing passes where it was shut.
fn pull_back(
    shape: Shape,
    params: &[f32],
    inputs: &[f32],
    by_outputs: &[f32],
    by_inputs: &mut [f32],
) {
    let images = inputs
        .chunks_exact(shape.inputs)
        .zip(by_outputs.chunks_exact(shape.outputs));
    for ((x, dy), dx) in images.zip(by_inputs.chunks_exact_mut(shape.inputs)) {
        for ((&x, dx), row) in x.iter().zip(dx).zip(params.chunks_exact(shape.outputs)) {
            if x > 0.0 {
                *dx = row.iter().zip(dy).map(|(&w, &dy)| w * dy).sum();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn random_batch(images: usize, inputs: usize, classes: usize, rng: &mut Rng) -> Images {
        Images {
            pixels: (0..images * inputs).map(|_| rng.symmetric()).collect(),
            labels: (0..images).map(|_| rng.below(classes) as u8).collect(),
        }
    }

    /// Gradients of `batch`, and the order in which the layers were ready.
    fn gradients(net: &Net, batch: &Images) -> (Vec<Vec<f32>>, Vec<usize>) {
        let mut grads = net.zero_buckets();
        // What an earlier step left must not show.
        grads.iter_mut().flatten().for_each(|x| *x = 1e6);
        let (mut pass, mut order) = (Pass::default(), Vec::new());
        net.forward(batch, &mut pass);
        net.backward(batch, &mut pass, &mut grads, |layer, _| {
            order.push(layer);
            Ok::<_, Infallible>(())
        })
        .unwrap();
        (grads, order)
    }

    /// The loss of `batch`, and which ReLUs were open.
    fn loss(net: &Net, batch: &Images) -> (f64, Vec<bool>) {
        let mut pass = Pass::default();
        let loss = net.forward(batch, &mut pass).loss;
        (
            loss,
            pass.outputs[..net.shapes.len() - 1]
                .iter()
                .flatten()
                .map(|&x| x > 0.0)
                .collect(),
        )
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        const STEP: f32 = 1.0 / 128.0;
        let (mut checked, mut all) = (0, 0);
        for seed in 0..5 {
            let rng = &mut Rng::new(seed);
            let mut net = Net::new(&[5, 7, 6, 4], rng);
            // Biases begin at 0; elsewhere they are checked better.
            net.params
                .iter_mut()
                .flatten()
                .for_each(|x| *x += 0.2 * rng.symmetric());
            let batch = random_batch(3, 5, 4, rng);
            let (grads, _) = gradients(&net, &batch);
            for (layer, grad) in grads.iter().enumerate() {
                for (i, &given) in grad.iter().enumerate() {
                    all += 1;
                    let param = net.params[layer][i];
                    net.params[layer][i] = param + STEP;
                    let (above, open_above) = loss(&net, &batch);
                    net.params[layer][i] = param - STEP;
                    let (below, open_below) = loss(&net, &batch);
                    net.params[layer][i] = param;
                    // Across the kink of a ReLU a difference is not a derivative.
                    if open_above == open_below {
                        checked += 1;
                        let found = (above - below) / f64::from(2.0 * STEP);
                        let off = (found - f64::from(given)).abs();
                        assert!(
                            off < 2e-3,
                            "seed {seed}, layer {layer}, {i}: {given}, but {found}"
                        );
                    }
                }
            }
        }
        assert!(
            checked * 10 > all * 9,
            "only {checked} of {all} parameters could be checked"
        );
    }

    #[test]
    fn layers_are_ready_from_the_last_to_the_first_with_their_own_buckets() {
        let rng = &mut Rng::new(8);
        let net = Net::new(&[6, 5, 4, 3], rng);
        let batch = random_batch(4, 6, 3, rng);
        let (expected, order) = gradients(&net, &batch);
        assert_eq!(order, [2, 1, 0]);

        // A bucket handed out is final: nothing is written to it afterwards, and it outlives backward.
        let (mut grads, mut pass, mut lent) = (net.zero_buckets(), Pass::default(), Vec::new());
        net.forward(&batch, &mut pass);
        let copies = std::cell::RefCell::new(Vec::new());
        net.backward(&batch, &mut pass, &mut grads, |layer, bucket| {
            copies.borrow_mut().push(bucket.to_vec());
            lent.push((layer, bucket));
            Ok::<_, Infallible>(())
        })
        .unwrap();
        for ((layer, bucket), copy) in lent.iter().zip(copies.into_inner()) {
            assert_eq!(**bucket, copy);
            assert_eq!(copy, expected[*layer]);
        }
    }

    #[test]
    fn another_thread_may_work_on_a_bucket_while_backward_goes_on() {
        let rng = &mut Rng::new(13);
        let net = Net::new(&[6, 5, 4, 3], rng);
        let batch = random_batch(4, 6, 3, rng);
        let (expected, _) = gradients(&net, &batch);
        let (mut grads, mut pass) = (net.zero_buckets(), Pass::default());
        net.forward(&batch, &mut pass);
        std::thread::scope(|scope| {
            net.backward(&batch, &mut pass, &mut grads, |_, bucket| {
                scope.spawn(move || bucket.iter_mut().for_each(|x| *x *= 2.0));
                Ok::<_, Infallible>(())
            })
        })
        .unwrap();
        for (doubled, expected) in grads.iter().flatten().zip(expected.iter().flatten()) {
            assert_eq!(*doubled, 2.0 * expected);
        }
    }

    #[test]
    fn an_error_of_ready_stops_backward() {
        let rng = &mut Rng::new(9);
        let net = Net::new(&[6, 5, 4, 3], rng);
        let batch = random_batch(2, 6, 3, rng);
        let (mut grads, mut pass, mut calls) = (net.zero_buckets(), Pass::default(), 0);
        net.forward(&batch, &mut pass);
        let result = net.backward(&batch, &mut pass, &mut grads, |layer, _| {
            calls += 1;
            if layer == 1 { Err("enough") } else { Ok(()) }
        });
        assert_eq!((result, calls), (Err("enough"), 2));
    }

    #[test]
    fn shares_of_a_batch_have_gradients_that_add_up_to_the_whole_s() {
        let rng = &mut Rng::new(10);
        let net = Net::new(&[8, 16, 5], rng);
        let batch = random_batch(23, 8, 5, rng);
        let (whole, _) = gradients(&net, &batch);
        for size in [2, 4, 8, 30] {
            let mut sum = net.zero_buckets();
            for rank in 0..size {
                let chosen: Vec<usize> = crate::data::share(23, rank, size).collect();
                let share = Images {
                    pixels: chosen
                        .iter()
                        .flat_map(|&i| batch.pixels[i * 8..][..8].to_vec())
                        .collect(),
                    labels: chosen.iter().map(|&i| batch.labels[i]).collect(),
                };
                let (part, _) = gradients(&net, &share);
                sum.iter_mut()
                    .flatten()
                    .zip(part.iter().flatten())
                    .for_each(|(sum, part)| *sum += part);
            }
            for (sum, whole) in sum.iter().flatten().zip(whole.iter().flatten()) {
                assert!(
                    (sum - whole).abs() < 1e-4,
                    "{size} ranks: {sum}, the whole batch: {whole}"
                );
            }
        }
    }

    #[test]
    fn the_loss_of_a_network_that_knows_nothing_is_the_logarithm_of_the_classes() {
        let rng = &mut Rng::new(11);
        let mut net = Net::new(&[4, 10], rng);
        net.params[0].fill(0.0);
        let outcome = net.forward(&random_batch(6, 4, 10, rng), &mut Pass::default());
        assert!((outcome.loss - 6.0 * 10f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn a_single_bit_changes_the_hash() {
        let mut net = Net::new(&[4, 3], &mut Rng::new(12));
        let before = net.hash();
        let weight = net.params[0][7];
        net.params[0][7] = f32::from_bits(weight.to_bits() ^ 1);
        assert_ne!(net.hash(), before);
        net.params[0][7] = weight;
        assert_eq!(net.hash(), before);
    }
}
