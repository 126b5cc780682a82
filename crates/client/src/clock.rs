//! The two arguments of every pick: time since the cluster began, and chance.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use meshwork_balance::Now;
use tokio::time::Instant;

/// Time since the cluster began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        // One second back, so that no event stands at the very epoch.
        let now = Instant::now();
        Self { epoch: now.checked_sub(Duration::from_secs(1)).unwrap_or(now) }
    }

    /// Now.
    pub(crate) fn now(&self) -> Now {
        self.at(Instant::now())
    }

    /// `instant` on this clock.
    pub(crate) fn at(&self, instant: Instant) -> Now {
        Now::from_nanos(instant.saturating_duration_since(self.epoch).as_nanos() as u64)
    }
}

thread_local! {
    static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(std::thread::current().id()));
}

/// Uniform bits for balancing and jitter (SplitMix64; Steele, Lea, Flood 2014); no secret.
pub(crate) fn random() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// `duration` more or less a fifth, by chance.
pub(crate) fn jittered(duration: Duration) -> Duration {
    spread(duration, 0.2)
}

/// `duration` more or less a tenth, by chance: for what must not happen everywhere at once. A century at most,
/// so that it can be added to any time.
pub(crate) fn aged(duration: Duration) -> Duration {
    spread(duration.min(CENTURY), 0.1)
}

/// Longer than anything lasts, and short enough to be added to any time.
pub(crate) const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn spread(duration: Duration, most: f64) -> Duration {
    let share = (random() >> 11) as f64 / (1u64 << 53) as f64;
    duration.mul_f64(1.0 - most + 2.0 * most * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_too_long_to_be_waited_for() {
        assert!(Instant::now().checked_add(aged(Duration::MAX)).is_some());
        assert!((90..=110).contains(&aged(Duration::from_millis(100)).as_millis()));
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        for _ in 0..1000 {
            let millis = jittered(Duration::from_millis(100)).as_millis();
            assert!((80..=120).contains(&millis), "{millis}");
        }
    }
}
