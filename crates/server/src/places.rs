//! How many requests a server has inside at a time, and who is refused when there are too many.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use meshwork_core::Priority;
use meshwork_resilience::{
    Full, Overload,
    shed::{Admitted, Ended, ShedStats, Shedder},
};
use tokio::time::Instant;

use crate::{ServerConfig, ShedPolicy};

/// What a refusal asks for before another attempt.
const PAUSE: Duration = Duration::from_millis(50);
/// So many bytes of a body that is not gRPC pass for a message.
const MESSAGE: u64 = 64 * 1024;

/// The places of one server. Without limits nothing is counted.
#[derive(Debug)]
pub(crate) struct Places {
    most: Option<u32>,
    shedder: Option<Arc<Shedder>>,
    inside: AtomicU32,
    refused: AtomicU64,
}

impl Places {
    pub(crate) fn new(config: &ServerConfig) -> Arc<Self> {
        let shedder = config.shed.map(|ShedPolicy { adaptive, shares, .. }| {
            Arc::new(Shedder::new(adaptive, shares, Instant::now()))
        });
        let most = config.max_concurrent_requests.map(|most| most.max(1));
        Arc::new(Self { most, shedder, inside: AtomicU32::new(0), refused: AtomicU64::new(0) })
    }

    /// Takes a request in; nothing is held where there is no limit.
    ///
    /// # Errors
    /// When there is no room for its priority.
    pub(crate) fn take(self: &Arc<Self>, priority: Priority, now: Instant) -> Result<Option<Held>, Overload> {
        if self.most.is_none() && self.shedder.is_none() {
            return Ok(None);
        }
        let held = self.hold(priority, now);
        if held.is_err() {
            self.refused.fetch_add(1, Relaxed);
        }
        held.map(Some)
    }

    fn hold(self: &Arc<Self>, priority: Priority, now: Instant) -> Result<Held, Overload> {
        let counted = match self.most {
            Some(most) if self.inside.fetch_add(1, Relaxed) >= most => {
                self.inside.fetch_sub(1, Relaxed);
                return Err(Overload::new(Full::Queue, PAUSE));
            }
            Some(_) => Some(Counted(self.clone())),
            None => None,
        };
        let admitted = self.shedder.as_ref().map(|shedder| shedder.admit(priority, now)).transpose()?;
        let place = admitted.map(|admitted| Place(Arc::new(Mutex::new(Some(admitted)))));
        Ok(Held { place, _counted: counted })
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub(crate) fn shed(&self) -> Option<ShedStats> {
        self.shedder.as_ref().map(|shedder| shedder.stats())
    }
}

/// One of the requests that the fixed limit counts.
#[derive(Debug)]
struct Counted(Arc<Places>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Relaxed);
    }
}

/// What a request inside holds. Dropping it before it finished says that its caller is gone.
#[derive(Debug)]
pub(crate) struct Held {
    place: Option<Place>,
    _counted: Option<Counted>,
}

impl Held {
    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// The answer is there: how long it took counts, unless it failed.
    pub(crate) fn finish(&self, well: bool) {
        if let Some(admitted) = self.place.as_ref().and_then(Place::take) {
            admitted.finish(Instant::now(), if well { Ended::Answered } else { Ended::Failed });
        }
    }

    /// It is a stream, whose length says nothing.
    pub(crate) fn leave(&self) {
        self.place.iter().for_each(Place::leave);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Whoever keeps a clone does not keep the place.
        drop(self.place.as_ref().and_then(Place::take));
    }
}

/// The place of a request among those that the server's adaptive limit allows, in the extensions of requests
/// where [`ServerConfig::shed`] is set.
///
/// A handler that waits on purpose, as a long poll does, gives its place up: its time says nothing of how busy
/// the server is, and others may come in.
///
/// ```
/// use axum::Extension;
/// use meshwork_server::Place;
/// async fn next_event(place: Option<Extension<Place>>) -> &'static str {
///     place.inspect(|Extension(place)| place.leave());
///     // … wait for it …
///     "event"
/// }
/// ```
#[derive(Clone)]
pub struct Place(Arc<Mutex<Option<Admitted>>>);

impl Place {
    /// Gives the place up; again does nothing.
    pub fn leave(&self) {
        if let Some(admitted) = self.take() {
            admitted.finish(Instant::now(), Ended::Failed);
        }
    }

    fn take(&self) -> Option<Admitted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

/// The body of a request inside. One who waits for more of it after a whole message is a stream, or a slow
/// caller, and gives its place up.
#[derive(Debug)]
pub(crate) struct Upload<B> {
    body: B,
    place: Place,
    seen: u64,
    /// The bytes of the first message; `None` while its head has not come.
    message: Option<u64>,
    head: [u8; 5],
}

impl<B> Upload<B> {
    pub(crate) fn new(body: B, place: Place, grpc: bool) -> Self {
        let message = (!grpc).then_some(MESSAGE);
        Self { body, place, seen: 0, message, head: [0; 5] }
    }

    fn see(&mut self, data: &[u8]) {
        if self.message.is_none() {
            let (have, missing) = (self.seen as usize, 5 - self.seen as usize);
            let taken = missing.min(data.len());
            self.head[have..have + taken].copy_from_slice(&data[..taken]);
            if taken == missing {
                let [_, length @ ..] = self.head;
                self.message = Some(5 + u64::from(u32::from_be_bytes(length)));
            }
        }
        self.seen += data.len() as u64;
    }

    fn has_message(&self) -> bool {
        self.message.is_some_and(|message| self.seen >= message)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Upload<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().into_iter().for_each(|data| self.see(data)),
            Poll::Ready(_) => {}
            Poll::Pending if self.has_message() => self.place.leave(),
            Poll::Pending => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_message_is_seen_whole_however_its_bytes_come() {
        let shedder = Arc::new(Shedder::default());
        let message = b"\0\0\0\0\x03abc";
        for step in [1, 2, 4, 5, 8] {
            let place = Place(Arc::new(Mutex::new(shedder.admit(Priority::Normal, Instant::now()).ok())));
            let mut upload = Upload::new((), place, true);
            for part in message[..7].chunks(step) {
                assert!(!upload.has_message());
                upload.see(part);
            }
            assert!(!upload.has_message(), "one byte is missing");
            upload.see(&message[7..]);
            assert!(upload.has_message());
        }
        assert_eq!(shedder.stats().inside, 0);
    }
}
