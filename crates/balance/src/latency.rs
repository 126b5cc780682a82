//! How long a node takes to answer, as the picker judges it.
//!
//! A time-weighted mean (not a peak: one hiccup must not empty a node), which drifts to the median of the
//! peers while the node is not tried, and which grows while calls lie unanswered.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::Now;

const SECOND: f64 = 1e9;

/// The time constant of the mean.
const TAU: f64 = 3.0 * SECOND;

/// How long an untried node takes to be judged like its peers again.
const DRIFT: f64 = SECOND;

/// The same for a node that owes answers: longer than common deadlines, so that a frozen node is not tried
/// again before the first time-out has taught us how frozen it is.
const DRIFT_UNANSWERED: f64 = 3.0 * SECOND;

/// A look at a slow node costs as long as it takes, so it is paid for by a wait of this many times that.
const DRIFT_PER_ANSWER: f64 = 10.0;

/// Latencies whose ratio is inside the band count as equal.
const BAND: f64 = 1.5;

/// An answer is overdue after this many times the mean: beyond what answers of one kind differ by.
const OVERDUE: f64 = 1.25;

/// Latencies under this count as equal, whatever their ratio.
const FLOOR: f64 = 1e6;

/// Plain atomics with one meaning each: a lost update under a race costs one sample, never a wrong state.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Latency {
    samples: AtomicU32,
    /// The newest real answer time in microseconds, without any penalty.
    last: AtomicU32,
    /// The mean in nanoseconds, as the bits of an `f64`.
    mean: AtomicU64,
    /// When the newest sample was taken.
    sampled: AtomicU64,
    /// When the newest call began.
    begun: AtomicU64,
    /// Since when an answer is owed; 0 = none is.
    waiting: AtomicU64,
}

impl Latency {
    /// Whether no call was ever answered.
    pub(crate) fn is_unknown(&self) -> bool {
        self.samples.load(Relaxed) == 0
    }

    /// The mean in nanoseconds, or `None` when nothing is known.
    pub(crate) fn mean(&self) -> Option<f64> {
        (!self.is_unknown()).then(|| f64::from_bits(self.mean.load(Relaxed)))
    }

    /// Notes that a call begins, alone on its node or not; returns for how many nanoseconds the node had not
    /// been tried.
    pub(crate) fn begin(&self, now: Now, alone: bool) -> u64 {
        let idle = self.idle(now);
        let now = now.as_nanos();
        if alone || self.waiting.load(Relaxed) == 0 {
            self.waiting.store(now, Relaxed);
        }
        self.begun.store(now, Relaxed);
        idle
    }

    /// When the newest call began.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }

    /// For how many nanoseconds no call began or was answered.
    fn idle(&self, now: Now) -> u64 {
        now.as_nanos().saturating_sub(self.begun.load(Relaxed).max(self.sampled.load(Relaxed)))
    }

    /// An answer to a call that began at `begun`: the node lives, so an older call is just a long one; a younger
    /// one is owed an answer still, at the latest since the newest began.
    fn answered(&self, begun: u64) {
        let waiting = self.waiting.load(Relaxed);
        if waiting != 0 && begun >= waiting {
            let newest = self.begun.load(Relaxed);
            self.waiting.store(if newest > begun { newest } else { 0 }, Relaxed);
        }
    }

    /// For how many nanoseconds an answer has been owed.
    pub(crate) fn unanswered_for(&self, now: Now) -> u64 {
        now.as_nanos().saturating_sub(self.waiting.load(Relaxed))
    }

