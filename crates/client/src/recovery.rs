//! Whether a failed attempt goes elsewhere: free re-routes, budgeted retries, or the end.
//!
//! One decision, without I/O: the stack tells what happened and does what this says.

use std::time::Duration;

use meshwork_core::Delivered;

use crate::{
    clock::jittered,
    failure::{Failure, Reroute},
    verdict::{Pushback, Unavailable},
};

/// Free re-routes per call.
const REROUTES: u8 = 3;
/// The most attempts that retries may make.
const ATTEMPTS: u8 = 5;
/// The pause before the second retry; doubles with each further one. The first goes at once.
const PAUSE: Duration = Duration::from_millis(10);

/// What a call allows, once and for all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    /// Whether it may run twice.
    pub(crate) idempotent: bool,
    /// Whether its body is kept for a retry.
    pub(crate) kept: bool,
    /// Whether it is made inside somebody's retry.
    pub(crate) nested: bool,
    /// Attempts configured, the first included.
    pub(crate) attempts: u8,
}

/// What went wrong, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    pub(crate) delivered: Delivered,
    pub(crate) reroute: Reroute,
    /// How long the peer asked us to wait.
    pub(crate) pushback: Option<Duration>,
    /// Whether the peer asked for no other attempt.
    pub(crate) forbidden: bool,
    /// How long the call has left.
    pub(crate) left: Duration,
}

impl Trouble {
    /// Of a failed attempt of a call that has `left`.
    pub(crate) fn of(failure: &Failure, left: Duration) -> Self {
        Self {
            delivered: failure.delivered,
            reroute: failure.reroute,
            pushback: failure.pushback,
            forbidden: false,
            left,
        }
    }

    /// Of an answer by which a node said that it cannot serve.
    pub(crate) fn unavailable(answer: &Unavailable, left: Duration) -> Self {
        let (pushback, forbidden) = match answer.pushback {
            Pushback::Silent => (None, false),
            Pushback::After(pause) => (Some(pause), false),
            Pushback::Never => (None, true),
        };
        Self { delivered: Delivered::Maybe, reroute: Reroute::Never, pushback, forbidden, left }
    }
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another attempt, which is no retry.
    Reroute,
    /// A retry on another node after a pause.
    Retry(Duration),
    /// The end, and why.
    Stop(&'static str),
}

impl Next {
    /// For the list of attempts.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Reroute => "re-routed",
            Self::Retry(_) => "retried",
            Self::Stop(why) => why,
        }
    }
}

/// What a call has used up.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    reroutes: u8,
    retries: u8,
    stream_refused: bool,
}

impl Recovery {
    /// Which attempt is next, from 0; re-routes do not count.
    pub(crate) fn retries(&self) -> u8 {
        self.retries
    }

