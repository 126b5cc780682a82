//! Who answers, and what is refused before a handler sees it.

use std::time::Duration;

use axum::{Router, http::StatusCode, routing::get as route_get};
use meshwork_core::{InstanceId, ServiceName};
use meshwork_server::Services;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tonic::{Code, Request};

use crate::{
    deaf::Deaf,
    echo::{Echo, EchoClient, text},
    support::{Fixture, ask, h2, header, raw, read_until, request, start, until, within},
};

fn services() -> Services {
    let router = Router::new()
        .route("/", route_get(|| async { "served" }))
        .route("/slow", route_get(|| async { tokio::time::sleep(Duration::from_secs(1)).await }));
    Services::new().http(router).grpc_service(Echo)
}

fn meant_for(to: &str) -> Request<crate::echo::Text> {
    let mut request = Request::new(text("x"));
    request.metadata_mut().insert("meshwork-to", to.parse().unwrap());
    request
}

#[tokio::test]
async fn a_connection_is_confirmed_by_every_name_of_the_process() {
    let fixture = start(services()).await;
    let (users, orders) = (ServiceName::new("users").unwrap(), ServiceName::new("orders").unwrap());
    let (first, second) = (InstanceId::new("users-1").unwrap(), InstanceId::new("orders-1").unwrap());
    fixture.identity.set([(&users, &first), (&orders, &second)]);
    // Also when it is meant for another: the caller learns who is here.
    for to in ["users/users-1", "users/users-9"] {
        let confirm = request(fixture.addr, "HEAD", "/.meshwork/is", &[("meshwork-to", to)]);
        let (answer, _) = ask(&mut h2(fixture.addr).await, confirm).await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        let is: Vec<_> = answer.headers().get_all("meshwork-is").iter().collect();
        assert_eq!(is, ["users/users-1", "orders/orders-1"]);
    }
    let answer = raw(
        fixture.addr,
        "HEAD /.meshwork/is HTTP/1.1\r\nhost: x\r\nmeshwork-to: users/users-1\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 204") && answer.contains("meshwork-is: orders/orders-1"),
        "{answer}"
    );
}

#[tokio::test]
async fn what_is_meant_for_another_instance_is_refused() {
    let fixture = start(services()).await;
    let mut client = h2(fixture.addr).await;
    let ours = request(fixture.addr, "GET", "/", &[("meshwork-to", "users/users-1")]);
    assert_eq!(ask(&mut client, ours).await.unwrap().1, "served");
    let other = request(fixture.addr, "GET", "/", &[("meshwork-to", "users/users-9")]);
    let (answer, _) = ask(&mut client, other).await.unwrap();
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(header(&answer, "meshwork-refused"), "misdirected");
    assert_eq!(header(&answer, "meshwork-is"), "users/users-1");

    let mut client = EchoClient::connect(fixture.addr).await;
    assert_eq!(client.unary(meant_for("users/users-1")).await.unwrap(), "x");
    let status = client.unary(meant_for("users/users-9")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.metadata().get("meshwork-refused").unwrap(), "misdirected");
    assert_eq!(fixture.stats.refused_misdirected_total(), 2);
}

/// Starts a request that keeps the connection of `stream` in the drain.
async fn half_a_head(fixture: &Fixture) -> TcpStream {
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    // The first request is over, the second has begun.
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    until("the request is in flight", || fixture.stats.requests_in_flight() == 1).await;
    stream
}

#[tokio::test]
async fn a_draining_server_refuses_native_calls_and_says_so() {
    let fixture = start(services()).await;
    let addr = fixture.addr;
    let mut deaf = Deaf::connect(addr).await;
    let _slow = half_a_head(&fixture).await;
    let drain = tokio::spawn(fixture.serving.drain(within(Duration::from_secs(5))));
    // The first goodbye lets new streams in until its ping is answered.
    deaf.wait_for_goodbye().await;
    let native = [("meshwork-attempt", "0")];
    let head = deaf.ask(&request(addr, "GET", "/", &native)).await;
    assert_eq!(head.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&head, "meshwork-refused"), "draining");

    let grpc = [("meshwork-attempt", "0"), ("content-type", "application/grpc"), ("te", "trailers")];
    let head = deaf.ask(&request(addr, "POST", "/test.Echo/Unary", &grpc)).await;
    assert_eq!((head.status(), header(&head, "grpc-status")), (StatusCode::OK, "14"));
    assert_eq!(header(&head, "content-type"), "application/grpc");
    assert_eq!(header(&head, "meshwork-refused"), "draining");
    assert!(head.body().is_end_stream(), "trailers-only is one frame");

    // A foreign caller cannot know better yet, and is served; so is who asks for health.
    assert_eq!(deaf.ask(&request(addr, "GET", "/", &[])).await.status(), StatusCode::OK);
    assert_eq!(deaf.ask(&request(addr, "GET", "/.meshwork/health", &native)).await.status(), StatusCode::OK);
    assert_eq!(fixture.stats.refused_draining_total(), 2);
    drop(deaf);
    assert!(drain.await.unwrap().cut.is_empty());
}

#[tokio::test]
async fn a_leaving_server_serves_and_asks_http1_clients_to_go() {
    let fixture = start(services()).await;
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    let ask_again = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    stream.write_all(ask_again).await.unwrap();
    assert!(!read_until(&mut stream, "served").await.contains("connection: close"));
    let mut client = h2(fixture.addr).await;
    fixture.serving.leave();
    stream.write_all(ask_again).await.unwrap();
    assert!(read_until(&mut stream, "served").await.contains("connection: close"));
    assert_eq!(crate::support::read_all(&mut stream).await, "");
    // HTTP/2 is left alone, and new connections are taken.
    let (answer, body) = ask(&mut client, request(fixture.addr, "GET", "/", &[])).await.unwrap();
    assert_eq!((header(&answer, "connection"), body.as_str()), ("", "served"));
    assert!(raw(fixture.addr, &crate::support::get("/")).await.ends_with("served"));
}
