//! How long a call may take, and who said so.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use meshwork_core::timeout;
use tokio::time::Instant;

use crate::{CallError, CallErrorKind, ClientConfig, Limit, MethodConfig, names};

/// Who set a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SetBy {
    Context,
    Header,
    Option,
    Method,
    Client,
}

/// One bound of a call: when it passes, how long it was in all, who set it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    at: Instant,
    total: Duration,
    by: SetBy,
}

/// The bounds of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// Spans the whole call: the least of the inherited deadline, the header, the option and the method's.
    whole: Option<Bound>,
    /// The client's own, until the head of the answer.
    head: Option<Bound>,
}

/// What the caller says of time.
pub(crate) struct Asked {
    pub(crate) inherited: Option<Instant>,
    pub(crate) header: Option<Duration>,
    pub(crate) option: Option<Duration>,
}

impl Deadline {
    /// The bounds of a call that begins `now`.
    pub(crate) fn new(
        now: Instant,
        asked: &Asked,
        method: Option<&MethodConfig>,
        config: &ClientConfig,
    ) -> Self {
        let bound = |total: Duration, by| Some(Bound { at: now.checked_add(total)?, total, by });
        let inherited = asked.inherited.map(|at| Bound {
            at,
            total: at.saturating_duration_since(now),
            by: SetBy::Context,
        });
        let method = method.and_then(|method| method.timeout.as_ref());
        let chosen = [
            asked.header.and_then(|total| bound(total, SetBy::Header)),
            asked.option.and_then(|total| bound(total, SetBy::Option)),
            method.and_then(|limit| bound(limit.duration(), SetBy::Method)),
        ];
        let is_chosen = chosen.iter().any(Option::is_some);
        let whole = chosen.into_iter().chain([inherited]).flatten().min_by_key(|bound| bound.at);
        let applies = |limit: &&Limit| method.is_none() && !(is_chosen && limit.yields());
        let client = config.timeout.as_ref().filter(applies);
        let head = client.and_then(|limit| bound(limit.duration(), SetBy::Client));
        Self { whole, head }
    }

    /// What ends the wait for a connection.
    pub(crate) fn waiting(&self) -> Option<&Bound> {
        self.whole.iter().chain(&self.head).min_by_key(|bound| bound.at)
    }

    /// What ends the wait for the head of the answer. The client's own limit does not cut a stream.
    pub(crate) fn exchange(&self, is_stream: bool) -> Option<&Bound> {
        if is_stream { self.whole.as_ref() } else { self.waiting() }
    }

    /// What ends the body of the answer.
    pub(crate) fn body(&self) -> Option<&Bound> {
        self.whole.as_ref()
    }
}

impl Bound {
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// The limit of the client or of the method that it comes from.
    fn limit<'a>(&self, path: &str, config: &'a ClientConfig) -> Option<&'a Limit> {
        match self.by {
            SetBy::Method => method_of(path, config).and_then(|method| method.timeout.as_ref()),
            SetBy::Client => config.timeout.as_ref(),
            SetBy::Context | SetBy::Header | SetBy::Option => None,
        }
    }

    /// Where it was set.
    fn origin<'a>(&self, path: &str, config: &'a ClientConfig) -> &'a str {
        match self.by {
            SetBy::Context => "the deadline inherited from the call being served",
            SetBy::Header => "the request's own time-out header",
            SetBy::Option => "the call's timeout option",
            SetBy::Method | SetBy::Client => {
                self.limit(path, config).map_or("the client's configuration", Limit::origin)
            }
        }
    }

    /// Whether its origin is found by the method's path.
    pub(crate) fn is_of_method(&self) -> bool {
        self.by == SetBy::Method
    }

    /// The error when it passed while waiting for `what`.
    pub(crate) fn passed(&self, what: &str, path: &str, config: &ClientConfig) -> CallError {
        let (total, origin) = (self.total, self.origin(path, config));
        CallError::new(CallErrorKind::Deadline, format!("no {what} within {total:?} ({origin})"))
    }
}

/// What is configured for the method at `path`.
pub(crate) fn method_of<'a>(path: &str, config: &'a ClientConfig) -> Option<&'a MethodConfig> {
    if config.methods.is_empty() {
        return None;
    }
    config.methods.get(path.strip_prefix('/').unwrap_or(path))
}

