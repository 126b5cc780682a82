//! Which moments of an outage are worth a log line: the loss, the return, and now and then between.

use std::time::Duration;

use tokio::time::Instant;

/// Outages that follow each other closely are told at most this often per [`log_every`].
///
/// [`log_every`]: crate::DriverOptions::log_every
const TOLD_AT_ONCE: u32 = 5;

/// A line that the shell writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Line {
    /// It was lost just now. One WARN.
    Lost,
    /// It is still lost, since this long. At most one INFO per `log_every`.
    Still {
        /// The length of the outage so far.
        since: Duration,
    },
    /// It is back after this long. One INFO.
    Back {
        /// The length of the outage.
        after: Duration,
    },
}

/// The outage of one thing, if it is lost now.
#[derive(Debug)]
pub(crate) struct Outage {
    since: Option<Instant>,
    last: Option<Instant>,
    told: bool,
    window: Option<Instant>,
    in_window: u32,
}

impl Outage {
    pub(crate) fn new() -> Self {
        Self { since: None, last: None, told: false, window: None, in_window: 0 }
    }

    /// Since when it is lost.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// A failure: the first one begins an outage.
    pub(crate) fn failed(&mut self, every: Duration, now: Instant) -> Option<Line> {
        let begins = self.since.is_none();
        let since = *self.since.get_or_insert(now);
        if begins {
            self.told = false;
            if self.window.is_none_or(|window| now.duration_since(window) >= every) {
                self.window = Some(now);
                self.in_window = 0;
            }
        }
        if !self.told {
            // Flapping is told a few times, then only if one outage lasts.
            let lasting = now.duration_since(since) >= every;
            if self.in_window >= TOLD_AT_ONCE && !lasting {
                return None;
            }
            self.in_window += 1;
            self.told = true;
            self.last = Some(now);
            return Some(Line::Lost);
        }
        if self.last.is_some_and(|last| now.duration_since(last) < every) {
            return None;
        }
        self.last = Some(now);
        Some(Line::Still { since: now.duration_since(since) })
    }

    /// It works: ends an outage, if there was one.
    pub(crate) fn recovered(&mut self, now: Instant) -> Option<Line> {
        let after = now.duration_since(self.since.take()?);
        self.told.then_some(Line::Back { after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(30);

    #[test]
    fn one_line_at_the_loss_one_at_the_return_and_one_per_30_s_between() {
        let (mut outage, start) = (Outage::new(), Instant::now());
        let mut lines = Vec::new();
        for second in 0..100 {
            lines.extend(outage.failed(EVERY, start + Duration::from_secs(second)));
        }
        lines.extend(outage.recovered(start + Duration::from_secs(100)));
        lines.extend(outage.recovered(start + Duration::from_secs(101)));
        let still = |since| Line::Still { since: Duration::from_secs(since) };
        let back = Line::Back { after: Duration::from_secs(100) };
        assert_eq!(lines, [Line::Lost, still(30), still(60), still(90), back]);
    }

    #[test]
    fn flapping_is_told_a_few_times_only() {
        let (mut outage, start) = (Outage::new(), Instant::now());
        let mut lines = 0;
        for n in 0..1000 {
            let now = start + Duration::from_millis(20 * n);
            lines += usize::from(outage.failed(EVERY, now).is_some());
            lines += usize::from(outage.recovered(now + Duration::from_millis(10)).is_some());
        }
        assert_eq!(lines, 2 * TOLD_AT_ONCE as usize);
    }
}
