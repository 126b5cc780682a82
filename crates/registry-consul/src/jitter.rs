//! Randomness for delays, seeded by the operating system. Not for secrets.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// `about`, give or take a fifth.
pub(crate) fn around(about: Duration) -> Duration {
    let part = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    about.mul_f64(0.8 + part * 0.4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_a_fifth() {
        let about = Duration::from_secs(60);
        assert!((0..1000).map(|_| around(about)).all(|t| t >= about * 4 / 5 && t <= about * 6 / 5));
    }
}
