//! Whether a failed attempt goes elsewhere: free re-routes, budgeted retries, or the end.
//!
//! One decision, without I/O: the caller tells what happened and does what this says.

use std::time::Duration;

use meshwork_core::{Delivered, Verdict};

use crate::{Backoff, Pushback};

/// Free re-routes per call.
pub const REROUTES: u8 = 3;
/// The most attempts that retries may make.
pub const ATTEMPTS: u8 = 5;

/// When an attempt may go elsewhere for free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reroute {
    /// Never: it may have been delivered, or was refused for overload.
    Never,
    /// Up to the limit of re-routes per call.
    Free,
    /// Once per call: a refused stream.
    Once,
    /// If the call is idempotent: a kept-alive HTTP/1.1 connection closed as the request was written.
    IfIdempotent,
}

/// What a call allows, once and for all.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Whether it may run twice.
    pub idempotent: bool,
    /// Whether its body is kept for a retry.
    pub kept: bool,
    /// Whether it is made inside somebody's retry: the context's attempt is above 0.
    pub nested: bool,
    /// Attempts configured, the first included, 1 to [`ATTEMPTS`]; outside of it the nearest counts.
    pub attempts: u8,
}

/// What went wrong, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    /// Whether a handler may have seen the request.
    pub delivered: Delivered,
    /// Whether the attempt may go elsewhere for free.
    pub reroute: Reroute,
    /// What the peer said of another attempt.
    pub pushback: Pushback,
}

impl Trouble {
    /// Of an error that tells a verdict and nothing else: what was not delivered goes elsewhere for free,
    /// unless the peer asked to wait, as one does that has no capacity.
    pub fn of<E: Verdict + ?Sized>(error: &E) -> Self {
        let (delivered, pushback) = (error.delivered(), error.pushback());
        let reroute = match (delivered, pushback) {
            (Delivered::No, None) => Reroute::Free,
            _ => Reroute::Never,
        };
        Self { delivered, reroute, pushback: pushback.into() }
    }
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, which is no retry.
    Reroute,
    /// A retry, on another node where there are nodes, after a pause.
    Retry(Duration),
    /// The end, and why.
    Stop(Stop),
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stop {
    /// The free re-routes are used up.
    Reroutes,
    /// The call may not run twice.
    NotIdempotent,
    /// The body of the request is gone, or too large to keep.
    NotKept,
    /// The call is made inside somebody's retry.
    Nested,
    /// A single attempt is all that is configured.
    Single,
    /// As many attempts as configured were made.
    Attempts,
    /// The server asked for no further attempt.
    Forbidden,
    /// The pause would outlast the call.
    Time,
    /// There is nobody else to ask.
    NoOther,
    /// The budget is used up.
    Budget,
}

impl Stop {
    /// For the list of attempts.
    pub fn words(self) -> &'static str {
        match self {
            Self::Reroutes => "no more re-routes",
            Self::NotIdempotent => "no retry: not idempotent",
            Self::NotKept => "no retry: the request is a stream or too large to keep",
            Self::Nested => "no retry: the caller retries already",
            Self::Single => "no retry: the only attempt is used up",
            Self::Attempts => "no retry: attempts used up",
            Self::Forbidden => "no retry: the server asked for none",
            Self::Time => "no retry: no time left",
            Self::NoOther => "no retry: no other instance",
            Self::Budget => "no retry: the budget is used up",
        }
    }

    /// Whether retries were meant and are spent: the callers of whoever made the call should not try again
    /// either ([`Chain`](super::Chain)). Not inside somebody's retry: that one counts its own.
    pub fn is_spent(self) -> bool {
        matches!(self, Self::Attempts | Self::Forbidden | Self::Budget)
    }
}

impl Next {
    /// For the list of attempts.
    pub fn words(self) -> &'static str {
        match self {
            Self::Reroute => "re-routed",
            Self::Retry(_) => "retried",
            Self::Stop(why) => why.words(),
        }
    }
}

