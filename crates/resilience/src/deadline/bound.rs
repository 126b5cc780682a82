//! Which of several limits holds, and the error that names it.

use std::{borrow::Cow, error::Error, fmt, time::Duration};

use meshwork_core::{Delivered, Verdict};
use tokio::time::Instant;

use super::Limit;

/// Who set a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SetBy {
    /// The deadline of the call being served.
    Context,
    /// The request's own header.
    Header,
    /// An option of the call.
    Option,
    /// What is configured for the method.
    Method,
    /// What is configured for the client.
    Client,
}

/// What the caller of a call says of time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The deadline of the call being served.
    pub inherited: Option<Instant>,
    /// What the request's own header says ([`asked`](super::asked)).
    pub header: Option<Duration>,
    /// What the call's option says.
    pub option: Option<Duration>,
}

/// What the configuration says of time, for one method of one client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits<'a> {
    /// For the method; it replaces the client's and spans the body of the answer.
    pub method: Option<&'a Limit>,
    /// For all calls of the client; it ends with the head of the answer.
    pub client: Option<&'a Limit>,
}

/// One bound of a call: when it passes, how long it was in all, who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    at: Instant,
    total: Duration,
    by: SetBy,
}

/// The bounds of one call: a copy without allocation.
///
/// ```
/// use std::time::Duration;
/// use meshwork_resilience::deadline::{Asked, Deadline, Limit, Limits};
/// use tokio::time::Instant;
/// let (now, ms) = (Instant::now(), Duration::from_millis);
/// let client = Limit::new(ms(800), "[client.users] timeout, config/prod.toml:12");
/// let limits = Limits { client: Some(&client), ..Limits::default() };
/// let deadline = Deadline::new(now, &Asked { option: Some(ms(300)), ..Asked::default() }, limits);
/// let bound = deadline.waiting().expect("two limits were set");
/// assert_eq!(bound.passed("answer", limits).to_string(), "no answer within 300ms (the call's timeout option)");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// Spans the whole call: the least of the inherited deadline, the header, the option and the method's.
    whole: Option<Bound>,
    /// The client's own, until the head of the answer.
    head: Option<Bound>,
}

impl Deadline {
    /// The bounds of a call that begins `now`. A limit longer than time itself bounds nothing.
    pub fn new(now: Instant, asked: &Asked, limits: Limits<'_>) -> Self {
        let bound = |total: Duration, by| Some(Bound { at: now.checked_add(total)?, total, by });
        let inherited = asked.inherited.map(|at| Bound {
            at,
            total: at.saturating_duration_since(now),
            by: SetBy::Context,
        });
        let chosen = [
            asked.header.and_then(|total| bound(total, SetBy::Header)),
            asked.option.and_then(|total| bound(total, SetBy::Option)),
            limits.method.and_then(|limit| bound(limit.duration(), SetBy::Method)),
        ];
        let is_chosen = chosen.iter().any(Option::is_some);
        let whole = chosen.into_iter().chain([inherited]).flatten().min_by_key(|bound| bound.at);
        let applies = |limit: &&Limit| limits.method.is_none() && !(is_chosen && limit.yields());
        let client = limits.client.filter(applies);
        let head = client.and_then(|limit| bound(limit.duration(), SetBy::Client));
        Self { whole, head }
    }

    /// What ends the wait for a connection.
    pub fn waiting(&self) -> Option<&Bound> {
        self.whole.iter().chain(&self.head).min_by_key(|bound| bound.at)
    }

    /// What ends the wait for the head of the answer. The client's own limit does not cut a stream.
    pub fn exchange(&self, is_stream: bool) -> Option<&Bound> {
        if is_stream { self.whole.as_ref() } else { self.waiting() }
    }

    /// What ends the body of the answer, and travels on.
    pub fn body(&self) -> Option<&Bound> {
        self.whole.as_ref()
    }
}

impl Bound {
    /// When it passes.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// How long it was in all.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// Who set it.
    pub fn set_by(&self) -> SetBy {
        self.by
    }

    /// The limit it comes from; `limits` are those it was made with.
    pub fn limit<'a>(&self, limits: Limits<'a>) -> Option<&'a Limit> {
        match self.by {
            SetBy::Method => limits.method,
            SetBy::Client => limits.client,
            SetBy::Context | SetBy::Header | SetBy::Option => None,
        }
    }

    /// The error when it passed while waiting for `what`. `limits` are those it was made with. Nothing counts
    /// as delivered until [`Passed::delivered_maybe`] says so.
    pub fn passed(&self, what: &'static str, limits: Limits<'_>) -> Passed {
        let origin = match self.by {
            SetBy::Context => Cow::Borrowed("the deadline inherited from the call being served"),
            SetBy::Header => Cow::Borrowed("the request's own time-out header"),
            SetBy::Option => Cow::Borrowed("the call's timeout option"),
            SetBy::Method | SetBy::Client => {
                self.limit(limits).map_or(Cow::Borrowed("the client's configuration"), |limit| {
                    limit.origin().to_owned().into()
                })
            }
        };
        Passed { what, total: self.total, by: self.by, origin, delivered: Delivered::No }
    }
}

