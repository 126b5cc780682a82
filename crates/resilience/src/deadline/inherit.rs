//! From the headers of a request to the [`Context`] of its handler, for servers other than ours.

use std::{
    task::{self, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, header};
use meshwork_core::{Context, Priority, headers};
use tokio::{task::futures::TaskLocalFuture, time::Instant};
use tower_layer::Layer;
use tower_service::Service;

use super::header as wire;

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
        let word = |name: &str| request.get(name).and_then(|value| value.to_str().ok());
        let is_grpc = word(header::CONTENT_TYPE.as_str()).is_some_and(headers::is_grpc);
        let mut context = Context::default();
        let timeout = self.timeout(wire::asked(request, is_grpc));
        context.deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        context.attempt = word(headers::ATTEMPT).and_then(|attempt| attempt.parse().ok()).unwrap_or_default();
        let short =
            |name: &str| word(name).filter(|text| (1..=MAX_TEXT).contains(&text.len())).map(Into::into);
        context.lane = short(headers::LANE);
        context.trace = short(headers::TRACEPARENT);
        context.priority = match word(headers::PRIORITY).and_then(Priority::parse).unwrap_or_default() {
            Priority::Critical if !self.critical => Priority::Normal,
            priority => priority,
        };
        context
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
    type Future = TaskLocalFuture<Context, S::Future>;

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
        sent.insert("meshwork-timeout", "soon".parse().unwrap());
        sent.insert("meshwork-attempt", "-1".parse().unwrap());
        let malformed = Inherit::default().context(&sent, now);
        assert_eq!((malformed.deadline, malformed.attempt), (None, 0));
    }
}
