//! The server processes: ours, and those it is compared with.

use std::{io::BufRead, net::SocketAddr, thread};

use axum::{Router, routing::get};
use meshwork::{App, Memory};
use meshwork_core::BoxError;
use tokio::{net::TcpListener, sync::oneshot};
use tonic::transport::{Server, server::TcpIncoming};

use super::BYTES;
use crate::{
    cpu::{self, Seat},
    grpc::Echo,
};

const ANSWER: &str = match std::str::from_utf8(&[b'7'; BYTES]) {
    Ok(text) => text,
    Err(_) => panic!("sevens are text"),
};

/// Whose server.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// An `App` with its defaults, which speaks both.
    Ours,
    /// `axum::serve`.
    Axum,
    /// tonic's `Server`.
    Tonic,
}

/// Prints its address, then, for each line of its input, the processor time it has used; serves until the input ends.
pub(crate) fn run(kind: Kind) -> Result<(), BoxError> {
    Seat::Server.take();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (ended, end) = oneshot::channel::<()>();
        let serving = serve(kind).await?;
        thread::spawn(move || {
            let _ended = ended;
            for _ in std::io::stdin().lock().lines() {
                println!("{}", cpu::of_process().as_secs_f64() * 1e6);
            }
        });
        let _ended = end.await;
        serving.abort();
        Ok(())
    })
}

/// Serves in a task and prints where.
async fn serve(kind: Kind) -> Result<tokio::task::JoinHandle<()>, BoxError> {
    let http = Router::new().route("/users/7", get(|| async { ANSWER }));
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    // What a server failed of shows in its client.
    match kind {
        Kind::Ours => {
            let app = App::new()
                .with_environment("test")
                // Nothing but defaults, wherever this runs.
                .with_config_dir("/nonexistent")
                .with_config("[service]\nname = \"p4\"")
                .with_registry(Memory::new())
                .http(http)
                .grpc(Echo);
            let handle = app.handle();
            let serving = tokio::spawn(async move {
                if let Err(error) = app.serve_until(std::future::pending()).await {
                    eprintln!("p4-ours: {error}");
                }
            });
            handle.serving().await;
            println!("{}", handle.local_addr().ok_or("an app without a listener")?);
            Ok(serving)
        }
        Kind::Axum => {
            let listener = TcpListener::bind(any).await?;
            println!("{}", listener.local_addr()?);
            Ok(tokio::spawn(async move { axum::serve(listener, http).await.unwrap_or_default() }))
        }
        Kind::Tonic => {
            let incoming = TcpIncoming::bind(any)?.with_nodelay(Some(true));
            println!("{}", incoming.local_addr()?);
            let server = Server::builder().add_service(Echo);
            Ok(tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap_or_default() }))
        }
    }
}
