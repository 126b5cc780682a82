//! One attempt of a call: its time-out, its request and what its answer means.

use std::{pin::pin, time::Duration};

use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use meshwork_balance::Outcome;
use meshwork_resilience::deadline::{self, Bound};
use tokio::time::{self, Instant};

use super::{Call, Came};
use crate::{
    Attempt, Body, Protocol,
    body::Until,
    expiry::Expiry,
    failure::Failure,
    flight::Flight,
    names,
    shared::Kind,
    upload::Outbound,
    verdict::{self, Head},
};

/// Less time than this is no fair time for a node to answer.
const FAIR_TIME: Duration = Duration::from_millis(20);

impl Call {
    // 6. attempt time-out, and 7. ticket and exchange; the `nth` of several at a time
    #[expect(clippy::manual_async_fn, reason = "an async fn holds what it is given twice")]
    pub(super) fn attempt(
        &self,
        mut flight: Flight,
        now: Instant,
        nth: u32,
    ) -> impl Future<Output = Came> + Send {
        async move {
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
            let request = self.request(&flight, body, self.deadline.body(), now, nth);
            let exchanged = {
                let exchange = pin!(flight.exchange(request));
                match self.ends(now) {
                    None => Some(exchange.await),
                    Some(at) if Expiry::is_for(now, at) => {
                        self.shared.pulse.expiry.within(at, exchange).await
                    }
                    Some(at) => time::timeout_at(at, exchange).await.ok(),
                }
            };
            let Some(exchanged) = exchanged else { return self.timed_out(flight, now) };
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
                Head::Answer { verdict, unavailable: None } => {
                    Came::Answer(self.answer(answer, flight, verdict, &self.attempts))
                }
            }
        }
    }

    fn attempt_limit(&self) -> Option<Duration> {
        self.options.attempt_timeout.or(self.rule.attempt_timeout)
    }

    /// When an attempt that began then ends at the latest. Read again where it is needed again, so that calls in
    /// flight do not carry it.
    fn ends(&self, began: Instant) -> Option<Instant> {
        let bound = self.deadline.exchange(self.upload.is_stream()).map(Bound::at);
        let attempt = self.attempt_limit().and_then(|limit| began.checked_add(limit));
        bound.into_iter().chain(attempt).min()
    }

    fn timed_out(&self, flight: Flight, began: Instant) -> Came {
        let ends = self.ends(began);
        let bound = self.deadline.exchange(self.upload.is_stream());
        let node = flight.node();
        match bound.filter(|bound| Some(bound.at()) <= ends) {
            Some(bound) => {
                // The rest of a call's time may be too short for any node.
                let had = began.elapsed();
                let is_fair = had >= FAIR_TIME && had >= self.begun.elapsed() / 2;
                flight.timed_out(is_fair);
                let passed = bound.passed("answer", self.rule.limits());
                Came::Over(passed.delivered_maybe().into(), node)
            }
            None => {
                flight.timed_out(true);
                Came::Failed(Failure::attempt_timeout(self.attempt_limit().unwrap_or_default()), node)
            }
        }
    }

    /// An answer for the caller; `earlier`: the attempts before it.
    pub(super) fn answer(
        &self,
        answer: Response<Incoming>,
        flight: Flight,
        verdict: Option<Outcome>,
        earlier: &[Attempt],
    ) -> Response<Body> {
        let until = self.deadline.body().map(|bound| Until::new(*bound, self.rule.clone()));
        answer.map(|incoming| Body::new(incoming, flight, verdict, until, earlier.to_vec()))
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
}