/// What a call has used up.
///
/// ```
/// use std::time::Duration;
/// use meshwork_core::Delivered;
/// use meshwork_resilience::{Backoff, Pushback, retry::{Allowed, Next, Recovery, Reroute, Stop, Trouble}};
/// let call = Allowed { idempotent: true, kept: true, nested: false, attempts: 2 };
/// let lost = Trouble { delivered: Delivered::Maybe, reroute: Reroute::Never, pushback: Pushback::Silent };
/// let mut recovery = Recovery::default();
/// let mut next = || recovery.next(&lost, &call, &Backoff::RETRY, Duration::from_secs(1), || 7, || true, || true);
/// assert_eq!(next(), Next::Retry(Duration::ZERO));
/// assert_eq!(next(), Next::Stop(Stop::Attempts));
/// ```
#[derive(Debug, Default)]
pub struct Recovery {
    reroutes: u8,
    retries: u8,
    stream_refused: bool,
}

impl Recovery {
    /// Which attempt is next, from 0; re-routes do not count.
    pub fn retries(&self) -> u8 {
        self.retries
    }

    /// Decides; the call has `left`.
    ///
    /// The first retry goes at once, since it goes to another node; `backoff` is for the later ones. `random`
    /// gives uniform bits, `others` says whether anybody else could be asked, `budget` takes one retry out of
    /// the budget; each is asked at most once, the budget last.
    #[expect(clippy::too_many_arguments, reason = "what happened, what is allowed, and three questions")]
    pub fn next(
        &mut self,
        trouble: &Trouble,
        allowed: &Allowed,
        backoff: &Backoff,
        left: Duration,
        random: impl FnOnce() -> u64,
        others: impl FnOnce() -> bool,
        budget: impl FnOnce() -> bool,
    ) -> Next {
        let free = match trouble.reroute {
            Reroute::Never => false,
            Reroute::Free => true,
            Reroute::Once => !std::mem::replace(&mut self.stream_refused, true),
            Reroute::IfIdempotent => allowed.idempotent && allowed.kept,
        };
        if free && self.reroutes < REROUTES && left > Duration::ZERO {
            self.reroutes += 1;
            return Next::Reroute;
        }
        if let Some(why) = self.stop(trouble, allowed) {
            return Next::Stop(why);
        }
        let pause = match self.retries {
            0 => Duration::ZERO,
            nth => backoff.pause(u32::from(nth - 1), random()),
        };
        let pause = pause.max(trouble.pushback.wait());
        if pause >= left {
            return Next::Stop(Stop::Time);
        }
        if !others() {
            return Next::Stop(Stop::NoOther);
        }
        if !budget() {
            return Next::Stop(Stop::Budget);
        }
        self.retries += 1;
        Next::Retry(pause)
    }

