//! What an all_reduce costs the GPU's compute units, and they it: a matrix product alone, the all_reduce alone, and both at once, in rounds that take turns,
//! so that a machine that slows down does so for all three. It changes no call. Invariants: a product that counts as beside the all_reduce
//! has one beside it from its begin to its end; calls count as beside the product that end before it does.

use super::{
    ceilings::owners,
    measure::{Memory, compare, prepare},
};
use crate::{gpu::Product, job::Call, job::Job};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::time::Instant;

/// Rounds; medians count.
const ROUNDS: usize = 7;
/// Seconds of one measurement at least.
const SPAN: f64 = 0.1;
/// Calls in one measurement at least.
const CALLS: f64 = 8.0;
/// Products in one measurement at most: the driver holds a queue of about so many back.
const PRODUCTS: f64 = 512.0;

/// The result. Times are medians; of several GPUs, the slowest counts.
#[derive(Clone, Debug, Serialize)]
pub struct Overlap {
    /// Rows of the square matrices.
    pub matrix: usize,
    /// Bytes of the all_reduce.
    pub bytes: usize,
    /// Ranks that ran products: one for each device.
    pub loaded: usize,
    /// Teraflop/s of one device, with nothing beside.
    pub product_alone: f64,
    /// The same, with the all_reduce beside.
    pub product_beside: f64,
    /// By how much a product takes longer, in percent.
    pub product_slowdown: f64,
    /// GB/s of the all_reduce by its bytes, with nothing beside.
    pub calls_alone: f64,
    /// The same, with the product beside.
    pub calls_beside: f64,
    /// By how much a call takes longer, in percent.
    pub calls_slowdown: f64,
    /// Wrong elements on all ranks after the last call.
    pub wrong: u64,
}

impl Overlap {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "# Overlap: bf16 matrix product {0} x {0} on {1} GPUs, all_reduce of {2} bytes (medians of {ROUNDS} rounds)",
                self.matrix, self.loaded, self.bytes
            ),
            format!(
                "#  product     alone {:>9.2} TFLOP/s  beside {:>9.2} TFLOP/s  slowdown {:>6.2} %",
                self.product_alone, self.product_beside, self.product_slowdown
            ),
            format!(
                "#  all_reduce  alone {:>9.3} GB/s     beside {:>9.3} GB/s     slowdown {:>6.2} %",
                self.calls_alone, self.calls_beside, self.calls_slowdown
            ),
        ]
    }
}

/// One rank's part.
struct Side<'a> {
    job: &'a Job,
    call: Call,
    memory: &'a mut Memory,
    product: Option<Product>,
    /// Products and calls of one measurement.
    products: usize,
    calls: usize,
}

/// Measures. All ranks call it.
///
/// # Errors
/// No cuBLAS, no device, a failure of the group; a product so short that no call ends beside it.
pub fn overlap(job: &Job, call: &Call, memory: &mut Memory, matrix: usize) -> Result<Overlap> {
    let gpu = job
        .gpu()
        .context("--overlap is about GPUs: add --device cuda")?;
    let (rank, ranks) = (job.group().rank(), job.group().size());
    let owners = owners(job)?;
    let product = (owners[rank] == rank).then(|| Product::new(gpu, matrix));
    let operations = Product::operations(matrix);
    prepare(call, memory, false, rank, ranks)?;
    let mut side = Side {
        job,
        call: *call,
        memory,
        product: product.transpose()?,
        products: 3,
        calls: 3,
    };
    side.fit()?;
    // For each round: product alone, calls alone, product beside, calls beside; seconds of one each.
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let product = side.product_alone()?;
        let calls = side.calls_alone()?;
        let beside = side.both()?;
        rounds.push([product, calls, beside[0], beside[1]]);
    }
    let own: Vec<f64> = (0..4).map(|at| median(&rounds, at)).collect();
    let wrong = compare(call, side.memory, false, rank, ranks)?;
    let all = job.gather(&[own[0], own[1], own[2], own[3], wrong as f64])?;
    let slowest = |at: usize| all.iter().map(|each| each[at]).fold(0.0, f64::max);
    let slower = |alone: f64, beside: f64| (beside / alone - 1.0) * 100.0;
    let (bytes, _) = call.lengths(ranks);
    ensure!(
        slowest(2) > 0.0 && slowest(3) > 0.0,
        "no all_reduce ended beside the matrix product: take a larger --matrix or a smaller -e"
    );
    Ok(Overlap {
        matrix,
        bytes,
        loaded: owners.iter().enumerate().filter(|(i, o)| i == *o).count(),
        product_alone: operations / slowest(0) / 1e12,
        product_beside: operations / slowest(2) / 1e12,
        product_slowdown: slower(slowest(0), slowest(2)),
        calls_alone: bytes as f64 / slowest(1) / 1e9,
        calls_beside: bytes as f64 / slowest(3) / 1e9,
        calls_slowdown: slower(slowest(1), slowest(3)),
        wrong: all.iter().map(|each| each[4]).sum::<f64>() as u64,
    })
}

