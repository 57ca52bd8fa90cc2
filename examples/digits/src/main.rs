//! Trains a small network on handwritten digits, data parallel.
fn main() {}
