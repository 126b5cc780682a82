//! Whether and when a call gets a second attempt.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::Learned;
use crate::Budget;

/// When hedges are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct HedgePolicy {
    /// The quantile of the latency that is learned, 0.5 to 0.999. Default 0.95.
    pub quantile: f64,
    /// The hedge goes after this many times the quantile, 1.0 to 10.0. By definition one call of twenty takes
    /// longer than p95 although nothing is wrong; half as long again tells the slow ones from those. Default 1.5.
    pub stretch: f64,
    /// The most hedges per call over any second, 0.0 to 1.0, and [`BESIDES`](Self::BESIDES) more; 0.0 = none at
    /// all. When all calls become slow, this is what keeps hedging from adding to it. Default 0.02.
    pub share: f64,
    /// Latencies that must be known first, 1 and up. Default 100.
    pub least: u32,
    /// The shortest wait, so that calls of microseconds are not hedged for a hiccup of the scheduler.
    /// Default 1 ms.
    pub shortest: Duration,
}

impl HedgePolicy {
    /// Hedges per second besides the share, so that chance does not exhaust it: five slow calls a second are a
    /// dozen in some.
    pub const BESIDES: u32 = 5;
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self { quantile: 0.95, stretch: 1.5, share: 0.02, least: 100, shortest: Duration::from_millis(1) }
    }
}

/// Whether a call may be hedged at all; each is a reason against it.
#[derive(Clone, Copy, Debug)]
pub struct Suits {
    /// Whether it may run twice.
    pub idempotent: bool,
    /// Whether it is unary with a body of at most 64 KiB that is kept.
    pub kept: bool,
    /// Whether it is made inside somebody's retry or hedge.
    pub nested: bool,
}

/// What became of hedging, as plain counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HedgeStats {
    /// Hedges sent.
    pub sent: u64,
    /// Hedges that answered first.
    pub won: u64,
    /// Hedges that a budget refused.
    pub refused: u64,
}

/// What one client knows of the latencies of one method ([`Methods`](super::Methods) keeps several), and its hedges.
///
/// Only first attempts teach it: their latency, or how long they had taken when the hedge won, which is a lower
/// bound above the quantile.
///
/// ```
/// use std::time::Duration;
/// use meshwork_resilience::{Budget, hedge::{HedgePolicy, Hedging, Suits}};
/// use tokio::time::Instant;
/// let (now, ms) = (Instant::now(), Duration::from_millis);
/// let hedging = Hedging::new(HedgePolicy::default(), now);
/// (0..200).for_each(|_| hedging.answered(ms(10), now));
/// let get = Suits { idempotent: true, kept: true, nested: false };
/// let wait = hedging.after(get, now).expect("enough was learned");
/// assert!((ms(15)..ms(17)).contains(&wait));
/// let post = Suits { idempotent: false, ..get };
/// assert_eq!(hedging.after(post, now), None);
/// ```
#[derive(Debug)]
pub struct Hedging {
    policy: HedgePolicy,
    learned: Learned,
    /// Counts calls and hedges alone; the client's budget counts its retries besides.
    share: Budget,
    sent: AtomicU64,
    won: AtomicU64,
    refused: AtomicU64,
}

impl Hedging {
    /// Nothing known yet.
    pub fn new(policy: HedgePolicy, now: Instant) -> Self {
        let stretch = if policy.stretch.is_nan() { 1.5 } else { policy.stretch.clamp(1.0, 10.0) };
        Self {
            policy: HedgePolicy { stretch, ..policy },
            learned: Learned::new(policy.quantile, policy.least, now),
            share: Budget::new(policy.share, if policy.share > 0.0 { HedgePolicy::BESIDES } else { 0 }, now),
            sent: AtomicU64::new(0),
            won: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Counts a call that begins `now`; says after how long it may be hedged, if it may.
    pub fn after(&self, call: Suits, now: Instant) -> Option<Duration> {
        self.share.called(now);
        if !(call.idempotent && call.kept) || call.nested {
            return None;
        }
        let quantile = self.learned.quantile(now)?;
        Some(quantile.mul_f64(self.policy.stretch).max(self.policy.shortest))
    }

    /// Takes a hedge out of its share and out of the client's `budget`, when the time has come.
    pub fn take(&self, budget: &Budget, now: Instant) -> bool {
        let taken = self.share.take(now) && budget.take(now);
        (if taken { &self.sent } else { &self.refused }).fetch_add(1, Relaxed);
        taken
    }

    /// The first attempt answered after `latency`, with whatever a handler said. Not for failures: one that
    /// fails fast would teach that calls are quick.
    pub fn answered(&self, latency: Duration, now: Instant) {
        self.learned.record(latency, now);
    }

    /// The hedge answered first; the first attempt had taken `at_least` when it was cancelled.
    pub fn won(&self, at_least: Duration, now: Instant) {
        self.won.fetch_add(1, Relaxed);
        self.learned.record(at_least, now);
    }

    /// The counters.
    pub fn stats(&self) -> HedgeStats {
        HedgeStats {
            sent: self.sent.load(Relaxed),
            won: self.won.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const GET: Suits = Suits { idempotent: true, kept: true, nested: false };

    #[tokio::test(start_paused = true)]
    async fn only_what_suits_is_hedged_and_only_once_enough_is_known() {
        let now = Instant::now();
        let hedging = Hedging::new(HedgePolicy::default(), now);
        (0..99).for_each(|_| hedging.answered(10 * MS, now));
        assert_eq!(hedging.after(GET, now), None);
        hedging.answered(10 * MS, now);
        let later = now + 100 * MS;
        assert!(hedging.after(GET, later).is_some());
        for not in
            [Suits { idempotent: false, ..GET }, Suits { kept: false, ..GET }, Suits { nested: true, ..GET }]
        {
            assert_eq!(hedging.after(not, later), None, "{not:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn neither_its_share_nor_the_budget_is_exceeded() {
        let now = Instant::now();
        let hedging = Hedging::new(HedgePolicy::default(), now);
        let (rich, poor) = (Budget::new(1.0, 1000, now), Budget::new(0.0, 0, now));
        for _ in 0..100 {
            assert_eq!(hedging.after(GET, now), None, "nothing is known yet, but they are counted");
        }
        assert!(!hedging.take(&poor, now));
        let taken = (0..100).filter(|_| hedging.take(&rich, now)).count();
        // 2 % of 100 calls and five besides; the one that the poor budget refused is gone.
        assert_eq!(taken, 6);
        assert_eq!(hedging.stats(), HedgeStats { sent: 6, won: 0, refused: 95 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_out_of_range_is_clamped() {
        let now = Instant::now();
        let odd =
            HedgePolicy { stretch: f64::NAN, quantile: 7.0, share: -1.0, least: 0, ..HedgePolicy::default() };
        let hedging = Hedging::new(odd, now);
        hedging.answered(Duration::ZERO, now);
        assert_eq!(hedging.after(GET, now), Some(MS), "the shortest wait");
        assert!(!hedging.take(&Budget::new(1.0, 10, now), now));
    }
}
