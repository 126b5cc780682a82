//! Honest peers: what many or large calls took is given back.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use meshwork_client::Channel;
use tokio::{net::TcpListener, sync::Barrier, task::JoinSet, time};

use crate::{Client, KIB, MIB, MS, channel, nobody_panicked, peers, record};

/// Three hundred dials at a time take both processors.
const PATIENT: Duration = Duration::from_secs(30);

/// A server that sends back what it gets; `/all` only when so many calls are there.
async fn serve(all: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, barrier) = (listener.local_addr().unwrap(), Arc::new(Barrier::new(all)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                let mut builder = auto::Builder::new(TokioExecutor::new());
                builder.http2().max_concurrent_streams(None);
                let service = hyper::service::service_fn(|request| answer(request, Arc::clone(&barrier)));
                let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    addr
}

async fn answer(request: Request<Incoming>, all: Arc<Barrier>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/all" {
        all.wait().await;
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::new(Full::from(body)))
}

async fn calls(channel: impl Fn(usize) -> Channel, path: &'static str, body: &Bytes, count: usize) {
    let mut calls = JoinSet::new();
    for nth in 0..count {
        let call = channel(nth).timeout(Duration::from_secs(300)).post(path).body(body.clone());
        let len = body.len();
        calls.spawn(async move { assert_eq!(call.send().await.unwrap().bytes().await.unwrap().len(), len) });
    }
    calls.join_all().await;
}

#[test]
fn ten_thousand_calls_at_a_time_leave_nothing_once_it_is_calm() {
    const COUNT: usize = 10_000;
    let (peers, client, small) = (peers(), Client::new(), Bytes::from_static(b"small"));
    let addr = peers.block_on(serve(COUNT));
    let channel = channel(&[record("users-1", "grpc", addr)], PATIENT);
    let ((), first) = client.measure(async {
        calls(|_| channel.clone(), "/", &small, 10).await;
        time::sleep(100 * MS).await;
    });
    let ((), burst) = client.measure(calls(|_| channel.clone(), "/all", &small, COUNT));
    let left = |calm: i64| (first.bytes_current + burst.bytes_current + calm).max(0) as u64;
    let mut calm = 0;
    for _ in 0..40 {
        let ((), beats) = client.measure(async { time::sleep(100 * MS).await });
        calm += beats.bytes_current;
        if left(calm) < 512 * KIB {
            break;
        }
    }
    println!(
        "live: {} KiB before, {} MiB at most, {} KiB at the end of the burst, {} KiB when it was calm",
        first.bytes_current as u64 / KIB,
        burst.bytes_max / MIB,
        left(0) / KIB,
        left(calm) / KIB
    );
    assert!(burst.bytes_max > 10 * MIB, "the calls were not all there at a time");
    assert!(left(calm) < 512 * KIB, "{} KiB are left", left(calm) / KIB);
    // The connection was replaced for that, and nobody noticed.
    let ((), _) = client.measure(calls(|_| channel.clone(), "/", &small, 10));
    let node = &channel.nodes()[0];
    assert_eq!((node.failures, node.inflight), (0, 0));
    drop(channel);
    client.until_no_task_is_left();
    nobody_panicked();
}

#[test]
fn three_hundred_connections_keep_little_of_the_large_bodies_that_they_carried() {
    const NODES: usize = 300;
    let (peers, client) = (peers(), Client::new());
    let records: Vec<_> =
        (0..NODES).map(|nth| record(&format!("users-{nth}"), "grpc", peers.block_on(serve(1)))).collect();
    let channel = channel(&records, PATIENT);
    let to = |nth: usize| channel.to_instance(records[nth % NODES].id.as_str());
    let ((), connected) = client.measure(async {
        calls(to, "/", &Bytes::from_static(b"small"), NODES).await;
        time::sleep(100 * MS).await;
    });
    let ((), burst) = client.measure(async {
        calls(to, "/", &Bytes::from(vec![7; 64 * 1024]), 4 * NODES).await;
        time::sleep(300 * MS).await;
    });
    let (before, more) = (connected.bytes_current as u64, burst.bytes_current.max(0) as u64);
    println!(
        "live: {} KiB with {NODES} connections, {} MiB at most, then {} KiB more",
        before / KIB,
        burst.bytes_max / MIB,
        more / KIB
    );
    assert!(more * 5 < before, "{} KiB more than {} KiB", more / KIB, before / KIB);
    drop(channel);
    client.until_no_task_is_left();
    nobody_panicked();
}
