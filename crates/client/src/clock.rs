//! The two arguments of every pick: time since the cluster began, and chance.

use std::time::Duration;

use meshwork_balance::Now;
use meshwork_resilience::{Jitter, chance};
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

/// `duration` more or less a tenth, by chance: for what must not happen everywhere at once. A century at most,
/// so that it can be added to any time.
pub(crate) fn aged(duration: Duration) -> Duration {
    Jitter::Tenth.spread(duration.min(CENTURY), chance::bits())
}

/// Longer than anything lasts, and short enough to be added to any time.
pub(crate) const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_too_long_to_be_waited_for() {
        assert!(Instant::now().checked_add(aged(Duration::MAX)).is_some());
    }
}
