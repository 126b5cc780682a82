//! Hedging as a tower layer.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use meshwork_core::Context;
use pin_project_lite::pin_project;
use tokio::time::{self, Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::{HedgePolicy, HedgeStats, Hedging, Methods, Suits};
use crate::{Budget, Replay};

/// The attempt that answered second was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// Whether it was the hedge; else the first attempt.
    pub hedge: bool,
    /// How long it had taken: a lower bound of its latency, never a failure.
    pub at_least: Duration,
}

/// Sends a second attempt of calls that take longer than nearly all others, if they may run twice and are kept.
///
/// The first answer that is no error wins; the other attempt is dropped, which cancels it. Put it inside of retry,
/// outside of the service that chooses an instance. The hedge runs in a [`Context`] with the next attempt number,
/// and carries it, so that nobody downstream tries again for it.
///
/// ```
/// use std::sync::Arc;
/// use meshwork_resilience::{Budget, hedge::{HedgeLayer, Lost}};
/// let budget = Arc::new(Budget::new(Budget::RATIO, Budget::MINIMUM, tokio::time::Instant::now()));
/// let layer = HedgeLayer::new(budget).on_lost(|lost: Lost| println!("at least {:?}", lost.at_least));
/// assert_eq!(layer.stats().sent, 0);
/// ```
#[derive(Clone)]
pub struct HedgeLayer {
    methods: Arc<Methods>,
    budget: Arc<Budget>,
    counts: bool,
    on_lost: Option<Arc<dyn Fn(Lost) + Send + Sync>>,
}

impl fmt::Debug for HedgeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeLayer").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl HedgeLayer {
    /// A layer inside of a [`RetryLayer`](crate::retry::RetryLayer) with the same budget, which counts the calls.
    pub fn new(budget: Arc<Budget>) -> Self {
        let methods = Arc::new(Methods::new(HedgePolicy::default()));
        Self { methods, budget, counts: false, on_lost: None }
    }

    /// A layer without retries around it: it counts the calls of its own budget.
    pub fn alone() -> Self {
        let budget = Budget::new(Budget::RATIO, Budget::MINIMUM, Instant::now());
        Self { counts: true, ..Self::new(Arc::new(budget)) }
    }

    /// With this policy.
    #[must_use]
    pub fn policy(self, policy: HedgePolicy) -> Self {
        Self { methods: Arc::new(Methods::new(policy)), ..self }
    }

    /// Tells each attempt that was cancelled since the other one answered.
    #[must_use]
    pub fn on_lost(self, tell: impl Fn(Lost) + Send + Sync + 'static) -> Self {
        Self { on_lost: Some(Arc::new(tell)), ..self }
    }

    /// The counters.
    pub fn stats(&self) -> HedgeStats {
        self.methods.stats()
    }

    fn lost(&self, hedge: bool, at_least: Duration) {
        if let Some(tell) = &self.on_lost {
            tell(Lost { hedge, at_least });
        }
    }
}

impl<S> Layer<S> for HedgeLayer {
    type Service = HedgeService<S>;

    fn layer(&self, inner: S) -> HedgeService<S> {
        HedgeService { inner, hedge: self.clone() }
    }
}

/// The service of a [`HedgeLayer`].
#[derive(Clone, Debug)]
pub struct HedgeService<S> {
    inner: S,
    hedge: HedgeLayer,
}

impl<S, R> Service<R> for HedgeService<S>
where
    S: Service<R> + Clone,
    R: Replay,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = HedgeFuture<S, R>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let now = Instant::now();
        if self.hedge.counts {
            self.hedge.budget.called(now);
        }
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let attempt = Context::with_current(|context| context.map_or(0, |context| context.attempt));
        let idempotent = request.is_idempotent();
        let copy = if idempotent && attempt == 0 { request.again() } else { None };
        let suits = Suits { idempotent, kept: copy.is_some(), nested: attempt > 0 };
        let hedging = Arc::clone(self.hedge.methods.of(request.method(), now));
        let after = hedging.after(suits, now);
        let second = match (after, copy) {
            (Some(after), Some(copy)) => Second::Waiting { sleep: time::sleep(after), copy: Some(copy) },
            _ => Second::Never,
        };
        let first = First::Running { future: inner.call(request) };
        HedgeFuture { first, second, inner, began: now, hedging, hedge: self.hedge.clone() }
    }
}

