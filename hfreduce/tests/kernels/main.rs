//! The reduction kernels against an independent reference, and every variant against the scalar one, bit for bit.
//! Invariant: inputs mix random bits with every awkward value of the type, and every call checks the bytes around its result.

mod convert;
mod reference;
mod support;
mod values;
mod variants;
