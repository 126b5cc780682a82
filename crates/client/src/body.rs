//! The body of an answer: it carries the attempt's ticket to the trailers, the end, an error or a drop.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use meshwork_balance::Outcome;
use meshwork_resilience::deadline::Bound;
use tokio::time::{self, Sleep};

use crate::{Attempt, CallError, failure::Failure, flight::Flight, rules::Ruled, shared::Kind, verdict};

/// The body of an answer. The default one is empty and ended.
#[derive(Default)]
pub struct Body(Option<Open>);

struct Open {
    incoming: Incoming,
    /// Absent once the verdict is known.
    flight: Option<Flight>,
    /// What the head said; a gRPC answer tells in its trailers.
    verdict: Option<Outcome>,
    until: Option<Until>,
    /// The attempts before this one.
    earlier: Vec<Attempt>,
}

/// When the call's time is over.
pub(crate) struct Until {
    bound: Bound,
    rule: Ruled,
    /// Made at the first wait: most bodies are there at once.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Until {
    pub(crate) fn new(bound: Bound, rule: Ruled) -> Self {
        Self { bound, rule, sleep: None }
    }

    /// Ready once the time is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.bound.at();
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(time::sleep_until(at)));
        sleep.as_mut().poll(cx)
    }

    fn passed(&self) -> CallError {
        self.bound.passed("end of the answer", self.rule.limits()).delivered_maybe().into()
    }
}

impl Body {
    /// The body of an answer whose head was read. `until`: when the call's time is over; `earlier`: the
    /// attempts before this one.
    pub(crate) fn new(
        incoming: Incoming,
        flight: Flight,
        verdict: Option<Outcome>,
        until: Option<Until>,
        earlier: Vec<Attempt>,
    ) -> Self {
        let mut open = Open { incoming, flight: Some(flight), verdict, until, earlier };
        // A gRPC answer that ends with its head and tells no status is an error, and read as one.
        if http_body::Body::is_end_stream(&open.incoming) && !open.is_broken() {
            open.ended();
        }
        Self(Some(open))
    }
}

impl Open {
    /// The body was read to its end.
    fn ended(&mut self) {
        if let Some(flight) = self.flight.take() {
            flight.finish(self.verdict.unwrap_or(Outcome::Success), true);
        }
    }

    /// Whether its end would tell nobody what happened: a gRPC answer without a status.
    fn is_broken(&self) -> bool {
        self.verdict.is_none() && self.flight.as_ref().is_some_and(|flight| flight.kind() == Kind::Grpc)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let frame = match http_body::Body::poll_frame(Pin::new(&mut self.incoming), cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return self.poll_until(cx).map(Some),
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let (Some(trailers), None) = (frame.trailers_ref(), self.verdict) {
                    self.verdict = verdict::of_trailers(trailers);
                    if self.is_broken() {
                        return Poll::Ready(Some(Err(self.failed(Failure::without_status()))));
                    }
                    self.ended();
                } else if http_body::Body::is_end_stream(&self.incoming) && !self.is_broken() {
                    self.ended();
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(Err(self.failed(Failure::body(error)))),
            None if self.is_broken() => Some(Err(self.failed(Failure::without_status()))),
            None => {
                self.ended();
                None
            }
        })
    }

    /// Ends the attempt by its failure.
    fn failed(&mut self, failure: Failure) -> CallError {
        let Some(flight) = self.flight.take() else { return failure.into_error() };
        let (service, attempt) = (flight.shared().service.clone(), flight.attempt(&failure));
        flight.fail(&failure);
        let attempts = self.earlier.drain(..).chain([attempt]).collect();
        failure.into_error().with_service(&service).with_attempts(attempts)
    }

    fn poll_until(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, CallError>> {
        // Once its verdict is known the answer is over but for the caller's reading.
        let Self { flight, until, earlier, .. } = self;
        let Some(flight) = flight else { return Poll::Pending };
        flight.answered();
        let Some(until) = until else { return Poll::Pending };
        until.poll(cx).map(|()| {
            let error = until.passed().with_service(&flight.shared().service);
            let attempts = earlier.drain(..).chain([flight.out_of_time()]).collect();
            Err(error.with_attempts(attempts))
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let Some(open) = &mut self.0 else { return Poll::Ready(None) };
        let frame = open.poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = frame {
            // Dropping it resets the stream.
            self.0 = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|open| !open.is_broken() && http_body::Body::is_end_stream(&open.incoming))
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), |open| http_body::Body::size_hint(&open.incoming))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if http_body::Body::is_end_stream(self) { "Body(ended)" } else { "Body" })
    }
}