    /// Adds a sample: the call that began at `begun`, after `idle` untried nanoseconds, took `took`
    /// nanoseconds and counts as `value`.
    pub(crate) fn sample(&self, call: Call, now: Now, took: u64, value: f64, median: Option<f64>) {
        let samples = self.samples.load(Relaxed);
        let sampled = self.sampled.load(Relaxed);
        let known = f64::from_bits(self.mean.load(Relaxed));
        let is_warmer = self.is_first_answer(samples) && value <= took as f64 && value < known;
        let mean = if samples == 0 || is_warmer {
            value
        } else {
            let mut base = known;
            if sampled <= call.begun.as_nanos() {
                base = drifted(base, median, call.idle as f64, self.drift_time(0.0));
            }
            let gap = now.as_nanos().saturating_sub(sampled) as f64;
            // By time from the start: were the first few to weigh the same, an early hiccup would starve the node.
            let keep = (-gap / TAU).exp();
            base * keep + value * (1.0 - keep)
        };
        self.mean.store(mean.to_bits(), Relaxed);
        self.last.store(u32::try_from(took / 1000).unwrap_or(u32::MAX), Relaxed);
        self.sampled.store(now.as_nanos(), Relaxed);
        self.answered(call.begun.as_nanos());
        if samples < u32::MAX {
            self.samples.store(samples + 1, Relaxed);
        }
    }

    /// Adds a sample of which only a lower bound is known: the call was dropped at age `took`.
    pub(crate) fn lower_bound(&self, call: Call, now: Now, took: u64, median: Option<f64>) {
        let value = took as f64;
        if self.mean().is_none_or(|mean| value > mean) {
            self.sample(call, now, took, value, median);
        }
    }

    /// Judged at `now`, in nanoseconds; `None` when nothing is known of the node or its peers.
    pub(crate) fn judged(&self, now: Now, owes: bool, median: Option<f64>) -> Option<f64> {
        let Some(mean) = self.mean() else { return median };
        let unanswered = match self.waiting.load(Relaxed) {
            0 => 0.0,
            since if owes => now.as_nanos().saturating_sub(since) as f64,
            _ => 0.0,
        };
        let idle = self.idle(now) as f64;
        // What has lain there for clearly longer than usual is expected to lie there as long again.
        let unanswered = if unanswered > mean * OVERDUE { unanswered * 2.0 } else { 0.0 };
        let mean = match median {
            Some(median) if self.is_first_answer(self.samples.load(Relaxed)) => mean.min(median * BAND),
            _ => mean,
        };
        Some(drifted(mean.max(unanswered), median, idle, self.drift_time(unanswered)))
    }

    /// Whether all that is known is one answer. A process is slow at its first one (caches, pools, lazy
    /// set-up), which says little of the next: a node is judged like its peers until it gave a second one,
    /// and a faster second replaces the first. A penalty is no answer and stays.
    fn is_first_answer(&self, samples: u32) -> bool {
        let answer = (f64::from(self.last.load(Relaxed)) + 1.0) * 1000.0;
        samples == 1 && f64::from_bits(self.mean.load(Relaxed)) <= answer
    }

    /// A new connection or the end of an ejection: judged like the peers until it is known better.
    pub(crate) fn forgive(&self, median: Option<f64>) {
        if let Some(median) = median
            && !self.is_unknown()
        {
            self.mean.store(median.to_bits(), Relaxed);
        }
        self.last.store(0, Relaxed);
        self.begun.store(0, Relaxed);
        self.waiting.store(0, Relaxed);
    }

    /// Forgets everything.
    pub(crate) fn reset(&self) {
        self.samples.store(0, Relaxed);
        self.last.store(0, Relaxed);
        for field in [&self.mean, &self.sampled, &self.begun, &self.waiting] {
            field.store(0, Relaxed);
        }
    }

    fn drift_time(&self, unanswered: f64) -> f64 {
        let least = if unanswered > 0.0 { DRIFT_UNANSWERED } else { DRIFT };
        least.max(f64::from(self.last.load(Relaxed)) * 1000.0 * DRIFT_PER_ANSWER)
    }
}

/// When a call began and for how many nanoseconds its node had not been tried before.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) begun: Now,
    pub(crate) idle: u64,
}

/// Whether two latencies in nanoseconds count as equal.
pub(crate) fn alike(a: f64, b: f64) -> bool {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    high <= FLOOR || high <= low * BAND
}

