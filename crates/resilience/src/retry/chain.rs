//! Retries along a chain of services: one of them retries, its callers learn that more will not help.
//!
//! The attempt number tells those downstream not to retry inside a retry. That alone still adds: in a chain of n
//! services whose leaf fails, each one retries a fifth of its own first attempts, and the leaf sees 1 + n/5. So
//! the failing answer of whoever has spent its retries says `grpc-retry-pushback-ms: -1`, and only the service
//! next to the failure retries ("Addressing Cascading Failures", Site Reliability Engineering, 2016).

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    task::{self, Poll},
};

use http::{Response, header};
use meshwork_core::headers;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::Said;
use crate::Pushback;

thread_local! {
    // `None` outside of handlers.
    static SPENT: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Whether a call that the running handler made has spent its retries.
#[derive(Clone, Copy, Debug)]
pub struct Chain;

impl Chain {
    /// Notes that a call failed and its retries are spent ([`Stop::is_spent`](super::Stop::is_spent)); nothing
    /// outside of a [`scope`](Self::scope). A task that the handler spawned is outside.
    pub fn spent() {
        SPENT.set(SPENT.get().map(|_| true));
    }

    /// Runs a handler; beside its output, whether its calls have spent their retries. No allocation.
    ///
    /// # Cancel safety
    /// That of `handler`.
    pub fn scope<F: Future>(handler: F) -> Chained<F> {
        Chained { handler, spent: false }
    }

    /// Runs a poll of a handler; `spent` becomes true when one of its calls has spent its retries.
    pub fn within<R>(spent: &mut bool, poll: impl FnOnce() -> R) -> R {
        struct Back<'a>(Option<bool>, &'a mut bool);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                *self.1 |= SPENT.replace(self.0).unwrap_or_default();
            }
        }
        let _back = Back(SPENT.replace(Some(false)), spent);
        poll()
    }

    /// Says so in the head of a failing answer.
    pub fn tell<B>(answer: &mut Response<B>) {
        let content_type = answer.headers().get(header::CONTENT_TYPE);
        let is_grpc = content_type.is_some_and(|value| value.to_str().is_ok_and(headers::is_grpc));
        let (_, code) = Said::of_head(is_grpc, answer.status(), answer.headers());
        if answer.status().is_server_error() || code.is_some_and(|code| code != 0) {
            Pushback::forbid(answer.headers_mut());
        }
    }
}

pin_project! {
    /// The future of [`Chain::scope`].
    pub struct Chained<F> {
        #[pin]
        handler: F,
        spent: bool,
    }
}

impl<F: Future> Future for Chained<F> {
    type Output = (F::Output, bool);

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = Chain::within(this.spent, || this.handler.poll(cx));
        polled.map(|output| (output, *this.spent))
    }
}

/// Puts `grpc-retry-pushback-ms: -1` on the failing answers of handlers whose own calls have spent their retries.
///
/// ```
/// use meshwork_resilience::retry::{Chain, ChainLayer};
/// use tower::{Layer, ServiceExt, service_fn};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let handler = service_fn(|()| async {
///     Chain::spent(); // what a retry layer, or a channel, does when it gives up
///     Ok::<_, ()>(http::Response::builder().status(503).body(()).unwrap())
/// });
/// let answer = ChainLayer.layer(handler).oneshot(()).await.unwrap();
/// assert_eq!(answer.headers()["grpc-retry-pushback-ms"], "-1");
/// # });
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ChainLayer;

impl<S> Layer<S> for ChainLayer {
    type Service = ChainService<S>;

    fn layer(&self, inner: S) -> ChainService<S> {
        ChainService { inner }
    }
}

/// The service of a [`ChainLayer`].
#[derive(Clone, Debug)]
pub struct ChainService<S> {
    inner: S,
}

impl<S, R, B> Service<R> for ChainService<S>
where
    S: Service<R, Response = Response<B>>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = ChainFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        ChainFuture { handler: Chain::scope(self.inner.call(request)) }
    }
}

pin_project! {
    /// The future of a [`ChainService`].
    pub struct ChainFuture<F> {
        #[pin]
        handler: Chained<F>,
    }
}

impl<F, B, E> Future for ChainFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let (mut answered, spent) = task::ready!(self.project().handler.poll(cx));
        if let Ok(answer) = &mut answered
            && spent
        {
            Chain::tell(answer);
        }
        Poll::Ready(answered)
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn answer(spent: bool, status: u16, code: &'static str) -> Response<()> {
        let handler = service_fn(|()| async move {
            if spent {
                Chain::spent();
            }
            let answer = Response::builder().status(status).header("content-type", "application/grpc");
            Ok::<_, ()>(answer.header("grpc-status", code).body(()).unwrap())
        });
        ChainLayer.layer(handler).oneshot(()).await.unwrap()
    }

    #[tokio::test]
    async fn only_a_failing_answer_of_a_handler_with_spent_retries_forbids_more() {
        assert!(answer(true, 200, "14").await.headers().contains_key("grpc-retry-pushback-ms"));
        assert!(answer(true, 503, "0").await.headers().contains_key("grpc-retry-pushback-ms"));
        assert!(!answer(true, 200, "0").await.headers().contains_key("grpc-retry-pushback-ms"));
        assert!(!answer(false, 200, "14").await.headers().contains_key("grpc-retry-pushback-ms"));
        Chain::spent();
    }
}
