//! Random numbers for lease ids and jitter, seeded by the operating system. Not for secrets.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

pub(crate) fn number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A lease id that nobody else has: 63 random bits, never 0.
pub(crate) fn lease() -> i64 {
    ((number() >> 1) | 1) as i64
}

/// `about`, give or take a third.
pub(crate) fn around(about: Duration) -> Duration {
    let part = number() as f64 / u64::MAX as f64;
    about.mul_f64(2.0 / 3.0 + part * 2.0 / 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_ids_are_positive_and_new() {
        let (a, b) = (lease(), lease());
        assert!(a > 0 && b > 0 && a != b);
    }

    #[test]
    fn jitter_stays_within_a_third() {
        let about = Duration::from_secs(60);
        assert!((0..1000).map(|_| around(about)).all(|t| t >= about * 2 / 3 && t <= about * 4 / 3));
    }
}