/// `value`, moved towards the median by the part of `time` that `idle` is.
fn drifted(value: f64, median: Option<f64>, idle: f64, time: f64) -> f64 {
    match median {
        Some(median) => median + (value - median) * (1.0 - idle / time).max(0.0),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Now {
        Now::from_nanos(ms * MS)
    }

    fn call(latency: &Latency, from: u64, to: u64) {
        let idle = latency.begin(at(from), true);
        let took = (to - from) * MS;
        latency.sample(Call { begun: at(from), idle }, at(to), took, took as f64, Some(10e6));
    }

    #[test]
    fn one_hiccup_hardly_moves_the_mean() {
        let latency = Latency::default();
        for start in 0..200 {
            call(&latency, start * 20, start * 20 + 10);
        }
        call(&latency, 4_000, 4_100);
        let mean = latency.mean().unwrap();
        assert!(alike(mean, 10e6), "{mean}");
    }

    #[test]
    fn an_early_hiccup_does_not_starve_a_node() {
        let latency = Latency::default();
        call(&latency, 0, 10);
        call(&latency, 20, 120);
        assert!(alike(latency.judged(at(121), false, Some(10e6)).unwrap(), 10e6));
    }

    #[test]
    fn an_untried_node_is_judged_like_its_peers_after_a_second() {
        let latency = Latency::default();
        call(&latency, 0, 90);
        call(&latency, 0, 90);
        assert_eq!(latency.judged(at(90), false, Some(10e6)), Some(90e6));
        assert_eq!(latency.judged(at(590), false, Some(10e6)), Some(50e6));
        assert_eq!(latency.judged(at(1_090), false, Some(10e6)), Some(10e6));
    }

    #[test]
    fn a_slow_first_answer_does_not_starve_a_node() {
        let latency = Latency::default();
        call(&latency, 0, 90);
        assert!(alike(latency.judged(at(90), false, Some(10e6)).unwrap(), 10e6));
        call(&latency, 100, 110);
        assert_eq!(latency.mean(), Some(10e6));
        let penalised = Latency::default();
        let tried = Call { begun: at(0), idle: 0 };
        penalised.sample(tried, at(1), MS, 5e9, Some(10e6));
        assert_eq!(penalised.judged(at(1), false, Some(10e6)), Some(5e9));
        call(&penalised, 2, 12);
        assert!(penalised.mean().unwrap() > 1e9);
    }

    #[test]
    fn a_slow_node_is_tried_again_after_ten_times_its_answer_time() {
        let latency = Latency::default();
        call(&latency, 0, 2_000);
        call(&latency, 0, 2_000);
        assert!(latency.judged(at(12_000), false, Some(10e6)).unwrap() > 900e6);
        assert_eq!(latency.judged(at(22_000), false, Some(10e6)), Some(10e6));
    }

    fn owed(latency: &Latency, now: u64) -> f64 {
        latency.judged(at(now), true, Some(10e6)).unwrap()
    }

    fn answer(latency: &Latency, from: u64, to: u64) {
        latency.sample(Call { begun: at(from), idle: 0 }, at(to), (to - from) * MS, 10e6, Some(10e6));
    }

    #[test]
    fn an_unanswered_call_is_a_lower_bound_while_it_lies_there() {
        let latency = Latency::default();
        call(&latency, 0, 10);
        latency.begin(at(20), true);
        latency.begin(at(60), false);
        assert!(owed(&latency, 120) > 90e6);
        // An answer to a later call shows that the node lives: the earlier one is just long.
        answer(&latency, 60, 130);
        latency.begin(at(131), false);
        assert!(owed(&latency, 140) < 15e6);
    }

    #[test]
    fn an_answer_to_an_older_call_does_not_excuse_the_younger_ones() {
        let latency = Latency::default();
        call(&latency, 0, 10);
        latency.begin(at(20), true);
        latency.begin(at(24), false);
        latency.begin(at(25), false);
        answer(&latency, 20, 30);
        assert!(owed(&latency, 34) < 15e6);
        assert!(owed(&latency, 40) > 25e6, "the ones of 24 and 25 are overdue");
    }
}
