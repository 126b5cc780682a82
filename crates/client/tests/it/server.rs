//! The channel and the Meshwork server, together.

use std::time::Duration;

use axum::{Router, routing::get};
use meshwork_core::{InstanceId, Seen};
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services, Serving};
use tokio::time::{self, Instant};

use crate::{
    echo::{Echo, client, text as message},
    support::{MS, Registry, native, service, text, until},
};

async fn start(name: &'static str) -> (Serving, std::net::SocketAddr) {
    let (identity, health) = (Identity::new(), Health::new());
    identity.set([(&service(), &InstanceId::new(name).unwrap())]);
    health.set_serving(true);
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr();
    let router = Router::new().route(
        "/",
        get(move || async move {
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

#[tokio::test]
async fn an_instance_that_drains_under_load_fails_no_call() {
    let (one, one_addr) = start("users-1").await;
    let (_two, two_addr) = start("users-2").await;
    let registry = Registry::of([native("users-1", "http", one_addr), native("users-2", "http", two_addr)]);
    let channel = registry.channel();
    channel.ready().await.unwrap();
    until("both are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
    let begun = Instant::now();
    let drain = tokio::spawn(async move {
        time::sleep(200 * MS).await;
        one.drain(Instant::now() + Duration::from_secs(5)).await
    });
    let mut calls = Vec::new();
    while begun.elapsed() < Duration::from_millis(600) {
        // A PUT is never retried: what is saved here is re-routed.
        calls.push(tokio::spawn(text(channel.get("/").options(|mut options| {
            options.idempotent = Some(false);
            options
        }))));
        time::sleep(2 * MS).await;
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    drain.await.unwrap();
    assert!(registry.has_seen("users-1", Seen::Itself));
}
