//! The balancer in a deterministic simulation: every figure is checked for each seed.

mod evenness;
mod failing;
mod slow;
mod world;

/// How many seeds the short scenarios run with, and four times as many as the long ones; the seed of a failure is
/// in its message.
const SEEDS: u64 = 200;
