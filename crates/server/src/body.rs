//! The body of an answer: polled inside the request's context, ended by its deadline or by the drain.

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::{Frame, SizeHint};
use meshwork_core::{BoxError, headers};
use tokio::time::{self, Instant};
use tonic::Code;

use crate::{conn::Waiting, places::Held, rest::Rest, shared::Stage, status};

/// The content type of server-sent events.
const EVENTS: &[u8] = b"text/event-stream";
/// What callers of a stream are told that has reached its age.
pub(crate) const AGED: &str = "the stream has reached its age, resume it elsewhere";

/// What hyper sends.
#[derive(Debug)]
pub(crate) struct Body(Kind);

#[derive(Debug)]
enum Kind {
    /// Ours.
    Full(Option<Bytes>),
    /// A handler's.
    Handler(Handled),
}

/// How a body may be ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Talk {
    /// gRPC: by a status in its trailers.
    Grpc,
    /// Server-sent events: anywhere.
    Events,
    /// Only by an error: its end would pass for the whole.
    Other,
}

impl Talk {
    pub(crate) fn of(grpc: bool, head: &HeaderMap) -> Self {
        if grpc {
            return Self::Grpc;
        }
        // An answer has few headers: to pass over them costs less than to look one up.
        let content_type = head.iter().find(|(name, _)| *name == CONTENT_TYPE);
        match content_type {
            Some((_, kind)) if kind.as_bytes().starts_with(EVENTS) => Self::Events,
            _ => Self::Other,
        }
    }
}

/// The body of a handler's answer, and what must end with it.
pub(crate) struct Handled {
    body: axum::body::Body,
    talk: Talk,
    /// `None` once the answer has ended.
    rest: Option<Box<Rest>>,
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self(Kind::Full(None))
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self(Kind::Full(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    pub(crate) fn handled(body: axum::body::Body, talk: Talk, rest: Box<Rest>) -> Self {
        Self(Kind::Handler(Handled { body, talk, rest: Some(rest) }))
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Polled {
        match &mut self.get_mut().0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Handler(handled) => handled.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Handler(handled) => handled.rest.is_none() || handled.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Handler(handled) => handled.body.size_hint(),
        }
    }
}

// === impl Handled ===

impl Handled {
    fn poll_frame(&mut self, cx: &mut std::task::Context<'_>) -> Polled {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let body = Pin::new(&mut self.body);
        let poll = || rest.inside(|| http_body::Body::poll_frame(body, cx));
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Pending) => {
                rest.held.iter().for_each(Held::leave);
                self.poll_end(cx)
            }
            Ok(Poll::Ready(Some(Ok(frame)))) => {
                if frame.is_data() {
                    let is_first = rest.frames == 0;
                    rest.frames = rest.frames.saturating_add(1);
                    // One message may be the whole answer and is passed on; more of them are a stream.
                    if !is_first {
                        rest.held.iter().for_each(Held::leave);
                        if self.is_told() {
                            return self.tell();
                        }
                        if self.ends().is_some_and(|ends| Instant::now() >= ends) {
                            return self.age();
                        }
                    }
                } else {
                    // Of no matter where nobody counts.
                    let said = || frame.trailers_ref().and_then(status::is_ok);
                    let well = rest.held.is_none() || said().unwrap_or(self.talk != Talk::Grpc);
                    self.over(well);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Ok(Poll::Ready(Some(Err(error)))) => {
                self.over(false);
                Poll::Ready(Some(Err(error.into())))
            }
            Ok(Poll::Ready(None)) => {
                self.over(self.talk != Talk::Grpc);
                Poll::Ready(None)
            }
            Err(_panic) => {
                rest.in_flight.conn().shared.counters.panics.fetch_add(1, Relaxed);
                tracing::error!(path = rest.in_flight.path(), "the body of an answer panicked");
                self.end(Code::Internal, "the handler panicked")
            }
        }
    }

    /// The answer has ended by itself.
    fn over(&mut self, well: bool) {
        let Some(mut rest) = self.rest.take() else { return };
        let held = rest.held.take();
        drop(rest);
        if let Some(held) = held {
            held.finish(well);
        }
    }

    /// When it has reached its age, where one is set.
    fn ends(&self) -> Option<Instant> {
        self.rest.as_ref()?.in_flight.ends().filter(|_| self.talk != Talk::Other)
    }

    /// The body has nothing now: whether it must end all the same.
    fn poll_end(&mut self, cx: &mut std::task::Context<'_>) -> Polled {
        let ends = self.ends();
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        if self.talk != Talk::Other {
            let waiting = rest.waiting.get_or_insert_with(|| Waiting::new(rest.in_flight.conn()));
            // Before the stage is read: whoever changes it wakes us afterwards.
            waiting.waker.register(cx.waker());
        }
        if self.is_told() {
            return self.tell();
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let deadline = rest.deadline();
        let Some(until) = deadline.into_iter().chain(ends).min() else { return Poll::Pending };
        let sleep = rest.sleep.get_or_insert_with(|| Box::pin(time::sleep_until(until)));
        if ends.is_some_and(|ends| ends < sleep.deadline()) {
            sleep.as_mut().reset(until);
        }
        ready!(sleep.as_mut().poll(cx));
        if ends.is_some_and(|ends| deadline.is_none_or(|deadline| ends < deadline)) {
            return self.age();
        }
        rest.in_flight.conn().shared.counters.deadlines.fetch_add(1, Relaxed);
        self.end(Code::DeadlineExceeded, "the deadline passed")
    }

    fn is_told(&self) -> bool {
        // Events have no end of their own: all that waiting for one would do is hold up the drain.
        let from = match self.talk {
            Talk::Grpc => Stage::Ending,
            Talk::Events => Stage::Draining,
            Talk::Other => return false,
        };
        self.rest.as_ref().is_some_and(|rest| rest.in_flight.conn().shared.stage() >= from)
    }

    fn tell(&mut self) -> Polled {
        if let (Some(rest), Talk::Grpc) = (&mut self.rest, self.talk) {
            rest.in_flight.tell();
        }
        self.end_it(headers::ENDED_DRAINING, "the server is going away")
    }

    fn age(&mut self) -> Polled {
        if let Some(rest) = &self.rest {
            rest.in_flight.conn().shared.counters.streams_aged.fetch_add(1, Relaxed);
        }
        self.end_it(headers::ENDED_AGE, AGED)
    }

    /// Ends a stream that may go on elsewhere; callers hear why.
    fn end_it(&mut self, why: &'static str, text: &'static str) -> Polled {
        self.drop_handler();
        match self.talk {
            Talk::Grpc => {
                let mut trailers = status::trailers(Code::Unavailable, text);
                status::ended(&mut trailers, why);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            // Whoever listens to events knows that any of them may be the last, and connects again.
            Talk::Events => Poll::Ready(None),
            Talk::Other => Poll::Ready(Some(Err(text.into()))),
        }
    }

    /// Ends the answer by a failure: with a status in gRPC, with an error otherwise.
    fn end(&mut self, code: Code, text: &'static str) -> Polled {
        self.drop_handler();
        match self.talk {
            Talk::Grpc => Poll::Ready(Some(Ok(Frame::trailers(status::trailers(code, text))))),
            Talk::Events | Talk::Other => Poll::Ready(Some(Err(text.into()))),
        }
    }

    fn drop_handler(&mut self) {
        self.rest = None;
        self.body = axum::body::Body::empty();
    }
}

impl fmt::Debug for Handled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handled").field("talk", &self.talk).finish_non_exhaustive()
    }
}
