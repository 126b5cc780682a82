//! From the headers of a request to the [`Context`] of its handler, for servers other than ours.

use std::{
    str::FromStr,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use meshwork_core::{Context, Priority, Scope, headers, timeout};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

/// The longest lane or trace context that is passed on, in bytes.
const MAX_TEXT: usize = 256;

/// What a server takes over from the headers of a request, and how far it believes them.
///
/// ```
/// use std::time::Duration;
/// use meshwork_resilience::deadline::Inherit;
/// let inherit = Inherit { longest: Duration::from_secs(60), ..Inherit::default() };
/// assert_eq!(inherit.timeout(Some(Duration::MAX)), Some(Duration::from_secs(60)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherit {
    /// The longest time a caller can ask for; more is cut to it. Default 60 s.
    pub longest: Duration,
    /// The time of a request that asks for none. Default `None`, so that streams may live.
    pub absent: Option<Duration>,
    /// Whether `critical` is believed; else it becomes `normal`. Default `false`.
    pub critical: bool,
}

impl Default for Inherit {
    fn default() -> Self {
        Self { longest: Duration::from_secs(60), absent: None, critical: false }
    }
}

impl Inherit {
    /// The time of a request that asks for `asked`.
    pub fn timeout(&self, asked: Option<Duration>) -> Option<Duration> {
        asked.map(|asked| asked.min(self.longest)).or(self.absent)
    }

    /// The context of the handler of a request that came `now`: deadline, attempt, priority, lane and trace. What is
    /// malformed counts as absent.
    pub fn context(&self, request: &HeaderMap, now: Instant) -> Context {
        self.believe(Carried::by(request), now)
    }

    /// The same, of headers that were read already.
    #[inline]
    pub fn believe(&self, carried: Carried, now: Instant) -> Context {
        let timeout = self.timeout(carried.timeout());
        let mut context = Context::default();
        context.deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        context.attempt = carried.attempt;
        context.priority = match carried.priority {
            Priority::Critical if !self.critical => Priority::Normal,
            priority => priority,
        };
        (context.lane, context.trace) = (carried.lane, carried.trace);
        context
    }
}

/// What a request's headers carry from the call that it is part of. A server that reads its headers in one pass
/// hands each of them to [`take`](Self::take).
///
/// ```
/// use std::time::Duration;
/// use meshwork_resilience::deadline::Carried;
/// let mut headers = http::HeaderMap::new();
/// headers.insert("meshwork-timeout", "1S".parse().unwrap());
/// assert_eq!(Carried::by(&headers).timeout(), Some(Duration::from_secs(1)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Carried {
    is_grpc: bool,
    grpc_timeout: Option<Duration>,
    own_timeout: Option<Duration>,
    attempt: u32,
    priority: Priority,
    lane: Option<Arc<str>>,
    trace: Option<Arc<str>>,
}

impl Carried {
    /// By all of these headers.
    pub fn by(headers: &HeaderMap) -> Self {
        let mut carried = Self::default();
        headers.iter().for_each(|(name, value)| carried.take(name, value));
        carried
    }

    /// Takes one header. What is malformed counts as absent, what stands there twice as the last.
    pub fn take(&mut self, name: &HeaderName, value: &HeaderValue) {
        let word = || value.to_str().ok();
        let short = || word().filter(|text| (1..=MAX_TEXT).contains(&text.len())).map(Into::into);
        match name.as_str() {
            "content-type" => self.is_grpc = word().is_some_and(headers::is_grpc),
            headers::GRPC_TIMEOUT => self.grpc_timeout = word().and_then(timeout::parse),
            headers::TIMEOUT => self.own_timeout = word().and_then(timeout::parse),
            headers::ATTEMPT => self.attempt = word().and_then(|n| u32::from_str(n).ok()).unwrap_or_default(),
            headers::PRIORITY => self.priority = word().and_then(Priority::parse).unwrap_or_default(),
            headers::LANE => self.lane = short(),
            headers::TRACEPARENT => self.trace = short(),
            _ => {}
        }
    }

    /// Whether it is a gRPC call.
    pub fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// The time that is asked for, in the header of the protocol.
    pub fn timeout(&self) -> Option<Duration> {
        if self.is_grpc { self.grpc_timeout } else { self.own_timeout }
    }

    /// How much the call says it matters.
    pub fn priority(&self) -> Priority {
        self.priority
    }
}

/// Runs each handler in the [`Context`] that its request brings. Meshwork's own server does so by itself.
///
/// ```
/// use meshwork_core::Context;
/// use meshwork_resilience::deadline::InheritLayer;
/// use tower::{Layer, ServiceExt, service_fn};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let handler = service_fn(|_: http::Request<()>| async { Ok::<_, ()>(Context::current().attempt) });
/// let request = http::Request::builder().header("meshwork-attempt", "1").body(()).unwrap();
/// assert_eq!(InheritLayer::default().layer(handler).oneshot(request).await, Ok(1));
/// # });
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct InheritLayer(pub Inherit);

impl<S> Layer<S> for InheritLayer {
    type Service = InheritService<S>;

    fn layer(&self, inner: S) -> InheritService<S> {
        InheritService { inner, inherit: self.0 }
    }
}

/// The service of an [`InheritLayer`].
#[derive(Clone, Debug)]
pub struct InheritService<S> {
    inner: S,
    inherit: Inherit,
}

impl<S, B> Service<Request<B>> for InheritService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Scope<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = self.inherit.context(request.headers(), Instant::now());
        let call = context.clone().sync_scope(|| self.inner.call(request));
        context.scope(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_travels_is_believed_within_limits() {
        let now = Instant::now();
        let mut sent = HeaderMap::new();
        for (name, value) in
            [("meshwork-timeout", "99H"), ("meshwork-attempt", "2"), ("meshwork-priority", "critical")]
        {
            sent.insert(name, value.parse().unwrap());
        }
        let strict = Inherit::default().context(&sent, now);
        assert_eq!(strict.deadline, Some(now + Duration::from_secs(60)));
        assert_eq!((strict.attempt, strict.priority), (2, Priority::Normal));
        let trusting = Inherit { critical: true, ..Inherit::default() };
        assert_eq!(trusting.context(&sent, now).priority, Priority::Critical);
        sent.insert("meshwork-lane", "blue".parse().unwrap());
        sent.insert("traceparent", "x".repeat(MAX_TEXT + 1).parse().unwrap());
        let texts = Inherit::default().context(&sent, now);
        assert_eq!(
            (texts.lane.as_deref(), texts.trace),
            (Some("blue"), None),
            "what is too long stays behind"
        );
        sent.insert("grpc-timeout", "1S".parse().unwrap());
        assert_eq!(Carried::by(&sent).timeout(), Some(Duration::from_secs(99 * 3600)));
        sent.insert("content-type", "application/grpc".parse().unwrap());
        assert_eq!(Carried::by(&sent).timeout(), Some(Duration::from_secs(1)));
        sent.remove("content-type");
        sent.insert("meshwork-timeout", "soon".parse().unwrap());
        sent.insert("meshwork-attempt", "-1".parse().unwrap());
        let malformed = Inherit::default().context(&sent, now);
        assert_eq!((malformed.deadline, malformed.attempt), (None, 0));
    }
}