/// The median of one column, without the rounds in which there was nothing to measure.
fn median(rounds: &[[f64; 4]], column: usize) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(|round| round[column]).collect();
    values.retain(|value| *value > 0.0);
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Side<'_> {
    /// Finds how many products and calls make a measurement, the same on all ranks.
    fn fit(&mut self) -> Result<()> {
        // What is used for the first time is made then.
        self.product_alone()?;
        self.calls_alone()?;
        let own = [self.product_alone()?, self.calls_alone()?];
        let all = self.job.gather(&own)?;
        let slowest = |at: usize| all.iter().map(|each| each[at]).fold(1e-9, f64::max);
        let (product, call) = (slowest(0), slowest(1));
        let products = (SPAN.max(CALLS * call) / product)
            .ceil()
            .clamp(3.0, PRODUCTS);
        self.products = products as usize;
        self.calls = (products * product / call).ceil().max(CALLS) as usize;
        Ok(())
    }

    /// Seconds of one product; 0 for a rank that has none.
    fn product_alone(&mut self) -> Result<f64> {
        self.job.group().barrier()?;
        let seconds = match &mut self.product {
            Some(product) => product.start(self.products)?.wait()? / self.products as f64,
            None => 0.0,
        };
        // Nobody calls while somebody's product runs.
        self.job.group().barrier()?;
        Ok(seconds)
    }

    fn call(&mut self) -> Result<()> {
        self.job
            .run(&self.call, &mut self.memory.input, &mut self.memory.output)?;
        self.job.settle()
    }

    /// Seconds of one call.
    fn calls_alone(&mut self) -> Result<f64> {
        self.job.group().barrier()?;
        let started = Instant::now();
        for _ in 0..self.calls {
            self.call()?;
        }
        Ok(started.elapsed().as_secs_f64() / self.calls as f64)
    }

    /// Seconds of one product and of one call, while both run; 0 where there is no product, or no call ended beside it.
    fn both(&mut self) -> Result<[f64; 2]> {
        self.job.group().barrier()?;
        let products = self.products;
        let started = self.product.as_mut().map(|p| p.start(products));
        let running = started.transpose()?;
        let busy = || running.as_ref().is_some_and(|running| !running.is_done());
        let mut beside = (0.0, 0usize);
        loop {
            for _ in 0..CALLS as usize {
                let begun = Instant::now();
                self.call()?;
                if busy() {
                    beside.0 += begun.elapsed().as_secs_f64();
                    beside.1 += 1;
                }
            }
            // All go on together until no product runs anywhere: then every product had calls beside it to its end.
            let all = self.job.gather(&[f64::from(u8::from(busy()))])?;
            if all.iter().all(|each| each[0] == 0.0) {
                break;
            }
        }
        let Some(running) = running else {
            return Ok([0.0; 2]);
        };
        let product = running.wait()? / products as f64;
        Ok([product, beside.0 / beside.1.max(1) as f64])
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn rounds_without_a_measurement_do_not_count() {
        let rounds = [
            [0.0, 1.0, 3.0, 0.0],
            [0.0, 5.0, 9.0, 2.0],
            [0.0, 3.0, 4.0, 0.0],
        ];
        let found = [0, 1, 2, 3].map(|at| median(&rounds, at));
        assert_eq!(found, [0.0, 3.0, 4.0, 2.0]);
    }
}
