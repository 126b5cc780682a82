//! The body of a request on its way out: read ahead once, so that it can be sent again.
//!
//! Most bodies are there at once: they become one shared `Bytes`, whose copy for another attempt is a
//! reference count. The others are streams, which can be sent again until their first late byte left.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use meshwork_core::BoxError;
use tokio::{sync::Notify, time};

/// The most bytes that are read ahead and kept for a retry.
pub(crate) const MAX_KEPT: usize = meshwork_resilience::MAX_KEPT as usize;
/// The most frames that are read ahead.
const MAX_FRAMES: usize = 64;
/// How long a re-route waits for a stream that the failed connection still holds.
const GIVEN_BACK_WITHIN: Duration = Duration::from_millis(100);

type Tail = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

/// A request's body between attempts.
pub(crate) enum Upload {
    /// All of it is here.
    Whole { data: Bytes, trailers: Option<Arc<HeaderMap>> },
    /// Its beginning is here; the rest comes later, of this length where it is known.
    Stream { prefix: Bytes, home: Arc<Home>, rest: Option<u64> },
}

/// Where an unsent stream comes back to.
#[derive(Default)]
pub(crate) struct Home {
    tail: Mutex<Option<Tail>>,
    back: Notify,
}

impl Upload {
    /// Reads ahead what is there at once, at most about 64 KiB. It is polled without a waker: what is not
    /// there yet is polled again by whoever sends it.
    ///
    /// # Errors
    /// That of the body.
    pub(crate) fn read_ahead<B>(body: B) -> Result<Self, BoxError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Ok(Self::Whole { data: Bytes::new(), trailers: None });
        }
        let mut body = Box::pin(body);
        let mut ahead = Ahead::None;
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..MAX_FRAMES {
            let frame = match body.as_mut().poll_frame(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(None) => return Ok(Self::Whole { data: ahead.into_bytes(), trailers: None }),
                Poll::Ready(Some(Err(error))) => return Err(error.into()),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            match frame.into_data() {
                Ok(data) => {
                    let all = ahead.push(data);
                    if body.is_end_stream() {
                        return Ok(Self::Whole { data: ahead.into_bytes(), trailers: None });
                    }
                    if all > MAX_KEPT {
                        break;
                    }
                }
                Err(other) => {
                    let trailers = other.into_trailers().ok().map(Arc::new);
                    return Ok(Self::Whole { data: ahead.into_bytes(), trailers });
                }
            }
        }
        let rest = body.size_hint().exact();
        let tail: Tail = Box::pin(Boxed(body));
        let home = Home { tail: Mutex::new(Some(tail)), back: Notify::new() };
        Ok(Self::Stream { prefix: ahead.into_bytes(), home: Arc::new(home), rest })
    }

    /// Whether it is a stream.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }

    /// Whether it is kept for a retry.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self, Self::Whole { data, .. } if data.len() <= MAX_KEPT)
    }

    /// The body for one attempt, unless it is a stream. `exact`: whether its length may be told, which makes
    /// a `content-length`.
    pub(crate) fn whole(&self, exact: bool) -> Option<Outbound> {
        match self {
            Self::Whole { data, trailers } => {
                let data = (!data.is_empty()).then(|| data.clone());
                Some(Outbound(Part::Whole { data, trailers: trailers.clone(), exact }))
            }
            Self::Stream { .. } => None,
        }
    }

    /// The body for one attempt; `None` when a stream was partly sent. `exact` as in [`whole`](Self::whole).
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn attempt(&self, exact: bool) -> Option<Outbound> {
        match self {
            Self::Whole { .. } => self.whole(exact),
            Self::Stream { prefix, home, rest } => {
                let tail = home.take().await?;
                let lent = Lent { tail: Some(tail), used: false, home: Arc::clone(home) };
                let prefix = (!prefix.is_empty()).then(|| prefix.clone());
                let stream = Streamed { prefix, tail: lent, rest: rest.filter(|_| exact) };
                Some(Outbound(Part::Stream(Box::new(stream))))
            }
        }
    }
}

/// What was read ahead; one frame needs no copy.
enum Ahead {
    None,
    One(Bytes),
    Many(BytesMut),
}

impl Ahead {
    /// Adds a frame; the length of all.
    fn push(&mut self, data: Bytes) -> usize {
        match self {
            Self::None => {
                let len = data.len();
                *self = Self::One(data);
                len
            }
            Self::One(first) => {
                let mut all = BytesMut::with_capacity(first.len() + data.len());
                all.extend_from_slice(first);
                all.extend_from_slice(&data);
                let len = all.len();
                *self = Self::Many(all);
                len
            }
            Self::Many(all) => {
                all.extend_from_slice(&data);
                all.len()
            }
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(data) => data,
            Self::Many(all) => all.freeze(),
        }
    }
}

/// A body with a boxed error.
struct Boxed<B>(Pin<Box<B>>);

impl<B> Body for Boxed<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.as_mut().poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

// === impl Home ===

