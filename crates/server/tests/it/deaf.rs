//! An HTTP/2 client that does not hear goodbyes: it sends on, and never answers their ping.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time,
};

use crate::support::{LIMIT, request};

const PING: u8 = 6;
const GOAWAY: u8 = 7;

pub(crate) struct Deaf {
    sender: h2::client::SendRequest<Bytes>,
    goodbye: watch::Receiver<bool>,
    connection: JoinHandle<()>,
}

impl Deaf {
    /// Connects, and has one request answered.
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let (told, goodbye) = watch::channel(false);
        let stream = TcpStream::connect(addr).await.unwrap();
        let ears = Ears { stream, raw: BytesMut::new(), heard: BytesMut::new(), told };
        let (sender, connection) = h2::client::handshake(ears).await.unwrap();
        // Errors are the requests' to tell.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let mut own = Self { sender, goodbye, connection };
        own.ask(&request(addr, "GET", "/", &[])).await;
        own
    }

    pub(crate) async fn wait_for_goodbye(&mut self) {
        let wait = self.goodbye.wait_for(|told| *told);
        time::timeout(LIMIT, wait).await.expect("no goodbye came").unwrap();
    }

    pub(crate) async fn ask(&mut self, request: &Request<Full<Bytes>>) -> Response<h2::RecvStream> {
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.headers_mut() = request.headers().clone();
        let (answer, _body) = self.sender.send_request(head, true).unwrap();
        time::timeout(LIMIT, answer).await.expect("no answer in time").unwrap()
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Passes on all frames but goodbyes and pings.
struct Ears {
    stream: TcpStream,
    raw: BytesMut,
    heard: BytesMut,
    told: watch::Sender<bool>,
}

impl Ears {
    fn sort(&mut self) {
        while self.raw.len() >= 9 {
            let length =
                usize::from(self.raw[0]) << 16 | usize::from(self.raw[1]) << 8 | usize::from(self.raw[2]);
            if self.raw.len() < 9 + length {
                return;
            }
            let frame = self.raw.split_to(9 + length);
            match frame[3] {
                PING => {}
                GOAWAY => drop(self.told.send(true)),
                _ => self.heard.extend_from_slice(&frame),
            }
        }
    }
}

impl AsyncRead for Ears {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.heard.is_empty() {
            let mut bytes = [0; 4096];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let filled = read.filled().to_vec();
            self.raw.extend_from_slice(&filled);
            self.sort();
        }
        let length = self.heard.len().min(buf.remaining());
        buf.put_slice(&self.heard[..length]);
        self.heard.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ears {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