/// A limit passed: how long it was, who set it and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    what: &'static str,
    total: Duration,
    by: SetBy,
    origin: Cow<'static, str>,
    delivered: Delivered,
}

impl Passed {
    /// Says that a handler may have seen the request.
    #[must_use]
    pub fn delivered_maybe(mut self) -> Self {
        self.delivered = Delivered::Maybe;
        self
    }

    /// How long the limit was, from the beginning of the call.
    pub fn limit(&self) -> Duration {
        self.total
    }

    /// Who set it.
    pub fn set_by(&self) -> SetBy {
        self.by
    }

    /// Where: the key and its source.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} within {:?} ({})", self.what, self.total, self.origin)
    }
}

impl Error for Passed {}

impl Verdict for Passed {
    fn delivered(&self) -> Delivered {
        self.delivered
    }

    fn pushback(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const NOT_ASKED: Asked = Asked { inherited: None, header: None, option: None };

    #[tokio::test(start_paused = true)]
    async fn the_smallest_wins_and_is_named() {
        let now = Instant::now();
        let client = Limit::new(800 * MS, "[client.users] timeout");
        let limits = Limits { method: None, client: Some(&client) };
        let said = |asked: Asked| {
            let deadline = Deadline::new(now, &asked, limits);
            deadline.exchange(false).unwrap().passed("answer", limits).to_string()
        };
        assert_eq!(said(NOT_ASKED), "no answer within 800ms ([client.users] timeout)");
        assert_eq!(
            said(Asked { option: Some(300 * MS), ..NOT_ASKED }),
            "no answer within 300ms (the call's timeout option)"
        );
        assert_eq!(
            said(Asked { inherited: Some(now + 90 * MS), option: Some(300 * MS), ..NOT_ASKED }),
            "no answer within 90ms (the deadline inherited from the call being served)"
        );
        assert_eq!(
            said(Asked { option: Some(9000 * MS), ..NOT_ASKED }),
            "no answer within 800ms ([client.users] timeout)"
        );
        assert_eq!(
            said(Asked { header: Some(20 * MS), option: Some(30 * MS), ..NOT_ASKED }),
            "no answer within 20ms (the request's own time-out header)"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_built_in_default_yields_to_whatever_the_caller_chose() {
        let now = Instant::now();
        let client = Limit::fallback(10_000 * MS, "the default of [client.*] timeout");
        let limits = Limits { method: None, client: Some(&client) };
        let at = |asked| Deadline::new(now, &asked, limits).exchange(false).map(Bound::at);
        assert_eq!(at(Asked { option: Some(60_000 * MS), ..NOT_ASKED }), Some(now + 60_000 * MS));
        // An inherited deadline is not the caller's choice for this call.
        assert_eq!(at(Asked { inherited: Some(now + 60_000 * MS), ..NOT_ASKED }), Some(now + 10_000 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_methods_limit_replaces_the_clients_and_spans_the_body() {
        let (client, method) = (Limit::new(MS, "there"), Limit::new(5 * MS, "here"));
        let limits = Limits { method: Some(&method), client: Some(&client) };
        let now = Instant::now();
        let deadline = Deadline::new(now, &NOT_ASKED, limits);
        assert_eq!(deadline.body().map(Bound::at), Some(now + 5 * MS));
        assert_eq!(deadline.body().unwrap().passed("end", limits).to_string(), "no end within 5ms (here)");
    }

    #[tokio::test(start_paused = true)]
    async fn the_clients_limit_cuts_neither_streams_nor_bodies() {
        let client = Limit::fallback(10_000 * MS, "default");
        let limits = Limits { method: None, client: Some(&client) };
        let deadline = Deadline::new(Instant::now(), &NOT_ASKED, limits);
        assert!(deadline.exchange(true).is_none() && deadline.body().is_none());
        assert!(deadline.waiting().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_tells_value_and_origin_and_whether_it_was_delivered() {
        let client = Limit::new(2000 * MS, "[client.b] timeout, config/prod.toml:12");
        let limits = Limits { method: None, client: Some(&client) };
        let deadline = Deadline::new(Instant::now(), &NOT_ASKED, limits);
        let passed = deadline.waiting().unwrap().passed("answer", limits);
        assert_eq!((passed.limit(), passed.set_by()), (2000 * MS, SetBy::Client));
        assert_eq!(passed.origin(), "[client.b] timeout, config/prod.toml:12");
        assert_eq!(passed.delivered(), Delivered::No);
        assert_eq!(passed.delivered_maybe().delivered(), Delivered::Maybe);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_beyond_time_bounds_nothing() {
        let deadline = Deadline::new(
            Instant::now(),
            &Asked { header: Some(Duration::MAX), ..NOT_ASKED },
            Limits::default(),
        );
        assert!(deadline.waiting().is_none());
    }
}
