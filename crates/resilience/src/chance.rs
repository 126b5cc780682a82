//! Uniform bits for jitter. Every pure step takes them as an argument; this is what to give it outside tests.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
};

thread_local! {
    static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(std::thread::current().id()));
}

/// Uniform bits, no secret (SplitMix64; Steele, Lea, Flood 2014). No lock, no allocation.
///
/// ```
/// # use meshwork_resilience::chance;
/// assert_ne!(chance::bits(), chance::bits());
/// ```
pub fn bits() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// `bits` as a number in `0.0..1.0`.
pub fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_fill_the_interval_and_stay_in_it() {
        let drawn: Vec<f64> = (0..1000).map(|_| unit(bits())).collect();
        assert!(drawn.iter().all(|unit| (0.0..1.0).contains(unit)));
        assert!(drawn.iter().any(|unit| *unit < 0.1) && drawn.iter().any(|unit| *unit > 0.9));
        assert!(unit(0) == 0.0 && unit(u64::MAX) < 1.0);
    }
}