    /// What forbids a retry whatever the time and the budget.
    fn stop(&self, trouble: &Trouble, allowed: &Allowed) -> Option<Stop> {
        if !allowed.idempotent {
            return Some(match trouble.delivered {
                Delivered::No if trouble.reroute == Reroute::Free => Stop::Reroutes,
                _ => Stop::NotIdempotent,
            });
        }
        if !allowed.kept {
            return Some(Stop::NotKept);
        }
        // Before what is our own reason: it has to be passed on, also by one that is retried itself.
        if trouble.pushback == Pushback::Never {
            return Some(Stop::Forbidden);
        }
        if allowed.nested {
            return Some(Stop::Nested);
        }
        (self.retries + 1 >= allowed.attempts.clamp(1, ATTEMPTS)).then_some(if self.retries == 0 {
            Stop::Single
        } else {
            Stop::Attempts
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Jitter, chance};

    const IDEMPOTENT: Allowed = Allowed { idempotent: true, kept: true, nested: false, attempts: 2 };
    const LOST: Trouble =
        Trouble { delivered: Delivered::Maybe, reroute: Reroute::Never, pushback: Pushback::Silent };
    const UNSENT: Trouble = Trouble { delivered: Delivered::No, reroute: Reroute::Free, ..LOST };
    const PAUSE: Duration = Duration::from_millis(10);
    const LEFT: Duration = Duration::from_secs(1);

    fn next(recovery: &mut Recovery, trouble: Trouble, allowed: Allowed) -> Next {
        let backoff = Backoff::new(PAUSE, LEFT, Jitter::Fifth);
        recovery.next(&trouble, &allowed, &backoff, LEFT, chance::bits, || true, || true)
    }

    #[test]
    fn what_was_not_delivered_goes_elsewhere_three_times_for_any_call() {
        let mut recovery = Recovery::default();
        let plain = Allowed { idempotent: false, kept: false, nested: true, attempts: 1 };
        for _ in 0..3 {
            assert_eq!(next(&mut recovery, UNSENT, plain), Next::Reroute);
        }
        assert_eq!(next(&mut recovery, UNSENT, plain), Next::Stop(Stop::Reroutes));
        assert_eq!(recovery.retries(), 0);
    }

    #[test]
    fn a_refused_stream_goes_elsewhere_once() {
        let mut recovery = Recovery::default();
        let refused = Trouble { reroute: Reroute::Once, ..UNSENT };
        let plain = Allowed { idempotent: false, ..IDEMPOTENT };
        assert_eq!(next(&mut recovery, refused, plain), Next::Reroute);
        assert_eq!(next(&mut recovery, refused, plain), Next::Stop(Stop::NotIdempotent));
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
        assert!(words(Trouble { pushback: Pushback::Never, ..LOST }, IDEMPOTENT).contains("asked for none"));
        let late = Trouble { pushback: Pushback::After(Duration::from_secs(2)), ..LOST };
        assert!(words(late, IDEMPOTENT).contains("no time left"));
        let ask = |others: bool, budget: bool| {
            let mut recovery = Recovery::default();
            let next = recovery.next(&LOST, &IDEMPOTENT, &Backoff::RETRY, LEFT, || 0, || others, || budget);
            next.words()
        };
        assert!(ask(false, true).contains("no other instance"));
        assert!(ask(true, false).contains("the budget is used up"));
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
        assert_eq!(next(&mut Recovery::default(), closed, post), Next::Stop(Stop::NotIdempotent));
    }

    #[test]
    fn a_pushback_outlasts_the_back_off_and_is_kept_to() {
        let asked = Trouble { pushback: Pushback::After(Duration::from_millis(300)), ..LOST };
        assert_eq!(
            next(&mut Recovery::default(), asked, IDEMPOTENT),
            Next::Retry(Duration::from_millis(300))
        );
    }

    #[test]
    fn a_refusal_for_overload_is_a_retry_and_not_free() {
        let refused = crate::Overload::new(crate::Full::Queue, PAUSE);
        assert_eq!(next(&mut Recovery::default(), Trouble::of(&refused), IDEMPOTENT), Next::Retry(PAUSE));
    }

    #[test]
    fn retries_are_spent_by_those_who_meant_to_retry() {
        let ask = |trouble: Trouble, allowed: Allowed, times: usize, budget: bool| {
            let mut recovery = Recovery::default();
            let mut next =
                || recovery.next(&trouble, &allowed, &Backoff::RETRY, LEFT, || 0, || true, || budget);
            let all: Vec<Next> = (0..times).map(|_| next()).collect();
            matches!(all.last(), Some(Next::Stop(why)) if why.is_spent())
        };
        let forbidden = Trouble { pushback: Pushback::Never, ..LOST };
        assert!(ask(LOST, IDEMPOTENT, 2, true), "it retried");
        assert!(ask(LOST, IDEMPOTENT, 1, false), "it would have, but for the budget");
        assert!(ask(forbidden, IDEMPOTENT, 1, true), "somebody further down has");
        let passing_on = Allowed { nested: true, attempts: 1, ..IDEMPOTENT };
        assert!(ask(forbidden, passing_on, 1, true), "also when it would not have retried itself");
        assert!(!ask(LOST, Allowed { attempts: 1, ..IDEMPOTENT }, 1, true), "it leaves that to its callers");
        assert!(!ask(LOST, Allowed { nested: true, ..IDEMPOTENT }, 1, true));
        assert!(!ask(LOST, Allowed { idempotent: false, ..IDEMPOTENT }, 1, true));
    }

    #[test]
    fn nothing_is_taken_from_the_budget_for_a_call_that_is_not_retried() {
        for allowed in [
            Allowed { idempotent: false, ..IDEMPOTENT },
            Allowed { nested: true, ..IDEMPOTENT },
            Allowed { attempts: 1, ..IDEMPOTENT },
        ] {
            let ask = || panic!("the budget was asked");
            let mut recovery = Recovery::default();
            let next = recovery.next(&LOST, &allowed, &Backoff::RETRY, LEFT, || 0, || true, ask);
            assert!(matches!(next, Next::Stop(_)));
        }
    }
}
