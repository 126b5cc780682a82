//! Load shedding as a tower layer.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{Admitted, Ended, Shedder};
use crate::{Call, Overload};

/// Refuses calls at once when there is no room for their priority; the others run.
///
/// Put it around handlers, outside of everything that waits. A call leaves with the head of its answer; a server
/// that writes long bodies holds the [`Admitted`] itself.
///
/// ```
/// use std::sync::Arc;
/// use meshwork_core::BoxError;
/// use meshwork_resilience::shed::{ShedLayer, Shedder};
/// use tower::{Layer, ServiceExt, service_fn};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let shedder = Arc::new(Shedder::default());
/// let handler = service_fn(|_: http::Request<()>| async { Ok::<_, BoxError>("fine") });
/// let answer = ShedLayer::new(Arc::clone(&shedder)).layer(handler).oneshot(http::Request::new(())).await;
/// assert_eq!(answer.unwrap(), "fine");
/// assert_eq!(shedder.stats().inside, 0);
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct ShedLayer {
    shedder: Arc<Shedder>,
}

impl ShedLayer {
    /// Around all services it makes, this one shedder.
    pub fn new(shedder: Arc<Shedder>) -> Self {
        Self { shedder }
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = ShedService<S>;

    fn layer(&self, inner: S) -> ShedService<S> {
        ShedService { inner, shedder: Arc::clone(&self.shedder) }
    }
}

/// The service of a [`ShedLayer`].
#[derive(Clone, Debug)]
pub struct ShedService<S> {
    inner: S,
    shedder: Arc<Shedder>,
}

impl<S, R> Service<R> for ShedService<S>
where
    S: Service<R>,
    S::Error: From<Overload>,
    R: Call,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ShedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let state = match self.shedder.admit(request.priority(), Instant::now()) {
            Ok(admitted) => State::Inside { handler: self.inner.call(request), admitted: Some(admitted) },
            Err(refused) => State::Refused { refused },
        };
        ShedFuture { state }
    }
}

pin_project! {
    /// The future of a [`ShedService`].
    pub struct ShedFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F> {
        Refused { refused: Overload },
        Inside { #[pin] handler: F, admitted: Option<Admitted> },
    }
}

impl<F, T, E> Future for ShedFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: From<Overload>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Result<T, E>> {
        match self.project().state.project() {
            Projected::Refused { refused } => Poll::Ready(Err((*refused).into())),
            Projected::Inside { handler, admitted } => {
                let came = ready!(handler.poll(cx));
                if let Some(admitted) = admitted.take() {
                    let ended = if came.is_ok() { Ended::Answered } else { Ended::Failed };
                    admitted.finish(Instant::now(), ended);
                }
                Poll::Ready(came)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt;
    use meshwork_core::{BoxError, Context, Priority};
    use tower::{ServiceExt, service_fn};

    use super::*;

    struct Get;
    impl Call for Get {}

    #[tokio::test(start_paused = true)]
    async fn the_priority_of_the_context_decides_and_a_cancelled_call_leaves() {
        let shedder = Arc::new(Shedder::default());
        let layer = ShedLayer::new(Arc::clone(&shedder));
        let service = layer.layer(service_fn(|_: Get| pending::<Result<(), BoxError>>()));
        let mut calls: Vec<_> = (0..21).map(|_| Box::pin(service.clone().oneshot(Get))).collect();
        let came: Vec<_> = calls.iter_mut().map(|call| call.now_or_never()).collect();
        assert_eq!(came.iter().filter(|came| came.is_none()).count(), 20);
        let refused = came.into_iter().flatten().next().unwrap().unwrap_err();
        assert_eq!(refused.to_string(), "refused for overload: shed under load");
        let mut critical = Context::default();
        critical.priority = Priority::Critical;
        let mut more = Box::pin(critical.scope(service.oneshot(Get)));
        assert!((&mut more).now_or_never().is_none(), "critical calls have room left");
        drop((calls, more));
        assert_eq!(shedder.stats().inside, 0);
    }
}
