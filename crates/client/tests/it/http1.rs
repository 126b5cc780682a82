//! Foreign HTTP/1.1 servers: kept connections, and those that close under us.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Version;
use meshwork_client::CallErrorKind;
use meshwork_core::{Delivered, Verdict};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{self, Instant},
};

use crate::{
    peer::Peer,
    support::{LIMIT, MS, Registry, foreign, text, until},
};

#[tokio::test]
async fn a_foreign_http_endpoint_speaks_http1_over_kept_connections() {
    let peer = Peer::foreign("nginx").await;
    peer.script(|request| {
        assert_eq!(request.version(), Version::HTTP_11);
        assert!(request.headers().contains_key("host"));
        let body = String::from_utf8_lossy(request.body()).into_owned();
        http::Response::new(format!("{} {body}", request.uri()).into())
    });
    let channel = Registry::of([foreign("users-1", "http", peer.addr)]).channel();
    for _ in 0..20 {
        assert_eq!(text(channel.post("/a?b=c").body("x")).await.unwrap(), "/a?b=c x");
    }
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn parallel_calls_open_more_connections_up_to_the_bound() {
    let peer = Peer::foreign("nginx").await;
    peer.delay(20 * MS);
    let registry = Registry::of([foreign("users-1", "http", peer.addr)]);
    let channel = registry.channel_with(|config| config.max_http1_connections = 4);
    channel.ready().await.unwrap();
    let calls: Vec<_> = (0..12).map(|_| tokio::spawn(text(channel.get("/")))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "nginx");
    }
    assert!(peer.most() <= 4 && peer.connections() <= 5, "{} {}", peer.most(), peer.connections());
}

#[tokio::test]
async fn a_connection_that_says_close_is_not_used_again() {
    let peer = Peer::foreign("nginx").await;
    peer.say(200, &[("connection", "close")]);
    let channel = Registry::of([foreign("users-1", "http", peer.addr)]).channel();
    for _ in 0..10 {
        assert_eq!(text(channel.post("/")).await.unwrap(), "");
    }
    assert!(peer.connections() >= 10);
}

#[tokio::test]
async fn connections_closed_while_idle_fail_no_call() {
    let peer = Peer::foreign("nginx").await;
    let channel = Registry::of([foreign("users-1", "http", peer.addr)]).channel();
    for _ in 0..10 {
        assert_eq!(text(channel.post("/")).await.unwrap(), "nginx");
        peer.cut();
        until("the connection is closed", || peer.open() == 0).await;
        tokio::time::sleep(10 * MS).await;
    }
}

