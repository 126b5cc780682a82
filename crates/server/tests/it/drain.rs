//! Leaving: at once where nothing is lost, in time where something is, never later.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    routing::{get as route_get, post},
};
use bytes::Bytes;
use http_body_util::Full;
use meshwork_server::{CutKind, Services};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{self, Instant},
};
use tonic::Code;

use crate::{
    echo::{Echo, EchoClient, collect, text},
    support::{Fixture, LIMIT, ask, get, h2, read_all, read_until, request, start, until, within},
};

fn services() -> Services {
    let slow = || async {
        time::sleep(Duration::from_millis(300)).await;
        "slow"
    };
    let router = Router::new()
        .route("/", route_get(|| async { "served" }))
        .route("/slow", route_get(slow))
        .route("/hang", route_get(|| async { std::future::pending::<&str>().await }));
    Services::new().http(router).grpc_service(Echo)
}

async fn open(fixture: &Fixture, opening: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    stream.write_all(opening).await.unwrap();
    stream
}

#[tokio::test]
async fn what_is_in_flight_finishes_and_nothing_more_is_accepted() {
    let fixture = start(services()).await;
    let mut first = open(&fixture, get("/slow").as_bytes()).await;
    let mut second = h2(fixture.addr).await;
    let slow = request(fixture.addr, "GET", "/slow", &[]);
    let second = tokio::spawn(async move { ask(&mut second, slow).await });
    until("both are in flight", || fixture.stats.requests_in_flight() == 2).await;
    let drain = tokio::spawn(fixture.serving.drain(within(LIMIT)));
    assert!(read_all(&mut first).await.ends_with("slow"));
    assert_eq!(second.await.unwrap().unwrap().1, "slow");
    let report = drain.await.unwrap();
    assert_eq!((report.finished, report.cut_total), (2, 0), "{report:?}");
    assert!(report.took < Duration::from_secs(3), "{report:?}");
    assert!(TcpStream::connect(fixture.addr).await.is_err());
}

#[tokio::test]
async fn silent_sockets_half_prefaces_and_idle_connections_close_at_once() {
    let fixture = start(services()).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(open(&fixture, b"").await);
        streams.push(open(&fixture, b"PRI * HT").await);
    }
    for _ in 0..10 {
        let mut idle = open(&fixture, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        read_until(&mut idle, "served").await;
        streams.push(idle);
    }
    until("all are open", || fixture.stats.connections() == 110).await;
    // None of them has just come.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let report = fixture.serving.drain(within(LIMIT)).await;
    assert_eq!(report.cut_total, 0, "{report:?}");
    assert!(report.took < Duration::from_secs(1), "{report:?}");
    for stream in &mut streams {
        assert_eq!(read_all(stream).await, "");
    }
}

/// A client that has connected cannot know that we stopped listening a moment later.
#[tokio::test]
async fn who_connected_just_before_the_drain_is_answered() {
    // Accepted, or still waiting in the socket: on one thread nobody is accepted while we connect.
    for is_accepted in [true, false] {
        // A machine that stands still for longer than we have shows nothing.
        let mut tries = (0..20).map(|_| last_words(is_accepted));
        let answer = loop {
            if let Some(answer) = tries.next().expect("the machine is too slow").await {
                break answer;
            }
        };
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    }
}

/// What is answered to a request that comes when the drain has begun; `None` when it came too late.
async fn last_words(is_accepted: bool) -> Option<String> {
    let fixture = start(services()).await;
    let began = Instant::now();
    let stream = std::net::TcpStream::connect(fixture.addr).unwrap();
    if is_accepted {
        until("it is open", || fixture.stats.connections() == 1).await;
    }
    let drain = tokio::spawn(fixture.serving.drain(within(LIMIT)));
    until("nobody listens", || std::net::TcpStream::connect(fixture.addr).is_err()).await;
    stream.set_nonblocking(true).unwrap();
    let mut stream = TcpStream::from_std(stream).unwrap();
    stream.write_all(get("/").as_bytes()).await.unwrap();
    let in_time = began.elapsed() < Duration::from_millis(400);
    let answer = read_all(&mut stream).await;
    let report = drain.await.unwrap();
    assert!(report.cut_total == 0 && report.took < Duration::from_secs(3), "{report:?}");
    in_time.then_some(answer)
}

#[tokio::test]
async fn half_a_request_head_does_not_hold_up_the_drain() {
    let fixture = start(services()).await;
    let _half = open(&fixture, b"GET / HTTP/1.1\r\nho").await;
    until("it is open", || fixture.stats.connections() == 1).await;
    let report = fixture.serving.drain(within(LIMIT)).await;
    assert!(report.cut_total == 0 && report.took < Duration::from_secs(3), "{report:?}");
}

