//! From an accepted socket to an encrypted one: in time, or with a clear end.

use std::{io, sync::Arc, sync::atomic::Ordering::Relaxed};

use meshwork_core::ErrorChain;
use tokio::{io::AsyncWriteExt, net::TcpStream, time};

use crate::{
    Encrypt, Unencrypted,
    conn::Conn,
    linger::{self, linger},
    open::Listed,
    patience::FIRST_WORDS,
    seldom::Seldom,
    wire::Wire,
};

/// The answer to HTTP/1 without encryption.
const PLAIN_HTTP1: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 32\r\n\
    connection: close\r\n\r\n\
    this port speaks TLS: use https\n";
/// The same for HTTP/2: empty SETTINGS, then a GOAWAY with INADEQUATE_SECURITY, which takes back every request.
const PLAIN_HTTP2: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x28\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0c\
    this port speaks TLS: use https\n";

/// What a listener needs to shake hands.
#[derive(Debug)]
pub(crate) struct Handshakes {
    encryption: Arc<dyn Encrypt>,
    said: Seldom,
}

/// How a peer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    Encrypted,
    Http1,
    Http2,
}

impl Handshakes {
    pub(crate) fn new(encryption: Arc<dyn Encrypt>) -> Self {
        Self { encryption, said: Seldom::default() }
    }

    /// Shakes hands on `stream`, until the connection's first request is due or the drain begins. Without a
    /// handshake the connection is closed and nothing is given back.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(crate) async fn shake(
        &self,
        stream: TcpStream,
        conn: &Conn,
        listed: Listed,
    ) -> Option<(Wire, Listed)> {
        let end = conn.opened + conn.shared.config.first_request_timeout;
        let shaken = tokio::select! {
            // A handshake has no request yet: it closes with the silent ones.
            () = too_late(conn) => return None,
            shaken = time::timeout_at(end, self.begin(stream, conn)) => shaken,
        };
        let stream = match shaken {
            Ok(Ok(wire)) => return Some((wire, listed)),
            Ok(Err(Unencrypted { error, stream })) => {
                self.note(conn, &error);
                stream
            }
            Err(_elapsed) => {
                conn.shared.counters.timed_out.fetch_add(1, Relaxed);
                tracing::debug!(peer = %conn.peer, "connection closed: no handshake came");
                None
            }
        };
        drop(listed);
        if let Some(stream) = stream {
            linger(stream, linger::QUIET).await;
        }
        None
    }

    fn note(&self, conn: &Conn, error: &io::Error) {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            // Whoever looks whether the port is open.
            return tracing::debug!(peer = %conn.peer, "closed before its handshake");
        }
        conn.shared.counters.handshakes_failed.fetch_add(1, Relaxed);
        let (peer, local, error) = (conn.peer, conn.local, ErrorChain(error));
        if self.said.is_time() {
            tracing::warn!(%peer, %local, %error, "a handshake failed");
        } else {
            tracing::debug!(%peer, %local, %error, "a handshake failed");
        }
    }

    async fn begin(&self, mut stream: TcpStream, conn: &Conn) -> Result<Wire, Unencrypted> {
        let answer = match begins(&stream).await {
            Ok(Begins::Encrypted) => {
                let encrypted = self.encryption.accept(stream).await?;
                if let Some(peer) = encrypted.peer {
                    conn.prove(peer);
                }
                return Ok(Wire::Encrypted(encrypted.stream));
            }
            Ok(Begins::Http1) => PLAIN_HTTP1,
            Ok(Begins::Http2) => PLAIN_HTTP2,
            Err(error) => return Err(Unencrypted { error, stream: None }),
        };
        // It fits into any socket, or its peer is gone.
        drop(stream.write_all(answer).await);
        Err(Unencrypted { error: io::Error::other("it speaks HTTP without TLS"), stream: Some(stream) })
    }
}

/// The drain has begun, and the peer has had time for its first words.
async fn too_late(conn: &Conn) {
    conn.shared.draining.cancelled().await;
    time::sleep_until(conn.opened + FIRST_WORDS).await;
}

/// Looks at the first bytes without taking them: a handshake of TLS begins with 22, a request with a method.
async fn begins(stream: &TcpStream) -> io::Result<Begins> {
    let mut first = [0; 4];
    let seen = stream.peek(&mut first).await?;
    Ok(match &first[..seen] {
        [] => return Err(io::ErrorKind::UnexpectedEof.into()),
        b"PRI " => Begins::Http2,
        [letter, ..] if letter.is_ascii_uppercase() => Begins::Http1,
        _ => Begins::Encrypted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lengths_in_our_answers_are_right() {
        let answer = std::str::from_utf8(PLAIN_HTTP1).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())));
        let goaway = &PLAIN_HTTP2[9..];
        assert_eq!(usize::from(goaway[2]), goaway.len() - 9);
    }
}
