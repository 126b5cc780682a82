//! The channel and the Meshwork server, together.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::any};
use meshwork_balance::{LeastRequest, P2c, Policy};
use meshwork_client::Channel;
use meshwork_core::InstanceId;
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services, Serving};
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tonic::{Code, Status};

use crate::{
    echo::{Echo, client, text as message},
    support::{MS, Registry, native, service, text, until},
};

async fn start(name: &str) -> (Serving, SocketAddr) {
    start_at(name, "127.0.0.1:0".parse().unwrap()).await
}

async fn start_at(name: &str, addr: SocketAddr) -> (Serving, SocketAddr) {
    start_with(name, addr, ServerConfig::default()).await
}

async fn start_with(name: &str, addr: SocketAddr, config: ServerConfig) -> (Serving, SocketAddr) {
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
    (Server::new(config, identity, health).serve(listener, services), addr)
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

/// Keeps one stream open for ever: whenever it was ended, it goes on wherever the channel says. How it ended otherwise.
async fn resumed(channel: Channel, resumed: Arc<AtomicUsize>) -> Status {
    loop {
        let mut stream = match client(&channel).server(message("hang")).await {
            Ok(stream) => stream,
            Err(status) => return status,
        };
        let status = loop {
            match stream.message().await {
                Ok(Some(_first)) => {}
                Ok(None) => return Status::ok("ended without being told"),
                Err(status) => break status,
            }
        };
        if status.code() != Code::Unavailable || status.metadata().get("meshwork-ended").is_none() {
            return status;
        }
        resumed.fetch_add(1, Ordering::Relaxed);
    }
}

/// 100 streams on two nodes, to which two more come: how many each of the four has when every stream was ended by its
/// age and has gone on.
async fn spread(policy: Arc<dyn Policy>) -> Vec<u32> {
    const STREAMS: usize = 100;
    let (mut servers, mut records) = (Vec::new(), Vec::new());
    let mut add = async |nth: usize| {
        let mut config = ServerConfig::default();
        config.max_stream_age = Some(Duration::from_secs(4));
        let (serving, addr) =
            start_with(&format!("users-{nth}"), "127.0.0.1:0".parse().unwrap(), config).await;
        servers.push(serving);
        records.push(native(&format!("users-{nth}"), "http", addr));
        records.clone()
    };
    add(0).await;
    let registry = Registry::of(add(1).await);
    let channel = registry.channel_with(|config| config.policy = policy);
    channel.ready().await.unwrap();
    until("both are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
    let (mut streams, again) = (JoinSet::new(), Arc::<AtomicUsize>::default());
    let open = || channel.nodes().iter().map(|node| node.inflight).collect::<Vec<_>>();
    // One after the other, as they come in life: who opens all at once measures nothing but himself.
    for nth in 0..STREAMS {
        streams.spawn(resumed(channel.clone(), Arc::clone(&again)));
        until("it is open", || open().iter().sum::<u32>() as usize > nth).await;
    }
    add(2).await;
    registry.set(add(3).await);
    // The last one is over after the age and a tenth of it.
    until("every stream was ended and went on", || again.load(Ordering::Relaxed) >= STREAMS).await;
    let spread = open();
    assert!(streams.try_join_next().is_none(), "a stream ended otherwise");
    for node in channel.nodes() {
        assert_eq!((node.failures, node.ejections), (0, 0), "{node:?}");
    }
    spread
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_reach_their_age_spread_over_new_nodes_and_no_node_is_blamed() {
    let fewest = spread(Arc::new(LeastRequest::default().choices(4)));
    let (fewest, two) = tokio::join!(fewest, spread(Arc::new(P2c::default())));
    println!(
        "100 streams, 2 nodes and 2 more, after one age: {fewest:?} by fewest, {two:?} by the better of two"
    );
    // A fair share is 25. Of two that are drawn the better one is taken: while only old nodes lose streams, that
    // leaves them behind by some more.
    assert!(fewest.len() == 4 && fewest.iter().all(|count| (20..=30).contains(count)), "{fewest:?}");
    assert!(two.len() == 4 && two[2..].iter().all(|count| (13..=50).contains(count)), "{two:?}");
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
