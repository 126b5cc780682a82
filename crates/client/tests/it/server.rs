//! The channel and the Meshwork server, together.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::any};
use meshwork_core::InstanceId;
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services, Serving};
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use crate::{
    echo::{Echo, client, text as message},
    support::{MS, Registry, native, service, text, until},
};

async fn start(name: &str) -> (Serving, SocketAddr) {
    start_at(name, "127.0.0.1:0".parse().unwrap()).await
}

async fn start_at(name: &str, addr: SocketAddr) -> (Serving, SocketAddr) {
    let (identity, health) = (Identity::new(), Health::new());
    identity.set([(&service(), &InstanceId::new(name).unwrap())]);
    health.set_serving(true);
    let listener = Listener::bind(addr).await.unwrap();
    let addr = listener.local_addr();
    let name = name.to_owned();
    let router = Router::new().route(
        "/",
        any(move || async move {
            time::sleep(10 * MS).await;
            name
        }),
    );
    let services = Services::new().http(router).grpc_service(Echo);
    (Server::new(ServerConfig::default(), identity, health).serve(listener, services), addr)
}

#[tokio::test]
async fn one_port_serves_plain_and_grpc_calls_to_a_confirmed_instance() {
    let (_serving, addr) = start("users-1").await;
    let channel = Registry::of([native("users-1", "http", addr)]).channel();
    assert_eq!(text(channel.get("/")).await.unwrap(), "users-1");
    assert_eq!(client(&channel).unary(message("hello")).await.unwrap(), "hello");
    let mut stream = client(&channel).server(message("a b")).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().text, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restarts_under_load_fail_no_call_though_the_registry_says_nothing() {
    let mut servers = Vec::new();
    for nth in 0..3 {
        servers.push(start(&format!("users-{nth}")).await);
    }
    let records =
        servers.iter().enumerate().map(|(nth, (_, addr))| native(&format!("users-{nth}"), "http", *addr));
    let registry = Registry::of(records.collect::<Vec<_>>());
    let channel = registry.channel();
    channel.ready().await.unwrap();
    until("all are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;

    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (stop, channel) = (Arc::clone(&stop), channel.clone());
        async move {
            let mut calls = JoinSet::new();
            while !stop.load(Ordering::Relaxed) {
                // A POST is never retried: what is saved here was re-routed.
                calls.spawn(text(channel.post("/")));
                time::sleep(MS).await;
            }
            calls.join_all().await
        }
    });
    for round in 1..=2 {
        for nth in 0..3 {
            let (old, addr) = servers.remove(0);
            let report = old.drain(Instant::now() + Duration::from_secs(5)).await;
            assert_eq!(report.cut.len(), 0, "round {round}");
            let name = format!("users-{nth}-{round}");
            servers.push(start_at(&name, addr).await);
            until("the successor serves", || {
                let nodes = channel.nodes();
                nodes.iter().any(|node| node.confirmed.as_ref().is_some_and(|id| id.as_str() == name))
            })
            .await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let results = load.await.unwrap();
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {}", failed.len(), results.len(), failed[0]);
    assert!(results.len() > 100);
}
