//! The balancer in a deterministic simulation: every figure below is checked for each of 200 seeds.

mod evenness;
mod failing;
mod slow;
mod world;

/// How many seeds each scenario runs with; the seed of a failure is in its message.
const SEEDS: u64 = 200;
