//! Randomness for jitter: small, fast, and the same again from the same seed.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// A stream of random numbers (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// From a seed, or from the operating system without one.
    pub fn new(seed: Option<u64>) -> Self {
        Self(seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()))
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A time drawn evenly from zero to `window`.
    pub fn within(&mut self, window: Duration) -> Duration {
        let nanos = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX - 1);
        Duration::from_nanos(self.roll() % (nanos + 1))
    }

    /// An independent stream.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.roll())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_rolls_the_same() {
        let (mut a, mut b) = (Dice::new(Some(7)), Dice::new(Some(7)));
        assert_eq!((a.roll(), a.roll()), (b.roll(), b.roll()));
        assert_ne!(Dice::new(None).roll(), Dice::new(None).roll());
    }

    #[test]
    fn delays_fill_their_window_and_never_leave_it() {
        let mut dice = Dice::new(Some(1));
        let window = Duration::from_secs(1);
        let drawn: Vec<_> = (0..1000).map(|_| dice.within(window)).collect();
        assert!(drawn.iter().all(|delay| *delay <= window));
        assert!(drawn.iter().any(|delay| *delay < window / 20));
        assert!(drawn.iter().any(|delay| *delay > window * 19 / 20));
        assert_eq!(dice.within(Duration::ZERO), Duration::ZERO);
    }
}