/// Answers the first request of each connection and closes at the second without an answer.
async fn closes_at_the_second() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                for nth in 0..2 {
                    if stream.read(&mut buffer).await.unwrap_or(0) == 0 || nth == 1 {
                        return;
                    }
                    let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_kept_connection_that_closes_under_a_call_costs_only_calls_that_may_not_run_twice() {
    let addr = closes_at_the_second().await;
    let channel = Registry::of([foreign("users-1", "http", addr)]).channel();
    for _ in 0..10 {
        assert_eq!(text(channel.get("/")).await.unwrap(), "ok");
    }
    let mut failed = 0;
    for _ in 0..4 {
        if let Err(error) = text(channel.post("/")).await {
            assert_eq!(error.kind(), CallErrorKind::Transport);
            assert!(error.to_string().contains("may have been delivered"), "{error}");
            failed += 1;
        }
    }
    assert!(failed > 0);
}

#[tokio::test]
async fn a_dead_foreign_server_is_left_and_found_again() {
    let (one, two) = (Peer::foreign("one").await, Peer::foreign("two").await);
    let channel =
        Registry::of([foreign("users-1", "http", one.addr), foreign("users-2", "http", two.addr)]).channel();
    for _ in 0..10 {
        text(channel.post("/")).await.unwrap();
    }
    let addr = one.kill().await;
    tokio::time::sleep(20 * MS).await;
    // Until a call has met the dead server, and gone on to the other.
    while channel.nodes()[0].failed_dials == 0 {
        assert_eq!(text(channel.post("/")).await.unwrap(), "two");
    }
    for _ in 0..30 {
        assert_eq!(text(channel.post("/")).await.unwrap(), "two");
    }
    let _back = Peer::start(addr, "back", Vec::new()).await;
    until("it is connected again", || channel.nodes()[0].connects >= 2).await;
    let mut back = 0;
    for _ in 0..200 {
        back += usize::from(text(channel.post("/")).await.unwrap() == "back");
    }
    assert!(back > 0);
}

#[tokio::test]
async fn a_connection_is_given_up_before_the_peer_closes_it() {
    let peer = Peer::foreign("node").await;
    peer.say(200, &[("keep-alive", "timeout=2")]);
    let channel = Registry::of([foreign("users-1", "http", peer.addr)]).channel();
    text(channel.post("/")).await.unwrap();
    let begun = Instant::now();
    until("the client closed it", || peer.open() == 0).await;
    assert!(begun.elapsed() < Duration::from_millis(1900), "{:?}", begun.elapsed());
    text(channel.post("/")).await.unwrap();
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn an_old_connection_is_not_used_again() {
    let peer = Peer::foreign("nginx").await;
    let registry = Registry::of([foreign("users-1", "http", peer.addr)]);
    let channel = registry.channel_with(|config| config.max_age = Some(60 * MS));
    let (begun, mut calls) = (Instant::now(), 0);
    while peer.connections() < 4 {
        text(channel.post("/")).await.unwrap();
        calls += 1;
        assert!(begun.elapsed() < LIMIT, "{} connections", peer.connections());
        tokio::time::sleep(2 * MS).await;
    }
    // 60 ms, less a tenth.
    assert!(begun.elapsed() >= 3 * Duration::from_millis(54), "{:?}", begun.elapsed());
    assert!(calls >= 4, "{calls}");
}

/// Counts what each request asked for, and closes an idle connection after 20 ms without a word.
async fn closes_early(effects: Arc<Mutex<HashMap<String, usize>>>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let effects = Arc::clone(&effects);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                for nth in 0.. {
                    let Ok(Ok(read @ 1..)) = time::timeout(20 * MS, stream.read(&mut buffer)).await else {
                        return;
                    };
                    let head = String::from_utf8_lossy(&buffer[..read]).into_owned();
                    let line = head.lines().next().unwrap().to_owned();
                    *effects.lock().unwrap().entry(line).or_default() += 1;
                    if nth % 3 == 2 {
                        return; // done, and not a word about it
                    }
                    let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_post_is_never_sent_twice_though_connections_close_under_it() {
    let effects = Arc::default();
    let addr = closes_early(Arc::clone(&effects)).await;
    let channel = Registry::of([foreign("users-1", "http", addr)]).channel();
    let (mut failed, mut done) = (0, 0);
    for nth in 0..150_u64 {
        let (post, get) =
            (text(channel.post(format!("/post/{nth}"))), text(channel.get(format!("/get/{nth}"))));
        match post.await {
            Ok(_) => done += 1,
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.delivered()),
                    (CallErrorKind::Transport, Delivered::Maybe),
                    "{error}"
                );
                assert_eq!(error.attempts().last().unwrap().then, "no retry: not idempotent");
                failed += 1;
            }
        }
        get.await.unwrap();
        // Around the moment in which the server closes.
        if nth % 10 == 0 {
            time::sleep(Duration::from_millis(16 + nth / 10)).await;
        }
    }
    let effects = effects.lock().unwrap();
    for (line, times) in effects.iter().filter(|(line, _)| line.starts_with("POST")) {
        assert_eq!(*times, 1, "{line}");
    }
    assert!(failed > 0 && done > 0, "{failed} {done}");
}

#[tokio::test]
async fn upgrades_are_refused_before_anything_is_sent() {
    let peer = Peer::foreign("nginx").await;
    let channel = Registry::of([foreign("users-1", "http", peer.addr)]).channel();
    let asked = channel.get("/chat").header("connection", "upgrade").header("upgrade", "websocket");
    let connect = channel.request(http::Method::CONNECT, "/chat");
    for request in [asked, connect] {
        let error = text(request).await.unwrap_err();
        assert_eq!((error.kind(), error.delivered()), (CallErrorKind::Unsupported, Delivered::No));
        assert!(error.to_string().contains("WebSocket"), "{error}");
    }
    assert_eq!(peer.requests(), 0);
}
