//! A request body that must not stop coming.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use meshwork_core::BoxError;
use tokio::time::{self, Instant, Sleep};

/// Fails when nothing comes for a while although somebody waits for it.
#[derive(Debug)]
pub(crate) struct Patient<B> {
    body: B,
    longest: Duration,
    /// Whether somebody waits, since a moment that `sleep` knows.
    waiting: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B> Patient<B> {
    pub(crate) fn new(body: B, longest: Duration) -> Self {
        Self { body, longest, waiting: false, sleep: None }
    }
}

impl<B> Body for Patient<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(came) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = false;
            return Poll::Ready(came.map(|came| came.map_err(Into::into)));
        }
        let end = Instant::now() + self.longest;
        let Self { waiting, sleep, .. } = &mut *self;
        let sleep = sleep.get_or_insert_with(|| Box::pin(time::sleep_until(end)));
        if !std::mem::replace(waiting, true) {
            sleep.as_mut().reset(end);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Some(Err("the rest of the body did not come in time".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
