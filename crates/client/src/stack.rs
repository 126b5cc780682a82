//! One call, from the outside in. The order of the layers stands here and nowhere else:
//!
//! 1. **context and deadline**: everything inside must know how long it may take and on whose behalf;
//! 2. **reading the body ahead**: once, before any attempt, so that each can send it again;
//! 3. **recovery** (re-route, retry with budget): outside the pick, because another attempt is another pick;
//! 4. **pick**: outside the attempt's time-out, because waiting for a connection is no node's fault;
//! 5. **attempt time-out**: outside the exchange, so that its passing is the node's failure, not a cancel;
//! 6. **ticket and exchange**: innermost, so that exactly what the node did is counted on it.
//!
//! Around 5 and 6 stands hedging, where it is on: a second attempt is another pick, and both are one to recovery.
//! Room is left between 2 and 3 for limits and shedding.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header, request::Parts};
use hyper::body::Incoming;
use meshwork_balance::{Node, NodeKey, Outcome};
use meshwork_core::{BoxError, Context, Delivered, Priority, Verdict, headers, timeout};
use meshwork_resilience::{
    Backoff, Jitter, chance,
    deadline::{self, Asked, Bound, Deadline},
    is_safe,
    retry::{Allowed, Chain, Next, Recovery, Trouble},
};
use tokio::time::{self, Instant};

use crate::{
    Attempt, AttemptPhase, Body, CallError, CallErrorKind, CallOptions, Protocol,
    body::Until,
    choose::{self, Wish},
    deadline::{limits, limits_at, method_of},
    expiry::Expiry,
    failure::Failure,
    flight::{Flight, link_of},
    names,
    shared::{Kind, Shared},
    upload::{Outbound, Upload},
    verdict::{self, Head, Unavailable},
};

mod hedge;

/// The time left of a call without any limit.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Pauses from the second retry on.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1), Jitter::Fifth);
/// Less time than this is no fair time for a node to answer.
const FAIR_TIME: Duration = Duration::from_millis(20);

/// What a call takes over from the call being served.
#[derive(Default)]
pub(crate) struct Inherited {
    deadline: Option<Instant>,
    trace: Option<Arc<str>>,
    priority: Priority,
    lane: Option<Arc<str>>,
    attempt: u32,
}

impl Inherited {
    /// From the running task's context.
    pub(crate) fn current() -> Self {
        Context::with_current(|context| {
            context.map_or_else(Self::default, |context| Self {
                deadline: context.deadline,
                trace: context.trace.clone(),
                priority: context.priority,
                lane: context.lane.clone(),
                attempt: context.attempt,
            })
        })
    }
}

/// One call between its attempts.
pub(crate) struct Call {
    shared: Arc<Shared>,
    options: Arc<CallOptions>,
    kind: Kind,
    head: Parts,
    upload: Upload,
    deadline: Deadline,
    allowed: Allowed,
    begun: Instant,
    /// Attempts of the caller that this call is part of.
    attempt: u32,
    /// Nodes to keep away from if another can take the call.
    avoid: Vec<NodeKey>,
    /// Nodes on which an attempt failed: a retry goes to another one.
    failed: Vec<NodeKey>,
    attempts: Vec<Attempt>,
    /// Whether any attempt so far may have been delivered.
    delivered: Delivered,
    recovery: Recovery,
}

/// What the headers of a request say of the call.
struct Said {
    kind: Kind,
    timeout: Option<Duration>,
    traced: bool,
    upgrade: bool,
}

/// What one attempt came to.
enum Came {
    Answer(Response<Body>),
    /// An answer by which the node says that it cannot serve; the flight is still open.
    Unavailable(Response<Incoming>, Flight, Option<Outcome>, Unavailable),
    Failed(Failure, Arc<Node>),
    Over(CallError, Arc<Node>),
}

