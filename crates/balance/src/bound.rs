//! How many calls a member may have in flight, compared to the others.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    Member, Now, Pool,
    chance::{below, scramble},
};

/// The mean is that of all members, or of so many drawn ones.
const MEAN_OF: usize = 64;

/// How often the mean is computed anew, in nanoseconds.
const MEAN_EVERY: u64 = 1_000_000;

/// So many calls in flight are never too many.
const ALWAYS: f64 = 4.0;

/// At most `factor` times the mean of all, by weight: *Consistent Hashing with Bounded Loads*, V. Mirrokni,
/// M. Thorup, M. Zadimoghaddam (2016). The mean is up to 1 ms old; a counter of all calls would be written by
/// every thread at every call.
pub(crate) struct Bound {
    factor: f64,
    /// Calls in flight per unit of weight, as the bits of an `f64`.
    mean: AtomicU64,
    due: AtomicU64,
}

impl Bound {
    pub(crate) fn new(factor: f64) -> Self {
        Self { factor, mean: AtomicU64::new(0), due: AtomicU64::new(0) }
    }

    /// Renews the mean if it is due.
    pub(crate) fn renew(&self, pool: &Pool, now: Now, random: &mut dyn FnMut() -> u64) {
        let due = self.due.load(Relaxed);
        if self.factor.is_infinite() || now.as_nanos() < due {
            return;
        }
        let next = now.as_nanos().saturating_add(MEAN_EVERY);
        if self.due.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
            return;
        }
        let len = pool.len();
        let seed = if len > MEAN_OF { random() } else { 0 };
        let (mut calls, mut weights) = (0.0, 0.0);
        for step in 0..len.min(MEAN_OF) {
            let drawn = || below(scramble(seed.wrapping_add(step as u64)), len);
            let member = pool.get(if len > MEAN_OF { drawn() } else { step });
            if member.node().is_ready() {
                calls += f64::from(member.node().inflight());
                weights += weight(member);
            }
        }
        if weights > 0.0 {
            self.mean.store((calls / weights).to_bits(), Relaxed);
        }
    }

    /// Whether `member` may take one more call.
    pub(crate) fn has_room(&self, member: &Member) -> bool {
        let mean = f64::from_bits(self.mean.load(Relaxed)) * weight(member);
        self.factor.is_infinite()
            || f64::from(member.node().inflight()) < (self.factor * mean).ceil().max(ALWAYS)
    }
}

fn weight(member: &Member) -> f64 {
    f64::from(member.weight().max(1))
}
