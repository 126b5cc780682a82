//! A quantile of the latencies of the last seconds, in bounded memory.
//!
//! A histogram with logarithmic buckets and a bounded relative error (DDSketch; Masson, Rim, Lee; VLDB 2019), whose
//! counts are halved every few seconds, so that old latencies fade (forward decay; Cormode et al., ICDE 2009).

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// Buckets per doubling: a bucket is 9 % wide.
const PER_OCTAVE: u32 = 8;
/// Doublings from 1 µs to 67 s.
const OCTAVES: u32 = 26;
const BUCKETS: usize = (PER_OCTAVE * OCTAVES) as usize;
/// After how long what was learned counts half.
const HALF_LIFE: Duration = Duration::from_secs(5);
/// How many new latencies, or how much time, makes the quantile worth computing anew.
const STALE_SAMPLES: u32 = 64;
const STALE_MILLIS: u64 = 100;

/// What is known of the latencies of the last seconds: 840 bytes, whatever comes. Recording takes no lock.
///
/// ```
/// use std::time::Duration;
/// use meshwork_resilience::hedge::Learned;
/// use tokio::time::Instant;
/// let (now, ms) = (Instant::now(), Duration::from_millis);
/// let learned = Learned::new(0.95, 100, now);
/// assert_eq!(learned.quantile(now), None);
/// (1..=100).for_each(|millis| learned.record(ms(millis), now));
/// let p95 = learned.quantile(now).expect("enough was learned");
/// assert!((ms(95)..ms(104)).contains(&p95));
/// ```
#[derive(Debug)]
pub struct Learned {
    quantile: f64,
    least: u32,
    start: Instant,
    buckets: Box<[AtomicU32; BUCKETS]>,
    /// Half-lives that have been taken into account.
    halved: AtomicU64,
    /// Nanoseconds; 0 = too little is known.
    cached: AtomicU64,
    /// Latencies since the last computation.
    fresh: AtomicU32,
    /// When that was, in ms since the start; 0 = never.
    computed: AtomicU64,
}

impl Learned {
    /// Nothing known yet. `quantile` is clamped to 0.5..=0.999; below `least` latencies (1 and up) there is none.
    pub fn new(quantile: f64, least: u32, now: Instant) -> Self {
        let quantile = if quantile.is_nan() { 0.95 } else { quantile.clamp(0.5, 0.999) };
        Self {
            quantile,
            least: least.max(1),
            start: now,
            buckets: Box::new([const { AtomicU32::new(0) }; BUCKETS]),
            halved: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            fresh: AtomicU32::new(0),
            computed: AtomicU64::new(0),
        }
    }

    /// Takes a latency in, or a lower bound of one. A lower bound above the quantile does not falsify it.
    pub fn record(&self, latency: Duration, now: Instant) {
        self.decay(now);
        self.buckets[bucket(latency)].fetch_add(1, Relaxed);
        self.fresh.fetch_add(1, Relaxed);
    }

    /// The quantile, rounded up to the edge of its bucket: at most 9 % too long, never too short. At most one
    /// computation for 64 latencies or 100 ms, else one load.
    pub fn quantile(&self, now: Instant) -> Option<Duration> {
        let millis = now.saturating_duration_since(self.start).as_millis() as u64 + 1;
        let computed = self.computed.load(Relaxed);
        let stale = computed == 0
            || self.fresh.load(Relaxed) >= STALE_SAMPLES
            || millis.saturating_sub(computed) >= STALE_MILLIS;
        if stale {
            self.decay(now);
            self.fresh.store(0, Relaxed);
            self.computed.store(millis, Relaxed);
            self.cached.store(self.compute().map_or(0, |found| found.as_nanos() as u64), Relaxed);
        }
        Some(self.cached.load(Relaxed)).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }

    fn compute(&self) -> Option<Duration> {
        let all: u64 = self.buckets.iter().map(|count| u64::from(count.load(Relaxed))).sum();
        if all < u64::from(self.least) {
            return None;
        }
        let rank = (all as f64 * self.quantile).ceil() as u64;
        let mut below = 0;
        let found = self.buckets.iter().position(|count| {
            below += u64::from(count.load(Relaxed));
            below >= rank
        });
        found.map(edge)
    }

    /// Halves the counts once for each half-life that has passed.
    fn decay(&self, now: Instant) {
        let due = now.saturating_duration_since(self.start).as_secs() / HALF_LIFE.as_secs();
        let halved = self.halved.load(Relaxed);
        if due <= halved || self.halved.compare_exchange(halved, due, Relaxed, Relaxed).is_err() {
            return;
        }
        let times = (due - halved).min(31) as u32;
        for count in &self.buckets[..] {
            // What is recorded in between may be lost with the half that goes.
            count.store(count.load(Relaxed) >> times, Relaxed);
        }
    }
}

/// The bucket of a latency.
fn bucket(latency: Duration) -> usize {
    let micros = latency.as_nanos() as f64 / 1e3;
    if micros <= 1.0 {
        return 0;
    }
    // Not above its edge: bucket b holds what is over edge(b - 1) and up to edge(b).
    ((micros.log2() * f64::from(PER_OCTAVE)).ceil() as usize - 1).min(BUCKETS - 1)
}

/// The longest latency of a bucket.
fn edge(bucket: usize) -> Duration {
    let micros = 2f64.powf((bucket + 1) as f64 / f64::from(PER_OCTAVE));
    Duration::from_secs_f64(micros / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn the_quantile_is_at_most_a_bucket_too_long() {
        let now = Instant::now();
        for base in [20, 3_000, 700_000, 30_000_000] {
            let learned = Learned::new(0.95, 1, now);
            for step in 1..=1000u64 {
                learned.record(Duration::from_micros(base + base * step / 1000), now);
            }
            let exact = base as f64 * 1.95 / 1e6;
            let ratio = learned.quantile(now).unwrap().as_secs_f64() / exact;
            assert!((0.999..=1.1).contains(&ratio), "{ratio} at {base} us");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn old_latencies_fade_and_nothing_is_told_too_early() {
        let now = Instant::now();
        let learned = Learned::new(0.95, 100, now);
        (0..99).for_each(|_| learned.record(100 * MS, now));
        assert_eq!(learned.quantile(now), None);
        (0..900).for_each(|_| learned.record(100 * MS, now));
        assert!(learned.quantile(now).unwrap() >= 100 * MS);
        let later = now + 8 * HALF_LIFE;
        (0..100).for_each(|_| learned.record(MS, later));
        assert!(learned.quantile(later).unwrap() <= 2 * MS, "{:?}", learned.quantile(later));
        assert_eq!(learned.quantile(later + 40 * HALF_LIFE), None, "all of it is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn the_extremes_stay_inside() {
        let now = Instant::now();
        let learned = Learned::new(f64::NAN, 0, now);
        learned.record(Duration::ZERO, now);
        assert!(learned.quantile(now).unwrap() <= Duration::from_micros(2));
        (0..100).for_each(|_| learned.record(Duration::MAX, now));
        assert!(learned.quantile(now).unwrap() >= Duration::from_secs(60));
        for (bucket_of, latency) in [(0, 1_000), (0, 1_090), (1, 1_091), (7, 2_000), (8, 2_001)] {
            assert_eq!(bucket(Duration::from_nanos(latency)), bucket_of, "{latency} ns");
        }
    }
}