impl Home {
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Tail>> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the stream, waiting a moment for a failed connection to let go of it.
    async fn take(&self) -> Option<Tail> {
        let back = self.back.notified();
        if let Some(tail) = self.slot().take() {
            return Some(tail);
        }
        time::timeout(GIVEN_BACK_WITHIN, back).await.ok()?;
        self.slot().take()
    }
}

/// A stream lent to one attempt; it comes home when dropped before anything was taken from it.
struct Lent {
    tail: Option<Tail>,
    used: bool,
    home: Arc<Home>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.used {
            *self.home.slot() = self.tail.take();
        }
        self.home.back.notify_waiters();
    }
}

/// The body of one attempt, as hyper takes it.
pub(crate) struct Outbound(Part);

enum Part {
    Whole {
        data: Option<Bytes>,
        trailers: Option<Arc<HeaderMap>>,
        exact: bool,
    },
    /// Boxed, so that the body of most requests is small.
    Stream(Box<Streamed>),
}

struct Streamed {
    prefix: Option<Bytes>,
    tail: Lent,
    rest: Option<u64>,
}

impl Outbound {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self(Part::Whole { data: None, trailers: None, exact: true })
    }
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Part::Whole { data, trailers, .. } => Poll::Ready(match data.take() {
                Some(data) => Some(Ok(Frame::data(data))),
                None => trailers.take().map(|trailers| Ok(Frame::trailers((*trailers).clone()))),
            }),
            Part::Stream(streamed) => {
                let Streamed { prefix, tail, .. } = &mut **streamed;
                if let Some(data) = prefix.take() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                let Some(stream) = &mut tail.tail else { return Poll::Ready(None) };
                let frame = stream.as_mut().poll_frame(cx);
                tail.used |= frame.is_ready();
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Part::Whole { data, trailers, .. } => data.is_none() && trailers.is_none(),
            Part::Stream(streamed) => {
                let tail = streamed.tail.tail.as_ref();
                streamed.prefix.is_none() && tail.is_none_or(|tail| tail.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Part::Whole { data, trailers: None, exact: true } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
            Part::Whole { .. } => SizeHint::new(),
            Part::Stream(streamed) => {
                // Only a body whose whole length is known tells it.
                let ahead = streamed.prefix.as_ref().map_or(0, |prefix| prefix.len() as u64);
                streamed.rest.map_or_else(SizeHint::new, |rest| SizeHint::with_exact(rest + ahead))
            }
        }
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Part::Whole { .. } => "Outbound(whole)",
            Part::Stream(_) => "Outbound(stream)",
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    type Frames = mpsc::Sender<Result<Frame<Bytes>, BoxError>>;

    fn stream() -> (Frames, impl Body<Data = Bytes, Error = BoxError> + Send + 'static) {
        let (frames, stream) = mpsc::channel(8);
        (frames, StreamBody::new(ReceiverStream::new(stream)))
    }

    async fn send(frames: &Frames, data: &'static str) {
        frames.send(Ok(Frame::data(data.into()))).await.unwrap();
    }

    #[tokio::test]
    async fn one_frame_is_shared_by_all_attempts_and_ends_with_its_frame() {
        let upload = Upload::read_ahead(Full::new(Bytes::from_static(b"hello"))).unwrap();
        assert!(upload.is_kept());
        for _ in 0..2 {
            let mut body = upload.attempt(false).await.unwrap();
            assert_eq!(body.size_hint().exact(), None, "gRPC bodies tell no length");
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "hello");
            assert!(body.is_end_stream());
        }
        assert_eq!(upload.attempt(true).await.unwrap().size_hint().exact(), Some(5));
    }

    #[tokio::test]
    async fn what_is_there_at_once_is_whole_even_in_several_frames() {
        let (frames, body) = stream();
        send(&frames, "one ").await;
        send(&frames, "two").await;
        drop(frames);
        let upload = Upload::read_ahead(body).unwrap();
        assert!(!upload.is_stream());
        let sent = upload.attempt(true).await.unwrap().collect().await.unwrap();
        assert_eq!(sent.to_bytes(), "one two");
    }

    #[tokio::test]
    async fn a_stream_can_be_sent_again_until_its_first_late_byte_left() {
        let (frames, body) = stream();
        send(&frames, "early ").await;
        let upload = Upload::read_ahead(body).unwrap();
        assert!(upload.is_stream() && !upload.is_kept());

        let mut first = upload.attempt(false).await.unwrap();
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "early ");
        drop(first);

        let mut second = upload.attempt(false).await.expect("only the part read ahead was sent");
        assert_eq!(second.frame().await.unwrap().unwrap().into_data().unwrap(), "early ");
        send(&frames, "late").await;
        assert_eq!(second.frame().await.unwrap().unwrap().into_data().unwrap(), "late");
        drop(second);
        assert!(upload.attempt(false).await.is_none());
    }

    #[tokio::test]
    async fn a_stream_still_held_by_a_dying_connection_is_waited_for() {
        let (_frames, body) = stream();
        let upload = Upload::read_ahead(body).unwrap();
        let held = upload.attempt(false).await.unwrap();
        let (again, ()) = tokio::join!(upload.attempt(false), async {
            tokio::task::yield_now().await;
            drop(held);
        });
        assert!(again.is_some());
    }
}
