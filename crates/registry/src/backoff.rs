//! How long to wait before the next attempt of what has no claim: subscriptions and the drive.

use std::time::Duration;

use meshwork_core::ErrorKind;
use tokio::time::Instant;

use crate::{Dice, Healing};

/// An attempt that lived this long was a success, whatever ended it.
const STEADY: Duration = Duration::from_secs(10);

/// Full jitter over a window that doubles with each failure in a row.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    began: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { failures: 0, began: None }
    }

    /// It works from now on; whether that was a success shows when it ends.
    pub(crate) fn works(&mut self, now: Instant) {
        self.began.get_or_insert(now);
    }

    /// The delay after a failure of this kind.
    pub(crate) fn failed(
        &mut self,
        kind: ErrorKind,
        healing: &Healing,
        dice: &mut Dice,
        now: Instant,
    ) -> Duration {
        if self.began.take().is_some_and(|began| now.duration_since(began) >= STEADY) {
            self.failures = 0;
        }
        let window = widened(healing.first, self.failures, healing.cap);
        self.failures = self.failures.saturating_add(1);
        if kind.is_transient() { dice.within(window) } else { healing.slow + dice.within(healing.first) }
    }
}

/// `first` doubled `times`, at most `cap`.
pub(crate) fn widened(first: Duration, times: u32, cap: Duration) -> Duration {
    first.saturating_mul(1u32.checked_shl(times.min(20)).unwrap_or(u32::MAX)).min(cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_double_up_to_the_cap_and_start_over_after_a_steady_time() {
        let (healing, mut dice, mut backoff) = (Healing::default(), Dice::new(Some(1)), Backoff::new());
        let mut now = Instant::now();
        let mut worst =
            |backoff: &mut Backoff, now| backoff.failed(ErrorKind::Unavailable, &healing, &mut dice, now);
        for times in 0..10 {
            assert!(worst(&mut backoff, now) <= widened(healing.first, times, healing.cap));
        }
        backoff.works(now);
        now += Duration::from_secs(1);
        worst(&mut backoff, now);
        assert_eq!(backoff.failures, 11, "a second is not steady");
        backoff.works(now);
        worst(&mut backoff, now + STEADY);
        assert_eq!(backoff.failures, 1);
    }

    #[test]
    fn what_waiting_cannot_mend_is_tried_at_most_once_a_minute() {
        let (healing, mut dice, mut backoff) = (Healing::default(), Dice::new(Some(1)), Backoff::new());
        for kind in [ErrorKind::Denied, ErrorKind::Invalid, ErrorKind::Protocol, ErrorKind::Unsupported] {
            assert!(backoff.failed(kind, &healing, &mut dice, Instant::now()) >= healing.slow);
        }
    }
}
