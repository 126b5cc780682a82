//! What the tower layers ask of a request: how long it may take, how much it matters, whether it may run twice.

use http::{HeaderName, HeaderValue, Method, Request};
use http_body::Body;
use meshwork_core::{Context, Priority, headers};
use tokio::time::Instant;

/// The largest body that is kept for another attempt, in bytes.
pub const MAX_KEPT: u64 = 64 * 1024;

static ATTEMPT: HeaderName = HeaderName::from_static(headers::ATTEMPT);

/// A request as limits and shedding see it. The defaults are those of the running task's [`Context`].
pub trait Call {
    /// When its caller stops waiting.
    fn deadline(&self) -> Option<Instant> {
        Context::with_current(|context| context?.deadline)
    }

    /// How much it matters.
    fn priority(&self) -> Priority {
        Context::with_current(|context| context.map_or_else(Priority::default, |context| context.priority))
    }
}

/// A request that may be sent again.
///
/// ```
/// use meshwork_resilience::{Call, Replay};
/// #[derive(Clone)]
/// struct Get(String);
/// impl Call for Get {}
/// impl Replay for Get {
///     fn is_idempotent(&self) -> bool { true }
///     fn again(&self) -> Option<Self> { Some(self.clone()) }
/// }
/// # assert!(Get(String::new()).again().is_some());
/// ```
pub trait Replay: Call + Sized {
    /// Whether it may run twice.
    fn is_idempotent(&self) -> bool;

    /// A copy for another attempt; `None` when it is a stream or larger than [`MAX_KEPT`].
    fn again(&self) -> Option<Self>;

    /// What it asks for, as the same words each time: latencies are learned for each. Default: nothing.
    fn method(&self) -> &str {
        ""
    }

    /// How many attempts it may have, where that differs from the layer's policy. Default: the layer's.
    fn attempts(&self) -> Option<u8> {
        None
    }

    /// Writes which attempt this is, from 0, so that nobody downstream tries again. Default: nothing; the
    /// [`Context`] in which the attempt runs says it too.
    fn number(&mut self, attempt: u32) {
        let _ = attempt;
    }
}

/// In the extensions of an HTTP request: whether it may run twice, whatever its method says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotent(pub bool);

/// In the extensions of an HTTP request: how many attempts it may have, the first included, 1 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts(pub u8);

/// In the extensions of an HTTP request: when its caller stops waiting. The deadline layer writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends(pub Instant);

impl<B> Call for Request<B> {
    /// The earlier of [`Ends`] and the context's.
    fn deadline(&self) -> Option<Instant> {
        let inherited = Context::with_current(|context| context?.deadline);
        self.extensions().get::<Ends>().map(|ends| ends.0).into_iter().chain(inherited).min()
    }

    /// A [`Priority`] in the extensions, else the context's.
    fn priority(&self) -> Priority {
        let own = self.extensions().get::<Priority>().copied();
        own.unwrap_or_else(|| Context::with_current(|c| c.map_or_else(Priority::default, |c| c.priority)))
    }
}

impl<B: Body + Clone> Replay for Request<B> {
    /// As [`Idempotent`] says, else whether its method promises it.
    fn is_idempotent(&self) -> bool {
        self.extensions().get::<Idempotent>().map_or_else(|| is_safe(Self::method(self)), |marked| marked.0)
    }

    fn again(&self) -> Option<Self> {
        (self.body().size_hint().upper()? <= MAX_KEPT).then(|| self.clone())
    }

    /// Its path.
    fn method(&self) -> &str {
        self.uri().path()
    }

    /// As [`Attempts`] says.
    fn attempts(&self) -> Option<u8> {
        self.extensions().get::<Attempts>().map(|attempts| attempts.0)
    }

    fn number(&mut self, attempt: u32) {
        if attempt > 0 {
            self.headers_mut().insert(ATTEMPT.clone(), HeaderValue::from(attempt));
        }
    }
}

/// Whether a plain HTTP method promises that a call may run twice: GET, HEAD and OPTIONS; PUT and DELETE only
/// when marked. A gRPC call is a POST.
pub fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;

    fn request(method: Method, body: usize) -> Request<Full<Bytes>> {
        Request::builder().method(method).body(Full::new(Bytes::from(vec![0; body]))).unwrap()
    }

    #[test]
    fn safe_methods_and_marked_calls_may_run_twice() {
        assert!(request(Method::GET, 0).is_idempotent());
        assert!(!request(Method::PUT, 0).is_idempotent() && !request(Method::POST, 0).is_idempotent());
        let mut marked = request(Method::POST, 0);
        marked.extensions_mut().insert(Idempotent(true));
        assert!(marked.is_idempotent());
        let mut refused = request(Method::GET, 0);
        refused.extensions_mut().insert(Idempotent(false));
        assert!(!refused.is_idempotent());
    }

    #[test]
    fn small_bodies_are_kept_and_attempts_numbered() {
        assert!(request(Method::GET, 64 * 1024).again().is_some());
        assert!(request(Method::GET, 64 * 1024 + 1).again().is_none());
        let mut second = request(Method::GET, 0);
        second.number(0);
        assert!(second.headers().is_empty());
        second.number(2);
        assert_eq!(second.headers()["meshwork-attempt"], "2");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_deadline_counts() {
        let now = Instant::now();
        let mut request = request(Method::GET, 0);
        assert_eq!(request.deadline(), None);
        request.extensions_mut().insert(Ends(now + Duration::from_secs(2)));
        let mut context = Context::default();
        context.deadline = Some(now + Duration::from_secs(1));
        context.priority = Priority::Critical;
        let (inside, priority) = context.sync_scope(|| (request.deadline(), request.priority()));
        assert_eq!(inside, Some(now + Duration::from_secs(1)));
        assert_eq!(priority, Priority::Critical);
        assert_eq!(request.deadline(), Some(now + Duration::from_secs(2)));
    }
}
