//! Retries along a chain of services: whoever is next to the failure tries again, and nobody before it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use meshwork_client::Channel;
use meshwork_core::{Instance, InstanceId, headers};
use meshwork_resilience::retry::Chain;
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services, Serving};
use tokio::task::JoinSet;
use tonic::Status;

use crate::{
    echo::{client, text as message},
    support::{MS, Registry, native, service, until},
};

const REQUESTS: usize = 400;

/// Four instances of a service, of which one may be ejected; a channel to them; and the calls they saw.
struct Tier {
    _serving: Vec<Serving>,
    _registry: Registry,
    channel: Channel,
    seen: Arc<AtomicUsize>,
}

impl Tier {
    /// Its handlers call `next` and fail as that does; without one they fail by themselves.
    async fn start(name: &str, next: Option<&Self>) -> Self {
        let seen = Arc::new(AtomicUsize::new(0));
        let (mut serving, mut records) = (Vec::new(), Vec::new());
        for nth in 1..=4 {
            let (seen, next) = (Arc::clone(&seen), next.map(|next| next.channel.clone()));
            let handler = move |headers: HeaderMap| {
                seen.fetch_add(1, Ordering::SeqCst);
                fail(headers, next.clone())
            };
            let (server, record) =
                serve(&format!("{name}-{nth}"), Router::new().fallback(any(handler))).await;
            serving.push(server);
            records.push(record);
        }
        let registry = Registry::of(records);
        let channel = registry.channel_with(|config| config.retry.min_per_second = 0).idempotent();
        channel.ready().await.unwrap();
        Self { _serving: serving, _registry: registry, channel, seen }
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

/// Serves as one instance.
async fn serve(name: &str, router: Router) -> (Serving, Instance) {
    let (identity, health) = (Identity::new(), Health::new());
    identity.set([(&service(), &InstanceId::new(name).unwrap())]);
    health.set_serving(true);
    let listener = Listener::bind("127.0.0.1:0".parse::<SocketAddr>().unwrap()).await.unwrap();
    let record = native(name, "http", listener.local_addr());
    let server = Server::new(ServerConfig::default(), identity, health);
    (server.serve(listener, Services::new().http(router)), record)
}

/// Calls `next` in the protocol of the request, and says in its own words that it failed.
async fn fail(request: HeaderMap, next: Option<Channel>) -> Response {
    let content_type = request.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_grpc = content_type.is_some_and(headers::is_grpc);
    if let Some(next) = next {
        call(next, is_grpc).await;
    }
    if is_grpc {
        return Status::unavailable("it failed").into_http::<axum::body::Body>().into_response();
    }
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

async fn call(channel: Channel, is_grpc: bool) {
    if is_grpc {
        client(&channel).unary(message("hello")).await.unwrap_err();
    } else {
        let answer = channel.get("/").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

async fn a_failing_leaf_is_tried_again_by_its_callers_only(is_grpc: bool) {
    let leaf = Tier::start("leaf", None).await;
    let middle = Tier::start("middle", Some(&leaf)).await;
    let first = Tier::start("first", Some(&middle)).await;
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let channel = first.channel.clone();
        calls.spawn(async move {
            for _ in 0..REQUESTS / 8 {
                call(channel.clone(), is_grpc).await;
            }
        });
    }
    calls.join_all().await;
    assert_eq!((first.seen(), middle.seen()), (REQUESTS, REQUESTS), "only the leaf's callers try again");
    let leaf = leaf.seen();
    println!("{leaf} attempts at the leaf for {REQUESTS} requests");
    assert!(leaf > REQUESTS * 11 / 10, "{leaf} attempts of {REQUESTS}: its callers do try again");
    assert!(leaf <= REQUESTS * 5 / 4, "{leaf} attempts of {REQUESTS}");
}

#[tokio::test]
async fn three_services_that_all_retry_add_a_fifth_at_the_last_one() {
    a_failing_leaf_is_tried_again_by_its_callers_only(false).await;
}

#[tokio::test]
async fn three_services_that_all_retry_add_a_fifth_at_the_last_one_in_grpc() {
    a_failing_leaf_is_tried_again_by_its_callers_only(true).await;
}

#[tokio::test]
async fn a_call_that_was_tried_again_in_vain_has_spent_its_retries_whatever_ended_it() {
    let seen = Arc::new(AtomicUsize::new(0));
    let router = || {
        let seen = Arc::clone(&seen);
        let handler = move || {
            let nth = seen.fetch_add(1, Ordering::SeqCst);
            async move {
                if nth > 0 {
                    std::future::pending::<()>().await;
                }
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Router::new().fallback(any(handler))
    };
    let (_one, first) = serve("users-1", router()).await;
    let (_two, second) = serve("users-2", router()).await;
    let registry = Registry::of([first, second]);
    let channel = registry.channel().timeout(500 * MS);
    channel.ready().await.unwrap();
    until("both are connected", || channel.nodes().iter().filter(|node| node.connects == 1).count() == 2)
        .await;

    let (answer, spent) = Chain::scope(channel.get("/").send()).await;
    assert_eq!(answer.unwrap_err().attempts().len(), 2, "one failed, one took too long");
    assert!(spent);
    let (answer, spent) = Chain::scope(channel.get("/").send()).await;
    assert_eq!(answer.unwrap_err().attempts().len(), 1, "the only one took too long");
    assert!(!spent, "nothing was tried again: that is left to its callers");
}
