//! How many calls a server may hold before they only wait for each other.
//!
//! By the gradient of latency, as TCP Vegas (Brakmo, O'Malley, Peterson, SIGCOMM 1994) and Netflix's
//! concurrency-limits (2018) do it: at latency `mean`, of `limit` calls inside, `limit × calm / mean` are being
//! served and the others wait; the limit moves to what is served and its square root besides (Halfin, Whitt 1981).
//! Until a queue is seen for the first time it doubles where calls are refused for nothing, the slow start of TCP
//! (Jacobson, SIGCOMM 1988): a server that does 400 calls at a time must not refuse a third of them for a second.
//! What calm latency is comes from calls that met few others, and under lasting overload from a short look at
//! half the limit now and then, as in BBR (Cardwell et al., ACM Queue 2016) and Envoy's gradient controller: without
//! it the queue of yesterday becomes the norm, the drift of the target that Uber's Cinnamon tells of (2023). It is a
//! plain mean, for rising and falling latencies alike: one that falls faster than it rises stays below the mean of
//! service times that differ, and whoever believes it refuses calls that idle workers could serve.

use std::time::Duration;

use tokio::time::Instant;

/// Calm latencies that make a look complete.
const LOOKS: u32 = 16;
/// How many calls the calm latency remembers.
const MEMORY: f64 = 32.0;
/// With a calm call among this many, no queue stands.
const STANDING: u32 = 8;
/// With the mean latency so near to the calm one, nobody waits.
const CLEAR: f64 = 0.9;
/// With it so far off, somebody does.
const QUEUED: f64 = 0.8;
/// Between two looks at least so many calm latencies: each costs some of them.
const BETWEEN_LOOKS: u32 = 200;
/// How soon after one there may be another when the limit has halved and falls no more: a calm latency that is
/// believed too low, as that of a few first calls of very different lengths, would shut the server.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A limit below so much of the one before falls.
const FALLS: f64 = 0.95;
/// The shortest look, in calm latencies: the first calls to end in it are the short ones.
const LOOK_LATENCIES: u32 = 5;
/// The longest is twice that, or this.
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
    /// How old the calm latency may become under overload before a look is taken, 1 s and up, and never less than
    /// two hundred such latencies. Default 5 s.
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
    /// How many of them it is the mean of, up to [`MEMORY`] and the calls of the last look.
    known: f64,
    /// Whether the last look saw too few.
    blind: bool,
    /// Until when calls of the last look may end.
    gathered: Instant,
    /// When that was known last.
    calm_at: Instant,
    /// Until when the latencies are those of an earlier limit.
    settled: Instant,
    /// The highest limit since the last look.
    highest: f64,
    /// Half the lowest limit that has made calls wait: below it the limit may double.
    doubles_below: f64,
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
        let limit = f64::from(policy.initial);
        Self {
            policy,
            limit,
            calm: 0.0,
            known: 0.0,
            gathered: now,
            blind: false,
            calm_at: now,
            settled: now,
            doubles_below: f64::MAX,
            highest: limit,
            look: None,
        }
    }

    /// The limit; during a look only half of it is let in.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// How many calls may be inside for a latency to count as calm: half the limit. Outside of a look half the
    /// initial one at most, for what a limit that is still sought lets in is no proof of calm.
    pub fn calm_room(&self) -> u32 {
        let known = if self.look.is_some() { f64::INFINITY } else { f64::from(self.policy.initial) };
        ((self.limit.min(known) / 2.0) as u32).max(1)
    }

    /// Whether the last look saw too few calls that met few others: more than half the limit are always inside, and the
    /// next look has to do with whatever comes in.
    pub fn is_blind(&self) -> bool {
        self.blind
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
        let before = self.limit;
        if window.answered > 0 && self.look.is_none() {
            self.limit = self.moved(window, now);
            self.highest = self.highest.max(self.limit);
        }
        self.look = match self.look {
            Some(look) => self.looks_on(look, window, now),
            None => self.looks(window, before, now),
        };
    }

    fn learn(&mut self, window: &Window, now: Instant) {
        if window.calm == 0 {
            return;
        }
        let calm = window.calm_total.as_secs_f64() / f64::from(window.calm);
        let count = f64::from(window.calm);
        // A look is one sample: its long calls, which end after it, count no more than its short ones.
        if self.look.is_none() && now >= self.gathered {
            self.known = self.known.min(MEMORY);
        }
        self.calm += (calm - self.calm) * count / (count + self.known);
        self.known += count;
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
        if window.refused && gradient < QUEUED {
            self.doubles_below = self.doubles_below.min(limit / 2.0);
        }
        let clear = window.refused && stands && gradient >= CLEAR && limit < self.doubles_below;
        let (moved, settles) = if now < self.settled {
            (limit, Duration::ZERO)
        } else if clear {
            // Seen in the second latency under the new limit: the first is of calls that found room at once.
            (limit * 2.0, mean.saturating_mul(2))
        } else if window.refused && target > limit {
            (target, mean)
        } else if !(window.refused && stands) {
            // Nothing is known against more; a limit from an overload that is over only harms bursts.
            (limit + (f64::from(initial) - limit).max(0.0) * 0.05, Duration::ZERO)
        } else if gradient < 0.5 {
            // Far off: at once.
            (target, mean)
        } else {
            (limit + (target - limit) * 0.5, mean)
        };
        // The calls that were let in before do not count again.
        self.settled = now.checked_add(settles).unwrap_or(now).max(self.settled);
        moved.clamp(f64::from(least), f64::from(most))
    }

    /// Whether it is time for a look; the limit was `before` in the window before this one.
    fn looks(&mut self, window: &Window, before: f64, now: Instant) -> Option<Look> {
        let latencies = |count| self.calm().unwrap_or_default().saturating_mul(count);
        let falls = self.limit < before * FALLS;
        let interval = if self.limit <= self.highest / 2.0 && !falls {
            latencies(BETWEEN_LOOKS / 4).max(LOOK_AGAIN)
        } else {
            latencies(BETWEEN_LOOKS).max(self.policy.look)
        };
        if !window.refused || now.saturating_duration_since(self.calm_at) < interval {
            return None;
        }
        // What is looked for counts more than what was believed before.
        self.known = self.known.min(f64::from(LOOKS) / 4.0);
        self.highest = self.limit;
        Some(Look { since: now, calm: 0 })
    }

    fn looks_on(&mut self, look: Look, window: &Window, now: Instant) -> Option<Look> {
        let calm = look.calm.saturating_add(window.calm);
        let lasted = now.saturating_duration_since(look.since);
        let shortest = self.calm().unwrap_or_default().saturating_mul(LOOK_LATENCIES);
        if calm >= LOOKS && lasted >= shortest || lasted >= shortest.saturating_mul(2).max(LOOK_LEAST) {
            self.gathered = now.checked_add(shortest).unwrap_or(now);
            self.blind = calm < LOOKS;
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
    async fn it_doubles_until_calls_wait_for_the_first_time_and_never_again() {
        let mut now = Instant::now();
        let mut adaptive = Adaptive::new(AdaptivePolicy::default(), now);
        adaptive.step(&calm(100, 10 * MS), now);
        let served = 400.0;
        let mut refuse = |adaptive: &mut Adaptive, windows| {
            for _ in 0..windows {
                now += 50 * MS;
                let latency = (10 * MS).mul_f64((adaptive.limit() / served).max(1.0));
                adaptive.step(&window(100, latency, true), now);
            }
        };
        refuse(&mut adaptive, 5);
        assert_eq!(adaptive.limit(), 640.0, "20 doubles five times");
        refuse(&mut adaptive, 100);
        assert!((adaptive.limit() / 420.0 - 1.0).abs() < 0.05, "{}", adaptive.limit());
        // As after an overload that is over: it goes on from here step by step.
        adaptive.limit = 20.0;
        refuse(&mut adaptive, 1);
        assert_eq!(adaptive.limit(), 40.0, "below half of what was too much");
        adaptive.doubles_below = 40.0;
        refuse(&mut adaptive, 1);
        assert!(adaptive.limit() < 50.0, "{}", adaptive.limit());
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
        assert!(adaptive.is_looking());
        let before = adaptive.limit();
        // Handlers became slower: the look tells it from a queue.
        adaptive.step(&calm(32, 30 * MS), start + 5200 * MS);
        assert!(!adaptive.is_looking() && adaptive.limit() == before);
        assert!(adaptive.calm().unwrap() >= 20 * MS, "{:?}", adaptive.calm());
        adaptive.step(&window(16, 20 * MS, true), start + 10_900 * MS);
        assert!(adaptive.is_looking());
        adaptive.step(&window(1, 20 * MS, true), start + 11_300 * MS);
        assert!(!adaptive.is_looking(), "a look without calm calls ends too");
        adaptive.step(&window(16, 20 * MS, true), start + 16_200 * MS);
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
            assert!(adaptive.limit() == 3.0 && adaptive.calm_room() >= 1);
        }
    }
}
