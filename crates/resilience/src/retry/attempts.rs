//! The error of a call that was tried more than once: each attempt, and why there is no further one.

use std::{error::Error, fmt, time::Duration};

use meshwork_core::{Delivered, Verdict};

/// One failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// What happened, in the words of the error or the status of the answer.
    pub what: String,
    /// How long it took.
    pub elapsed: Duration,
    /// What followed: `re-routed`, `retried`, or why it ended there.
    pub then: &'static str,
}

impl Attempt {
    pub(super) fn new(what: String, elapsed: Duration, then: &'static str) -> Self {
        Self { what, elapsed, then }
    }
}

/// The last error of a call, with all its attempts.
#[derive(Clone, Debug)]
pub struct Tried<E> {
    last: E,
    delivered: Delivered,
    attempts: Vec<Attempt>,
}

impl<E: Verdict> Tried<E> {
    pub(super) fn new(last: E, earlier: Delivered, attempts: Vec<Attempt>) -> Self {
        // Any attempt may have been the one that was delivered.
        let delivered = if earlier == Delivered::Maybe { earlier } else { last.delivered() };
        Self { last, delivered, attempts }
    }
}

impl<E> Tried<E> {
    /// The attempts, in order; one at least.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// The error of the last attempt.
    pub fn last(&self) -> &E {
        &self.last
    }

    /// The error of the last attempt, alone.
    pub fn into_last(self) -> E {
        self.last
    }
}

impl<E> fmt::Display for Tried<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, attempt) in self.attempts.iter().enumerate() {
            let Attempt { what, elapsed, then } = attempt;
            let millis = elapsed.as_secs_f64() * 1000.0;
            f.write_str(if place == 0 { "attempts: " } else { "; " })?;
            write!(f, "{what} after {millis:.1} ms, {then}")?;
        }
        Ok(())
    }
}

impl<E: Error + 'static> Error for Tried<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The attempts repeat the last error's words; its causes are what is left to tell.
        self.last.source()
    }
}

impl<E: Verdict> Verdict for Tried<E> {
    fn delivered(&self) -> Delivered {
        self.delivered
    }

    fn pushback(&self) -> Option<Duration> {
        self.last.pushback()
    }
}
