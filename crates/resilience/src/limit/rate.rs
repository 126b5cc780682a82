//! Calls per second, by governor (the generic cell rate algorithm, ITU-T I.371).

use std::{
    fmt,
    future::Future,
    mem,
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{self, Poll, ready},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use pin_project_lite::pin_project;
use tokio::time::{self, Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::{Call, Full, Overload};

/// The most calls that wait for their turn.
const WAITING: usize = 1024;

/// The runtime's clock, so that tests can pause it.
#[derive(Clone, Copy, Debug)]
struct Since(Instant);

impl Clock for Since {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, Since, NoOpMiddleware<Nanos>>;

struct Shared {
    limiter: Limiter,
    clock: Since,
    longest: Duration,
    waiting: AtomicUsize,
}

/// Lets a limited number of calls begin per second, across all services it makes. A call too early waits if its
/// turn comes within the longest wait and its deadline; else it is refused at once, with the time to wait in the
/// [`Overload`].
///
/// ```
/// use std::{num::NonZeroU32, time::Duration};
/// use meshwork_resilience::limit::RateLayer;
/// let hundred = NonZeroU32::new(100).expect("not zero");
/// let layer = RateLayer::new(hundred, hundred).longest_wait(Duration::from_millis(50));
/// # drop(layer);
/// ```
#[derive(Clone)]
pub struct RateLayer {
    quota: Quota,
    shared: Arc<Shared>,
}

impl fmt::Debug for RateLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLayer").field("quota", &self.quota).finish_non_exhaustive()
    }
}

impl RateLayer {
    /// `per_second` calls, `burst` of them at once after a pause. Calls too early are refused.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self::with(Quota::per_second(per_second).allow_burst(burst), Duration::ZERO)
    }

    /// Lets calls too early wait this long at most (at most 1 024 of them); a layer that is new.
    #[must_use]
    pub fn longest_wait(self, longest: Duration) -> Self {
        Self::with(self.quota, longest)
    }

    fn with(quota: Quota, longest: Duration) -> Self {
        let clock = Since(Instant::now());
        let limiter = RateLimiter::direct_with_clock(quota, clock);
        Self { quota, shared: Arc::new(Shared { limiter, clock, longest, waiting: AtomicUsize::new(0) }) }
    }
}

impl Shared {
    /// Whether a call may begin now; else how long to wait.
    fn begin(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|early| {
            let wait = early.wait_time_from(self.clock.now());
            // Timers are of milliseconds; never a loop without a pause.
            wait.max(Duration::from_millis(1))
        })
    }
}

impl<S> Layer<S> for RateLayer {
    type Service = RateService<S>;

    fn layer(&self, inner: S) -> RateService<S> {
        RateService { inner, shared: Arc::clone(&self.shared) }
    }
}

/// The service of a [`RateLayer`].
#[derive(Clone)]
pub struct RateService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S: fmt::Debug> fmt::Debug for RateService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, R> Service<R> for RateService<S>
where
    S: Service<R> + Clone,
    S::Error: From<Overload>,
    R: Call,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RateFuture<S, R>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let Err(wait) = self.shared.begin() else {
            return RateFuture { state: State::Calling { future: inner.call(request) } };
        };
        let now = Instant::now();
        let longest = now.checked_add(self.shared.longest);
        let ends = request.deadline().into_iter().chain(longest).min().unwrap_or(now);
        let place = Place::take(&self.shared).filter(|_| now.checked_add(wait).is_some_and(|at| at <= ends));
        let state = match place {
            Some(place) => {
                State::Waiting { sleep: time::sleep(wait), ends, call: Some((inner, request)), place }
            }
            None => State::Refused { wait },
        };
        RateFuture { state }
    }
}

/// One of the calls that wait.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let place = Self(Arc::clone(shared));
        (shared.waiting.fetch_add(1, Relaxed) < WAITING).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

pin_project! {
    /// The future of a [`RateService`].
    pub struct RateFuture<S, R>
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
        Refused { wait: Duration },
        Waiting { #[pin] sleep: Sleep, ends: Instant, call: Option<(S, R)>, place: Place },
        Calling { #[pin] future: F },
    }
}

impl<S, R> Future for RateFuture<S, R>
where
    S: Service<R>,
    S::Error: From<Overload>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                Projected::Refused { wait } => {
                    return Poll::Ready(Err(Overload::new(Full::Rate, *wait).into()));
                }
                Projected::Waiting { mut sleep, ends, call, place } => {
                    ready!(sleep.as_mut().poll(cx));
                    match place.0.begin() {
                        Ok(()) => {
                            let (mut inner, request) = call.take().expect("invariant: taken once, here");
                            State::Calling { future: inner.call(request) }
                        }
                        // Another one was quicker.
                        Err(wait) => match Instant::now().checked_add(wait).filter(|at| at <= ends) {
                            Some(at) => {
                                sleep.reset(at);
                                continue;
                            }
                            None => State::Refused { wait },
                        },
                    }
                }
                Projected::Calling { future } => return future.poll(cx),
            };
            state.set(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use meshwork_core::BoxError;
    use tower::{ServiceExt, service_fn};

    use super::*;

    struct Get;
    impl Call for Get {}

    fn number(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    async fn ok(layer: &RateLayer, calls: usize) -> usize {
        let service = layer.layer(service_fn(|_: Get| async { Ok::<_, BoxError>(()) }));
        let came = join_all((0..calls).map(|_| service.clone().oneshot(Get))).await;
        came.into_iter().filter(Result::is_ok).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate_and_no_more() {
        let layer = RateLayer::new(number(100), number(20));
        assert_eq!(ok(&layer, 50).await, 20);
        time::advance(Duration::from_millis(100)).await;
        assert_eq!(ok(&layer, 50).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn early_calls_wait_no_longer_than_allowed() {
        let layer = RateLayer::new(number(100), number(1)).longest_wait(Duration::from_millis(95));
        let began = Instant::now();
        assert_eq!(ok(&layer, 50).await, 10);
        assert!(began.elapsed() <= Duration::from_millis(96), "{:?}", began.elapsed());
        assert_eq!(layer.shared.waiting.load(Relaxed), 0);
    }
}
