//! What counts the calls inside a server and admits more.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use meshwork_core::Priority;
use tokio::time::Instant;

use super::{Adaptive, AdaptivePolicy, Shares, Window};
use crate::{Full, Overload};

/// What a refusal asks for before another attempt.
const PAUSE: Duration = Duration::from_millis(50);
/// Answers that make a window.
const LEAST: u32 = 16;

/// Counts the calls inside, finds how many may be, and refuses the others by priority. Shared by all connections of
/// a server.
///
/// Admitting and finishing a call take no lock and no allocation; once per window one of them moves the limit.
///
/// ```
/// use std::sync::Arc;
/// use meshwork_core::Priority;
/// use meshwork_resilience::shed::{Ended, Shedder};
/// use tokio::time::Instant;
/// let shedder = Arc::new(Shedder::default());
/// let call = shedder.admit(Priority::Normal, Instant::now())?;
/// // … the handler runs …
/// call.finish(Instant::now(), Ended::Answered);
/// assert_eq!(shedder.stats().inside, 0);
/// # Ok::<(), meshwork_resilience::Overload>(())
/// ```
#[derive(Debug)]
pub struct Shedder {
    shares: Shares,
    /// By priority, from sheddable up.
    rooms: [AtomicU32; 3],
    calm_room: AtomicU32,
    /// The calm latency in nanoseconds; 0 = unknown.
    calm: AtomicU64,
    inside: AtomicU32,
    refused: [AtomicU64; 3],
    seen: Seen,
    window: Duration,
    start: Instant,
    /// When the window may close, in ms since the start.
    closes: AtomicU64,
    adaptive: Mutex<Adaptive>,
}

/// What the window under way has seen.
#[derive(Debug, Default)]
struct Seen {
    answered: AtomicU32,
    nanos: AtomicU64,
    calm: AtomicU32,
    calm_nanos: AtomicU64,
    refused: AtomicBool,
}

/// The counters of a [`Shedder`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShedStats {
    /// Calls inside now.
    pub inside: u32,
    /// The room for normal calls now.
    pub limit: u32,
    /// Sheddable calls refused.
    pub refused_sheddable: u64,
    /// Normal calls refused.
    pub refused_normal: u64,
    /// Critical calls refused.
    pub refused_critical: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// With an answer: its latency tells how busy the server is.
    Answered,
    /// With a failure that says nothing of load: one that fails fast must not make the server look quick.
    Failed,
}

impl Default for Shedder {
    fn default() -> Self {
        Self::new(AdaptivePolicy::default(), Shares::default(), Instant::now())
    }
}

impl Shedder {
    /// With nobody inside.
    pub fn new(policy: AdaptivePolicy, shares: Shares, now: Instant) -> Self {
        let shedder = Self {
            shares,
            rooms: Default::default(),
            calm_room: AtomicU32::new(1),
            calm: AtomicU64::new(0),
            inside: AtomicU32::new(0),
            refused: Default::default(),
            seen: Seen::default(),
            window: policy.clamped().window,
            start: now,
            closes: AtomicU64::new(0),
            adaptive: Mutex::new(Adaptive::new(policy, now)),
        };
        shedder.publish(&Adaptive::new(policy, now), now);
        shedder
    }

    /// Lets a call in if there is room for its priority.
    ///
    /// # Errors
    /// [`Full::Shed`].
    pub fn admit(self: &Arc<Self>, priority: Priority, now: Instant) -> Result<Admitted, Overload> {
        let inside = self.inside.fetch_add(1, Relaxed).saturating_add(1);
        if inside > self.rooms[rank(priority)].load(Relaxed) {
            self.inside.fetch_sub(1, Relaxed);
            self.refused[rank(priority)].fetch_add(1, Relaxed);
            self.seen.refused.store(true, Relaxed);
            return Err(Overload::new(Full::Shed, PAUSE));
        }
        let calm = inside <= self.calm_room.load(Relaxed);
        Ok(Admitted { shedder: Arc::clone(self), began: now, calm, finished: false })
    }

    /// The counters.
    pub fn stats(&self) -> ShedStats {
        let refused = |priority| self.refused[rank(priority)].load(Relaxed);
        ShedStats {
            inside: self.inside.load(Relaxed),
            limit: self.rooms[rank(Priority::Normal)].load(Relaxed),
            refused_sheddable: refused(Priority::Sheddable),
            refused_normal: refused(Priority::Normal),
            refused_critical: refused(Priority::Critical),
        }
    }

    fn since(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64
    }

    fn publish(&self, adaptive: &Adaptive, now: Instant) {
        let looking = adaptive.is_looking();
        // A look halves all rooms, that of critical calls too: many of them must not be all that it sees.
        let room = |priority| {
            let room = self.shares.room(adaptive.limit(), priority);
            if looking { (room / 2).max(1) } else { room }
        };
        for priority in [Priority::Sheddable, Priority::Normal, Priority::Critical] {
            self.rooms[rank(priority)].store(room(priority), Relaxed);
        }
        let calm_room = match adaptive.is_blind() {
            true if looking => room(Priority::Critical),
            _ => adaptive.calm_room(),
        };
        self.calm_room.store(calm_room, Relaxed);
        self.calm.store(adaptive.calm().map_or(0, |calm| calm.as_nanos() as u64), Relaxed);
        self.closes.store(self.since(now) + self.window.as_millis() as u64, Relaxed);
    }

