//! How long connections may do nothing in normal running.

use std::time::Duration;

use axum::{Router, routing::get as route_get};
use meshwork_server::{ServerConfig, Services};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{self, Instant},
};

use crate::support::{ask, config, h2, read_all, read_until, request, start_with, until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn services() -> Services {
    let slow = || async { time::sleep(Duration::from_millis(900)).await };
    Services::new()
        .http(Router::new().route("/", route_get(|| async { "served" })).route("/slow", route_get(slow)))
}

fn impatient() -> ServerConfig {
    config(|config| {
        config.first_request_timeout = Duration::from_millis(300);
        config.header_read_timeout = Duration::from_millis(300);
        config.idle_timeout = Duration::from_millis(600);
    })
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let fixture = start_with(impatient(), services()).await;
    let began = Instant::now();
    let openings: [&[u8]; 5] = [b"", b"PRI * H", PREFACE, b"GET / HT", b"G"];
    let mut streams = Vec::new();
    for opening in openings {
        let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
        stream.write_all(opening).await.unwrap();
        streams.push(stream);
    }
    for stream in &mut streams {
        read_all(stream).await;
    }
    let took = began.elapsed();
    assert!((Duration::from_millis(290)..Duration::from_secs(3)).contains(&took), "{took:?}");
    until("all are closed", || fixture.stats.connections() == 0).await;
    assert_eq!(fixture.stats.connections_timed_out_total(), 5);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_working_one_is_not() {
    let fixture = start_with(impatient(), services()).await;
    let mut idle = TcpStream::connect(fixture.addr).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut idle, "served").await;
    let mut slow = TcpStream::connect(fixture.addr).await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(read_all(&mut idle).await, "");
    assert!(read_until(&mut slow, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_second_head_that_does_not_end_is_closed() {
    let settings = config(|config| config.header_read_timeout = Duration::from_millis(300));
    let fixture = start_with(settings, services()).await;
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut stream, "served").await;
    let (mut read, mut write) = stream.into_split();
    let drip = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut rest = Vec::new();
    let end =
        time::timeout(crate::support::LIMIT, tokio::io::AsyncReadExt::read_to_end(&mut read, &mut rest));
    drop(end.await.expect("the connection was not closed"));
    drip.abort();
}

#[tokio::test]
async fn a_body_that_stops_coming_fails_and_one_that_drips_does_not() {
    let settings = config(|config| config.body_idle_timeout = Duration::from_millis(300));
    let count = |body: axum::body::Bytes| async move { body.len().to_string() };
    let router = Router::new().route("/", axum::routing::post(count));
    let fixture = start_with(settings, Services::new().http(router)).await;
    let head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 6\r\n\r\nab";
    let mut stops = TcpStream::connect(fixture.addr).await.unwrap();
    stops.write_all(head).await.unwrap();
    let began = Instant::now();
    assert!(read_all(&mut stops).await.starts_with("HTTP/1.1 400"));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(290) && took < Duration::from_millis(1200), "{took:?}");
    let mut drips = TcpStream::connect(fixture.addr).await.unwrap();
    drips.write_all(head).await.unwrap();
    for _ in 0..4 {
        time::sleep(Duration::from_millis(100)).await;
        drips.write_all(b"x").await.unwrap();
    }
    assert!(read_all(&mut drips).await.ends_with("\r\n\r\n6"));
}

#[tokio::test]
async fn an_http2_connection_without_requests_is_kept() {
    let fixture = start_with(impatient(), services()).await;
    let mut client = h2(fixture.addr).await;
    time::sleep(Duration::from_millis(900)).await;
    let (_, body) = ask(&mut client, request(fixture.addr, "GET", "/", &[])).await.unwrap();
    assert_eq!(body, "served");
}