/// Begins a call: all that needs no waiting.
///
/// # Errors
/// [`Invalid`](CallErrorKind::Invalid) when it cannot be made as it was asked,
/// [`Unsupported`](CallErrorKind::Unsupported) when it asks for an upgrade,
/// [`Deadline`](CallErrorKind::Deadline) when it has no time left.
pub(crate) fn begin<B>(
    shared: Arc<Shared>,
    options: Arc<CallOptions>,
    inherited: &Inherited,
    request: Request<B>,
) -> Result<Box<Call>, CallError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if let Some(fault) = options.fault() {
        let error = CallError::new(CallErrorKind::Invalid, "pinning the call to an instance");
        return Err(error.with_source(fault.clone()).with_service(&shared.service));
    }
    let begun = Instant::now();
    let (mut head, body) = request.into_parts();
    let said = Said::by(&head.headers);
    if said.upgrade || head.method == Method::CONNECT {
        let text = "upgrades (WebSocket, CONNECT) need a connection of their own: open one to an address of the channel's nodes";
        return Err(CallError::new(CallErrorKind::Unsupported, text).with_service(&shared.service));
    }
    shared.want(said.kind);
    shared.budget.called(begun);

    // 1. context and deadline
    let path = head.uri.path();
    let method = method_of(path, &shared.config);
    let asked = Asked { inherited: inherited.deadline, header: said.timeout, option: options.timeout };
    let deadline = Deadline::new(begun, &asked, limits(method, &shared.config));
    if let Some(bound) = deadline.waiting().filter(|bound| bound.at() <= begun) {
        return Err(CallError::from(bound.passed("time left", limits(method, &shared.config)))
            .with_service(&shared.service));
    }
    let idempotent = options.idempotent.unwrap_or_else(|| {
        let is_promised = said.kind == Kind::Http && is_safe(&head.method);
        method.is_some_and(|method| method.idempotent) || is_promised
    });

    // 2. reading the body ahead
    let upload = Upload::read_ahead(body).map_err(|error| {
        CallError::new(CallErrorKind::Invalid, "reading the body of the request")
            .with_source(error)
            .with_service(&shared.service)
    })?;
    // Written before the headers are copied for an attempt: a copy has no room for more.
    // The client's own limit stays here: it ends at the head, and the peer would cut the body by it.
    if let Some(bound) = deadline.body() {
        let (is_grpc, config) = (said.kind == Kind::Grpc, &shared.config);
        let limits = limits_at(head.uri.path(), config);
        deadline::write_first(&mut head.headers, is_grpc, bound, begun, limits);
    }
    write_context(&mut head.headers, &said, &options, inherited);
    let allowed = Allowed {
        idempotent,
        kept: upload.is_kept(),
        nested: inherited.attempt > 0,
        attempts: shared.config.retry.attempts,
    };
    // Boxed, so that it is not moved about with the future.
    Ok(Box::new(Call {
        shared,
        options,
        kind: said.kind,
        head,
        upload,
        deadline,
        allowed,
        begun,
        attempt: inherited.attempt,
        avoid: Vec::new(),
        failed: Vec::new(),
        attempts: Vec::new(),
        delivered: Delivered::No,
        recovery: Recovery::default(),
    }))
}

impl Said {
    /// In one pass.
    fn by(request: &HeaderMap) -> Self {
        let mut said = Self { kind: Kind::Http, timeout: None, traced: false, upgrade: false };
        let timeout = |value: &HeaderValue| value.to_str().ok().and_then(timeout::parse);
        for (name, value) in request {
            match name.as_str() {
                "content-type" if value.to_str().is_ok_and(headers::is_grpc) => said.kind = Kind::Grpc,
                headers::GRPC_TIMEOUT | headers::TIMEOUT => said.timeout = timeout(value).or(said.timeout),
                headers::TRACEPARENT => said.traced = true,
                "upgrade" => said.upgrade = true,
                _ => {}
            }
        }
        said
    }
}