    fn took(&self, latency: Duration, calm: bool, now: Instant) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let answered = self.seen.answered.fetch_add(1, Relaxed).saturating_add(1);
        self.seen.nanos.fetch_add(nanos, Relaxed);
        if calm {
            self.seen.calm.fetch_add(1, Relaxed);
            self.seen.calm_nanos.fetch_add(nanos, Relaxed);
        }
        if answered >= LEAST && self.since(now) >= self.closes.load(Relaxed) {
            self.close(now);
        }
    }

    fn close(&self, now: Instant) {
        // Whoever finds it taken leaves it to the other.
        let mut adaptive = match self.adaptive.try_lock() {
            Ok(adaptive) => adaptive,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(std::sync::TryLockError::WouldBlock) => return,
        };
        if self.since(now) < self.closes.load(Relaxed) {
            return;
        }
        let window = Window {
            answered: self.seen.answered.swap(0, Relaxed),
            total: Duration::from_nanos(self.seen.nanos.swap(0, Relaxed)),
            calm: self.seen.calm.swap(0, Relaxed),
            calm_total: Duration::from_nanos(self.seen.calm_nanos.swap(0, Relaxed)),
            refused: self.seen.refused.swap(false, Relaxed),
        };
        adaptive.step(&window, now);
        self.publish(&adaptive, now);
    }
}

fn rank(priority: Priority) -> usize {
    match priority {
        Priority::Sheddable => 0,
        Priority::Normal => 1,
        Priority::Critical => 2,
    }
}

/// A call inside. Dropping it is a cancel: it leaves, and how long it was there counts as a lower bound.
#[derive(Debug)]
#[must_use = "dropping it says that the call was cancelled"]
pub struct Admitted {
    shedder: Arc<Shedder>,
    began: Instant,
    calm: bool,
    finished: bool,
}

impl Admitted {
    /// The call ended.
    pub fn finish(mut self, now: Instant, ended: Ended) {
        self.finished = true;
        self.shedder.inside.fetch_sub(1, Relaxed);
        if ended == Ended::Answered {
            self.shedder.took(now.saturating_duration_since(self.began), self.calm, now);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let now = Instant::now();
        self.shedder.inside.fetch_sub(1, Relaxed);
        // One that left early says nothing; one that left late was slow.
        let age = now.saturating_duration_since(self.began);
        let calm = self.shedder.calm.load(Relaxed);
        if calm > 0 && age > Duration::from_nanos(calm) {
            self.shedder.took(age, false, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn full(shedder: &Arc<Shedder>, priority: Priority, now: Instant) -> Vec<Admitted> {
        std::iter::from_fn(|| shedder.admit(priority, now).ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_room_of_each_priority_is_kept() {
        let (shedder, now) = (Arc::new(Shedder::default()), Instant::now());
        let sheddable = full(&shedder, Priority::Sheddable, now);
        let normal = full(&shedder, Priority::Normal, now);
        let critical = full(&shedder, Priority::Critical, now);
        assert_eq!((sheddable.len(), normal.len(), critical.len()), (16, 4, 8));
        let stats = shedder.stats();
        assert_eq!((stats.inside, stats.limit), (28, 20));
        assert_eq!((stats.refused_sheddable, stats.refused_normal, stats.refused_critical), (1, 1, 1));
        drop((sheddable, normal, critical));
        assert_eq!(shedder.stats().inside, 0);
        assert_eq!(Arc::strong_count(&shedder), 1);
    }

    /// Keeps a server full for two seconds, that answers calls after 10 ms at the earliest and at most so many
    /// each millisecond.
    fn keep_full(shedder: &Arc<Shedder>, now: &mut Instant, answers: usize, ended: Ended) {
        let mut inside: VecDeque<(Instant, Admitted)> = VecDeque::new();
        for _ in 0..2000 {
            inside.extend(full(shedder, Priority::Normal, *now).into_iter().map(|call| (*now, call)));
            *now += MS;
            for _ in 0..answers {
                let due = inside.front().is_some_and(|(began, _)| *now >= *began + 10 * MS);
                let Some((_, call)) = due.then(|| inside.pop_front()).flatten() else { break };
                call.finish(*now, ended);
            }
        }
        inside.into_iter().for_each(|(_, call)| call.finish(*now, Ended::Failed));
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_follows_the_latency_of_answers_and_of_nothing_else() {
        let (shedder, mut now) = (Arc::new(Shedder::default()), Instant::now());
        keep_full(&shedder, &mut now, 8, Ended::Answered);
        let most = shedder.stats().limit;
        assert!((72..=100).contains(&most), "80 are served at a time, and {most} are let in");
        keep_full(&shedder, &mut now, 1, Ended::Failed);
        assert_eq!(shedder.stats().limit, most, "failures teach nothing");
        keep_full(&shedder, &mut now, 1, Ended::Answered);
        let least = shedder.stats().limit;
        assert!((8..=20).contains(&least), "10 are served at a time, and {least} are let in");
        assert_eq!(Arc::strong_count(&shedder), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_cut_at_their_deadlines_lower_the_limit() {
        let shedder = Arc::new(Shedder::default());
        for _ in 0..20 {
            let call = shedder.admit(Priority::Normal, Instant::now()).unwrap();
            tokio::time::advance(10 * MS).await;
            call.finish(Instant::now(), Ended::Answered);
        }
        let before = shedder.stats().limit;
        for _ in 0..5 {
            let cut = full(&shedder, Priority::Normal, Instant::now());
            tokio::time::advance(1000 * MS).await;
            drop(cut);
        }
        assert!(shedder.stats().limit < before, "{} of {before}", shedder.stats().limit);
    }
}
