//! The balancer in a deterministic simulation: every figure is checked for each seed.
//!
//! The default is a short run of each. The full one, of which the figures in DESIGN.md are:
//! `MESHWORK_SIM_SEEDS=200 cargo test -p meshwork-balance --test sim -- --nocapture`

mod antagonist;
mod evenness;
mod failing;
mod fleet;
mod gone;
mod service_times;
mod slow;
mod world;

/// How many seeds a scenario runs with: `short`, or what `MESHWORK_SIM_SEEDS` says. The seed of a failure is in its
/// message.
fn seeds(short: u64) -> u64 {
    let set = std::env::var("MESHWORK_SIM_SEEDS").ok();
    set.map_or(short, |text| text.parse().expect("MESHWORK_SIM_SEEDS is a number"))
}
