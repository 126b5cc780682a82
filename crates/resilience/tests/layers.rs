//! The layers from outside, over scripted services and paused time.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use meshwork_core::{Context, Delivered, Verdict};
use meshwork_resilience::{
    Attempts, Budget, Idempotent, Overload,
    deadline::{DeadlineLayer, InheritLayer, Passed},
    hedge::{HedgeLayer, Lost},
    limit::LimitLayer,
    retry::{ChainLayer, RetryLayer, RetryPolicy, Tried},
};
use tokio::time::{self, Instant};
use tower::{ServiceBuilder, ServiceExt, service_fn};

type Sent = Request<Full<Bytes>>;

const MS: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Failed {
    what: String,
    delivered: Delivered,
    pushback: Option<Duration>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failed {}

impl Verdict for Failed {
    fn delivered(&self) -> Delivered {
        self.delivered
    }

    fn pushback(&self) -> Option<Duration> {
        self.pushback
    }
}

impl<E: Verdict + fmt::Display> From<Told<E>> for Failed {
    fn from(Told(error): Told<E>) -> Self {
        Self { what: error.to_string(), delivered: error.delivered(), pushback: error.pushback() }
    }
}

struct Told<E>(E);

impl From<Passed> for Failed {
    fn from(error: Passed) -> Self {
        Told(error).into()
    }
}

impl From<Overload> for Failed {
    fn from(error: Overload) -> Self {
        Told(error).into()
    }
}

impl From<Tried<Failed>> for Failed {
    fn from(error: Tried<Failed>) -> Self {
        Told(error).into()
    }
}

/// What a scripted service does with one attempt.
#[derive(Clone, Copy)]
enum Does {
    Answers(u16),
    Pushes(u16, &'static str),
    Loses,
    Refuses,
    Takes(Duration),
}

/// A service that follows a script and notes the attempts: when, and with which number by header and context.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Played>>);

#[derive(Default)]
struct Played {
    script: VecDeque<Does>,
    attempts: Vec<(Instant, String, u32)>,
    dropped: usize,
}

struct Counted(Script, bool);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().dropped += usize::from(!self.1);
    }
}

impl Script {
    fn of(script: impl IntoIterator<Item = Does>) -> Self {
        Self::default().with(script)
    }

    fn with(self, script: impl IntoIterator<Item = Does>) -> Self {
        self.0.lock().unwrap().script.extend(script);
        self
    }

    fn attempts(&self) -> Vec<(Instant, String, u32)> {
        self.0.lock().unwrap().attempts.clone()
    }

    async fn play(self, request: Sent) -> Result<Response<&'static str>, Failed> {
        let number = request.headers().get("meshwork-attempt");
        let number = number.map_or_else(String::new, |number| number.to_str().unwrap().to_owned());
        let does = {
            let mut played = self.0.lock().unwrap();
            played.attempts.push((Instant::now(), number, Context::current().attempt));
            played.script.pop_front().unwrap_or(Does::Answers(200))
        };
        let mut counted = Counted(self, false);
        let answer = |status: u16| Response::builder().status(status);
        let failed = |what: &str, delivered| Failed { what: what.to_owned(), delivered, pushback: None };
        let came = match does {
            Does::Answers(status) => Ok(answer(status).body("done").unwrap()),
            Does::Pushes(status, millis) => {
                Ok(answer(status).header("grpc-retry-pushback-ms", millis).body("done").unwrap())
            }
            Does::Loses => Err(failed("connection lost", Delivered::Maybe)),
            Does::Refuses => Err(failed("refused", Delivered::No)),
            Does::Takes(long) => {
                time::sleep(long).await;
                Ok(answer(200).body("late").unwrap())
            }
        };
        counted.1 = true;
        came
    }
}

fn request(idempotent: bool) -> Sent {
    let mut request = Request::post("/").body(Full::new(Bytes::from_static(b"body"))).unwrap();
    request.extensions_mut().insert(Idempotent(idempotent));
    request
}

fn budget() -> Arc<Budget> {
    Arc::new(Budget::new(Budget::RATIO, Budget::MINIMUM, Instant::now()))
}

async fn retried(
    script: &Script,
    attempts: u8,
    request: Sent,
) -> Result<Response<&'static str>, Tried<Failed>> {
    let played = script.clone();
    let mut policy = RetryPolicy::default();
    policy.attempts = attempts;
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(budget()).policy(policy))
        .service(service_fn(move |request| played.clone().play(request)));
    service.oneshot(request).await
}

// === retry ===

