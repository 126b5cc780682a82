//! More than a server can do: who is refused, in which words, and what does not count.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Extension, Router, body::Body, http::StatusCode, routing::get as route_get};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Response;
use http_body_util::{BodyExt, Empty};
use meshwork_server::{AdaptivePolicy, Place, ServerConfig, Services, ShedPolicy};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{self, Instant},
};
use tonic::{Code, Request};

use crate::{
    echo::{Echo, EchoClient, text},
    support::{Fixture, H2, ask, config, get, h2, header, raw, request, start_with, until},
};

async fn hang() -> &'static str {
    std::future::pending().await
}

async fn long_poll(Extension(place): Extension<Place>) -> &'static str {
    place.leave();
    hang().await
}

async fn events() -> Body {
    let first = stream::iter([Ok::<_, std::io::Error>("first")]);
    Body::from_stream(first.chain(stream::pending()))
}

fn services() -> Services {
    let router = Router::new()
        .route("/", route_get(|| async { "served" }))
        .route("/hang", route_get(hang))
        .route("/events", route_get(events))
        .route("/poll", route_get(long_poll));
    Services::new().http(router).grpc_service(Echo)
}

/// Sheds from `limit` requests on, and believes everybody who says to be critical.
fn shedding(limit: u32) -> ServerConfig {
    config(|config| {
        let mut shed = ShedPolicy::default();
        (shed.adaptive.initial, shed.adaptive.most) = (limit, limit);
        config.shed = Some(shed);
        config.critical_from = vec!["127.0.0.0/8".parse().unwrap()];
    })
}

/// Sends a request that hangs; its answer, should one come.
fn send(client: &H2, addr: SocketAddr, path: &str, priority: &str) -> JoinHandle<u16> {
    let (mut client, call) = (client.clone(), request(addr, "GET", path, &[("meshwork-priority", priority)]));
    tokio::spawn(async move { client.send_request(call).await.unwrap().status().as_u16() })
}

async fn inside(fixture: &Fixture, count: u32) {
    until("so many are inside", || fixture.stats.shed().unwrap().inside == count).await;
}

async fn plain(client: &mut H2, addr: SocketAddr, priority: &str) -> Response<Empty<Bytes>> {
    ask(client, request(addr, "GET", "/", &[("meshwork-priority", priority)])).await.unwrap().0
}

