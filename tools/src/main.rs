//! The hfr program.
fn main() {}