/// Writes the time that is left at `now` into the headers of an attempt.
pub(crate) fn write(to: &mut HeaderMap, is_grpc: bool, bound: &Bound, now: Instant) {
    let Ok(mut value) = HeaderValue::try_from(timeout::encode(bound.at.saturating_duration_since(now)))
    else {
        return;
    };
    // A value that is new for each call would only push others out of the peer's header table.
    value.set_sensitive(true);
    insert(to, is_grpc, value);
}

/// The same for the first attempt. A limit that is the same for each call is written as it stands, so that
/// the peer's header table holds it once.
pub(crate) fn write_first(
    to: &mut HeaderMap,
    is_grpc: bool,
    bound: &Bound,
    now: Instant,
    path: &str,
    config: &ClientConfig,
) {
    match bound.limit(path, config) {
        Some(limit) => insert(to, is_grpc, limit.header().clone()),
        None => write(to, is_grpc, bound, now),
    }
}

fn insert(to: &mut HeaderMap, is_grpc: bool, value: HeaderValue) {
    let name = if is_grpc { &names::GRPC_TIMEOUT } else { &names::TIMEOUT };
    to.insert(name.clone(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn asked() -> Asked {
        Asked { inherited: None, header: None, option: None }
    }

    #[tokio::test(start_paused = true)]
    async fn the_smallest_wins_and_is_named() {
        let now = Instant::now();
        let timeout = Some(Limit::new(800 * MS, "[client.users] timeout"));
        let config = ClientConfig { timeout, ..ClientConfig::default() };
        let said = |asked: Asked, config: &ClientConfig| {
            let deadline = Deadline::new(now, &asked, None, config);
            deadline.exchange(false).unwrap().passed("answer", "/a/b", config).to_string()
        };
        assert_eq!(said(asked(), &config), "no answer within 800ms ([client.users] timeout)");
        assert_eq!(
            said(Asked { option: Some(300 * MS), ..asked() }, &config),
            "no answer within 300ms (the call's timeout option)"
        );
        assert_eq!(
            said(Asked { inherited: Some(now + 90 * MS), option: Some(300 * MS), ..asked() }, &config),
            "no answer within 90ms (the deadline inherited from the call being served)"
        );
        assert_eq!(
            said(Asked { option: Some(9000 * MS), ..asked() }, &config),
            "no answer within 800ms ([client.users] timeout)"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_built_in_default_yields_to_whatever_the_caller_chose() {
        let (now, asked) = (Instant::now(), Asked { option: Some(60_000 * MS), ..asked() });
        let deadline = Deadline::new(now, &asked, None, &ClientConfig::default());
        assert_eq!(deadline.exchange(false).map(Bound::at), Some(now + 60_000 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_methods_limit_replaces_the_clients_and_spans_the_body() {
        let mut config = ClientConfig::default();
        config.methods.insert("a.B/C".into(), MethodConfig::new(Some(Limit::new(5 * MS, "here")), false));
        let now = Instant::now();
        let deadline = Deadline::new(now, &asked(), method_of("/a.B/C", &config), &config);
        assert_eq!(deadline.body().map(Bound::at), Some(now + 5 * MS));
        let passed = deadline.body().unwrap().passed("end", "/a.B/C", &config);
        assert_eq!(passed.to_string(), "no end within 5ms (here)");
    }

    #[tokio::test(start_paused = true)]
    async fn the_clients_limit_cuts_neither_streams_nor_bodies() {
        let deadline = Deadline::new(Instant::now(), &asked(), None, &ClientConfig::default());
        assert!(deadline.exchange(true).is_none() && deadline.body().is_none());
        assert!(deadline.waiting().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_left_travels_in_the_header_of_the_protocol() {
        let now = Instant::now();
        let config = ClientConfig::default();
        let deadline = Deadline::new(now, &Asked { option: Some(250 * MS), ..asked() }, None, &config);
        let mut sent = HeaderMap::new();
        let bound = deadline.waiting().unwrap();
        write(&mut sent, true, bound, now + 50 * MS);
        assert_eq!(sent["grpc-timeout"], "200000u");
        write_first(&mut sent, false, bound, now, "/", &config);
        assert_eq!(sent["meshwork-timeout"], "250000u");
        let usual = Deadline::new(now, &asked(), None, &config);
        write_first(&mut sent, true, usual.waiting().unwrap(), now + 5 * MS, "/", &config);
        assert_eq!(sent["grpc-timeout"], "10000000u");
    }
}
