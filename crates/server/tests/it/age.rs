//! Connections and streams that have reached their age: told, never cut.

use std::{
    net::SocketAddr,
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
use http_body_util::{BodyExt, Full};
use meshwork_server::Services;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Mutex,
    task::JoinSet,
    time::{self, Instant},
};
use tonic::Code;

use crate::{
    drain::assert_goaway,
    echo::{Echo, EchoClient, collect, text},
    support::{H2, LIMIT, ask, config, h2, read_all, read_until, request, start_with, until, within},
};

const MS: Duration = Duration::from_millis(1);

fn services() -> Services {
    let slow = || async {
        time::sleep(600 * MS).await;
        "slow"
    };
    let router = Router::new().route("/", route_get(|| async { "served" })).route("/slow", route_get(slow));
    Services::new().http(router).grpc_service(Echo)
}

#[tokio::test]
async fn an_http1_connection_of_age_closes_with_its_next_answer_and_not_before() {
    let fixture = start_with(config(|config| config.max_connection_age = Some(200 * MS)), services()).await;
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(!read_until(&mut stream, "served").await.contains("connection: close"));
    until("it is of age", || fixture.stats.connections_aged_total() == 1).await;
    time::sleep(100 * MS).await;
    // Idle it stays, so that no request on its way is lost.
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let last = read_all(&mut stream).await;
    assert!(last.contains("connection: close") && last.ends_with("served"), "{last}");
}

#[tokio::test]
async fn an_http2_connection_of_age_says_goodbye_and_finishes() {
    let fixture = start_with(config(|config| config.max_connection_age = Some(200 * MS)), services()).await;
    let mut client = h2(fixture.addr).await;
    let slow = request(fixture.addr, "GET", "/slow", &[]);
    let mut second = client.clone();
    let slow = tokio::spawn(async move { ask(&mut second, slow).await.unwrap().1 });
    until("it is of age", || fixture.stats.connections_aged_total() == 1).await;
    assert_eq!(slow.await.unwrap(), "slow");
    until("it is closed", || fixture.stats.connections() == 0).await;
    client.ready().await.unwrap_err();
    // The server serves on.
    let (_, body) = ask(&mut h2(fixture.addr).await, request(fixture.addr, "GET", "/", &[])).await.unwrap();
    assert_eq!(body, "served");
}

#[tokio::test]
async fn connections_opened_together_do_not_end_together() {
    let fixture = start_with(config(|config| config.max_connection_age = Some(2000 * MS)), services()).await;
    let (mut clients, opened) = (Vec::new(), Instant::now());
    for _ in 0..100 {
        clients.push(h2(fixture.addr).await);
    }
    until("the first is of age", || fixture.stats.connections_aged_total() > 0).await;
    let first = opened.elapsed();
    until("all are of age", || fixture.stats.connections_aged_total() == 100).await;
    let spread = opened.elapsed() - first;
    println!("100 connections of 2 s: goodbyes from {first:?} on, within {spread:?}");
    // By chance alone 100 of them fill less than half of the 400 ms once in 10^28 runs.
    assert!(spread >= 200 * MS && first >= 1800 * MS, "{first:?} {spread:?}");
}

#[tokio::test]
async fn a_stream_of_age_ends_with_a_status_between_two_messages_and_its_connection_stays() {
    let settings = config(|config| config.max_stream_age = Some(300 * MS));
    let fixture = start_with(settings, services()).await;
    let mut client = EchoClient::connect(fixture.addr).await;
    let began = Instant::now();
    let (seen, status) = collect(client.server(text("hang")).await.unwrap()).await;
    let status = status.unwrap();
    assert_eq!((seen.as_slice(), status.code()), (&["first".to_owned()][..], Code::Unavailable));
    assert!(status.message().contains("age") && began.elapsed() >= 260 * MS, "{status}");
    assert_eq!(status.metadata().get("meshwork-ended").unwrap(), "age");
    // One that talks without a pause ends too, and no message of it is cut.
    let said = futures_util::stream::unfold(0u32, |nth| async move {
        time::sleep(5 * MS).await;
        Some((text(nth.to_string()), nth + 1))
    });
    let (seen, status) = collect(client.both(said).await.unwrap()).await;
    assert_eq!(status.unwrap().code(), Code::Unavailable);
    assert!(seen.iter().enumerate().all(|(nth, said)| nth.to_string() == *said), "{seen:?}");
    assert_eq!((fixture.stats.streams_aged_total(), fixture.stats.connections_total()), (2, 1));
    assert_eq!(client.unary(text("on")).await.unwrap(), "on");
    // What is no stream has no such age.
    let (_, body) =
        ask(&mut h2(fixture.addr).await, request(fixture.addr, "GET", "/slow", &[])).await.unwrap();
    assert_eq!(body, "slow");
}

