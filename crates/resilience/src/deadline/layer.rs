//! The deadline as a tower layer around calls going out.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use http::{Request, header};
use meshwork_core::{Context, headers};
use pin_project_lite::pin_project;
use tokio::time::{self, Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::{Asked, Bound, Deadline, Limit, Limits, Passed, header as wire};
use crate::Ends;

/// In the extensions of a request: the call's own time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(pub Duration);

/// Ends each call at the smallest of what the [`Context`], the request's header and this layer's limit say,
/// and tells the callee what is left.
///
/// It covers the way to the head of the answer; a limit that spans the body needs a hand in the body
/// ([`Deadline::body`]). Put it outside of retry, limit and hedge: they read the deadline it leaves in the
/// request ([`Ends`]).
///
/// ```
/// use std::time::Duration;
/// use meshwork_resilience::deadline::{DeadlineLayer, Limit};
/// use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let limit = Limit::new(Duration::from_millis(800), "[client.users] timeout, config/prod.toml:12");
/// let never = service_fn(|_: http::Request<()>| std::future::pending::<Result<http::Response<()>, BoxError>>());
/// let mut users = ServiceBuilder::new().layer(DeadlineLayer::new(limit)).service(never);
/// let error = users.ready().await.unwrap().call(http::Request::new(())).await.unwrap_err();
/// assert_eq!(error.to_string(), "no answer within 800ms ([client.users] timeout, config/prod.toml:12)");
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    limit: Option<Arc<Limit>>,
}

impl DeadlineLayer {
    /// A layer with a limit of its own. It is not told to the callee, nor does it span the body, since the
    /// callee would cut the body by it.
    pub fn new(limit: impl Into<Limit>) -> Self {
        Self { limit: Some(Arc::new(limit.into())) }
    }

    /// A layer that only passes on what the context and the request say.
    pub fn inherited() -> Self {
        Self { limit: None }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService { inner, limit: self.limit.clone() }
    }
}

/// The service of a [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    inner: S,
    limit: Option<Arc<Limit>>,
}

impl<S, B> Service<Request<B>> for DeadlineService<S>
where
    S: Service<Request<B>>,
    S::Error: From<Passed>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let now = Instant::now();
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let is_grpc = content_type.is_some_and(|value| value.to_str().is_ok_and(headers::is_grpc));
        let asked = Asked {
            inherited: Context::with_current(|context| context?.deadline),
            header: wire::asked(request.headers(), is_grpc),
            option: request.extensions().get::<Timeout>().map(|timeout| timeout.0),
        };
        let limits = Limits { method: None, client: self.limit.as_deref() };
        let deadline = Deadline::new(now, &asked, limits);
        if let Some(bound) = deadline.body() {
            wire::write_first(request.headers_mut(), is_grpc, bound, now, limits);
        }
        let Some(bound) = deadline.waiting().copied() else {
            return State::Endless { call: self.inner.call(request) }.into();
        };
        if bound.at() <= now {
            let passed = bound.passed("time left", limits);
            return State::Late { passed: Some(passed) }.into();
        }
        request.extensions_mut().insert(Ends(bound.at()));
        let sleep = time::sleep_until(bound.at());
        let limit = self.limit.clone();
        State::Bounded { call: self.inner.call(request), sleep, bound, limit }.into()
    }
}

pin_project! {
    /// The future of a [`DeadlineService`].
    pub struct DeadlineFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F> {
        Late { passed: Option<Passed> },
        Endless { #[pin] call: F },
        Bounded { #[pin] call: F, #[pin] sleep: Sleep, bound: Bound, limit: Option<Arc<Limit>> },
    }
}

impl<F> From<State<F>> for DeadlineFuture<F> {
    fn from(state: State<F>) -> Self {
        Self { state }
    }
}

impl<F, T, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: From<Passed>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Result<T, E>> {
        match self.project().state.project() {
            Projected::Late { passed } => {
                let passed = passed.take().expect("invariant: not polled after its end");
                Poll::Ready(Err(passed.into()))
            }
            Projected::Endless { call } => call.poll(cx),
            Projected::Bounded { call, sleep, bound, limit } => {
                if let Poll::Ready(came) = call.poll(cx) {
                    return Poll::Ready(came);
                }
                task::ready!(sleep.poll(cx));
                let limits = Limits { method: None, client: limit.as_deref() };
                Poll::Ready(Err(bound.passed("answer", limits).delivered_maybe().into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Response;
    use meshwork_core::BoxError;
    use tower::{ServiceExt, service_fn};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Answers after a second with the time-out it was told.
    fn slow() -> impl Service<Request<()>, Response = Response<String>, Error = BoxError> {
        service_fn(|request: Request<()>| async move {
            time::sleep(1000 * MS).await;
            let told = request.headers().get("meshwork-timeout");
            Ok(Response::new(told.map_or_else(String::new, |told| told.to_str().unwrap().to_owned())))
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_callee_is_told_what_is_left_and_the_caller_who_set_it() {
        let mut context = Context::default();
        context.deadline = Some(Instant::now() + 2000 * MS);
        time::sleep(500 * MS).await;
        let service = || DeadlineLayer::new(5000 * MS).layer(slow());
        let answer = context.scope(service().oneshot(Request::new(()))).await.unwrap();
        assert_eq!(answer.into_body(), "1500000u", "half a second is gone at this hop");

        let mut request = Request::new(());
        request.extensions_mut().insert(Timeout(300 * MS));
        let error = service().oneshot(request).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 300ms (the call's timeout option)");
    }

    #[tokio::test(start_paused = true)]
    async fn its_own_limit_is_kept_to_itself_and_nothing_is_sent_too_late() {
        let answer = DeadlineLayer::new(5000 * MS).layer(slow()).oneshot(Request::new(())).await.unwrap();
        assert_eq!(answer.into_body(), "");
        let mut context = Context::default();
        context.deadline = Some(Instant::now());
        let never = service_fn(|_: Request<()>| async { panic!("sent too late") });
        let service = DeadlineLayer::inherited().layer(never);
        let late = context.scope(ServiceExt::<Request<()>>::oneshot(service, Request::new(())));
        let late: Result<Response<()>, BoxError> = late.await;
        assert!(late.unwrap_err().to_string().starts_with("no time left within 0ns"));
    }
}
