//! The matrix on threads: every type and operation against a plain reference, registered and misaligned memory, random groups and calls,
//! bit-identical results. Each rank has a mapping, sockets and a control connection of its own. It knows no plan by its stages.

mod bits;
mod calls;
mod messages;
mod random;
mod shares;
mod types;
mod value;
