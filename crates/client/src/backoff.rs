//! When a node is dialled again: 100 ms after the first failure, doubling to 5 s, ± 20 %.

use std::time::Duration;

use crate::clock::jittered;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The pause before the next dial.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures += 1;
        jittered(pause)
    }

    /// Begins anew.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_five_seconds() {
        let mut backoff = Backoff::default();
        for expected in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let millis = backoff.next().as_millis();
            assert!((expected * 4 / 5..=expected * 6 / 5).contains(&millis), "{millis} for {expected}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(120));
    }
}
