//! The retry budget: how many retries the calls of the last second have earned.
//!
//! Retries of any second stay under `ratio × calls + minimum` of that second, so a service that fails
//! altogether sees little more than its normal load, from the first failing second on. One budget is shared
//! by all calls of a client: its retries and its hedges.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::time::Instant;

/// Slots of the window, which is a second.
const SLOTS: usize = 10;
/// What one slot covers.
const SLOT_MILLIS: u32 = 1000 / SLOTS as u32;

/// Calls and retries of the last second.
///
/// A window, not a bucket: a bucket that starts full breaks any tight bound (measured: capacity 100 gives
/// 1.22 ×, 2 000 gives 1.41 × over ten seconds), a window allows what one second of deposits does and no
/// burst besides. Counting a call takes no lock and no allocation; taking a retry takes a lock, so that the
/// bound holds exactly whatever number of threads ask.
///
/// ```
/// use meshwork_resilience::Budget;
/// use tokio::time::Instant;
/// let now = Instant::now();
/// let budget = Budget::new(0.2, 0, now);
/// (0..10).for_each(|_| budget.called(now));
/// assert_eq!((0..10).filter(|_| budget.take(now)).count(), 2);
/// ```
#[derive(Debug)]
pub struct Budget {
    ratio: f64,
    minimum: u32,
    start: Instant,
    taking: Mutex<()>,
    slots: [Slot; SLOTS],
}

/// One tenth of a second: its number in the upper half, a count in the lower. A stale number reads as 0.
#[derive(Debug, Default)]
struct Slot {
    calls: AtomicU64,
    retries: AtomicU64,
}

impl Budget {
    /// The share of calls that may be retried, by default.
    pub const RATIO: f64 = 0.2;
    /// Retries per second besides, by default.
    pub const MINIMUM: u32 = 10;

    /// `ratio` retries per call (clamped to 0.0..=1.0; not a number counts as 0) and `minimum` per second
    /// besides, so that rare calls can be retried.
    pub fn new(ratio: f64, minimum: u32, now: Instant) -> Self {
        let ratio = if ratio.is_nan() { 0.0 } else { ratio.clamp(0.0, 1.0) };
        Self { ratio, minimum, start: now, taking: Mutex::default(), slots: Default::default() }
    }

    /// Counts a call; its attempts are not calls.
    pub fn called(&self, now: Instant) {
        let tick = self.tick(now);
        count(&self.slots[tick as usize % SLOTS].calls, tick);
    }

    /// Takes one retry out of the budget, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let tick = self.tick(now);
        let sum =
            |of: fn(&Slot) -> &AtomicU64| -> u64 { self.slots.iter().map(|slot| read(of(slot), tick)).sum() };
        let earned = sum(|slot| &slot.calls) as f64 * self.ratio + f64::from(self.minimum);
        if sum(|slot| &slot.retries) as f64 + 1.0 > earned {
            return false;
        }
        count(&self.slots[tick as usize % SLOTS].retries, tick);
        true
    }

    fn tick(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.start);
        (since.as_secs() * SLOTS as u64) as u32 + since.subsec_millis() / SLOT_MILLIS
    }
}

/// Adds one to the count of `tick`; the count of an older tick starts anew.
fn count(slot: &AtomicU64, tick: u32) {
    let seen = slot.load(Ordering::Relaxed);
    if (seen >> 32) as u32 == tick {
        slot.fetch_add(1, Ordering::Relaxed);
    } else {
        // Two threads may meet here once per slot; the loser's count is lost, which errs on the safe side.
        let new = (u64::from(tick) << 32) | 1;
        let _lost = slot.compare_exchange(seen, new, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The count of a slot if it belongs to the second that ends with `tick`.
fn read(slot: &AtomicU64, tick: u32) -> u64 {
    let seen = slot.load(Ordering::Relaxed);
    let age = tick.wrapping_sub((seen >> 32) as u32);
    if (age as usize) < SLOTS { seen & u64::from(u32::MAX) } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, time::Duration};

    use super::*;

    fn taken(budget: &Budget, now: Instant, asked: usize) -> usize {
        (0..asked).filter(|_| budget.take(now)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn starts_with_the_minimum_only() {
        let now = Instant::now();
        assert_eq!(taken(&Budget::new(0.2, 10, now), now, 1000), 10);
        assert_eq!(taken(&Budget::new(0.0, 0, now), now, 1000), 0);
        assert_eq!(taken(&Budget::new(f64::NAN, 1, now), now, 1000), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_total_failure_costs_a_fifth_more_over_ten_seconds_and_over_any_second() {
        let start = Instant::now();
        let budget = Budget::new(0.2, 10, start);
        let mut retries = Vec::new();
        for millis in 0..20_000_u64 {
            let now = start + Duration::from_millis(millis);
            budget.called(now);
            // The first ten seconds are calm; then each call fails.
            if millis >= 10_000 && budget.take(now) {
                retries.push(millis);
            }
        }
        let all = retries.len() as f64 / 10_000.0;
        assert!((0.15..=0.25).contains(&all), "{all} retries per call over ten seconds");
        let worst = retries
            .iter()
            .map(|from| retries.iter().filter(|at| (*from..from + 1000).contains(at)).count())
            .max()
            .unwrap_or(0);
        assert!(worst <= 300, "{worst} retries in one second of 1000 calls");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_earned_is_forgotten_after_a_second() {
        let start = Instant::now();
        let budget = Budget::new(0.2, 0, start);
        for _ in 0..1000 {
            budget.called(start);
        }
        assert_eq!(taken(&budget, start + Duration::from_millis(1100), 1000), 0);
        for _ in 0..10 {
            budget.called(start + Duration::from_millis(1200));
        }
        assert_eq!(taken(&budget, start + Duration::from_millis(1250), 1000), 2);
    }

    #[test]
    fn however_many_threads_ask_the_bound_is_exact() {
        let now = Instant::now();
        for _ in 0..200 {
            let (budget, together) = (Budget::new(0.0, 100, now), Barrier::new(4));
            let all: usize = std::thread::scope(|scope| {
                let ask = || {
                    together.wait();
                    taken(&budget, now, 100)
                };
                let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
                asking.into_iter().map(|thread| thread.join().expect("no panic")).sum()
            });
            assert_eq!(all, 100);
        }
    }
}
