//! How often one query may be asked: a few at once after a calm, then less than two a second.

use std::time::Duration;

use tokio::time::Instant;

/// Questions that a calm allows at once.
const BURST: u32 = 3;
/// The time between two questions of a storm.
const EVERY: Duration = Duration::from_millis(600);

/// A bucket of [`BURST`] questions that fills by one each [`EVERY`].
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the bucket would be full again.
    full_at: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// When the next question may be asked, which is counted.
    pub(crate) fn next(&mut self, now: Instant) -> Instant {
        let full_at = self.full_at.max(now) + EVERY;
        let at = full_at.checked_sub(EVERY * BURST).map_or(now, |at| at.max(now));
        self.full_at = full_at;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calm_allows_a_burst_and_a_storm_less_than_two_a_second() {
        let start = Instant::now() + Duration::from_secs(60);
        let mut pace = Pace::new(start);
        let (mut now, mut asked) = (start, Vec::new());
        for _ in 0..20 {
            now = pace.next(now).max(now);
            asked.push(now - start);
        }
        assert_eq!(asked[2], Duration::ZERO, "the burst is at once");
        assert!(asked[3] > Duration::ZERO);
        let steady = asked[19] - asked[3];
        assert_eq!(steady, EVERY * 16);
        let later = now + Duration::from_secs(10);
        assert_eq!(pace.next(later), later);
    }
}