    /// Decides. `budget` takes one retry out of the budget; `others` says whether another node is there.
    pub(crate) fn next(
        &mut self,
        trouble: &Trouble,
        allowed: &Allowed,
        others: impl FnOnce() -> bool,
        budget: impl FnOnce() -> bool,
    ) -> Next {
        let free = match trouble.reroute {
            Reroute::Never => false,
            Reroute::Free => true,
            Reroute::Once => !std::mem::replace(&mut self.stream_refused, true),
            Reroute::IfIdempotent => allowed.idempotent && allowed.kept,
        };
        if free && self.reroutes < REROUTES && trouble.left > Duration::ZERO {
            self.reroutes += 1;
            return Next::Reroute;
        }
        if !allowed.idempotent {
            return Next::Stop(match trouble.delivered {
                Delivered::No if trouble.reroute == Reroute::Free => "no more re-routes",
                _ => "no retry: not idempotent",
            });
        }
        if !allowed.kept {
            return Next::Stop("no retry: the request is a stream or too large to keep");
        }
        if allowed.nested {
            return Next::Stop("no retry: the caller retries already");
        }
        if self.retries + 1 >= allowed.attempts.clamp(1, ATTEMPTS) {
            return Next::Stop("no retry: attempts used up");
        }
        if trouble.forbidden {
            return Next::Stop("no retry: the server asked for none");
        }
        let pause = match self.retries {
            0 => Duration::ZERO,
            nth => jittered(PAUSE * (1 << (nth - 1))),
        };
        let pause = pause.max(trouble.pushback.unwrap_or_default());
        if pause >= trouble.left {
            return Next::Stop("no retry: no time left");
        }
        if !others() {
            return Next::Stop("no retry: no other instance");
        }
        if !budget() {
            return Next::Stop("no retry: the budget is used up");
        }
        self.retries += 1;
        Next::Retry(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDEMPOTENT: Allowed = Allowed { idempotent: true, kept: true, nested: false, attempts: 2 };
    const LOST: Trouble = Trouble {
        delivered: Delivered::Maybe,
        reroute: Reroute::Never,
        pushback: None,
        forbidden: false,
        left: Duration::from_secs(1),
    };
    const UNSENT: Trouble = Trouble { delivered: Delivered::No, reroute: Reroute::Free, ..LOST };

    fn next(recovery: &mut Recovery, trouble: Trouble, allowed: Allowed) -> Next {
        recovery.next(&trouble, &allowed, || true, || true)
    }

    #[test]
    fn what_was_not_delivered_goes_elsewhere_three_times_for_any_call() {
        let mut recovery = Recovery::default();
        let plain = Allowed { idempotent: false, kept: false, nested: true, attempts: 1 };
        for _ in 0..3 {
            assert_eq!(next(&mut recovery, UNSENT, plain), Next::Reroute);
        }
        assert_eq!(next(&mut recovery, UNSENT, plain), Next::Stop("no more re-routes"));
        assert_eq!(recovery.retries(), 0);
    }

    #[test]
    fn a_refused_stream_goes_elsewhere_once() {
        let mut recovery = Recovery::default();
        let refused = Trouble { reroute: Reroute::Once, ..UNSENT };
        let plain = Allowed { idempotent: false, ..IDEMPOTENT };
        assert_eq!(next(&mut recovery, refused, plain), Next::Reroute);
        assert!(matches!(next(&mut recovery, refused, plain), Next::Stop(_)));
    }

    #[test]
    fn each_reason_against_a_retry_is_named() {
        let words = |trouble, allowed| next(&mut Recovery::default(), trouble, allowed).words();
        assert_eq!(words(LOST, IDEMPOTENT), "retried");
        let not = |allowed| words(LOST, allowed);
        assert_eq!(not(Allowed { idempotent: false, ..IDEMPOTENT }), "no retry: not idempotent");
        assert!(not(Allowed { kept: false, ..IDEMPOTENT }).contains("too large to keep"));
        assert!(not(Allowed { nested: true, ..IDEMPOTENT }).contains("the caller retries already"));
        assert!(not(Allowed { attempts: 1, ..IDEMPOTENT }).contains("used up"));
        assert!(words(Trouble { forbidden: true, ..LOST }, IDEMPOTENT).contains("asked for none"));
        let late = Trouble { pushback: Some(Duration::from_secs(2)), ..LOST };
        assert!(words(late, IDEMPOTENT).contains("no time left"));
        let alone = Recovery::default().next(&LOST, &IDEMPOTENT, || false, || true);
        assert!(alone.words().contains("no other instance"));
        let broke = Recovery::default().next(&LOST, &IDEMPOTENT, || true, || false);
        assert!(broke.words().contains("the budget is used up"));
    }

    #[test]
    fn never_more_than_five_attempts_and_pauses_between_the_later_ones() {
        let mut recovery = Recovery::default();
        let many = Allowed { attempts: 200, ..IDEMPOTENT };
        let pauses: Vec<Duration> = std::iter::from_fn(|| match next(&mut recovery, LOST, many) {
            Next::Retry(pause) => Some(pause),
            _ => None,
        })
        .collect();
        assert_eq!(pauses.len(), 4);
        assert_eq!(pauses[0], Duration::ZERO);
        assert!(pauses[1] >= PAUSE * 4 / 5 && pauses[3] >= PAUSE * 2);
    }

    #[test]
    fn an_idempotent_call_on_a_kept_connection_that_closed_is_free() {
        let closed = Trouble { reroute: Reroute::IfIdempotent, ..LOST };
        assert_eq!(next(&mut Recovery::default(), closed, IDEMPOTENT), Next::Reroute);
        let post = Allowed { idempotent: false, ..IDEMPOTENT };
        assert_eq!(next(&mut Recovery::default(), closed, post), Next::Stop("no retry: not idempotent"));
    }
}