#[tokio::test(start_paused = true)]
async fn an_idempotent_call_is_tried_again_and_each_attempt_carries_its_number() {
    let script = Script::of([Does::Loses, Does::Answers(503), Does::Answers(200)]);
    let answer = retried(&script, 3, request(true)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let numbers: Vec<_> =
        script.attempts().into_iter().map(|(_, header, context)| (header, context)).collect();
    assert_eq!(numbers, [(String::new(), 0), ("1".to_owned(), 1), ("2".to_owned(), 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_not_run_twice_is_sent_once_after_an_ambiguous_failure() {
    let script = Script::of([Does::Loses]);
    let error = retried(&script, 5, request(false)).await.unwrap_err();
    assert_eq!(script.attempts().len(), 1);
    assert_eq!(error.delivered(), Delivered::Maybe);
    assert_eq!(error.to_string(), "attempts: connection lost after 0.0 ms, no retry: not idempotent");
}

#[tokio::test(start_paused = true)]
async fn what_was_surely_not_delivered_goes_again_for_any_call_and_the_verdict_is_that_of_all() {
    let script = Script::of([Does::Refuses, Does::Refuses, Does::Answers(200)]);
    assert!(retried(&script, 1, request(false)).await.is_ok());
    let script = Script::of([Does::Loses, Does::Refuses, Does::Refuses, Does::Refuses, Does::Refuses]);
    let error = retried(&script, 2, request(true)).await.unwrap_err();
    assert_eq!(error.delivered(), Delivered::Maybe, "the first one may have been");
    let then: Vec<_> = error.attempts().iter().map(|attempt| attempt.then).collect();
    assert_eq!(then, ["retried", "re-routed", "re-routed", "re-routed", "no retry: attempts used up"]);
}

#[tokio::test(start_paused = true)]
async fn pushback_is_waited_for_and_a_negative_one_ends_it() {
    let script = Script::of([Does::Pushes(503, "250"), Does::Answers(200)]);
    assert_eq!(retried(&script, 2, request(true)).await.unwrap().status(), 200);
    let attempts = script.attempts();
    assert_eq!(attempts[1].0 - attempts[0].0, 250 * MS);

    let script = Script::of([Does::Pushes(503, "-1")]);
    assert_eq!(retried(&script, 5, request(true)).await.unwrap().status(), 503, "the answer as it is");
    assert_eq!(script.attempts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_downstream_of_a_retry_tries_again() {
    let mut inside = Context::default();
    inside.attempt = 1;
    let script = Script::of([Does::Loses]);
    let error = inside.scope(retried(&script, 3, request(true))).await.unwrap_err();
    assert!(error.to_string().ends_with("no retry: the caller retries already"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_or_a_large_body_is_not_sent_again() {
    let script = Script::of([Does::Loses]);
    let mut large = request(true);
    *large.body_mut() = Full::new(Bytes::from(vec![0; 64 * 1024 + 1]));
    let error = retried(&script, 3, large).await.unwrap_err();
    assert!(error.to_string().ends_with("too large to keep"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_request_may_ask_for_other_attempts_than_the_layer() {
    let script = Script::of([Does::Loses, Does::Loses, Does::Answers(200)]);
    let mut request = request(true);
    request.extensions_mut().insert(Attempts(3));
    assert!(retried(&script, 1, request).await.is_ok());
    assert_eq!(script.attempts().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn no_pause_outlasts_the_deadline() {
    let script = Script::of([Does::Pushes(503, "900"), Does::Answers(200)]);
    let mut context = Context::default();
    context.deadline = Some(Instant::now() + 500 * MS);
    let answer = context.scope(retried(&script, 2, request(true))).await.unwrap();
    assert_eq!((answer.status().as_u16(), script.attempts().len()), (503, 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_altogether_is_asked_a_fifth_more() {
    let budget = budget();
    let script = Script::of(std::iter::repeat_n(Does::Loses, 5000));
    let played = script.clone();
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(budget))
        .service(service_fn(move |request| played.clone().play(request)));
    for _ in 0..2000 {
        time::advance(MS).await;
        service.clone().oneshot(request(true)).await.unwrap_err();
    }
    let attempts = script.attempts().len();
    assert!((2300..=2500).contains(&attempts), "{attempts} attempts of 2 000 calls");
}

#[tokio::test(start_paused = true)]
async fn only_the_service_next_to_the_failure_retries() {
    // leaf <- middle <- front: by header and answer alone, as over a wire.
    let leaf = Script::of(std::iter::repeat_n(Does::Answers(503), 99));
    let played = leaf.clone();
    let hop = |inner: tower::util::BoxCloneService<Sent, Response<&'static str>, Failed>| {
        let calling = ServiceBuilder::new().layer(RetryLayer::new(budget())).service(inner);
        let handler = service_fn(move |_: Sent| {
            let calling = calling.clone();
            async move { calling.oneshot(request(true)).await.map_err(Failed::from) }
        });
        let service = ServiceBuilder::new().layer(InheritLayer::default()).layer(ChainLayer).service(handler);
        tower::util::BoxCloneService::new(service)
    };
    let leaf_service = service_fn(move |request| played.clone().play(request));
    let front = hop(hop(hop(tower::util::BoxCloneService::new(leaf_service))));
    let answer = front.oneshot(request(true)).await.unwrap();
    assert_eq!(answer.headers()["grpc-retry-pushback-ms"], "-1");
    assert_eq!(leaf.attempts().len(), 2, "one call and one retry, by the middle");
}

// === hedge ===

/// A hedged service that knows calls of 10 ms.
async fn hedged(script: &Script, layer: HedgeLayer) -> Result<Response<&'static str>, Failed> {
    let warm = Script::of(std::iter::repeat_n(Does::Takes(10 * MS), 100))
        .with(script.0.lock().unwrap().script.drain(..).collect::<Vec<_>>());
    let played = warm.clone();
    let service =
        ServiceBuilder::new().layer(layer).service(service_fn(move |request| played.clone().play(request)));
    for _ in 0..100 {
        service.clone().oneshot(request(true)).await.unwrap();
    }
    let came = service.oneshot(request(true)).await;
    let mut played = script.0.lock().unwrap();
    let mut seen = warm.0.lock().unwrap();
    played.attempts = seen.attempts.split_off(100);
    played.dropped = seen.dropped;
    came
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_gets_a_second_attempt_and_the_loser_is_cancelled_and_told() {
    let script = Script::of([Does::Takes(1000 * MS), Does::Takes(10 * MS)]);
    let told = Arc::new(Mutex::new(Vec::<Lost>::new()));
    let tell = Arc::clone(&told);
    let layer = HedgeLayer::alone().on_lost(move |lost| tell.lock().unwrap().push(lost));
    let answer = hedged(&script, layer.clone()).await.unwrap();
    assert_eq!(answer.into_body(), "late");
    let attempts = script.attempts();
    let waited = attempts[1].0 - attempts[0].0;
    assert!((15 * MS..=18 * MS).contains(&waited), "half as long again as p95: {waited:?}");
    assert_eq!((attempts[1].1.as_str(), attempts[1].2), ("1", 1), "nobody downstream retries for it");
    assert_eq!(script.0.lock().unwrap().dropped, 1);
    let told = told.lock().unwrap();
    assert!(told.len() == 1 && !told[0].hedge && told[0].at_least >= waited + 10 * MS, "{told:?}");
    assert_eq!((layer.stats().sent, layer.stats().won), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_first_attempt_may_still_win_and_a_failing_hedge_harms_nothing() {
    let script = Script::of([Does::Takes(20 * MS), Does::Takes(1000 * MS)]);
    let layer = HedgeLayer::alone();
    hedged(&script, layer.clone()).await.unwrap();
    assert_eq!((layer.stats().sent, layer.stats().won, script.attempts().len()), (1, 0, 2));
    let script = Script::of([Does::Takes(50 * MS), Does::Loses]);
    assert!(hedged(&script, HedgeLayer::alone()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_the_hedge_is_left_to_retries() {
    let script = Script::of([Does::Loses]);
    assert!(hedged(&script, HedgeLayer::alone()).await.is_err());
    assert_eq!(script.attempts().len(), 1);
}

// === all of them ===

#[tokio::test(start_paused = true)]
async fn a_stack_of_all_layers_retries_inside_its_deadline() {
    let script = Script::of([Does::Loses, Does::Takes(5000 * MS)]);
    let played = script.clone();
    let shared = budget();
    let limit = LimitLayer::new(1);
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new(800 * MS))
        .layer(limit.clone())
        .map_err(Failed::from)
        .layer(RetryLayer::new(Arc::clone(&shared)))
        .layer(HedgeLayer::new(shared))
        .service(service_fn(move |request| played.clone().play(request)));
    let began = Instant::now();
    let error = service.clone().oneshot(request(true)).await.unwrap_err();
    assert_eq!(error.to_string(), "no answer within 800ms (the client's configuration in code)");
    assert_eq!((error.delivered(), began.elapsed()), (Delivered::Maybe, 800 * MS));
    assert_eq!(script.attempts().len(), 2);
    assert_eq!(limit.gate().running(), 0, "the permit is back");
    assert_eq!(service.oneshot(request(true)).await.unwrap().into_body(), "done");
}

#[tokio::test(start_paused = true)]
async fn the_layers_inside_know_the_deadline_that_the_outer_one_found() {
    let script = Script::of([Does::Pushes(503, "900"), Does::Answers(200)]);
    let played = script.clone();
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new(800 * MS))
        .map_err(Failed::from)
        .layer(RetryLayer::new(budget()))
        .service(service_fn(move |request| played.clone().play(request)));
    let began = Instant::now();
    let answer = service.oneshot(request(true)).await.unwrap();
    assert_eq!((answer.status().as_u16(), began.elapsed()), (503, Duration::ZERO), "no wait for nothing");
}
