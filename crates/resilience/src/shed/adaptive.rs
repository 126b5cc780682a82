//! How many calls a server may hold before they only wait for each other.
//!
//! By the gradient of latency, as TCP Vegas (Brakmo, O'Malley, Peterson, SIGCOMM 1994) and Netflix's
//! concurrency-limits (2018) do it: at latency `mean`, of `limit` calls inside, `limit × calm / mean` are being
//! served and the others wait; the limit moves to what is served and its square root besides (Halfin, Whitt 1981).
//! What calm latency is comes from calls that met few others, and under lasting overload from a short look at
//! half the limit now and then, as in BBR (Cardwell et al., ACM Queue 2016): without it the queue of yesterday
//! becomes the norm.

use std::time::Duration;

use tokio::time::Instant;

/// Calm latencies that make a look complete.
const LOOKS: u32 = 16;
/// How many calls the calm latency remembers.
const MEMORY: f64 = 32.0;
/// With a calm call among this many, no queue stands.
const STANDING: u32 = 8;
/// The longest look, in calm latencies and at least.
const LOOK_LATENCIES: u32 = 10;
const LOOK_LEAST: Duration = Duration::from_millis(100);

/// Where the limit begins and ends, and how often it moves.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct AdaptivePolicy {
    /// The limit in the beginning, and the one it returns to while nothing is refused. Default 20 calls.
    pub initial: u32,
    /// The lowest limit, 1 and up. Default 2 calls.
    pub least: u32,
    /// The highest limit, up to 1 000 000. Default 4 096 calls.
    pub most: u32,
    /// How long latencies are gathered before the limit moves, 10 ms to 10 s. Default 50 ms.
    pub window: Duration,
    /// How old the calm latency may become under overload before a look is taken, 1 s and up. Default 5 s.
    pub look: Duration,
}

impl Default for AdaptivePolicy {
    fn default() -> Self {
        Self {
            initial: 20,
            least: 2,
            most: 4096,
            window: Duration::from_millis(50),
            look: Duration::from_secs(5),
        }
    }
}

impl AdaptivePolicy {
    /// With each value inside its range.
    pub fn clamped(self) -> Self {
        let most = self.most.clamp(1, 1_000_000);
        let least = self.least.clamp(1, most);
        Self {
            initial: self.initial.clamp(least, most),
            least,
            most,
            window: self.window.clamp(Duration::from_millis(10), Duration::from_secs(10)),
            look: self.look.max(Duration::from_secs(1)),
        }
    }
}

/// What was seen since the limit moved last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Calls answered.
    pub answered: u32,
    /// The sum of their latencies.
    pub total: Duration,
    /// Those of them that met few others: at their beginning at most [`Adaptive::calm_room`] were inside.
    pub calm: u32,
    /// The sum of the latencies of these.
    pub calm_total: Duration,
    /// Whether a call was refused.
    pub refused: bool,
}

/// The limit: a pure state machine, moved once per [`Window`].
///
/// It is not for calls of very different kinds at once: what is compared is the mean of all. Give each kind of
/// calls that takes ten times the time of another a limit of its own, where that matters.
#[derive(Clone, Copy, Debug)]
pub struct Adaptive {
    policy: AdaptivePolicy,
    limit: f64,
    /// The mean latency of calls that met few others, in seconds; 0 = unknown.
    calm: f64,
    /// When that was known last.
    calm_at: Instant,
    /// Until when the latencies are those of an earlier limit.
    settled: Instant,
    look: Option<Look>,
}

/// A look under way.
#[derive(Clone, Copy, Debug)]
struct Look {
    since: Instant,
    calm: u32,
}

impl Adaptive {
    /// At its initial limit.
    pub fn new(policy: AdaptivePolicy, now: Instant) -> Self {
        let policy = policy.clamped();
        Self { policy, limit: f64::from(policy.initial), calm: 0.0, calm_at: now, settled: now, look: None }
    }

    /// The limit, without regard to a look.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// The limit for now: half of it during a look.
    pub fn room(&self) -> f64 {
        if self.look.is_some() { (self.limit / 2.0).max(1.0) } else { self.limit }
    }

    /// How many calls may be inside for a latency to count as calm.
    pub fn calm_room(&self) -> u32 {
        ((self.limit / 2.0) as u32).max(1)
    }

