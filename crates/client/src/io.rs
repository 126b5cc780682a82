//! The byte stream under a connection: counts what is received, and reads on after a write error.
//!
//! A peer that closes gracefully may reset us while its last answers are already here; a client that stops
//! at the write error loses them. So a failed write is taken as done, and reading goes on to the end, for
//! at most one second.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{self, Sleep},
};

/// How long reading goes on after a failed write.
const READ_ON: Duration = Duration::from_secs(1);

/// A byte stream that a connection can run over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// What was received on a connection.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    received: AtomicU64,
    first: Notify,
}

impl Traffic {
    /// Bytes received so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits for the first byte.
    pub(crate) async fn begun(&self) {
        let first = self.first.notified();
        if self.received() == 0 {
            first.await;
        }
    }
}

/// The stream with its counter.
pub(crate) struct Wire {
    io: Box<dyn Io>,
    traffic: Arc<Traffic>,
    broken: Option<Broken>,
}

/// A write failed; reading goes on until then.
struct Broken {
    kind: io::ErrorKind,
    until: Pin<Box<Sleep>>,
}

impl Wire {
    pub(crate) fn new(io: Box<dyn Io>, traffic: Arc<Traffic>) -> Self {
        Self { io, traffic, broken: None }
    }

    /// Takes a failed write as done and starts the clock.
    fn taken(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        all: usize,
    ) -> Poll<io::Result<usize>> {
        match ready!(written) {
            Ok(written) => Poll::Ready(Ok(written)),
            Err(error) => {
                let mut until = Box::pin(time::sleep(READ_ON));
                // Polled here, so that the reader is woken even if it is not polled again before.
                let _registered = until.as_mut().poll(cx);
                self.broken = Some(Broken { kind: error.kind(), until });
                Poll::Ready(Ok(all))
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_pending() {
            let Some(broken) = &mut self.broken else { return Poll::Pending };
            ready!(broken.until.as_mut().poll(cx));
            return Poll::Ready(Err(broken.kind.into()));
        }
        let new = (buf.filled().len() - before) as u64;
        if new > 0 && self.traffic.received.fetch_add(new, Ordering::Relaxed) == 0 {
            self.traffic.first.notify_waiters();
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken.is_some() {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.taken(cx, written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        if self.broken.is_some() {
            return Poll::Ready(Ok(all));
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.taken(cx, written, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.is_some() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.io).poll_flush(cx).map(|flushed| flushed.map(|()| 0));
        self.taken(cx, flushed, 0).map(|flushed| flushed.map(|_| ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Every write fails; what is read comes from `inbound`.
    struct HalfDead {
        inbound: tokio::io::DuplexStream,
    }

    impl AsyncRead for HalfDead {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.inbound).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for HalfDead {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_already_arrived_is_read_after_a_write_error_and_then_the_error_comes() {
        let (mut peer, inbound) = tokio::io::duplex(64);
        let traffic = Arc::new(Traffic::default());
        let mut wire = Wire::new(Box::new(HalfDead { inbound }), Arc::clone(&traffic));
        peer.write_all(b"last answer").await.unwrap();
        wire.write_all(b"late request").await.unwrap();
        let mut read = [0; 11];
        wire.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"last answer");
        assert_eq!(traffic.received(), 11);
        let begun = time::Instant::now();
        let error = wire.read(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(begun.elapsed() <= READ_ON);
    }
}
