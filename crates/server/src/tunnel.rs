//! WebSockets over HTTP/2 (RFC 8441): a tunnel stands between the stream and its user, so that the drain can end it as it
//! ends one over HTTP/1, by a close frame between two others.
//!
//! hyper hands the stream to whoever takes the upgrade out of the request. The user gets another upgrade instead, which
//! leads to us.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use axum::body::Body;
use http::{
    Method, Request, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use hyper::{
    body::Incoming,
    ext::Protocol,
    server::conn::http1,
    service::service_fn,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio_util::sync::CancellationToken;

use crate::{conn::Conn, websocket::WebSocket};

/// What may wait in the tunnel on its way to one side.
const ROOM: usize = 16 * 1024;
/// The request and the answer by which hyper makes an upgrade of what it is given.
const ASK: &[u8] = b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: tunnel\r\n\r\n";
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Puts a tunnel into the request that opens a WebSocket over HTTP/2; any other is left as it is.
pub(crate) fn dig<B>(request: &mut Request<B>, conn: &Conn) {
    let is_websocket = request.method() == Method::CONNECT
        && request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_ref() == b"websocket");
    if !is_websocket {
        return;
    }
    // Without a tunnel the user gets the stream itself, which is then cut at the deadline.
    let Some((near, users)) = tunnel() else { return };
    let stream = upgrade::on(&mut *request);
    request.extensions_mut().insert(users);
    let (draining, cut) = (conn.shared.draining.clone(), conn.shared.cut.clone());
    // It ends with its stream, with its user, or at the cut.
    tokio::spawn(async move {
        tokio::select! {
            () = pass(stream, near, draining) => {}
            () = cut.cancelled() => {}
        }
    });
}

/// Our end of a tunnel, and the upgrade that leads to the other one.
fn tunnel() -> Option<(DuplexStream, OnUpgrade)> {
    let (mut near, far) = duplex(ROOM);
    let made = Arc::<Mutex<Option<OnUpgrade>>>::default();
    let taken = made.clone();
    let take = service_fn(move |mut request: Request<Incoming>| {
        *taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade::on(&mut request));
        let answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        let answer = answer.header(CONNECTION, "upgrade").header(UPGRADE, "tunnel").body(Body::empty());
        std::future::ready(Ok::<_, Infallible>(answer.expect("invariant: these are headers")))
    });
    let mut far = Box::pin(http1::Builder::new().serve_connection(TokioIo::new(far), take).with_upgrades());
    // All it needs is there: it goes on to its end here, or in its task.
    let mut cx = Context::from_waker(Waker::noop());
    let _: Poll<io::Result<()>> = Pin::new(&mut Box::pin(near.write_all(ASK))).poll(&mut cx);
    if far.as_mut().poll(&mut cx).is_pending() {
        tokio::spawn(far);
    }
    let made = made.lock().unwrap_or_else(PoisonError::into_inner).take();
    made.map(|upgrade| (near, upgrade))
}

/// Passes on what both sides say, and says goodbye to the peer once the drain has begun.
async fn pass(stream: OnUpgrade, mut near: DuplexStream, draining: CancellationToken) {
    // The handler may have answered something else.
    let Ok(stream) = stream.await else { return };
    if skip_head(&mut near).await.is_err() {
        return;
    }
    let (mut from_peer, mut to_peer) = split(TokioIo::new(stream));
    let (mut from_user, mut to_user) = split(near);
    let down = async {
        // However it ends, its user reads on to the end.
        drop(tokio::io::copy(&mut from_peer, &mut to_user).await);
        drop(to_user.shutdown().await);
    };
    let up = async {
        let mut socket = WebSocket::open();
        let mut bytes = vec![0; ROOM];
        loop {
            if draining.is_cancelled() {
                let goodbye = socket.goodbye();
                if !goodbye.is_empty() {
                    to_peer.write_all(goodbye).await?;
                    socket.said(goodbye.len());
                    to_peer.flush().await?;
                }
            }
            let read = tokio::select! {
                read = from_user.read(&mut bytes) => read?,
                () = draining.cancelled(), if !draining.is_cancelled() => continue,
            };
            if read == 0 {
                break;
            }
            // What comes after the goodbye is for nobody.
            if !socket.is_over() {
                to_peer.write_all(&bytes[..read]).await?;
                socket.sent(&bytes[..read]);
            }
        }
        to_peer.shutdown().await
    };
    let ((), _ended) = tokio::join!(down, up);
}

/// Takes the answer away by which the tunnel was made.
async fn skip_head(near: &mut DuplexStream) -> io::Result<()> {
    let mut end = 0;
    while end < HEAD_END.len() {
        let byte = near.read_u8().await?;
        end = if byte == HEAD_END[end] { end + 1 } else { usize::from(byte == HEAD_END[0]) };
    }
    Ok(())
}