    /// The latency of calls that met few others.
    pub fn calm(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.calm).ok().filter(|calm| !calm.is_zero())
    }

    /// Whether a look is under way.
    pub fn is_looking(&self) -> bool {
        self.look.is_some()
    }

    /// Moves on at the end of a window.
    pub fn step(&mut self, window: &Window, now: Instant) {
        self.learn(window, now);
        if window.answered > 0 && self.look.is_none() {
            self.limit = self.moved(window, now);
        }
        self.look = self.looking(window, now);
    }

    fn learn(&mut self, window: &Window, now: Instant) {
        if window.calm == 0 {
            return;
        }
        let calm = window.calm_total.as_secs_f64() / f64::from(window.calm);
        let share = f64::from(window.calm) / (f64::from(window.calm) + MEMORY);
        if self.calm == 0.0 {
            self.calm = calm;
        } else if self.look.is_some() {
            // The calls before the look began are few, and those in it are what was looked for.
            self.calm += (calm - self.calm) * share.max(0.5);
        } else if calm < self.calm {
            self.calm += (calm - self.calm) * share;
        } else {
            // While load rises, calls that met others pass for calm ones: upwards with care.
            self.calm += (calm - self.calm) * share / 4.0;
        }
        if window.calm >= LOOKS {
            self.calm_at = now;
        }
    }

    fn moved(&mut self, window: &Window, now: Instant) -> f64 {
        let AdaptivePolicy { initial, least, most, .. } = self.policy;
        let limit = self.limit;
        let mean = window.total / window.answered;
        let gradient = match mean.as_secs_f64() {
            mean if mean > 0.0 && self.calm > 0.0 => (self.calm / mean).clamp(0.25, 1.0),
            _ => 1.0,
        };
        let target = limit * gradient + limit.sqrt().max(2.0);
        // A queue that drains between bursts is what a queue is for; only one that stands is an overload.
        let stands = window.calm < window.answered / STANDING;
        let moved = if window.refused && target > limit {
            target
        } else if !(window.refused && stands) {
            // Nothing is known against more; a limit from an overload that is over only harms bursts.
            limit + (f64::from(initial) - limit).max(0.0) * 0.05
        } else if now < self.settled {
            limit
        } else if gradient < 0.5 {
            // Far off: at once, and then the calls that were let in before do not count against it again.
            self.settled = now.checked_add(mean).unwrap_or(now);
            target
        } else {
            limit + (target - limit) * 0.5
        };
        moved.clamp(f64::from(least), f64::from(most))
    }

    fn looking(&mut self, window: &Window, now: Instant) -> Option<Look> {
        let Some(look) = self.look else {
            let old = now.saturating_duration_since(self.calm_at) >= self.policy.look;
            return (window.refused && old).then_some(Look { since: now, calm: 0 });
        };
        let calm = look.calm.saturating_add(window.calm);
        let longest = self.calm().unwrap_or_default().saturating_mul(LOOK_LATENCIES).max(LOOK_LEAST);
        if calm >= LOOKS || now.saturating_duration_since(look.since) >= longest {
            // Also when it saw little: looks cost calls.
            self.calm_at = now;
            return None;
        }
        Some(Look { calm, ..look })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A window of calls that all took `latency`.
    fn window(answered: u32, latency: Duration, refused: bool) -> Window {
        Window { answered, total: latency * answered, calm: 0, calm_total: Duration::ZERO, refused }
    }

    fn calm(answered: u32, latency: Duration) -> Window {
        Window { calm: answered, calm_total: latency * answered, ..window(answered, latency, false) }
    }

    #[tokio::test(start_paused = true)]
    async fn goes_to_what_is_served_and_its_square_root() {
        let mut now = Instant::now();
        for served in [4.0, 40.0, 400.0] {
            let mut adaptive = Adaptive::new(AdaptivePolicy::default(), now);
            adaptive.step(&calm(100, 10 * MS), now);
            for _ in 0..200 {
                now += 100 * MS;
                // Whoever is above what is served waits.
                let latency = (10 * MS).mul_f64((adaptive.limit() / served).max(1.0));
                adaptive.step(&window(100, latency, true), now);
                adaptive.calm_at = now;
            }
            let expected = served + adaptive.limit().sqrt();
            assert!((adaptive.limit() / expected - 1.0).abs() < 0.05, "{} for {expected}", adaptive.limit());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_refusal_it_only_returns_to_its_beginning() {
        let mut now = Instant::now();
        let mut adaptive = Adaptive::new(AdaptivePolicy::default(), now);
        adaptive.step(&calm(100, 10 * MS), now);
        adaptive.step(&window(100, 1000 * MS, false), now);
        assert_eq!(adaptive.limit(), 20.0, "slow calls alone are no reason to refuse any");
        for _ in 0..20 {
            now += 100 * MS;
            adaptive.step(&window(100, 1000 * MS, true), now);
        }
        assert!(adaptive.limit() < 8.0, "{}", adaptive.limit());
        for _ in 0..50 {
            now += 100 * MS;
            adaptive.step(&calm(30, 10 * MS), now);
        }
        assert!(adaptive.limit() > 18.0, "{}", adaptive.limit());
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_is_taken_when_calm_latencies_are_old_and_ends() {
        let start = Instant::now();
        let mut adaptive = Adaptive::new(AdaptivePolicy::default(), start);
        adaptive.step(&calm(16, 10 * MS), start);
        adaptive.step(&window(16, 20 * MS, true), start + 4900 * MS);
        assert!(!adaptive.is_looking());
        adaptive.step(&window(16, 20 * MS, true), start + 5000 * MS);
        assert!(adaptive.is_looking() && adaptive.room() <= adaptive.limit() / 2.0);
        let before = adaptive.limit();
        // Handlers became slower: the look tells it from a queue.
        adaptive.step(&calm(32, 30 * MS), start + 5100 * MS);
        assert!(!adaptive.is_looking() && adaptive.limit() == before);
        assert!(adaptive.calm().unwrap() >= 20 * MS, "{:?}", adaptive.calm());
        adaptive.step(&window(16, 20 * MS, true), start + 10_200 * MS);
        assert!(adaptive.is_looking());
        adaptive.step(&window(1, 20 * MS, true), start + 10_600 * MS);
        assert!(!adaptive.is_looking(), "a look without calm calls ends too");
        adaptive.step(&window(16, 20 * MS, true), start + 15_500 * MS);
        assert!(!adaptive.is_looking(), "and the next one comes no sooner for that");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_makes_it_leave_its_range() {
        let now = Instant::now();
        let policy = AdaptivePolicy { initial: 0, least: 7, most: 3, ..AdaptivePolicy::default() };
        let mut adaptive = Adaptive::new(policy, now);
        assert_eq!(adaptive.limit(), 3.0);
        for window in [
            window(0, Duration::ZERO, true),
            window(1, Duration::ZERO, true),
            window(u32::MAX, Duration::from_nanos(1), true),
            calm(1, Duration::from_secs(u64::MAX / 2)),
        ] {
            adaptive.step(&window, now);
            assert!(adaptive.limit() == 3.0 && adaptive.room() >= 1.0 && adaptive.calm_room() >= 1);
        }
    }
}
