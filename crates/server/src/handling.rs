//! One request on its way through its handler.

use std::{
    any::Any,
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Response, StatusCode, header::UPGRADE};
use http_body::Body as _;
use meshwork_core::headers;
use meshwork_resilience::retry::Chain;
use pin_project_lite::pin_project;
use tokio::{sync::futures::OwnedNotified, time};
use tonic::Code;

use crate::{
    answer,
    body::{self, Body, Talk},
    drain::CutKind,
    panics,
    places::Held,
    rest::Rest,
    shared::Stage,
    status,
    uplink::Uplink,
};

/// How long after the deadline we answer that it passed. The caller has the same deadline and knows who set
/// it: its own error says more than our answer would.
const GRACE: Duration = Duration::from_millis(10);

pin_project! {
    /// The future of one request: an answer that is there, or a handler inside its context.
    #[project = HandlingProj]
    pub(crate) enum Handling {
        Answered { answer: Option<Response<Body>> },
        Running {
            request: Option<Running>,
            #[pin]
            ending: Option<OwnedNotified>,
        },
    }
}

/// What a running request needs beside its handler.
pub(crate) struct Running {
    rest: Box<Rest>,
    grpc: bool,
    http1: bool,
    /// Whether its caller still sends, where streams have an age.
    uplink: Option<Uplink>,
}

/// Why a handler that has not answered is dropped.
enum TooLate {
    Deadline,
    Age,
}

impl Handling {
    pub(crate) fn answered(answer: Response<Body>) -> Self {
        Self::Answered { answer: Some(answer) }
    }

    /// A handler that `rest` holds.
    pub(crate) fn running(rest: Box<Rest>, grpc: bool, http1: bool, uplink: Option<Uplink>) -> Self {
        Self::Running { request: Some(Running { rest, grpc, http1, uplink }), ending: None }
    }
}

impl Future for Handling {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let (slot, mut ending) = match self.as_mut().project() {
            HandlingProj::Answered { answer } => {
                return Poll::Ready(Ok(answer.take().expect("invariant: not polled after its end")));
            }
            HandlingProj::Running { request, ending } => (request, ending),
        };
        let request = slot.as_mut().expect("invariant: not polled after its end");
        let answer = match catch_unwind(AssertUnwindSafe(|| request.rest.poll_route(cx))) {
            Ok(Poll::Pending) => {
                let conn = request.rest.in_flight.conn();
                if ending.is_none() {
                    ending.set(Some(conn.ending.clone().notified_owned()));
                }
                // Before the stage is read: whoever changes it wakes us afterwards.
                let told = ending.as_pin_mut().is_some_and(|ending| ending.poll(cx).is_ready());
                if told || conn.shared.stage() >= Stage::Ending {
                    request.told()
                } else {
                    match ready!(request.poll_end(cx)) {
                        TooLate::Deadline => request.too_late(),
                        TooLate::Age => request.aged(),
                    }
                }
            }
            Ok(Poll::Ready(Ok(mut answer))) => {
                let request = slot.take().expect("invariant: just seen");
                if request.rest.spent {
                    Chain::tell(&mut answer);
                }
                return Poll::Ready(Ok(request.answer(answer)));
            }
            Err(panic) => request.panicked(&*panic),
        };
        // Drops the handler now, not when the answer is written.
        self.set(Self::Answered { answer: None });
        Poll::Ready(Ok(answer))
    }
}

// === impl Running ===

impl Running {
    fn poll_end(&mut self, cx: &mut std::task::Context<'_>) -> Poll<TooLate> {
        loop {
            let deadline = self.rest.deadline().map(|deadline| deadline + GRACE);
            let age = self.rest.in_flight.ends().filter(|_| self.uplink.is_some());
            let Some(until) = deadline.into_iter().chain(age).min() else { return Poll::Pending };
            let sleep = self.rest.sleep.get_or_insert_with(|| Box::pin(time::sleep_until(until)));
            if sleep.deadline() != until {
                sleep.as_mut().reset(until);
            }
            ready!(sleep.as_mut().poll(cx));
            if age != Some(until) {
                return Poll::Ready(TooLate::Deadline);
            }
            // A caller who has said all only waits, however long: it has no stream to go on with elsewhere.
            if self.uplink.take().is_some_and(|uplink| uplink.is_open()) {
                return Poll::Ready(TooLate::Age);
            }
        }
    }

    fn answer(mut self, answer: Response<axum::body::Body>) -> Response<Body> {
        self.rest.in_flight.answer();
        let conn = self.rest.in_flight.conn();
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgrade = answer.headers().get(UPGRADE).map_or(&b""[..], HeaderValue::as_bytes);
            conn.websocket.store(upgrade.eq_ignore_ascii_case(b"websocket"), Relaxed);
            conn.set_kind(CutKind::Upgraded);
        }
        let close = self.closes();
        let Self { rest, grpc, .. } = self;
        if let Some(held) = &rest.held {
            judge(held, grpc, &answer);
        }
        let talk = Talk::of(grpc, answer.headers());
        let mut answer = answer.map(|body| Body::handled(body, talk, rest));
        if close {
            answer::say_close(&mut answer);
        }
        answer
    }

    /// The drain's deadline is near, and a clear end is better than a cut.
    fn told(&mut self) -> Response<Body> {
        self.rest.in_flight.tell();
        self.ended(headers::ENDED_DRAINING, "the server is going away")
    }

    /// Its caller sends and sends.
    fn aged(&mut self) -> Response<Body> {
        self.rest.in_flight.conn().shared.counters.streams_aged.fetch_add(1, Relaxed);
        self.ended(headers::ENDED_AGE, body::AGED)
    }

    fn ended(&mut self, why: &'static str, text: &'static str) -> Response<Body> {
        let mut answer = self.failed(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, text);
        status::ended(answer.headers_mut(), why);
        answer
    }

    fn too_late(&mut self) -> Response<Body> {
        self.rest.in_flight.conn().shared.counters.deadlines.fetch_add(1, Relaxed);
        self.failed(StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded, "the deadline passed")
    }

    fn panicked(&mut self, panic: &(dyn Any + Send)) -> Response<Body> {
        self.rest.in_flight.conn().shared.counters.panics.fetch_add(1, Relaxed);
        self.rest.held.iter().for_each(|held| held.finish(false));
        tracing::error!(
            path = self.rest.in_flight.path(),
            panic = panics::text_of(panic),
            "a handler panicked"
        );
        self.failed(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "the handler panicked")
    }

    fn failed(&mut self, status: StatusCode, code: Code, text: &'static str) -> Response<Body> {
        self.rest.in_flight.answer();
        let mut answer = answer::failed(self.grpc, status, code, text);
        if self.closes() {
            answer::say_close(&mut answer);
        }
        answer
    }

    fn closes(&self) -> bool {
        self.http1 && self.rest.in_flight.conn().says_close()
    }
}

/// Whether the head of an answer says how long it took: not where more of it is to come.
fn judge(held: &Held, grpc: bool, answer: &Response<axum::body::Body>) {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        held.leave();
    } else if grpc {
        if let Some(status) = status::is_ok(answer.headers()) {
            held.finish(status);
        }
    } else if answer.size_hint().exact().is_some() {
        held.finish(answer.status().as_u16() < 400);
    } else if answer.status().as_u16() >= 400 {
        held.finish(false);
    }
}
