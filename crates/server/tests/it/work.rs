//! Work that outlives its caller, and what is told to those who would last for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response, routing::get as route_get};
use futures_util::{StreamExt, stream};
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use meshwork_core::Context;
use meshwork_server::{CutKind, Services, detach, draining};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{self, Instant},
};

use crate::support::{H2, LIMIT, ask, get, h2, raw, read_all, read_until, request, start, until, within};

const PAUSE: Duration = Duration::from_millis(300);

/// A route whose work goes on, and how often it was done.
fn charging() -> (Router, Arc<AtomicUsize>) {
    let done = Arc::new(AtomicUsize::new(0));
    let counter = done.clone();
    let charge = move || {
        let counter = counter.clone();
        async move {
            let work = async move {
                time::sleep(PAUSE).await;
                assert!(Context::current().deadline.is_none());
                counter.fetch_add(1, Relaxed);
                Context::current().lane
            };
            format!("{:?}", detach("charge", work).await)
        }
    };
    let panics = || async { format!("{:?}", detach("panics", async { panic!("asked to") }).await) };
    let hangs = || async { format!("{:?}", detach("hangs", std::future::pending::<()>()).await) };
    let router = Router::new()
        .route("/charge", route_get(charge))
        .route("/panics", route_get(panics))
        .route("/hangs", route_get(hangs));
    (router, done)
}

#[tokio::test]
async fn detached_work_goes_on_without_its_caller_and_without_its_deadline() {
    let (router, done) = charging();
    let fixture = start(Services::new().http(router)).await;
    let mut client = h2(fixture.addr).await;
    let headers = [("meshwork-lane", "blue")];
    let (_, body) = ask(&mut client, request(fixture.addr, "GET", "/charge", &headers)).await.unwrap();
    assert_eq!(body, "Some(Some(\"blue\"))", "what travels with a call goes on with it");

    let late = request(fixture.addr, "GET", "/charge", &[("meshwork-timeout", "20m")]);
    assert_eq!(ask(&mut client, late).await.unwrap().0.status().as_u16(), 504);
    let mut gone = TcpStream::connect(fixture.addr).await.unwrap();
    gone.write_all(get("/charge").as_bytes()).await.unwrap();
    until("both work", || fixture.stats.detached() == 2).await;
    drop(gone);
    until("nobody waits", || fixture.stats.requests_in_flight() == 0).await;
    assert!(done.load(Relaxed) < 3, "it goes on after its caller is gone");
    let report = fixture.serving.drain(within(LIMIT)).await;
    assert_eq!((done.load(Relaxed), report.cut_total), (3, 0), "the drain waits: {report:?}");

    // Outside of a handler it is a task like any other.
    assert_eq!(detach("alone", async { 7 }).await, Some(7));
    assert!(!draining().has_begun());
}

#[tokio::test]
async fn detached_work_that_panics_or_hangs_costs_nobody_and_is_named() {
    let (router, _) = charging();
    let fixture = start(Services::new().http(router)).await;
    assert!(raw(fixture.addr, &get("/panics")).await.ends_with("None"));
    assert_eq!((fixture.stats.panics_total(), fixture.stats.detached()), (1, 0));
    let mut gone = TcpStream::connect(fixture.addr).await.unwrap();
    gone.write_all(get("/hangs").as_bytes()).await.unwrap();
    until("it works", || fixture.stats.detached() == 1).await;
    drop(gone);
    until("nobody waits", || fixture.stats.requests_in_flight() == 0).await;
    let stats = fixture.stats.clone();
    let report = fixture.serving.drain(within(Duration::from_secs(1))).await;
    assert!((950..1500).contains(&report.took.as_millis()), "{report:?}");
    assert_eq!((report.cut_total, stats.detached()), (1, 0));
    assert_eq!((report.cut[0].kind, report.cut[0].task), (CutKind::Detached, Some("hangs")));
    assert!(report.cut[0].to_string().contains("detached, hangs"), "{}", report.cut[0]);
}

async fn events() -> Response {
    let first = stream::iter([Ok::<_, std::io::Error>("data: first\n\n")]);
    let body = Body::from_stream(first.chain(stream::pending()));
    Response::builder().header(CONTENT_TYPE, "text/event-stream").body(body).unwrap()
}

async fn poll() -> &'static str {
    let draining = draining();
    draining.begun().await;
    "nothing yet"
}

