//! Whether a caller still sends: what tells a stream from a call whose handler takes its time, before there is an answer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Knows whether the body of a request is still read and has not ended.
#[derive(Debug)]
pub(crate) struct Uplink(Arc<AtomicBool>);

/// The body of a request whose end is seen.
#[derive(Debug)]
pub(crate) struct Uploaded<B> {
    body: B,
    open: Arc<AtomicBool>,
}

impl Uplink {
    /// Watches `body`, which its handler reads.
    pub(crate) fn watch<B>(body: B) -> (Uploaded<B>, Self) {
        let open = Arc::new(AtomicBool::new(true));
        (Uploaded { body, open: open.clone() }, Self(open))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Uploaded<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) || self.body.is_end_stream() {
            self.open.store(false, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Uploaded<B> {
    fn drop(&mut self) {
        // Who listens no more does something else.
        self.open.store(false, Relaxed);
    }
}
