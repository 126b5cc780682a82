//! How long to pause after a failure: doubling from a first pause to a longest one, with jitter.

use std::time::Duration;

use crate::chance;

/// How a pause is spread by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Jitter {
    /// Anywhere between nothing and the pause ("Exponential Backoff And Jitter", Brooker, AWS 2015): the
    /// most even load when many fail at once.
    Full,
    /// The pause more or less a fifth (gRFC A6 and gRPC's connection back-off): nearly as long as it says.
    Fifth,
    /// More or less a tenth: for what must not happen everywhere at once, such as the end of a connection's age.
    Tenth,
}

impl Jitter {
    /// `pause`, spread. `random` is uniform bits ([`chance::bits`]).
    pub fn spread(self, pause: Duration, random: u64) -> Duration {
        let unit = chance::unit(random);
        let share = match self {
            Self::Full => unit,
            Self::Fifth => 0.8 + 0.4 * unit,
            Self::Tenth => 0.9 + 0.2 * unit,
        };
        // One too long to be multiplied stays as it is.
        Duration::try_from_secs_f64(pause.as_secs_f64() * share).unwrap_or(pause)
    }
}

/// A back-off: the nth pause is `first × 2ⁿ`, at most `longest`, spread by `jitter`.
///
/// ```
/// use std::time::Duration;
/// use meshwork_resilience::{Backoff, Jitter, chance};
/// let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), Jitter::Fifth);
/// assert!(backoff.pause(0, chance::bits()) >= Duration::from_millis(80));
/// assert!(backoff.pause(99, chance::bits()) <= Duration::from_secs(6));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    jitter: Jitter,
}

impl Backoff {
    /// Between two retries of a call: 10 ms doubling to 1 s, full jitter.
    pub const RETRY: Self = Self::new(Duration::from_millis(10), Duration::from_secs(1), Jitter::Full);
    /// Between two dials of a node: 100 ms doubling to 5 s, ± a fifth.
    pub const CONNECT: Self = Self::new(Duration::from_millis(100), Duration::from_secs(5), Jitter::Fifth);

    /// A back-off from `first` doubling to `longest`.
    pub const fn new(first: Duration, longest: Duration, jitter: Jitter) -> Self {
        Self { first, longest, jitter }
    }

    /// The `nth` pause, from 0. `random` is uniform bits ([`chance::bits`]).
    pub fn pause(&self, nth: u32, random: u64) -> Duration {
        let pause = self.first.saturating_mul(1 << nth.min(30)).min(self.longest);
        self.jitter.spread(pause, random)
    }
}

/// A [`Backoff`] that counts the failures itself.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    backoff: Backoff,
    failures: u32,
}

impl Pauses {
    /// Before any failure.
    pub const fn new(backoff: Backoff) -> Self {
        Self { backoff, failures: 0 }
    }

    /// The pause after one more failure. `random` is uniform bits ([`chance::bits`]).
    pub fn next(&mut self, random: u64) -> Duration {
        let pause = self.backoff.pause(self.failures, random);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_five_seconds() {
        let mut pauses = Pauses::new(Backoff::CONNECT);
        for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let millis = pauses.next(chance::bits()).as_millis();
            assert!((expected * 4 / 5..=expected * 6 / 5).contains(&millis), "{millis} for {expected}");
        }
        pauses.reset();
        assert!(pauses.next(chance::bits()) <= Duration::from_millis(120));
    }

    #[test]
    fn jitter_stays_within_a_fifth_or_a_tenth() {
        for _ in 0..1000 {
            let millis =
                |jitter: Jitter| jitter.spread(Duration::from_millis(100), chance::bits()).as_millis();
            assert!(
                (80..=120).contains(&millis(Jitter::Fifth)) && (90..=110).contains(&millis(Jitter::Tenth))
            );
        }
    }

    #[test]
    fn full_jitter_reaches_from_nothing_to_the_whole_pause() {
        let ms = Duration::from_millis;
        assert_eq!(Backoff::RETRY.pause(1, 0), Duration::ZERO);
        assert!(Backoff::RETRY.pause(1, u64::MAX) > ms(19) && Backoff::RETRY.pause(1, u64::MAX) <= ms(20));
        let mean = (0..1000).map(|_| Backoff::RETRY.pause(3, chance::bits())).sum::<Duration>() / 1000;
        assert!((ms(30)..=ms(50)).contains(&mean), "{mean:?} is about the half of 80 ms");
    }

    #[test]
    fn the_longest_of_all_neither_panics_nor_grows() {
        let endless = Backoff::new(Duration::MAX, Duration::MAX, Jitter::Fifth);
        assert!(endless.pause(u32::MAX, u64::MAX) <= Duration::MAX);
        let full = Backoff::new(Duration::MAX, Duration::MAX, Jitter::Full);
        assert!(full.pause(u32::MAX, u64::MAX) <= Duration::MAX);
        assert!(Backoff::RETRY.pause(u32::MAX, u64::MAX) <= Duration::from_secs(1));
    }
}
