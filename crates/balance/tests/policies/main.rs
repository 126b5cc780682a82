//! What each policy does for its callers, and that the rules common to all hold in each.

mod all;
mod aperture;
mod custom;
mod first;
mod fleet;
mod properties;
mod ring;
mod rules;
mod subsets;
mod sums;
mod turns;
mod zones;