#[tokio::test]
async fn a_caller_who_sends_and_sends_is_told_at_its_age_and_one_who_only_waits_is_not() {
    let settings = config(|config| config.max_stream_age = Some(300 * MS));
    let fixture = start_with(settings, services()).await;
    let mut client = EchoClient::connect(fixture.addr).await;
    let endless = |pause| {
        futures_util::stream::unfold((), move |()| async move {
            time::sleep(pause).await;
            Some((text("more"), ()))
        })
    };
    // One that talks without a pause, and one that has opened its stream and says nothing for long.
    for (nth, pause) in [5 * MS, Duration::from_secs(60)].into_iter().enumerate() {
        let began = Instant::now();
        let status = client.client_stream(endless(pause)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_eq!(status.metadata().get("meshwork-ended").unwrap(), "age");
        assert!(began.elapsed() >= 260 * MS, "{:?}", began.elapsed());
        assert_eq!(fixture.stats.streams_aged_total(), nth as u64 + 1);
    }
    // Whoever has said all it has to say may wait as long as it likes.
    let hangs = time::timeout(700 * MS, client.unary(text("hang"))).await;
    assert!(hangs.is_err(), "{hangs:?}");
    assert_eq!(client.client(&["a", "b"]).await.unwrap(), "a b");
    assert_eq!((fixture.stats.streams_aged_total(), fixture.stats.connections_total()), (2, 1));
}

/// What the callers of a test counted.
#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    again: AtomicUsize,
    left: AtomicUsize,
    failed: AtomicUsize,
}

/// A connection that several callers share, and its number.
type Shared = Arc<Mutex<(usize, H2)>>;

/// Calls without a pause, over a connection that says goodbye now and then; a call that surely never ran is made
/// again on a new one.
async fn caller(addr: SocketAddr, shared: Shared, stop: Arc<AtomicBool>, counts: Arc<Counts>) {
    while !stop.load(Relaxed) {
        let (number, mut client) = shared.lock().await.clone();
        let mut call = request(addr, "POST", "/", &[]);
        *call.body_mut() = Full::new(Bytes::from_static(b"work"));
        match time::timeout(2000 * MS, client.try_send_request(call)).await {
            Ok(Ok(answer)) => match answer.into_body().collect().await {
                Ok(_) => counts.answered.fetch_add(1, Relaxed),
                Err(_) => counts.failed.fetch_add(1, Relaxed),
            },
            Ok(Err(mut failed)) => {
                if failed.take_message().is_none() {
                    assert_goaway(&failed.into_error());
                }
                let mut shared = shared.lock().await;
                if shared.0 == number {
                    *shared = (number + 1, h2(addr).await);
                }
                counts.again.fetch_add(1, Relaxed)
            }
            // hyper's client may leave a call without an end when its connection ends: it surely has no answer,
            // and that it never ran is seen below.
            Err(_elapsed) if client.is_closed() => counts.left.fetch_add(1, Relaxed),
            Err(_elapsed) => counts.failed.fetch_add(1, Relaxed),
        };
    }
}

/// `MESHWORK_GOODBYES=10000 cargo test -p meshwork-server goodbyes -- --nocapture` is the long form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_or_run_twice_over_hundreds_of_goodbyes_under_load() {
    let wanted: u64 = std::env::var("MESHWORK_GOODBYES").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let handled = Arc::new(AtomicUsize::new(0));
    let counter = handled.clone();
    let work = move |_body: Bytes| {
        // Whoever has read the whole request has handled it.
        counter.fetch_add(1, Relaxed);
        async {
            time::sleep(MS).await;
            "done"
        }
    };
    let router = Router::new().route("/", post(work));
    let settings = config(|config| config.max_connection_age = Some(50 * MS));
    let fixture = start_with(settings, Services::new().http(router)).await;
    let (stop, counts) = (Arc::<AtomicBool>::default(), Arc::<Counts>::default());
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let shared: Shared = Arc::new(Mutex::new((0, h2(fixture.addr).await)));
        for _ in 0..8 {
            callers.spawn(caller(fixture.addr, shared.clone(), stop.clone(), counts.clone()));
        }
    }
    let end = within(LIMIT.max(Duration::from_millis(wanted * 50)));
    while fixture.stats.connections_aged_total() < wanted {
        assert!(Instant::now() < end, "{} goodbyes", fixture.stats.connections_aged_total());
        time::sleep(10 * MS).await;
    }
    stop.store(true, Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    let report = fixture.serving.drain(within(LIMIT)).await;
    let count = |counter: &AtomicUsize| counter.load(Relaxed);
    println!(
        "{} goodbyes: {} handlers ran, {} OK answers, {} failed, {} sent again, {} left alone by hyper",
        fixture.stats.connections_aged_total(),
        count(&handled),
        count(&counts.answered),
        count(&counts.failed),
        count(&counts.again),
        count(&counts.left)
    );
    assert_eq!((count(&counts.failed), report.cut_total), (0, 0));
    assert!(count(&counts.left) as u64 <= 2 + wanted / 1000, "{} left alone", count(&counts.left));
    assert_eq!(count(&handled), count(&counts.answered), "handled once and answered once");
}
