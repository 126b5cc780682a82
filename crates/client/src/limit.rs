//! How many calls may run at a time and begin per second: what is configured, and what admits calls by it.

use std::{
    borrow::Cow,
    fmt,
    future::{self, Ready},
    num::NonZeroU32,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use meshwork_core::Verdict;
use meshwork_resilience::{
    Call, Full, Overload,
    limit::{Gate, GatePolicy, Permit, RateLayer, RateService},
};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{CallError, CallErrorKind};

/// How many calls may run at a time and begin per second. Off unless one of them is set.
///
/// A call one too many waits for its turn, and fails as [`Overloaded`](crate::CallErrorKind::Overloaded) when none
/// comes in time. It has reached nobody then, took nothing from the budget of retries, and is not tried again. A
/// place is given back with the head of the answer: an answer that is a stream holds none.
///
/// ```
/// use std::{num::NonZeroU32, time::Duration};
/// use meshwork_client::ClientConfig;
/// let mut config = ClientConfig::default();
/// config.limit.concurrency = NonZeroU32::new(64);
/// config.limit.longest_wait = Duration::from_millis(100);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitConfig {
    /// Calls that run at a time. Default `None`: any number.
    pub concurrency: Option<NonZeroU32>,
    /// Calls that begin per second. Default `None`: any number.
    pub rate: Option<NonZeroU32>,
    /// Calls that may begin at once after a pause, where `rate` is set. Default `None`: as many as per second.
    pub burst: Option<NonZeroU32>,
    /// Calls that may wait for one of the others to end, 0 and up. Default 1024. For the next second at most 1024
    /// wait, whatever this says.
    pub queue: usize,
    /// The longest wait for a turn, whatever the call's deadline; zero = none waits. Default 1 s.
    pub longest_wait: Duration,
    /// Where it was set, for errors. Default: `the limit of the client`.
    pub origin: Cow<'static, str>,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            concurrency: None,
            rate: None,
            burst: None,
            queue: 1024,
            longest_wait: Duration::from_secs(1),
            origin: Cow::Borrowed("the limit of the client"),
        }
    }
}

/// A limit of calls and what it counts at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitView {
    /// The method it is of, `package.Service/Method`; `None` = all calls of the client.
    pub method: Option<Box<str>>,
    /// What it allows.
    pub config: LimitConfig,
    /// Calls that run; 0 where their number is not limited.
    pub running: usize,
    /// Calls that wait for one of them to end.
    pub waiting: usize,
    /// Calls that it refused, since it was set.
    pub refused: u64,
}

/// Admits calls by a [`LimitConfig`].
pub(crate) struct Limiter {
    config: LimitConfig,
    gate: Option<Gate>,
    rate: Option<RateService<Admit>>,
    refused: AtomicU64,
}

/// What an admitted call holds of one limiter until the head of its answer is there.
pub(crate) type Place = Option<Permit>;

impl Limiter {
    /// `None` when nothing is limited. `before` is used on when it means the same.
    pub(crate) fn new(config: &LimitConfig, before: Option<Arc<Self>>) -> Option<Arc<Self>> {
        if config.concurrency.is_none() && config.rate.is_none() {
            return None;
        }
        if let Some(before) = before.filter(|before| before.config == *config) {
            return Some(before);
        }
        let gate = config.concurrency.map(|limit| {
            let mut policy = GatePolicy::new(usize::try_from(limit.get()).unwrap_or(usize::MAX));
            policy.waiting = if config.longest_wait.is_zero() { 0 } else { config.queue };
            policy.longest = config.longest_wait;
            Gate::new(policy)
        });
        let rate = config.rate.map(|rate| {
            let layer = RateLayer::new(rate, config.burst.unwrap_or(rate));
            layer.longest_wait(config.longest_wait).layer(Admit)
        });
        Some(Arc::new(Self { config: config.clone(), gate, rate, refused: AtomicU64::new(0) }))
    }

    /// A place if there is one now.
    pub(crate) fn at_once(&self) -> Option<Place> {
        let place = match &self.gate {
            Some(gate) => Some(gate.try_acquire()?),
            None => None,
        };
        let admitted = match &self.rate {
            // Polled once: a call that would have to wait takes nothing.
            Some(rate) => pin!(rate.clone().call(Turn(None))).now_or_never().is_some_and(|turn| turn.is_ok()),
            None => true,
        };
        admitted.then_some(place)
    }

