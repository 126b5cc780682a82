//! The server process: hyper's HTTP/1.1 server, as plain as can be, so that it is never what is measured.

use std::{convert::Infallible, io::Read};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use meshwork_core::BoxError;
use meshwork_testkit::ports::Port;
use tokio::net::TcpListener;

use super::BYTES;
use crate::cpu::Seat;

static ANSWER: [u8; BYTES] = [b'7'; BYTES];

/// Prints its address and serves until its input ends.
pub(crate) fn run() -> Result<(), BoxError> {
    Seat::Server.take();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let port = Port::claim()?;
        let listener = TcpListener::bind(port.addr()).await?;
        println!("{}", listener.local_addr()?);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if stream.set_nodelay(true).is_ok() {
                    let io = TokioIo::new(stream);
                    tokio::spawn(http1::Builder::new().serve_connection(io, service_fn(answer)));
                }
            }
        });
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
        accepting.abort();
        Ok(())
    })
}

async fn answer(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(&ANSWER))))
}
