//! What lives from the head of a request to the end of its answer.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{self, Poll},
};

use axum::{body::Body, routing::future::RouteFuture};
use http::Response;
use meshwork_core::Context;
use meshwork_resilience::retry::Chain;
use tokio::time::{Instant, Sleep};

use crate::{
    conn::{InFlight, Waiting},
    places::Held,
};

/// One request under way. Boxed: hyper moves futures and bodies about several times for each request, and this is most of
/// their size.
pub(crate) struct Rest {
    /// The handler, until it has answered.
    pub(crate) route: Option<RouteFuture<Infallible>>,
    /// Whether its calls have spent their retries.
    pub(crate) spent: bool,
    /// That of the handler. Whatever of it is polled finds it at the thread, and its connection beside it.
    context: Option<Context>,
    pub(crate) in_flight: InFlight,
    /// Its place, where places are counted.
    pub(crate) held: Option<Held>,
    /// The timer of its end, once something had to wait.
    pub(crate) sleep: Option<Pin<Box<Sleep>>>,
    /// Its place among the streams that wait, once it was one.
    pub(crate) waiting: Option<Waiting>,
    /// Data frames passed on.
    pub(crate) frames: u32,
}

impl Rest {
    pub(crate) fn new(context: Context, in_flight: InFlight, held: Option<Held>) -> Box<Self> {
        let context = Some(context);
        let (route, spent, sleep, waiting, frames) = (None, false, None, None, 0);
        Box::new(Self { route, spent, context, in_flight, held, sleep, waiting, frames })
    }

    /// The deadline of the request.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.context.as_ref()?.deadline
    }

    /// Polls the handler, which may look at its context and its connection.
    pub(crate) fn poll_route(
        &mut self,
        cx: &mut task::Context<'_>,
    ) -> Poll<Result<Response<Body>, Infallible>> {
        self.handle(|route| {
            let running = route.as_mut().expect("invariant: not polled after its end");
            let polled = Pin::new(running).poll(cx);
            if polled.is_ready() {
                *route = None;
            }
            polled
        })
    }

    fn handle<R>(&mut self, work: impl FnOnce(&mut Option<RouteFuture<Infallible>>) -> R) -> R {
        let Self { route, spent, context, in_flight, .. } = self;
        Chain::within(spent, || in_flight.inside(|| Context::within(context, || work(route))))
    }

    /// Runs what polls the body of the handler's answer.
    pub(crate) fn inside<R>(&mut self, work: impl FnOnce() -> R) -> R {
        self.in_flight.inside(|| Context::within(&mut self.context, work))
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if self.route.is_some() {
            // What it drops may look at them too.
            self.handle(|route| *route = None);
        }
    }
}
