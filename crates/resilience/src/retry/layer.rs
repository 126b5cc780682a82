//! Retries as a tower layer.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
    time::Duration,
};

use meshwork_core::{Context, Delivered, Verdict};
use pin_project_lite::pin_project;
use tokio::time::{self, Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::{Allowed, Answers, Attempt, Chain, Judge, Next, Recovery, Stop, Tried};
use crate::{Backoff, Budget, Replay, chance};

/// The time left of a call without a deadline.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often, and how soon, a failed call is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Attempts of a call, the first included, 1 to 5 (more counts as 5); 1 = no retry. Default 2.
    pub attempts: u8,
    /// The pauses from the second retry on. Default [`Backoff::RETRY`].
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 2, backoff: Backoff::RETRY }
    }
}

/// Tries failed calls again: at most three times for free what was surely not delivered, inside the budget what
/// may run twice. Each further attempt runs in a [`Context`] with its number, and carries it.
///
/// It counts the calls of its budget. Put it outside of the service that chooses an instance, and inside the
/// deadline. The last answer is given back as it is when there is no further attempt, the last error as
/// [`Tried`].
///
/// ```
/// use std::sync::Arc;
/// use meshwork_resilience::{Budget, retry::{RetryLayer, RetryPolicy}};
/// let budget = Arc::new(Budget::new(Budget::RATIO, Budget::MINIMUM, tokio::time::Instant::now()));
/// let mut policy = RetryPolicy::default();
/// policy.attempts = 3;
/// let layer = RetryLayer::new(budget).policy(policy);
/// # drop(layer);
/// ```
#[derive(Clone, Debug)]
pub struct RetryLayer<J = Answers> {
    budget: Arc<Budget>,
    policy: RetryPolicy,
    judge: J,
}

impl RetryLayer {
    /// A layer that reads HTTP answers, with the default policy. All of a client's layers share one budget.
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { budget, policy: RetryPolicy::default(), judge: Answers }
    }
}

impl<J> RetryLayer<J> {
    /// With this policy.
    #[must_use]
    pub fn policy(self, policy: RetryPolicy) -> Self {
        Self { policy, ..self }
    }

    /// With another way to read outcomes; [`Verdicts`](super::Verdicts) for what is not HTTP.
    #[must_use]
    pub fn judge<K>(self, judge: K) -> RetryLayer<K> {
        RetryLayer { budget: self.budget, policy: self.policy, judge }
    }
}

impl<S, J: Clone> Layer<S> for RetryLayer<J> {
    type Service = RetryService<S, J>;

    fn layer(&self, inner: S) -> RetryService<S, J> {
        RetryService { inner, retry: self.clone() }
    }
}

/// The service of a [`RetryLayer`].
#[derive(Clone, Debug)]
pub struct RetryService<S, J = Answers> {
    inner: S,
    retry: RetryLayer<J>,
}

