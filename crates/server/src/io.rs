//! The socket of a connection: counts bytes, tells the protocol, and closes lingering.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    runtime::Handle,
    time::{self, Instant},
};
use tokio_util::{sync::WaitForCancellationFutureOwned, task::task_tracker::TaskTrackerToken};

use crate::{conn::Conn, drain::CutKind, open::Listed, shared::Stage};

/// The longest time that a closed socket waits for the end of what its peer sends.
const LINGER: Duration = Duration::from_secs(1);
/// The longest silence in it where no late request can be on its way.
const LINGER_QUIET: Duration = Duration::from_millis(150);

/// One accepted socket.
///
/// Closing a socket with unread bytes makes the kernel send a reset, and the peer then drops what it has
/// received and not yet read: answers and goodbyes. So dropping this shuts the write side, and a task reads
/// and discards to the end, at most [`LINGER`].
pub(crate) struct Io {
    /// Taken only by `drop`.
    stream: Option<TcpStream>,
    conn: Arc<Conn>,
    /// `None` once closed.
    listed: Option<Listed>,
    counted: Option<TaskTrackerToken>,
    /// The first bytes, until the protocol is known.
    opening: Opening,
    /// The peer has closed its side, or the socket has failed: nothing to linger for.
    over: bool,
    /// Ends reads of an upgraded connection at the cut.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Io {
    pub(crate) fn new(stream: TcpStream, conn: Arc<Conn>, listed: Listed, counted: TaskTrackerToken) -> Self {
        Self {
            stream: Some(stream),
            conn,
            listed: Some(listed),
            counted: Some(counted),
            opening: Opening::default(),
            over: false,
            cut: None,
        }
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("invariant: the stream is taken only by drop"))
    }

    /// The task of an upgraded connection is its user's; at the cut its reads fail.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.conn.is_upgraded() {
            return Poll::Pending;
        }
        let token = &self.conn.shared.cut;
        let cut = self.cut.get_or_insert_with(|| Box::pin(token.clone().cancelled_owned()));
        ready!(cut.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "the server is gone"))
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.conn.blocked.store(written.is_pending(), Relaxed);
        match &written {
            Poll::Ready(Ok(bytes)) => {
                self.conn.sent.fetch_add(*bytes as u64, Relaxed);
            }
            Poll::Ready(Err(_)) => self.over = true,
            Poll::Pending => {}
        }
        written
    }

    fn is_cut_off(&self) -> bool {
        self.conn.is_upgraded() && self.conn.shared.stage() == Stage::Cut
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = self.stream().poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) => {
                let bytes = &buf.filled()[before..];
                self.over |= bytes.is_empty() && buf.remaining() > 0;
                self.conn.received.fetch_add(bytes.len() as u64, Relaxed);
                if let Some(kind) = self.opening.read(bytes) {
                    self.conn.set_kind(kind);
                }
            }
            Poll::Ready(Err(_)) => self.over = true,
            Poll::Pending => return self.poll_cut(cx).map(Err),
        }
        polled
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_cut_off() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = self.stream().poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_cut_off() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = self.stream().poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.listed = None;
        let (Some(stream), Some(counted)) = (self.stream.take(), self.counted.take()) else { return };
        if self.over || self.conn.shared.stage() == Stage::Cut {
            return;
        }
        // Requests of an HTTP/2 peer may be long on their way; elsewhere an answer ends the conversation.
        let http2 = self.conn.kind() == CutKind::Http2 && self.conn.started.load(Relaxed) > 0;
        let quiet = if http2 { LINGER } else { LINGER_QUIET };
        // Owned by nobody but its own limit; the drain waits for it through `counted`.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(linger(stream, quiet, counted));
        }
    }
}

/// Closes `stream` without taking from the peer what it has not yet read.
async fn linger(mut stream: TcpStream, quiet: Duration, _counted: TaskTrackerToken) {
    let end = Instant::now() + LINGER;
    // An error says that it is shut already.
    drop(stream.shutdown().await);
    let mut waste = [0; 4096];
    loop {
        let until = end.min(Instant::now() + quiet);
        match time::timeout_at(until, stream.read(&mut waste)).await {
            Ok(Ok(read)) if read > 0 && Instant::now() < end => {}
            _ => return,
        }
    }
}

/// Tells HTTP/2 from HTTP/1 by the first bytes.
#[derive(Debug, Default)]
struct Opening {
    seen: usize,
    known: bool,
}

impl Opening {
    /// What tells the preface of HTTP/2 (`PRI * …`) from the methods of HTTP/1.
    const PREFACE: &'static [u8] = b"PRI ";

    /// The protocol, at the moment it becomes known.
    fn read(&mut self, bytes: &[u8]) -> Option<CutKind> {
        if self.known || bytes.is_empty() {
            return None;
        }
        let expected = &Self::PREFACE[self.seen..];
        let common = expected.len().min(bytes.len());
        let same = expected[..common] == bytes[..common];
        self.seen += common;
        self.known = !same || self.seen == Self::PREFACE.len();
        match (self.known, same) {
            (false, _) => None,
            (true, true) => Some(CutKind::Http2),
            (true, false) => Some(CutKind::Http1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol_even_one_by_one() {
        let tell = |parts: &[&str]| {
            let mut opening = Opening::default();
            parts.iter().find_map(|part| opening.read(part.as_bytes()))
        };
        assert_eq!(tell(&["PRI * HTTP/2.0\r\n"]), Some(CutKind::Http2));
        assert_eq!(tell(&["P", "R", "I", " "]), Some(CutKind::Http2));
        assert_eq!(tell(&["P", "OST / HTTP/1.1\r\n"]), Some(CutKind::Http1));
        assert_eq!(tell(&["GET / HTTP/1.1\r\n"]), Some(CutKind::Http1));
        assert_eq!(tell(&["PR"]), None);
    }
}
