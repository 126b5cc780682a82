//! The socket of a connection: counts bytes, tells the protocol, and closes lingering.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
};
use tokio_util::{sync::WaitForCancellationFutureOwned, task::task_tracker::TaskTrackerToken};

use crate::{
    conn::Conn,
    drain::CutKind,
    linger::{self, linger},
    open::Listed,
    shared::Stage,
    websocket::WebSocket,
    wire::Wire,
};

/// One accepted socket.
///
/// Closing a socket with unread bytes makes the kernel send a reset, and the peer then drops what it has
/// received and not yet read: answers and goodbyes. So dropping this shuts the write side, and a task reads
/// and discards to the end, for a second at most.
pub(crate) struct Io {
    /// Taken only by `drop`.
    stream: Option<Wire>,
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
    /// Wakes reads of a WebSocket when the drain begins.
    draining: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    websocket: Option<WebSocket>,
}

impl Io {
    pub(crate) fn new(stream: Wire, conn: Arc<Conn>, listed: Listed, counted: TaskTrackerToken) -> Self {
        Self {
            stream: Some(stream),
            conn,
            listed: Some(listed),
            counted: Some(counted),
            opening: Opening::default(),
            over: false,
            cut: None,
            draining: None,
            websocket: None,
        }
    }

    fn stream(&mut self) -> Pin<&mut Wire> {
        Pin::new(self.stream.as_mut().expect("invariant: the stream is taken only by drop"))
    }

    /// The task of an upgraded connection is its user's; at the cut its reads fail.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.conn.is_upgraded() {
            return Poll::Pending;
        }
        if self.websocket.is_some() {
            let token = &self.conn.shared.draining;
            let draining = self.draining.get_or_insert_with(|| Box::pin(token.clone().cancelled_owned()));
            if draining.as_mut().poll(cx).is_ready() {
                // Where it cannot be sent now, the next write sends it.
                let _: Poll<bool> = self.poll_goodbye(cx);
            }
        }
        let token = &self.conn.shared.cut;
        let cut = self.cut.get_or_insert_with(|| Box::pin(token.clone().cancelled_owned()));
        ready!(cut.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "the server is gone"))
    }

    /// Tells the peer of a WebSocket, once the drain has begun, that this is the end; ready with whether its user
    /// has nothing more to say.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            let Some(socket) = &mut self.websocket else { return Poll::Ready(false) };
            if self.conn.shared.stage() < Stage::Draining {
                return Poll::Ready(false);
            }
            let goodbye = socket.goodbye();
            if goodbye.is_empty() {
                let over = socket.is_over();
                if over {
                    // Bytes of an encryption may wait; who reads on comes by again.
                    let _: Poll<io::Result<()>> = self.stream().poll_flush(cx);
                }
                return Poll::Ready(over);
            }
            match ready!(self.stream().poll_write(cx, goodbye)) {
                Ok(bytes) if bytes > 0 => self.websocket.iter_mut().for_each(|socket| socket.said(bytes)),
                // The next read or write finds out.
                _ => return Poll::Ready(false),
            }
        }
    }

    /// Follows what a WebSocket sends.
    fn follow(&mut self, parts: &[io::IoSlice<'_>], mut bytes: usize) {
        if !self.conn.websocket.load(Relaxed) {
            return;
        }
        let socket = self.websocket.get_or_insert_with(WebSocket::new);
        for part in parts {
            let taken = bytes.min(part.len());
            socket.sent(&part[..taken]);
            bytes -= taken;
        }
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.conn.blocked.store(written.is_pending(), Relaxed);
        match &written {
            Poll::Ready(Ok(bytes)) => {
                count(&self.conn.sent, *bytes);
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

/// Nobody but the socket writes these.
fn count(counter: &AtomicU64, bytes: usize) {
    counter.store(counter.load(Relaxed) + bytes as u64, Relaxed);
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
                count(&self.conn.received, bytes.len());
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
        if ready!(self.poll_goodbye(cx)) {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = self.stream().poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = written {
            self.follow(&[io::IoSlice::new(buf)], bytes);
        }
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
        if ready!(self.poll_goodbye(cx)) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let written = self.stream().poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(bytes)) = written {
            self.follow(bufs, bytes);
        }
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.stream().poll_flush(cx);
        // Where bytes wait before they are encrypted, a write tells nothing of the socket.
        if self.stream.as_ref().is_some_and(Wire::is_encrypted) {
            self.conn.blocked.store(flushed.is_pending(), Relaxed);
        }
        flushed
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
        let quiet = if http2 { linger::LONGEST } else { linger::QUIET };
        // Owned by nobody but its own limit; the drain waits for it through `counted`.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                linger(stream, quiet).await;
                drop(counted);
            });
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