#[tokio::test]
async fn a_client_that_does_not_hear_the_goodbye_is_left_behind() {
    let fixture = start(services()).await;
    let deaf = crate::deaf::Deaf::connect(fixture.addr).await;
    until("its request is over", || fixture.stats.requests_in_flight() == 0).await;
    let report = fixture.serving.drain(within(LIMIT)).await;
    assert!(report.cut_total == 0 && report.took < Duration::from_secs(6), "{report:?}");
    drop(deaf);
}

#[tokio::test]
async fn hung_handlers_are_told_before_the_deadline_and_named() {
    let fixture = start(services()).await;
    let mut first = open(&fixture, get("/hang?secret=1").as_bytes()).await;
    let mut client = EchoClient::connect(fixture.addr).await;
    let call = tokio::spawn(async move { client.unary(text("hang")).await });
    let mut plain = h2(fixture.addr).await;
    let hang = request(fixture.addr, "GET", "/hang", &[]);
    let plain = tokio::spawn(async move { ask(&mut plain, hang).await.unwrap().0 });
    until("all are in flight", || fixture.stats.requests_in_flight() == 3).await;
    let drain = tokio::spawn(fixture.serving.drain(within(Duration::from_secs(1))));
    let answer = read_all(&mut first).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("connection: close"), "{answer}");
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert_eq!(plain.await.unwrap().status().as_u16(), 503);
    let report = drain.await.unwrap();
    assert!((700..1500).contains(&report.took.as_millis()), "{report:?}");
    let mut paths: Vec<_> =
        report.cut.iter().map(|cut| cut.request.as_ref().unwrap().path.to_string()).collect();
    paths.sort();
    assert_eq!(paths, ["/hang", "/hang", "/test.Echo/Unary"], "{report:?}");
    assert!(report.cut.iter().all(|cut| cut.request.as_ref().unwrap().told));
    let mut kinds: Vec<_> = report.cut.iter().map(|cut| cut.kind.as_str()).collect();
    kinds.sort();
    assert_eq!((kinds.as_slice(), report.finished), (&["h2", "h2", "http1"][..], 0));
    assert!(report.cut[0].to_string().contains(" ms)"));
    assert_eq!(fixture.stats.requests_in_flight(), 0);
}

