//! The decisions of this crate in a deterministic simulation: every figure is checked for each seed.

mod chain;
mod hedging;
mod overload;
mod world;

/// How many seeds a scenario runs with; the seed of a failure is in its message. `MESHWORK_SIM_SEEDS` sets another
/// number.
fn seeds() -> u64 {
    let set = std::env::var("MESHWORK_SIM_SEEDS").ok();
    set.map_or(200, |text| text.parse().expect("MESHWORK_SIM_SEEDS is a number"))
}
