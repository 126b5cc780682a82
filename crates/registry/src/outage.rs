//! Which moments of an outage are worth a log line: the loss, the return, and now and then between.

use std::time::Duration;

use tokio::time::Instant;

/// So many outages may follow each other closely and all be told; each [`log_every`] allows one more.
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
    /// How many outages may be told at once, as of then.
    allowance: u32,
    allowed_at: Option<Instant>,
}

impl Outage {
    pub(crate) fn new() -> Self {
        Self { since: None, last: None, told: false, allowance: TOLD_AT_ONCE, allowed_at: None }
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
            self.allow(every, now);
        }
        if !self.told {
            // Flapping is told a few times, then only if one outage lasts.
            let lasting = now.duration_since(since) >= every;
            if self.allowance == 0 && !lasting {
                return None;
            }
            self.allowance = self.allowance.saturating_sub(1);
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

    fn allow(&mut self, every: Duration, now: Instant) {
        let at = *self.allowed_at.get_or_insert(now);
        let more = now.duration_since(at).as_nanos() / every.as_nanos().max(1);
        if more > 0 {
            self.allowance = self.allowance.saturating_add(more.min(100) as u32).min(TOLD_AT_ONCE);
            self.allowed_at = Some(now);
        }
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