impl<S, J, R> Service<R> for RetryService<S, J>
where
    S: Service<R> + Clone,
    S::Error: Verdict + fmt::Display,
    J: Judge<S::Response, S::Error> + Clone,
    R: Replay,
{
    type Response = S::Response;
    type Error = Tried<S::Error>;
    type Future = RetryFuture<S, J, R>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(|error| Tried::new(error, Delivered::No, Vec::new()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let now = Instant::now();
        self.retry.budget.called(now);
        // The clone is for the next call; the one that is ready is for this.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let kept = request.again();
        let attempt = Context::with_current(|context| context.map_or(0, |context| context.attempt));
        let call = RetryCall {
            allowed: Allowed {
                idempotent: request.is_idempotent(),
                kept: kept.is_some(),
                nested: attempt > 0,
                attempts: request.attempts().unwrap_or(self.retry.policy.attempts),
            },
            ends: request.deadline(),
            kept,
            context: None,
            attempt,
            began: now,
            recovery: Recovery::default(),
            delivered: Delivered::No,
            attempts: Vec::new(),
            retry: self.retry.clone(),
        };
        let future = inner.call(request);
        RetryFuture { call, inner, state: State::Calling { future } }
    }
}

pin_project! {
    /// The future of a [`RetryService`].
    pub struct RetryFuture<S, J, R>
    where
        S: Service<R>,
    {
        call: RetryCall<J, R>,
        inner: S,
        #[pin]
        state: State<S::Future>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F> {
        Calling { #[pin] future: F },
        Pausing { #[pin] sleep: Sleep },
        Readying,
    }
}

/// One call between its attempts.
struct RetryCall<J, R> {
    retry: RetryLayer<J>,
    allowed: Allowed,
    ends: Option<Instant>,
    kept: Option<R>,
    /// That of the attempt under way, from the second on.
    context: Option<Context>,
    attempt: u32,
    began: Instant,
    recovery: Recovery,
    delivered: Delivered,
    attempts: Vec<Attempt>,
}

impl<J, R: Replay> RetryCall<J, R> {
    /// What follows on an outcome that is no answer.
    fn next<T, E: fmt::Display>(&mut self, trouble: &super::Trouble, outcome: &Result<T, E>) -> Next {
        let now = Instant::now();
        let next = if self.kept.is_some() {
            let left = self.ends.map_or(FOREVER, |ends| ends.saturating_duration_since(now));
            let RetryLayer { budget, policy, .. } = &self.retry;
            let take = || budget.take(now);
            self.recovery.next(trouble, &self.allowed, &policy.backoff, left, chance::bits, || true, take)
        } else if self.allowed.idempotent {
            Next::Stop(Stop::NotKept)
        } else {
            Next::Stop(Stop::NotIdempotent)
        };
        let what = match outcome {
            Ok(_) => "an answer that it cannot serve".to_owned(),
            Err(error) => error.to_string(),
        };
        self.attempts.push(Attempt::new(what, now.saturating_duration_since(self.began), next.words()));
        if let Next::Stop(why) = next
            && why.is_spent()
        {
            Chain::spent();
        }
        if trouble.delivered == Delivered::Maybe {
            self.delivered = Delivered::Maybe;
        }
        next
    }

    /// The request of the next attempt.
    fn request(&mut self) -> R {
        let kept = self.kept.take().expect("invariant: without a copy there is no further attempt");
        self.kept = kept.again();
        self.began = Instant::now();
        let mut request = kept;
        let attempt = self.attempt.saturating_add(u32::from(self.recovery.retries()));
        let mut context = Context::current();
        context.attempt = attempt;
        self.context = Some(context);
        request.number(attempt);
        request
    }
}

impl<S, J, R> Future for RetryFuture<S, J, R>
where
    S: Service<R>,
    S::Error: Verdict + fmt::Display,
    J: Judge<S::Response, S::Error>,
    R: Replay,
{
    type Output = Result<S::Response, Tried<S::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                Projected::Calling { future } => {
                    let outcome = ready!(match this.call.context.clone() {
                        Some(context) => context.sync_scope(|| future.poll(cx)),
                        None => future.poll(cx),
                    });
                    let Some(trouble) = this.call.retry.judge.trouble(&outcome) else {
                        return Poll::Ready(outcome.map_err(|error| over(this.call, error)));
                    };
                    match this.call.next(&trouble, &outcome) {
                        Next::Stop(_) => {
                            return Poll::Ready(outcome.map_err(|error| over(this.call, error)));
                        }
                        Next::Retry(pause) if !pause.is_zero() => {
                            this.state.set(State::Pausing { sleep: time::sleep(pause) });
                        }
                        Next::Retry(_) | Next::Reroute => this.state.set(State::Readying),
                    }
                }
                Projected::Pausing { sleep } => {
                    ready!(sleep.poll(cx));
                    this.state.set(State::Readying);
                }
                Projected::Readying => {
                    if let Err(error) = ready!(this.inner.poll_ready(cx)) {
                        return Poll::Ready(Err(over(this.call, error)));
                    }
                    let request = this.call.request();
                    let context = this.call.context.clone().unwrap_or_default();
                    let future = context.sync_scope(|| this.inner.call(request));
                    this.state.set(State::Calling { future });
                }
            }
        }
    }
}

/// The error of the whole call.
fn over<J, R, E: Verdict>(call: &mut RetryCall<J, R>, last: E) -> Tried<E> {
    Tried::new(last, call.delivered, mem::take(&mut call.attempts))
}