pin_project! {
    /// The future of a [`HedgeService`].
    pub struct HedgeFuture<S, R>
    where
        S: Service<R>,
    {
        #[pin]
        first: First<S::Future, S::Error>,
        #[pin]
        second: Second<S::Future, R>,
        inner: S,
        began: Instant,
        hedging: Arc<Hedging>,
        hedge: HedgeLayer,
    }
}

pin_project! {
    #[project = FirstProjected]
    enum First<F, E> {
        Running { #[pin] future: F },
        Failed { error: Option<E> },
    }
}

pin_project! {
    #[project = SecondProjected]
    enum Second<F, R> {
        Never,
        Waiting { #[pin] sleep: Sleep, copy: Option<R> },
        Readying { copy: Option<R> },
        Running { #[pin] future: F, context: Context, began: Instant },
    }
}

impl<S, R> Future for HedgeFuture<S, R>
where
    S: Service<R>,
    R: Replay,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let FirstProjected::Running { future } = this.first.as_mut().project()
            && let Poll::Ready(came) = future.poll(cx)
        {
            let now = Instant::now();
            let latency = now.saturating_duration_since(*this.began);
            match came {
                Ok(answer) => {
                    this.hedging.answered(latency, now);
                    if let SecondProjected::Running { began, .. } = this.second.as_mut().project() {
                        this.hedge.lost(true, now.saturating_duration_since(*began));
                    }
                    return Poll::Ready(Ok(answer));
                }
                // A failure before the hedge is for the retry layer; after it, the hedge may still answer.
                Err(error) if !matches!(*this.second, Second::Running { .. }) => {
                    return Poll::Ready(Err(error));
                }
                Err(error) => this.first.set(First::Failed { error: Some(error) }),
            }
        }
        loop {
            let next = match this.second.as_mut().project() {
                SecondProjected::Never => return Poll::Pending,
                SecondProjected::Waiting { sleep, copy } => {
                    task::ready!(sleep.poll(cx));
                    if this.hedging.take(&this.hedge.budget, Instant::now()) {
                        Second::Readying { copy: copy.take() }
                    } else {
                        Second::Never
                    }
                }
                SecondProjected::Readying { copy } => match task::ready!(this.inner.poll_ready(cx)) {
                    Ok(()) => {
                        let mut copy = copy.take().expect("invariant: taken once, here");
                        let mut context = Context::current();
                        context.attempt = context.attempt.saturating_add(1);
                        copy.number(context.attempt);
                        let future = context.clone().sync_scope(|| this.inner.call(copy));
                        Second::Running { future, context, began: Instant::now() }
                    }
                    Err(_) => Second::Never,
                },
                SecondProjected::Running { future, context, .. } => {
                    let came = task::ready!(context.clone().sync_scope(|| future.poll(cx)));
                    let now = Instant::now();
                    let at_least = now.saturating_duration_since(*this.began);
                    match (came, this.first.as_mut().project()) {
                        (Ok(answer), FirstProjected::Running { .. }) => {
                            this.hedging.won(at_least, now);
                            this.hedge.lost(false, at_least);
                            return Poll::Ready(Ok(answer));
                        }
                        (Ok(answer), FirstProjected::Failed { .. }) => return Poll::Ready(Ok(answer)),
                        (Err(_), FirstProjected::Running { .. }) => Second::Never,
                        (Err(_), FirstProjected::Failed { error }) => {
                            let error = error.take().expect("invariant: not polled after its end");
                            return Poll::Ready(Err(error));
                        }
                    }
                }
            };
            this.second.set(next);
        }
    }
}