#[tokio::test]
async fn above_the_fixed_limit_all_but_health_is_refused_in_words_that_callers_understand() {
    let settings = config(|config| config.max_concurrent_requests = Some(2));
    let fixture = start_with(settings, services()).await;
    let mut client = h2(fixture.addr).await;
    let hung = [(); 2].map(|()| send(&client, fixture.addr, "/hang", "normal"));
    until("both are in flight", || fixture.stats.requests_in_flight() == 2).await;

    let refused = plain(&mut client, fixture.addr, "critical").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&refused, "meshwork-refused"), "overloaded");
    assert_eq!((header(&refused, "retry-after"), header(&refused, "grpc-retry-pushback-ms")), ("1", "50"));
    assert_eq!(header(&refused, "meshwork-is"), "users/users-1");

    let mut grpc = EchoClient::connect(fixture.addr).await;
    let refused = grpc.unary(text("hello")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.metadata().get("grpc-retry-pushback-ms").unwrap(), "50");
    assert_eq!(refused.metadata().get("meshwork-refused").unwrap(), "overloaded");
    assert_eq!(fixture.stats.refused_overloaded_total(), 2);

    for path in ["/.meshwork/health", "/.meshwork/ready"] {
        assert!(raw(fixture.addr, &get(path)).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    hung.iter().for_each(JoinHandle::abort);
    until("both are gone", || fixture.stats.requests_in_flight() == 0).await;
    assert_eq!(plain(&mut client, fixture.addr, "normal").await.status(), StatusCode::OK);
    assert!(fixture.stats.shed().is_none());
}

#[tokio::test]
async fn sheddable_requests_are_refused_first_and_critical_ones_last() {
    let fixture = start_with(shedding(5), services()).await;
    let mut client = h2(fixture.addr).await;
    let mut hung = Vec::new();
    let mut statuses = [0; 3];
    // 4 of 5 places are for sheddable ones too, and 8 more for critical ones alone.
    for (nth, (priority, room)) in [("sheddable", 4), ("normal", 5), ("critical", 13)].into_iter().enumerate()
    {
        while hung.len() < room {
            hung.push(send(&client, fixture.addr, "/hang", priority));
            inside(&fixture, hung.len() as u32).await;
        }
        statuses[nth] = plain(&mut client, fixture.addr, priority).await.status().as_u16();
    }
    assert_eq!(statuses, [503; 3]);
    let shed = fixture.stats.shed().unwrap();
    assert_eq!((shed.refused_sheddable, shed.refused_normal, shed.refused_critical), (1, 1, 1));
    assert_eq!((shed.limit, fixture.stats.refused_overloaded_total()), (5, 3));
    let mut grpc = EchoClient::connect(fixture.addr).await;
    assert_eq!(grpc.unary(text("hello")).await.unwrap_err().code(), Code::ResourceExhausted);
    // Those whose callers are gone leave.
    hung.iter().for_each(JoinHandle::abort);
    inside(&fixture, 0).await;
    assert_eq!(grpc.unary(text("hello")).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_stranger_who_says_critical_is_as_any_other() {
    let mut settings = shedding(2);
    settings.critical_from.clear();
    let fixture = start_with(settings, services()).await;
    let mut client = h2(fixture.addr).await;
    let _hung = [(); 2].map(|()| send(&client, fixture.addr, "/hang", "critical"));
    inside(&fixture, 2).await;
    assert_eq!(plain(&mut client, fixture.addr, "critical").await.status().as_u16(), 503);
    assert_eq!(fixture.stats.shed().unwrap().refused_normal, 1);
}

#[tokio::test]
async fn streams_long_polls_and_callers_who_send_on_keep_no_place() {
    let fixture = start_with(shedding(2), services()).await;
    let client = h2(fixture.addr).await;
    let mut grpc = EchoClient::connect(fixture.addr).await;
    let mut kept = Vec::new();
    for _ in 0..5 {
        let mut events = client.clone();
        let events = events.send_request(request(fixture.addr, "GET", "/events", &[])).await.unwrap();
        inside(&fixture, 0).await;
        let stream = grpc.server(text("hang")).await.unwrap();
        inside(&fixture, 0).await;
        let said = stream::iter([text("first")]).chain(stream::pending());
        let mut both = grpc.both(said).await.unwrap();
        assert_eq!(both.message().await.unwrap().unwrap().text, "first");
        inside(&fixture, 0).await;
        // Its handler answers when all is said.
        let said = stream::iter([text("first")]).chain(stream::pending());
        let (mut uploading, in_flight) = (grpc.clone(), fixture.stats.requests_in_flight());
        let upload = tokio::spawn(async move { uploading.client_stream(said).await });
        until("it is in flight", || fixture.stats.requests_in_flight() > in_flight).await;
        inside(&fixture, 0).await;
        let poll = send(&client, fixture.addr, "/poll", "normal");
        until("it is in flight", || fixture.stats.requests_in_flight() > in_flight + 1).await;
        inside(&fixture, 0).await;
        kept.push((events, stream, both, upload, poll));
    }
    assert_eq!(fixture.stats.refused_overloaded_total(), 0);
    assert_eq!(fixture.stats.requests_in_flight(), 25);
}

/// What callers saw, by whether they were critical.
#[derive(Default)]
struct Seen {
    served: AtomicUsize,
    refused: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_offered_twice_what_it_can_do_does_what_it_can() {
    const CAPACITY: f64 = 200.0;
    let workers = Arc::new(Semaphore::new(4));
    let work = move || {
        let workers = workers.clone();
        async move {
            let _turn = workers.acquire().await.unwrap();
            time::sleep(Duration::from_millis(20)).await;
            "done"
        }
    };
    let mut settings = shedding(20);
    settings.shed.as_mut().unwrap().adaptive = AdaptivePolicy::default();
    let fixture = start_with(settings, Services::new().http(Router::new().route("/", route_get(work)))).await;
    let clients = [h2(fixture.addr).await, h2(fixture.addr).await];
    let seen: Arc<[Seen; 2]> = Arc::default();
    let mut calls = JoinSet::new();
    let began = Instant::now();
    let (warm, end) = (began + Duration::from_secs(2), began + Duration::from_secs(5));
    let mut latencies = Vec::new();
    let mut due = began;
    for nth in 0.. {
        due += Duration::from_secs_f64(0.5 / CAPACITY);
        if due > end {
            break;
        }
        time::sleep_until(due).await;
        let (mut client, seen, addr) = (clients[nth % 2].clone(), seen.clone(), fixture.addr);
        calls.spawn(async move {
            let critical = nth % 5 == 0;
            let priority = if critical { "critical" } else { "normal" };
            let call = request(addr, "GET", "/", &[("meshwork-priority", priority)]);
            let answer = client.send_request(call).await.unwrap();
            let ok = answer.status() == StatusCode::OK;
            answer.into_body().collect().await.unwrap();
            if due < warm {
                return None;
            }
            let seen = &seen[usize::from(critical)];
            let counter = if ok { &seen.served } else { &seen.refused };
            counter.fetch_add(1, Relaxed);
            ok.then(|| due.elapsed())
        });
    }
    while let Some(call) = calls.join_next().await {
        latencies.extend(call.unwrap());
    }
    latencies.sort();
    let p99 = latencies[latencies.len() * 99 / 100];
    let goodput = latencies.len() as f64 / (end - warm).as_secs_f64() / CAPACITY;
    let [normal, critical] = &*seen;
    let served = critical.served.load(Relaxed) as f64;
    let kept = served / (served + critical.refused.load(Relaxed) as f64);
    println!(
        "goodput {:.1} % of capacity, critical {:.1} %, p99 {p99:?} of 20 ms, {} normal refused, limit {}",
        goodput * 100.0,
        kept * 100.0,
        normal.refused.load(Relaxed),
        fixture.stats.shed().unwrap().limit
    );
    assert!(normal.refused.load(Relaxed) > 0 && kept >= 0.95);
    // Times have a slack of four: machines are noisy.
    assert!(goodput >= 0.9 / 4.0 && p99 <= 4 * 3 * Duration::from_millis(22), "{goodput} {p99:?}");
    assert_eq!(fixture.stats.shed().unwrap().inside, 0);
}

#[tokio::test]
async fn a_request_that_ends_at_its_deadline_leaves() {
    let fixture = start_with(shedding(2), services()).await;
    let mut grpc = EchoClient::connect(fixture.addr).await;
    for _ in 0..5 {
        let mut call = Request::new(text("hang"));
        call.set_timeout(Duration::from_millis(30));
        grpc.unary(call).await.unwrap_err();
        inside(&fixture, 0).await;
        grpc.unary(text("panic")).await.unwrap_err();
        inside(&fixture, 0).await;
    }
    assert_eq!(fixture.stats.refused_overloaded_total(), 0);
}
