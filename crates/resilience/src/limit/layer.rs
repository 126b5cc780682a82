//! The concurrency limit as a tower layer.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{self, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Acquire, Gate, GatePolicy, Permit};
use crate::{Call, Overload};

/// Lets a limited number of calls run at a time, across all services it makes; others wait, no longer than their
/// deadlines, or are refused.
///
/// A place is taken by a call and not by `poll_ready`, so that an idle clone holds none. It is given back with
/// the head of the answer.
///
/// ```
/// use meshwork_resilience::limit::{GatePolicy, LimitLayer, Order};
/// let mut policy = GatePolicy::new(64);
/// policy.order = Order::Lifo;
/// let layer = LimitLayer::with(policy);
/// assert_eq!(layer.gate().running(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct LimitLayer {
    gate: Gate,
}

impl LimitLayer {
    /// `limit` calls at a time, 1 and up.
    pub fn new(limit: usize) -> Self {
        Self::with(GatePolicy::new(limit))
    }

    /// With this policy.
    pub fn with(policy: GatePolicy) -> Self {
        Self { gate: Gate::new(policy) }
    }

    /// What it counts.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = LimitService<S>;

    fn layer(&self, inner: S) -> LimitService<S> {
        LimitService { inner, gate: self.gate.clone() }
    }
}

/// The service of a [`LimitLayer`].
#[derive(Clone, Debug)]
pub struct LimitService<S> {
    inner: S,
    gate: Gate,
}

impl<S, R> Service<R> for LimitService<S>
where
    S: Service<R> + Clone,
    S::Error: From<Overload>,
    R: Call,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = LimitFuture<S, R>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let turn = self.gate.acquire(request.deadline());
        LimitFuture { state: State::Waiting { turn, call: Some((inner, request)) } }
    }
}

pin_project! {
    /// The future of a [`LimitService`].
    pub struct LimitFuture<S, R>
    where
        S: Service<R>,
    {
        #[pin]
        state: State<S, S::Future, R>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<S, F, R> {
        Waiting { #[pin] turn: Acquire, call: Option<(S, R)> },
        Calling { #[pin] future: F, permit: Permit },
    }
}

impl<S, R> Future for LimitFuture<S, R>
where
    S: Service<R>,
    S::Error: From<Overload>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                Projected::Waiting { turn, call } => {
                    let permit = ready!(turn.poll(cx))?;
                    let (mut inner, request) = call.take().expect("invariant: taken once, here");
                    State::Calling { future: inner.call(request), permit }
                }
                Projected::Calling { future, .. } => return future.poll(cx),
            };
            state.set(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshwork_core::BoxError;
    use tokio::time;
    use tower::{ServiceExt, service_fn};

    use super::*;

    struct Get;
    impl Call for Get {}

    #[tokio::test(start_paused = true)]
    async fn as_many_as_allowed_run_and_the_others_follow() {
        let layer = LimitLayer::with(GatePolicy { waiting: 2, ..GatePolicy::new(2) });
        let service = layer.layer(service_fn(|_: Get| async {
            time::sleep(Duration::from_millis(10)).await;
            Ok::<_, BoxError>(())
        }));
        let began = time::Instant::now();
        let calls = (0..5).map(|_| service.clone().oneshot(Get));
        let came = futures_util::future::join_all(calls).await;
        assert_eq!(came.iter().filter(|came| came.is_ok()).count(), 4);
        let refused = came.into_iter().find_map(Result::err).unwrap();
        assert_eq!(refused.to_string(), "refused for overload: too many calls wait");
        assert_eq!(began.elapsed(), Duration::from_millis(20));
        assert_eq!(layer.gate().running(), 0);
    }
}
