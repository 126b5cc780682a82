//! One [`Hedging`] for each method of a service, as far as there is room.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, OnceLock},
};

use tokio::time::Instant;

use super::{HedgePolicy, HedgeStats, Hedging};

/// How many methods are told apart.
const SLOTS: usize = 64;

/// What one client knows of the latencies of each method: a quick method's p95 would hedge every call of a slow one.
///
/// Methods share 64 slots by a hash that nobody can aim at; those that meet in one learn together. A slot costs less than
/// 2 KiB from its first call on, so that paths with ids in them cost no more than 64 methods.
///
/// ```
/// use std::time::Duration;
/// use meshwork_resilience::hedge::{HedgePolicy, Methods};
/// use tokio::time::Instant;
/// let (now, methods) = (Instant::now(), Methods::new(HedgePolicy::default()));
/// methods.of("/users.v1.Users/GetUser", now).answered(Duration::from_millis(10), now);
/// assert_eq!(methods.stats().sent, 0);
/// ```
#[derive(Debug)]
pub struct Methods {
    policy: HedgePolicy,
    hash: RandomState,
    slots: Box<[OnceLock<Arc<Hedging>>; SLOTS]>,
}

impl Methods {
    /// Nothing known yet, each method by this policy.
    pub fn new(policy: HedgePolicy) -> Self {
        Self { policy, hash: RandomState::new(), slots: Box::new([const { OnceLock::new() }; SLOTS]) }
    }

    /// What is known of the method at `path`. Allocates at the first call of a slot.
    pub fn of(&self, path: &str, now: Instant) -> &Arc<Hedging> {
        let slot = self.hash.hash_one(path) as usize % SLOTS;
        self.slots[slot].get_or_init(|| Arc::new(Hedging::new(self.policy, now)))
    }

    /// The counters of all methods together.
    pub fn stats(&self) -> HedgeStats {
        let all = self.slots.iter().filter_map(|slot| slot.get()).map(|hedging| hedging.stats());
        all.fold(HedgeStats::default(), |all, one| HedgeStats {
            sent: all.sent + one.sent,
            won: all.won + one.won,
            refused: all.refused + one.refused,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Budget, hedge::Suits};

    #[tokio::test(start_paused = true)]
    async fn a_slow_method_is_not_hedged_by_the_latency_of_a_quick_one() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let methods = Methods::new(HedgePolicy::default());
        let slow = (0..).map(|nth| format!("/slow/{nth}"));
        let mut apart = slow.filter(|path| !Arc::ptr_eq(methods.of("/quick", now), methods.of(path, now)));
        let slow = apart.next().unwrap();
        for _ in 0..200 {
            methods.of("/quick", now).answered(ms(1), now);
            methods.of(&slow, now).answered(ms(1000), now);
        }
        let get = Suits { idempotent: true, kept: true, nested: false };
        assert!(methods.of("/quick", now).after(get, now).unwrap() < ms(2));
        assert!(methods.of(&slow, now).after(get, now).unwrap() >= ms(1500));
        assert!(methods.of(&slow, now).take(&Budget::new(0.2, 10, now), now));
        assert_eq!(methods.stats().sent, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_paths_there_are_the_slots_are_not_more() {
        let (now, methods) = (Instant::now(), Methods::new(HedgePolicy::default()));
        for nth in 0..10_000 {
            methods.of(&format!("/users/{nth}"), now).answered(Duration::from_millis(1), now);
        }
        assert_eq!(methods.slots.iter().filter(|slot| slot.get().is_some()).count(), SLOTS);
    }
}