#[tokio::test]
async fn a_hundred_streams_end_with_a_clear_status_before_the_deadline() {
    let fixture = start(services()).await;
    let mut client = EchoClient::connect(fixture.addr).await;
    let mut streams = JoinSet::new();
    for _ in 0..100 {
        let stream = client.server(text("hang")).await.unwrap();
        streams.spawn(collect(stream));
    }
    until("all are in flight", || fixture.stats.requests_in_flight() == 100).await;
    let report = fixture.serving.drain(within(Duration::from_secs(1))).await;
    assert!(report.took < Duration::from_millis(1500), "{report:?}");
    assert_eq!((report.cut_total, report.finished), (100, 0));
    assert!(report.cut.iter().all(|cut| cut.request.as_ref().unwrap().told && cut.kind == CutKind::Http2));
    while let Some(stream) = streams.join_next().await {
        let (seen, status) = stream.unwrap();
        assert_eq!((seen.len(), status.unwrap().code()), (1, Code::Unavailable));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_at_the_deadline() {
    let router = Router::new().route("/big", route_get(|| async { vec![0u8; 64 << 20] }));
    let fixture = start(Services::new().http(router)).await;
    let stream = open(&fixture, get("/big").as_bytes()).await;
    until("it is asked", || fixture.stats.requests_total() == 1).await;
    let report = fixture.serving.drain(within(Duration::from_secs(1))).await;
    assert!((900..1500).contains(&report.took.as_millis()), "{report:?}");
    assert_eq!((report.cut_total, report.cut[0].kind), (1, CutKind::Http1));
    drop(stream);
}

/// Twenty of each kind that a drain cannot wait for.
#[tokio::test]
async fn a_drain_is_over_at_its_deadline_whoever_is_silent_deaf_or_does_not_read() {
    let router = Router::new()
        .route("/big", route_get(|| async { vec![0u8; 64 << 20] }))
        .route("/", route_get(|| async { "served" }));
    let fixture = start(Services::new().http(router)).await;
    let (mut kept, mut deaf) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        kept.push(open(&fixture, b"").await);
        kept.push(open(&fixture, b"PRI * HT").await);
        kept.push(open(&fixture, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
        kept.push(open(&fixture, get("/big").as_bytes()).await);
        deaf.push(crate::deaf::Deaf::connect(fixture.addr).await);
    }
    until("all are there", || fixture.stats.connections() == 100 && fixture.stats.requests_total() == 40)
        .await;
    let report = fixture.serving.drain(within(Duration::from_secs(2))).await;
    println!("deadline 2 s, done in {:?}", report.took);
    assert!((1500..2500).contains(&report.took.as_millis()), "{:?}", report.took);
    let unread = report.cut.iter().filter(|cut| cut.kind == CutKind::Http1).count();
    assert_eq!(unread, 20, "{report:?}");
    drop((kept, deaf));
}

#[tokio::test]
async fn dropping_or_aborting_cuts_at_once() {
    for abort in [false, true] {
        let fixture = start(services()).await;
        let mut hung = open(&fixture, get("/hang").as_bytes()).await;
        until("it is in flight", || fixture.stats.requests_in_flight() == 1).await;
        let began = Instant::now();
        if abort {
            fixture.serving.abort();
        } else {
            // A drain that is given up is the same.
            drop(time::timeout(Duration::from_millis(10), fixture.serving.drain(within(LIMIT))).await);
        }
        assert_eq!(read_all(&mut hung).await, "");
        assert!(began.elapsed() < Duration::from_secs(1));
        until("the connection is gone", || fixture.stats.connections() == 0).await;
    }
}

pub(crate) fn assert_goaway(error: &hyper::Error) {
    let source = std::error::Error::source(error);
    let reason = source.and_then(|source| source.downcast_ref::<h2::Error>());
    assert!(reason.is_some_and(|reason| reason.is_go_away() && reason.is_remote()), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_loses_no_call() {
    let handled = Arc::new(AtomicUsize::new(0));
    let counter = handled.clone();
    // Whoever has read the whole request has handled it.
    let work = move |_body: Bytes| {
        counter.fetch_add(1, Relaxed);
        async {
            time::sleep(Duration::from_millis(1)).await;
            "done"
        }
    };
    let services = || Services::new().http(Router::new().route("/", post(work.clone())));
    for _round in 0..5 {
        handled.store(0, Relaxed);
        let fixture = start(services()).await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let client = h2(fixture.addr).await;
            for _ in 0..16 {
                let (mut client, stop, addr) = (client.clone(), stop.clone(), fixture.addr);
                callers.spawn(async move {
                    let mut answered = 0;
                    while !stop.load(Relaxed) {
                        let mut call = request(addr, "POST", "/", &[]);
                        *call.body_mut() = Full::new(Bytes::from_static(b"work"));
                        // A client that waits for ever (hyper's may, when its connection ends) has
                        // surely no answer: what was handled is counted below.
                        let sent = time::timeout(Duration::from_secs(2), client.try_send_request(call));
                        match sent.await {
                            Ok(Ok(answer)) => {
                                http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
                                answered += 1;
                            }
                            // Handed back, or refused by the goodbye: it surely never ran.
                            Ok(Err(mut failed)) => {
                                if failed.take_message().is_none() {
                                    assert_goaway(&failed.into_error());
                                }
                                break;
                            }
                            Err(_elapsed) => break,
                        }
                    }
                    answered
                });
            }
        }
        until("the load runs", || handled.load(Relaxed) > 500).await;
        let report = fixture.serving.drain(within(LIMIT)).await;
        stop.store(true, Relaxed);
        let mut answered = 0;
        while let Some(caller) = callers.join_next().await {
            answered += caller.unwrap();
        }
        assert_eq!(report.cut_total, 0, "{report:?}");
        assert!(report.took < Duration::from_secs(5), "{report:?}");
        assert_eq!(answered, handled.load(Relaxed), "every handled call was answered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_loses_no_http1_call_either() {
    let fixture = start(services()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let (stop, addr) = (stop.clone(), fixture.addr);
        callers.spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let mut answered = 0;
            while !stop.load(Relaxed) {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                let answer = read_until(&mut stream, "served").await;
                answered += 1;
                if answer.contains("connection: close") {
                    return answered;
                }
            }
            answered
        });
    }
    until("the load runs", || fixture.stats.requests_total() > 500).await;
    fixture.serving.leave();
    // Each caller hears it with its next answer.
    let mut answered = 0;
    while let Some(caller) = time::timeout(LIMIT, callers.join_next()).await.expect("callers stay") {
        answered += caller.unwrap();
    }
    stop.store(true, Relaxed);
    let report = fixture.serving.drain(within(LIMIT)).await;
    assert_eq!(report.cut_total, 0);
    assert_eq!(answered, fixture.stats.requests_total());
}
