//! What handlers and bodies inherit, and what ends them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get as route_get};
use bytes::Bytes;
use http_body_util::Full;
use meshwork_core::Context;
use meshwork_server::Services;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};
use tonic::{Code, Request};

use crate::{
    echo::{Echo, EchoClient, collect, text},
    support::{ask, config, get, h2, header, raw, read_until, request, start, start_with, until},
};

/// Sets its flag when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A route that never answers, and the flag that says its handler is gone.
fn hanging() -> (Router, Arc<AtomicBool>) {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = dropped.clone();
    let hang = move || {
        let guard = Dropped(flag.clone());
        async move {
            let _guard = guard;
            std::future::pending::<&str>().await
        }
    };
    (Router::new().route("/hang", route_get(hang)), dropped)
}

fn remaining() -> Router {
    let left = || async {
        let deadline = Context::current().deadline;
        deadline.map_or(String::from("none"), |at| at.duration_since(Instant::now()).as_millis().to_string())
    };
    Router::new().route("/left", route_get(left))
}

fn with(value: Text<'_>, entries: &[(&'static str, &str)]) -> Request<crate::echo::Text> {
    let mut request = Request::new(text(value));
    for (name, value) in entries {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

type Text<'a> = &'a str;

const NATIVE: &[(&str, &str)] = &[
    ("grpc-timeout", "5S"),
    ("meshwork-attempt", "2"),
    ("meshwork-lane", "blue"),
    ("meshwork-priority", "critical"),
];

#[tokio::test]
async fn the_context_surrounds_the_handler_and_the_polling_of_its_stream() {
    let fixture = start(Services::new().grpc_service(Echo)).await;
    let mut client = EchoClient::connect(fixture.addr).await;
    let expected = "deadline=true attempt=2 priority=normal lane=blue peer=true";
    assert_eq!(client.unary(with("context", NATIVE)).await.unwrap(), expected);
    let (seen, failed) = collect(client.server(with("context", NATIVE)).await.unwrap()).await;
    assert_eq!(seen, [expected; 3]);
    assert!(failed.is_none());
}

#[tokio::test]
async fn critical_is_believed_from_listed_networks_only() {
    let listed = config(|config| config.critical_from = vec!["127.0.0.0/8".parse().unwrap()]);
    let fixture = start_with(listed, Services::new().grpc_service(Echo)).await;
    let seen = EchoClient::connect(fixture.addr).await.unary(with("context", NATIVE)).await.unwrap();
    assert!(seen.contains("priority=critical"), "{seen}");
}

#[tokio::test]
async fn an_edge_takes_the_headers_of_strangers_away() {
    let headers = || {
        async |request: axum::extract::Request| {
            let ours = request.headers().keys().filter(|name| name.as_str().starts_with("meshwork-"));
            format!("{} {:?}", ours.count(), Context::current().lane)
        }
    };
    let router = Router::new().route("/seen", route_get(headers()));
    let fixture = start_with(config(|config| config.edge = true), Services::new().http(router)).await;
    let headers = [("meshwork-lane", "blue"), ("meshwork-attempt", "7"), ("meshwork-anything", "x")];
    let request = request(fixture.addr, "GET", "/seen", &headers);
    let (_, body) = ask(&mut h2(fixture.addr).await, request).await.unwrap();
    assert_eq!(body, "0 None");
}

#[tokio::test]
async fn a_deadline_is_clamped_and_defaulted() {
    let settings = config(|config| {
        config.max_deadline = Duration::from_secs(5);
        config.default_deadline = Some(Duration::from_secs(2));
    });
    let fixture = start_with(settings, Services::new().http(remaining())).await;
    let mut client = h2(fixture.addr).await;
    for (given, least, most) in [(Some("1H"), 4000, 5000), (Some("300m"), 0, 300), (None, 1000, 2000)] {
        let headers: Vec<_> = given.map(|given| ("meshwork-timeout", given)).into_iter().collect();
        let (_, body) = ask(&mut client, request(fixture.addr, "GET", "/left", &headers)).await.unwrap();
        let left: u64 = body.parse().unwrap();
        assert!((least..=most).contains(&left), "{given:?}: {left}");
    }
    let fixture = start(Services::new().http(remaining())).await;
    assert!(raw(fixture.addr, &get("/left")).await.ends_with("none"));
}

#[tokio::test]
async fn when_the_deadline_passes_the_handler_is_dropped_and_the_caller_told() {
    let (router, dropped) = hanging();
    let fixture = start(Services::new().http(router).grpc_service(Echo)).await;
    let late = request(fixture.addr, "GET", "/hang", &[("meshwork-timeout", "50m")]);
    let (answer, _) = ask(&mut h2(fixture.addr).await, late).await.unwrap();
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(dropped.load(Relaxed));

    // A raw client has no time-out of its own.
    for timeout in ["50m", "0m"] {
        let headers = [("content-type", "application/grpc"), ("grpc-timeout", timeout)];
        let mut late = request(fixture.addr, "POST", "/test.Echo/Unary", &headers);
        // The message `text = "hang"` in a frame of gRPC.
        *late.body_mut() = Full::new(Bytes::from_static(b"\0\0\0\0\x06\x0a\x04hang"));
        let (answer, _) = ask(&mut h2(fixture.addr).await, late).await.unwrap();
        assert_eq!((answer.status(), header(&answer, "grpc-status")), (StatusCode::OK, "4"), "{timeout}");
    }
    let mut client = EchoClient::connect(fixture.addr).await;
    let (seen, status) =
        collect(client.server(with("hang", &[("grpc-timeout", "200m")])).await.unwrap()).await;
    assert_eq!(seen, ["first"]);
    assert_eq!(status.unwrap().code(), Code::DeadlineExceeded);
    assert_eq!(fixture.stats.deadlines_exceeded_total(), 4);
    until("nothing is in flight", || fixture.stats.requests_in_flight() == 0).await;
}

#[tokio::test]
async fn when_the_caller_is_gone_the_handler_is_dropped() {
    let (router, dropped) = hanging();
    let fixture = start(Services::new().http(router)).await;
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    stream.write_all(get("/hang").as_bytes()).await.unwrap();
    until("the request is in flight", || fixture.stats.requests_in_flight() == 1).await;
    drop(stream);
    until("the handler is dropped", || dropped.swap(false, Relaxed)).await;

    let mut client = h2(fixture.addr).await;
    let call =
        tokio::spawn(async move { client.send_request(request(fixture.addr, "GET", "/hang", &[])).await });
    until("the request is in flight", || fixture.stats.requests_in_flight() == 1).await;
    call.abort();
    until("the handler is dropped", || dropped.load(Relaxed)).await;
    until("nothing is in flight", || fixture.stats.requests_in_flight() == 0).await;
}

#[tokio::test]
async fn a_panic_costs_one_answer_and_not_the_server() {
    let boom = || async { if true { panic!("asked to") } else { "never" } };
    let router = Router::new().route("/boom", route_get(boom)).route("/fine", route_get(|| async { "fine" }));
    let fixture = start(Services::new().http(router).grpc_service(Echo)).await;
    // On one connection: it lives on.
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    stream.write_all(b"GET /boom HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    assert!(read_until(&mut stream, "panicked").await.starts_with("HTTP/1.1 500"));
    stream.write_all(b"GET /fine HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    read_until(&mut stream, "fine").await;

    let mut client = EchoClient::connect(fixture.addr).await;
    assert_eq!(client.unary(text("panic")).await.unwrap_err().code(), Code::Internal);
    let (seen, status) = collect(client.server(text("panic")).await.unwrap()).await;
    assert_eq!((seen.as_slice(), status.unwrap().code()), (&["first".to_owned()][..], Code::Internal));
    assert_eq!(client.unary(text("fine")).await.unwrap(), "fine");
    assert_eq!(fixture.stats.panics_total(), 3);
}
