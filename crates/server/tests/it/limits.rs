//! What a server bounds: ports, connections, heads, bodies.

use std::net::SocketAddr;

use axum::{
    Router,
    body::Bytes,
    http::StatusCode,
    routing::{get as route_get, post},
};
use meshwork_server::{Listener, Services};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{ask, config, get, h2, raw, read_all, request, start, start_with, until};

fn services() -> Services {
    let router = Router::new()
        .route("/", route_get(|| async { "served" }))
        .route("/count", post(|body: Bytes| async move { body.len().to_string() }));
    Services::new().http(router)
}

#[tokio::test]
async fn a_port_in_use_names_itself_and_its_owner() {
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let first = Listener::bind(loopback).await.unwrap();
    let error = Listener::bind(first.local_addr()).await.unwrap_err();
    assert!(error.is_in_use());
    assert_eq!(error.owner().unwrap().pid, std::process::id());
    let text = error.to_string();
    assert!(text.contains(&first.local_addr().to_string()), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    drop(first);
    let error = Listener::bind("192.0.2.1:1".parse().unwrap()).await.unwrap_err();
    assert!(!error.is_in_use() && error.owner().is_none(), "{error}");
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_and_counted() {
    let fixture = start_with(config(|config| config.max_connections = 1), services()).await;
    let held = TcpStream::connect(fixture.addr).await.unwrap();
    until("the first is open", || fixture.stats.connections() == 1).await;
    assert_eq!(read_all(&mut TcpStream::connect(fixture.addr).await.unwrap()).await, "");
    assert_eq!(fixture.stats.connections_over_limit_total(), 1);
    drop(held);
    until("the first is closed", || fixture.stats.connections() == 0).await;
    assert!(raw(fixture.addr, &get("/")).await.ends_with("served"));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_in_both_protocols() {
    let fixture = start_with(config(|config| config.max_header_bytes = 16 * 1024), services()).await;
    let large = "x".repeat(20 * 1024);
    let answer = raw(fixture.addr, &format!("GET / HTTP/1.1\r\nhost: x\r\nx-large: {large}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut client = h2(fixture.addr).await;
    let large = request(fixture.addr, "GET", "/", &[("x-large", &large)]);
    // The client may know the limit by now and refuse by itself.
    if let Ok((answer, _)) = ask(&mut client, large).await {
        assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    let (answer, _) = ask(&mut h2(fixture.addr).await, request(fixture.addr, "GET", "/", &[])).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_announced_or_not() {
    let fixture = start_with(config(|config| config.max_body_bytes = Some(10)), services()).await;
    let post = |rest: &str| format!("POST /count HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{rest}");
    let announced = post("content-length: 11\r\n\r\nhello world");
    assert!(raw(fixture.addr, &announced).await.starts_with("HTTP/1.1 413"));
    let chunked = post("transfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n");
    assert!(raw(fixture.addr, &chunked).await.starts_with("HTTP/1.1 413"));
    let fits = post("content-length: 10\r\n\r\nhello worl");
    assert!(raw(fixture.addr, &fits).await.ends_with("10"));
}

#[tokio::test]
async fn the_answer_to_an_unread_upload_arrives_whole() {
    let fixture = start_with(config(|config| config.max_body_bytes = Some(10)), services()).await;
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    let length = 4 << 20;
    stream
        .write_all(format!("POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    // Without a lingering close a reset would take the answer away.
    for _ in 0..8 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        if stream.write_all(&[0; 64 * 1024]).await.is_err() {
            break;
        }
    }
    assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn counters_follow_connections_and_requests() {
    let fixture = start(services()).await;
    let mut client = h2(fixture.addr).await;
    for _ in 0..3 {
        ask(&mut client, request(fixture.addr, "GET", "/", &[])).await.unwrap();
    }
    raw(fixture.addr, &get("/")).await;
    until("one connection is left", || fixture.stats.connections() == 1).await;
    assert_eq!((fixture.stats.connections_total(), fixture.stats.requests_total()), (2, 4));
    until("nothing is in flight", || fixture.stats.requests_in_flight() == 0).await;
}