/// Says hi, and answers a close frame.
pub(crate) async fn websocket(request: Request) -> Response {
    tokio::spawn(async move {
        let mut socket = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        socket.write_all(b"\x81\x02hi").await.unwrap();
        let mut head = [0; 8];
        socket.read_exact(&mut head).await.unwrap();
        assert_eq!(head[..2], [0x88, 0x82], "closed by the client");
        socket.write_all(b"\x88\0").await.unwrap();
    });
    let answer = Response::builder().status(101).header(CONNECTION, "upgrade").header(UPGRADE, "websocket");
    answer.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn events_long_polls_and_websockets_end_politely_when_the_drain_begins() {
    let router = Router::new()
        .route("/events", route_get(events))
        .route("/poll", route_get(poll))
        .route("/socket", route_get(websocket));
    let fixture = start(Services::new().http(router)).await;
    let mut first = TcpStream::connect(fixture.addr).await.unwrap();
    first.write_all(get("/events").as_bytes()).await.unwrap();
    read_until(&mut first, "data: first\n\n").await;
    let mut second = h2(fixture.addr).await;
    let second = tokio::spawn(async move {
        ask(&mut second, request(fixture.addr, "GET", "/events", &[])).await.unwrap().1
    });
    let polled = tokio::spawn(async move { raw(fixture.addr, &get("/poll")).await });
    let mut socket = TcpStream::connect(fixture.addr).await.unwrap();
    let upgrade = "GET /socket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    read_until(&mut socket, "\u{2}hi").await;
    until("all are in flight", || fixture.stats.requests_in_flight() == 3).await;

    let began = Instant::now();
    let drain = tokio::spawn(fixture.serving.drain(within(LIMIT)));
    // A whole answer: whoever listens knows that nothing was lost, and connects again.
    assert!(read_all(&mut first).await.ends_with("0\r\n\r\n"));
    assert_eq!(second.await.unwrap(), "data: first\n\n");
    assert!(polled.await.unwrap().ends_with("nothing yet"));
    let mut goodbye = [0; 4];
    time::timeout(LIMIT, socket.read_exact(&mut goodbye)).await.unwrap().unwrap();
    assert_eq!(goodbye, [0x88, 2, 0x03, 0xe9]);
    socket.write_all(b"\x88\x82\0\0\0\0\x03\xe9").await.unwrap();
    // What the handler itself says to it comes after the goodbye, and is not sent.
    assert_eq!(read_all(&mut socket).await, "");
    let report = drain.await.unwrap();
    assert_eq!(report.cut_total, 0, "{report:?}");
    assert!(began.elapsed() < Duration::from_secs(4), "{report:?}");
}

/// The same over HTTP/2, where the answer that opens it is 200.
async fn tunnelled(request: Request) -> Response {
    let mut answer = websocket(request).await;
    *answer.status_mut() = http::StatusCode::OK;
    answer.headers_mut().clear();
    answer
}

/// Opens a WebSocket over HTTP/2.
async fn open_socket(addr: std::net::SocketAddr, client: &mut H2) -> TokioIo<hyper::upgrade::Upgraded> {
    let mut connect = request(addr, "CONNECT", "/socket", &[("sec-websocket-version", "13")]);
    connect.extensions_mut().insert(Protocol::from_static("websocket"));
    let answer = time::timeout(LIMIT, client.send_request(connect)).await.unwrap().unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    TokioIo::new(hyper::upgrade::on(answer).await.unwrap())
}

#[tokio::test]
async fn a_websocket_over_http2_is_told_too_that_the_drain_has_begun() {
    let router = Router::new()
        .route("/", route_get(|| async { "served" }))
        .route("/socket", axum::routing::any(tunnelled))
        .route("/refused", axum::routing::any(|| async { http::StatusCode::FORBIDDEN }));
    let fixture = start(Services::new().http(router)).await;
    let mut client = h2(fixture.addr).await;
    // The settings that allow it come with the first answer at the latest.
    ask(&mut client, request(fixture.addr, "GET", "/", &[])).await.unwrap();
    let mut socket = open_socket(fixture.addr, &mut client).await;
    let mut hi = [0; 4];
    time::timeout(LIMIT, socket.read_exact(&mut hi)).await.unwrap().unwrap();
    assert_eq!(&hi, b"\x81\x02hi");
    let mut refused = request(fixture.addr, "CONNECT", "/refused", &[]);
    refused.extensions_mut().insert(Protocol::from_static("websocket"));
    assert_eq!(ask(&mut client, refused).await.unwrap().0.status().as_u16(), 403);

    let began = Instant::now();
    let drain = tokio::spawn(fixture.serving.drain(within(LIMIT)));
    let mut goodbye = [0; 4];
    time::timeout(LIMIT, socket.read_exact(&mut goodbye)).await.unwrap().unwrap();
    assert_eq!(goodbye, [0x88, 2, 0x03, 0xe9]);
    socket.write_all(b"\x88\x82\0\0\0\0\x03\xe9").await.unwrap();
    socket.shutdown().await.unwrap();
    // What the handler itself says to it comes after the goodbye, and is not sent.
    let mut rest = Vec::new();
    time::timeout(LIMIT, socket.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    drop(client);
    let report = drain.await.unwrap();
    assert_eq!(report.cut_total, 0, "{report:?}");
    assert!(began.elapsed() < Duration::from_secs(6), "{report:?}");
}