    /// A place, at the latest at `ends`.
    ///
    /// # Errors
    /// [`Overloaded`](CallErrorKind::Overloaded) when there is none in time.
    ///
    /// # Cancel safety
    /// Dropping the future gives everything back but what it took of the rate.
    pub(crate) async fn wait(&self, ends: Option<Instant>) -> Result<Place, CallError> {
        let place = match &self.gate {
            Some(gate) => Some(gate.acquire(ends).await.map_err(|overload| self.refused(overload))?),
            None => None,
        };
        if let Some(rate) = &self.rate {
            rate.clone().call(Turn(ends)).await.map_err(|overload| self.refused(overload))?;
        }
        Ok(place)
    }

    fn refused(&self, overload: Overload) -> CallError {
        self.refused.fetch_add(1, Relaxed);
        let (why, origin) = (overload.why(), &self.config.origin);
        let allowed = match (why, self.config.rate, self.config.concurrency) {
            (Full::Rate, Some(rate), _) => format!("{rate} calls a second"),
            (_, _, Some(most)) => format!("{most} calls at a time"),
            _ => "calls".to_owned(),
        };
        let text = format!("refused by this client's limit of {allowed} ({origin}): {}", why.as_str());
        CallError::new(CallErrorKind::Overloaded, text)
            .with_pushback(overload.pushback())
            .with_source(overload)
    }

    /// What it counts now.
    pub(crate) fn view(&self, method: Option<&str>) -> LimitView {
        LimitView {
            method: method.map(Into::into),
            config: self.config.clone(),
            running: self.gate.as_ref().map_or(0, Gate::running),
            waiting: self.gate.as_ref().map_or(0, Gate::waiting),
            refused: self.refused.load(Relaxed),
        }
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("view", &self.view(None)).finish()
    }
}

/// A call, as the rate limit sees it: when its caller stops waiting.
struct Turn(Option<Instant>);

impl Call for Turn {
    fn deadline(&self) -> Option<Instant> {
        self.0
    }
}

/// What stands behind the rate limit: the call goes on elsewhere.
#[derive(Clone)]
struct Admit;

impl Service<Turn> for Admit {
    type Response = ();
    type Error = Overload;
    type Future = Ready<Result<(), Overload>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Overload>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Turn) -> Self::Future {
        future::ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(change: impl FnOnce(&mut LimitConfig)) -> Arc<Limiter> {
        let mut config = LimitConfig::default();
        change(&mut config);
        Limiter::new(&config, None).expect("something is limited")
    }

    #[test]
    fn nothing_is_limited_unless_asked_for() {
        assert!(Limiter::new(&LimitConfig::default(), None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_refusal_says_what_was_full_and_where_that_was_set() {
        let limiter = limiter(|config| {
            config.concurrency = NonZeroU32::new(1);
            config.queue = 0;
            config.origin = "`client.users.limit` (config/prod.toml:7:1)".into();
        });
        let place = limiter.at_once().expect("the first has its place");
        assert!(limiter.at_once().is_none());
        let error = limiter.wait(None).await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Overloaded);
        assert_eq!(
            error.to_string(),
            "refused by this client's limit of 1 calls at a time (`client.users.limit` \
             (config/prod.toml:7:1)): too many calls wait"
        );
        assert!(error.pushback().is_some());
        let view = limiter.view(None);
        assert_eq!((view.running, view.waiting, view.refused), (1, 0, 1));
        drop(place);
        assert!(limiter.at_once().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_finds_no_turn_of_the_rate_gives_its_place_back() {
        let limiter = limiter(|config| {
            (config.concurrency, config.rate) = (NonZeroU32::new(8), NonZeroU32::new(10));
            config.burst = NonZeroU32::new(1);
            config.longest_wait = Duration::from_millis(150);
        });
        drop(limiter.at_once().expect("the burst"));
        assert!(limiter.at_once().is_none());
        assert_eq!(limiter.view(None).running, 0);
        let began = Instant::now();
        drop(limiter.wait(None).await.expect("within the longest wait"));
        assert!(began.elapsed() >= Duration::from_millis(99), "{:?}", began.elapsed());
        let soon = Instant::now() + Duration::from_millis(20);
        let error = limiter.wait(Some(soon)).await.unwrap_err();
        assert!(error.to_string().contains("limit of 10 calls a second"), "{error}");
        assert_eq!(limiter.view(None).running, 0);
    }
}