/// What travels with every attempt.
fn write_context(to: &mut HeaderMap, said: &Said, options: &CallOptions, inherited: &Inherited) {
    let priority = options.priority.unwrap_or(inherited.priority);
    if priority != Priority::Normal {
        to.insert(names::PRIORITY.clone(), HeaderValue::from_static(priority.as_str()));
    }
    if let Some(lane) = options.lane.as_ref().or(inherited.lane.as_ref())
        && let Ok(lane) = HeaderValue::from_str(lane)
    {
        to.insert(names::LANE.clone(), lane);
    }
    if let Some(trace) = inherited.trace.as_ref().filter(|_| !said.traced)
        && let Ok(trace) = HeaderValue::from_str(trace)
    {
        to.insert(names::TRACEPARENT.clone(), trace);
    }
}

impl Call {
    /// Makes it. `_keep` lives as long as it: the connections end with the last channel, and a call that
    /// outlives its channel needs them.
    ///
    /// # Errors
    /// [`CallError`] with every attempt that was made.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub(crate) async fn run<K>(mut self: Box<Self>, _keep: K) -> Result<Response<Body>, CallError> {
        // 3. recovery
        let mut insist = false;
        let mut chosen = None;
        loop {
            // 4. pick
            let (flight, began) = match chosen.take() {
                Some(chosen) => chosen,
                None => {
                    let now = if self.attempts.is_empty() { self.begun } else { Instant::now() };
                    match choose::at_once(&self.shared, &self.wish(insist), now) {
                        Ok(Some(flight)) => (flight, now),
                        // Boxed, so that calls which need not wait do not carry its room.
                        Ok(None) => match Box::pin(choose::wait(&self.shared, &self.wish(insist))).await {
                            Ok(flight) => (flight, Instant::now()),
                            Err(error) => return Err(self.over(error)),
                        },
                        Err(error) => return Err(self.over(error)),
                    }
                }
            };
            let (came, began) = match self.hedging(began) {
                None => (self.attempt(flight, began, 0).await, began),
                Some((hedging, after)) => {
                    let raced = Box::pin(self.race(flight, began, &hedging, after)).await;
                    if let Some(lost) = raced.lost {
                        self.set_aside(lost);
                    }
                    (raced.came, raced.began)
                }
            };
            let next = match came {
                Came::Answer(answer) => return Ok(answer),
                Came::Over(error, node) => {
                    self.note(&node, AttemptPhase::Exchange, began, "no answer", "the call's time is over");
                    return Err(self.over(error));
                }
                Came::Failed(failure, node) => {
                    let next = self.after(&failure.trouble(), &node);
                    self.note(&node, failure.phase, began, &failure.code, next.words());
                    if let Next::Stop(_) = next {
                        return Err(self.over(failure.into_error()));
                    }
                    self.avoid.push(node.key().clone());
                    if let Next::Retry(pause) = next {
                        self.failed.push(node.key().clone());
                        self.pause(pause).await;
                    }
                    next
                }
                Came::Unavailable(answer, flight, verdict, unavailable) => {
                    let node = flight.node();
                    let next = self.after(&unavailable.trouble, &node);
                    self.note(&node, AttemptPhase::Exchange, began, &unavailable.code, next.words());
                    let Next::Retry(pause) = next else { return Ok(self.answer(answer, flight, verdict)) };
                    self.avoid.push(node.key().clone());
                    self.failed.push(node.key().clone());
                    self.pause(pause).await;
                    // There is an answer to fall back on, so another node is not waited for.
                    chosen = choose::choose_now(&self.shared, &self.wish(true)).map(|f| (f, Instant::now()));
                    if chosen.is_none() {
                        return Ok(self.answer(answer, flight, verdict));
                    }
                    drop(answer);
                    flight.finish(Outcome::Failure, false);
                    next
                }
            };
            insist = matches!(next, Next::Retry(_));
        }
    }

    fn after(&mut self, trouble: &Trouble, node: &Node) -> Next {
        let (shared, kind, failed) = (&self.shared, self.kind, &self.failed);
        let pinned = self.is_pinned();
        let others = || !pinned && choose::has_others(shared, kind, failed, node.key());
        let budget = || shared.budget.take(Instant::now());
        let next =
            self.recovery.next(trouble, &self.allowed, &PAUSES, self.left(), chance::bits, others, budget);
        if matches!(next, Next::Stop(why) if why.is_spent() || self.recovery.retries() > 0) {
            Chain::spent();
        }
        if trouble.delivered == Delivered::Maybe {
            self.delivered = Delivered::Maybe;
        }
        next
    }

    fn is_pinned(&self) -> bool {
        self.options.instance.is_some() || self.options.addr.is_some()
    }

    async fn pause(&self, pause: Duration) {
        if !pause.is_zero() {
            time::sleep(pause).await;
        }
    }

    fn wish(&self, insist: bool) -> Wish<'_> {
        Wish {
            kind: self.kind,
            options: &self.options,
            deadline: &self.deadline,
            path: self.head.uri.path(),
            avoid: &self.avoid,
            refuse: if insist { &self.failed } else { &[] },
        }
    }

    // 5. attempt time-out, and 6. ticket and exchange; the `nth` of several at a time
    async fn attempt(&self, mut flight: Flight, now: Instant, nth: u32) -> Came {
        let exact = self.kind == Kind::Http;
        let body = match self.upload.whole(exact) {
            Some(body) => body,
            None => match Box::pin(self.upload.attempt(exact)).await {
                Some(body) => body,
                None => {
                    let node = flight.node();
                    flight.finish(Outcome::Neutral, false);
                    return Came::Failed(Failure::spent(), node);
                }
            },
        };
        let bound = self.deadline.exchange(self.upload.is_stream());
        let request = self.request(&flight, body, self.deadline.body(), now, nth);
        let limit = self.attempt_limit();
        let attempt_ends = limit.and_then(|limit| now.checked_add(limit));
        let ends = bound.map(Bound::at).into_iter().chain(attempt_ends).min();
        let exchanged = {
            let exchange = pin!(flight.exchange(request));
            match ends {
                None => Some(exchange.await),
                Some(at) if Expiry::is_for(now, at) => self.shared.pulse.expiry.within(at, exchange).await,
                Some(at) => time::timeout_at(at, exchange).await.ok(),
            }
        };
        let Some(exchanged) = exchanged else { return self.timed_out(flight, now, ends, bound, limit) };
        let answer = match exchanged {
            Ok(answer) => answer,
            Err(failure) => {
                let node = flight.node();
                flight.fail(&failure);
                return Came::Failed(failure, node);
            }
        };
        match verdict::of_head(self.kind, &answer) {
            Head::Refused(failure, why) => {
                let node = flight.node();
                flight.refused(&failure, why);
                Came::Failed(failure, node)
            }
            Head::Answer { verdict, unavailable: Some(unavailable) } => {
                Came::Unavailable(answer, flight, verdict, unavailable)
            }
            Head::Answer { verdict, unavailable: None } => Came::Answer(self.answer(answer, flight, verdict)),
        }
    }

    fn attempt_limit(&self) -> Option<Duration> {
        self.options
            .attempt_timeout
            .or_else(|| self.shared.config.attempt_timeout.as_ref().map(crate::Limit::duration))
    }

    fn timed_out(
        &self,
        flight: Flight,
        began: Instant,
        ends: Option<Instant>,
        bound: Option<&Bound>,
        limit: Option<Duration>,
    ) -> Came {
        let node = flight.node();
        match bound.filter(|bound| Some(bound.at()) <= ends) {
            Some(bound) => {
                // The rest of a call's time may be too short for any node.
                let had = began.elapsed();
                let is_fair = had >= FAIR_TIME && had >= self.begun.elapsed() / 2;
                flight.timed_out(is_fair);
                let passed = bound.passed("answer", limits_at(self.head.uri.path(), &self.shared.config));
                Came::Over(passed.delivered_maybe().into(), node)
            }
            None => {
                flight.timed_out(true);
                Came::Failed(Failure::attempt_timeout(limit.unwrap_or_default()), node)
            }
        }
    }

    fn answer(&self, answer: Response<Incoming>, flight: Flight, verdict: Option<Outcome>) -> Response<Body> {
        let until = self.deadline.body().map(|bound| Until::new(*bound, self.head.uri.path()));
        answer.map(|incoming| Body::new(incoming, flight, verdict, until))
    }

    /// The request of one attempt.
    fn request(
        &self,
        flight: &Flight,
        body: Outbound,
        bound: Option<&Bound>,
        now: Instant,
        nth: u32,
    ) -> Request<Outbound> {
        let link = flight.link();
        let target = link.target();
        let mut request = Request::new(body);
        *request.method_mut() = self.head.method.clone();
        let fields = request.headers_mut();
        *fields = self.head.headers.clone();
        if let Some(bound) = bound
            && now != self.begun
        {
            deadline::write(fields, self.kind == Kind::Grpc, bound, now);
        }
        let attempt = self.attempt.saturating_add(u32::from(self.recovery.retries()) + nth);
        if attempt > 0 {
            fields.insert(names::ATTEMPT.clone(), HeaderValue::from(attempt));
        }
        if let Some(id) = &self.options.instance
            && link.record().is_native()
            && let Ok(to) = HeaderValue::try_from(format!("{}/{id}", self.shared.service))
        {
            fields.insert(names::TO.clone(), to);
        }
        let uri = target.uri_of(&self.head.uri);
        match flight.protocol() {
            Protocol::Http2 => {
                *request.version_mut() = Version::HTTP_2;
                *request.uri_mut() = uri;
            }
            Protocol::Http1 => {
                let host = self.head.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
                fields.entry(header::HOST).or_insert_with(|| host.unwrap_or_else(|| target.host().clone()));
                let path = uri.path_and_query().cloned();
                *request.version_mut() = Version::HTTP_11;
                *request.uri_mut() = path.map_or_else(http::Uri::default, http::Uri::from);
            }
        }
        request
    }

    fn left(&self) -> Duration {
        let bound = self.deadline.exchange(self.upload.is_stream());
        bound.map_or(FOREVER, |bound| bound.at().saturating_duration_since(Instant::now()))
    }

    fn note(&mut self, node: &Node, phase: AttemptPhase, began: Instant, code: &str, then: &'static str) {
        let link = link_of(node);
        let (service, address, elapsed) = (&self.shared.service, link.target().address(), began.elapsed());
        tracing::debug!(%service, %address, code, ?elapsed, then, "attempt failed");
        self.attempts.push(Attempt {
            address: Arc::clone(address),
            instance: link.record().id.clone(),
            phase,
            code: code.to_owned().into(),
            elapsed,
            then,
        });
    }

    /// The error of the whole call. Who has retried and failed all the same has spent its retries, whatever
    /// ended it.
    fn over(&mut self, error: CallError) -> CallError {
        if self.recovery.retries() > 0 {
            Chain::spent();
        }
        let mut attempts = std::mem::take(&mut self.attempts);
        attempts.extend(error.attempts().iter().cloned());
        let delivered = if self.delivered == Delivered::Maybe { self.delivered } else { error.delivered() };
        error.with_delivered(delivered).with_attempts(attempts).with_service(&self.shared.service)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use meshwork_core::{ServiceName, Watch};

    use super::*;

    #[tokio::test]
    async fn the_future_of_a_call_stays_small_enough_to_box_for_each() {
        let watch = Watch::fixed(Arc::from([]));
        let service = ServiceName::new("users").unwrap();
        let shared = Shared::new(service, watch, crate::ClientConfig::default());
        let request = Request::new(Full::new(Bytes::new()));
        let call = begin(shared, Arc::default(), &Inherited::default(), request).unwrap().run(());
        assert!(size_of_val(&call) <= 1536, "{}", size_of_val(&call));
    }
}
