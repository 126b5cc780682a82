//! TLS at a listener: what callers see of it, what it sees of them, and what of it may be slow or wrong.

use std::{
    cell::Cell,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    routing::{get as route_get, post},
};
use bytes::Bytes;
use http_body_util::Full;
use meshwork_core::Context;
use meshwork_server::{
    ClientAuth, Health, Identity, Listener, PeerIdentity, Server, ServerConfig, ServerTlsConfig, Services,
    Tls,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{self, Instant},
};
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::{
    authority::{Authority, Stream, shown},
    support::{Fixture, LIMIT, ask, config, get, raw, read_all, request, start_on, until, within},
};

/// After this time files are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

async fn who(peer: Option<Extension<PeerIdentity>>) -> String {
    let proved = peer.map(|Extension(peer)| {
        let names: Vec<_> = peer.dns_names().collect();
        format!("{:?} {names:?} {}", peer.spiffe(), peer.chain().len())
    });
    let context = Context::current();
    let peer = context.peer.as_deref().unwrap_or_default();
    let peer = if peer.starts_with("127.0.0.1:") { "an address" } else { peer };
    format!("{} {peer} {}", proved.unwrap_or_default(), context.priority.as_str())
}

fn services() -> Services {
    let slow = || async {
        time::sleep(Duration::from_millis(300)).await;
        "slow"
    };
    let router = Router::new()
        .route("/", route_get(|| async { "served" }))
        .route("/slow", route_get(slow))
        .route("/hang", route_get(|| async { std::future::pending::<&str>().await }))
        .route("/count", post(|body: Bytes| async move { body.len().to_string() }))
        .route("/who", route_get(who));
    Services::new().http(router)
}

async fn start(authority: &Authority, auth: Option<ClientAuth>, config: ServerConfig) -> Fixture {
    start_on(authority.listener(auth).await, config, services()).await
}

/// Sends `request`, and reads to an end that was said: one cut short would be an error.
async fn exchange(stream: &mut Stream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    time::timeout(LIMIT, stream.read_to_string(&mut text)).await.expect("no end came").unwrap();
    text
}

#[tokio::test]
async fn both_protocols_are_offered_and_spoken() {
    let authority = Authority::new();
    let fixture = start(&authority, None, ServerConfig::default()).await;
    for (offered, chosen) in [
        (&[b"http/1.1".as_slice()][..], Some(b"http/1.1".as_slice())),
        (&[b"http/1.1", b"h2"], Some(b"h2")),
        (&[], None),
    ] {
        let stream = authority.client(None, offered).connect(fixture.addr).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
    }
    let mut first = authority.client(None, &[b"http/1.1"]).connect(fixture.addr).await.unwrap();
    assert!(exchange(&mut first, &get("/")).await.ends_with("served"));
    let mut second = authority.client(None, &[b"h2"]).h2(fixture.addr).await;
    let (_, body) = ask(&mut second, request(fixture.addr, "GET", "/who", &[])).await.unwrap();
    assert_eq!(body, " an address normal");
    let spdy = authority.client(None, &[b"spdy/3"]).connect(fixture.addr).await;
    assert!(spdy.unwrap_err().to_string().contains("NoApplicationProtocol"));
}

#[tokio::test]
async fn files_that_cannot_be_used_are_known_before_the_first_connection() {
    let authority = Authority::new();
    assert!(authority.tls(None).check().await.is_ok());
    fs::remove_file(authority.path("key")).unwrap();
    let error = authority.tls(None).check().await.unwrap_err();
    assert!(error.to_string().contains("`key_file` of `[service.tls]`"), "{error}");
    assert!(Tls::new("`[service.tls]`", ServerTlsConfig::default()).is_err());
}

#[tokio::test]
async fn a_caller_is_known_by_its_certificate_and_a_stranger_is_refused_where_one_is_required() {
    let authority = Authority::new();
    let orders = authority.sign("orders.test", Some("spiffe://test/orders"));
    let listed = config(|config| config.critical_identities = vec!["spiffe://test/orders".into()]);
    for auth in [ClientAuth::Required, ClientAuth::Optional] {
        let fixture = start(&authority, Some(auth), listed.clone()).await;
        let ask_who = get("/who").replace("host", "meshwork-priority: critical\r\nhost");
        let mut known = authority.client(Some(&orders), &[]).connect(fixture.addr).await.unwrap();
        let answer = exchange(&mut known, &ask_who).await;
        let expected = r#"Some("spiffe://test/orders") ["orders.test"] 1 spiffe://test/orders critical"#;
        assert!(answer.ends_with(expected), "{answer}");

        // In TLS 1.3 a client hears only after its handshake that it is refused.
        let mut stranger = authority.client(None, &[]).connect(fixture.addr).await.unwrap();
        drop(stranger.write_all(ask_who.as_bytes()).await);
        let mut text = String::new();
        let read = time::timeout(LIMIT, stranger.read_to_string(&mut text)).await.unwrap();
        match auth {
            ClientAuth::Optional => assert!(text.ends_with(" an address normal"), "{text}"),
            _ => {
                assert!(read.unwrap_err().to_string().contains("CertificateRequired"));
                until("it is counted", || fixture.stats.handshakes_failed_total() == 1).await;
            }
        }
        let impostor = Authority::new().sign("orders.test", Some("spiffe://test/orders"));
        let mut impostor = authority.client(Some(&impostor), &[]).connect(fixture.addr).await.unwrap();
        drop(impostor.write_all(ask_who.as_bytes()).await);
        let refused = time::timeout(LIMIT, impostor.read_to_end(&mut Vec::new())).await.unwrap();
        assert!(refused.unwrap_err().to_string().contains("fatal alert"));
    }
}

#[tokio::test]
async fn renewed_files_count_for_new_connections_and_close_no_old_one() {
    let authority = Authority::new();
    let fixture = start(&authority, None, ServerConfig::default()).await;
    let client = authority.client(None, &[b"h2"]);
    let mut kept = client.h2(fixture.addr).await;
    let before = shown(&client.connect(fixture.addr).await.unwrap());
    authority.renew();
    time::sleep(LOOK_AGAIN).await;
    let after = shown(&client.connect(fixture.addr).await.unwrap());
    assert_ne!(before, after);
    let (_, body) = ask(&mut kept, request(fixture.addr, "GET", "/", &[])).await.unwrap();
    assert_eq!(body, "served");
}

thread_local! {
    static WARNINGS: Cell<u32> = const { Cell::new(0) };
}

/// Counts the warnings of its thread.
struct Warnings;

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        WARNINGS.set(WARNINGS.get() + 1);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_file_cut_short_keeps_the_certificate_before_and_is_told_once() {
    let _counting = tracing::subscriber::set_default(Warnings);
    let authority = Authority::new();
    let fixture = start(&authority, None, ServerConfig::default()).await;
    let client = authority.client(None, &[]);
    let before = shown(&client.connect(fixture.addr).await.unwrap());
    let whole = fs::read(authority.path("cert")).unwrap();
    fs::write(authority.path("cert"), &whole[..whole.len() / 2]).unwrap();
    for _ in 0..3 {
        time::sleep(LOOK_AGAIN).await;
        assert_eq!(shown(&client.connect(fixture.addr).await.unwrap()), before);
    }
    assert_eq!(WARNINGS.get(), 1);
    authority.renew();
    time::sleep(LOOK_AGAIN).await;
    assert_ne!(shown(&client.connect(fixture.addr).await.unwrap()), before);
}

#[tokio::test]
async fn a_handshake_that_does_not_come_or_is_none_costs_one_place_for_a_while() {
    let authority = Authority::new();
    let settings = config(|config| {
        config.first_request_timeout = Duration::from_millis(400);
        config.max_connections = 3;
    });
    let fixture = start(&authority, None, settings).await;
    let began = Instant::now();
    let mut silent = TcpStream::connect(fixture.addr).await.unwrap();
    let mut half = TcpStream::connect(fixture.addr).await.unwrap();
    // The head of a handshake record whose body never comes.
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    // Shakes hands, and never asks.
    let mut mute = authority.client(None, &[]).connect(fixture.addr).await.unwrap();
    until("all are open", || fixture.stats.connections() == 3).await;
    assert_eq!(read_all(&mut TcpStream::connect(fixture.addr).await.unwrap()).await, "");
    assert_eq!(fixture.stats.connections_over_limit_total(), 1);
    for stream in [&mut silent, &mut half] {
        assert_eq!(read_all(stream).await, "");
    }
    // It is told in TLS that this is the end.
    assert_eq!(time::timeout(LIMIT, mute.read_to_end(&mut Vec::new())).await.unwrap().unwrap(), 0);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(fixture.stats.connections_timed_out_total(), 3);
    assert_eq!(fixture.stats.handshakes_failed_total(), 0);

    let mut garbage = TcpStream::connect(fixture.addr).await.unwrap();
    garbage.write_all(&[7; 2000]).await.unwrap();
    read_all(&mut garbage).await;
    until("it is counted", || fixture.stats.handshakes_failed_total() == 1).await;
    // A look at whether the port is open is no failure.
    drop(TcpStream::connect(fixture.addr).await.unwrap());
    until("all are closed", || fixture.stats.connections() == 0).await;
    assert_eq!(fixture.stats.handshakes_failed_total(), 1);
}

#[tokio::test]
async fn http_without_tls_is_told_that_this_port_speaks_tls() {
    let authority = Authority::new();
    let fixture = start(&authority, None, ServerConfig::default()).await;
    for request in [get("/"), "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello".into()] {
        let answer = raw(fixture.addr, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("speaks TLS"), "{answer}");
    }
    let mut second = crate::support::h2(fixture.addr).await;
    let refused = ask(&mut second, request(fixture.addr, "GET", "/", &[])).await.unwrap_err();
    let source = std::error::Error::source(&refused).and_then(|error| error.downcast_ref::<h2::Error>());
    let source = source.expect("an error of HTTP/2");
    assert!(source.is_go_away() && source.is_remote(), "{source}");
    assert!(source.to_string().contains("this port speaks TLS"), "{source}");
    assert_eq!(fixture.stats.handshakes_failed_total(), 3);
    assert_eq!(fixture.stats.requests_total(), 0);
}

#[tokio::test]
async fn the_answer_to_an_unread_upload_arrives_whole_through_tls() {
    let authority = Authority::new();
    let fixture = start(&authority, None, config(|config| config.max_body_bytes = Some(10))).await;
    let mut stream = authority.client(None, &[]).connect(fixture.addr).await.unwrap();
    let length = 4 << 20;
    let head = format!("POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..8 {
        time::sleep(Duration::from_millis(10)).await;
        if stream.write_all(&[0; 64 * 1024]).await.is_err() {
            break;
        }
    }
    let mut text = String::new();
    time::timeout(LIMIT, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_says_goodbye_and_leaves_handshakes_behind() {
    let authority = Authority::new();
    let fixture = start(&authority, None, ServerConfig::default()).await;
    let mut first = authority.client(None, &[b"http/1.1"]).connect(fixture.addr).await.unwrap();
    let mut second = authority.client(None, &[b"h2"]).h2(fixture.addr).await;
    let slow = request(fixture.addr, "GET", "/slow", &[]);
    let second = tokio::spawn(async move { ask(&mut second, slow).await });
    let first = tokio::spawn(async move { exchange(&mut first, &get("/slow")).await });
    let mut idle = authority.client(None, &[]).connect(fixture.addr).await.unwrap();
    let mut half = TcpStream::connect(fixture.addr).await.unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    until("all are there", || fixture.stats.requests_in_flight() == 2 && fixture.stats.connections() == 4)
        .await;
    let drain = tokio::spawn(fixture.serving.drain(within(LIMIT)));
    assert_eq!(time::timeout(LIMIT, idle.read_to_end(&mut Vec::new())).await.unwrap().unwrap(), 0);
    assert_eq!(read_all(&mut half).await, "");
    assert!(first.await.unwrap().ends_with("slow"));
    assert_eq!(second.await.unwrap().unwrap().1, "slow");
    let report = drain.await.unwrap();
    assert_eq!((report.finished, report.cut_total), (2, 0), "{report:?}");
    assert!(report.took < Duration::from_secs(3), "{report:?}");
}

#[tokio::test]
async fn a_websocket_is_told_through_tls_that_the_drain_has_begun() {
    let authority = Authority::new();
    let router = Router::new().route("/socket", route_get(crate::work::websocket));
    let services = Services::new().http(router);
    let fixture = start_on(authority.listener(None).await, ServerConfig::default(), services).await;
    let mut socket = authority.client(None, &[]).connect(fixture.addr).await.unwrap();
    let upgrade = "GET /socket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\x81\x02hi") {
        seen.push(time::timeout(LIMIT, socket.read_u8()).await.unwrap().unwrap());
    }
    let drain = tokio::spawn(fixture.serving.drain(within(LIMIT)));
    let mut goodbye = [0; 4];
    time::timeout(LIMIT, socket.read_exact(&mut goodbye)).await.unwrap().unwrap();
    assert_eq!(goodbye, [0x88, 2, 0x03, 0xe9]);
    socket.write_all(b"\x88\x82\0\0\0\0\x03\xe9").await.unwrap();
    assert_eq!(time::timeout(LIMIT, socket.read_to_end(&mut Vec::new())).await.unwrap().unwrap(), 0);
    let report = drain.await.unwrap();
    assert!(report.cut_total == 0 && report.took < Duration::from_secs(4), "{report:?}");
}

#[tokio::test]
async fn a_hung_handler_and_one_that_never_reads_are_cut_at_the_deadline_through_tls() {
    let authority = Authority::new();
    let big = Router::new().route("/big", route_get(|| async { vec![0u8; 64 << 20] }));
    let services = services().http(big);
    let fixture = start_on(authority.listener(None).await, ServerConfig::default(), services).await;
    let client = authority.client(None, &[]);
    let mut streams = Vec::new();
    for path in ["/hang", "/big"] {
        let mut stream = client.connect(fixture.addr).await.unwrap();
        stream.write_all(get(path).as_bytes()).await.unwrap();
        streams.push(stream);
    }
    until("both are asked", || fixture.stats.requests_total() == 2).await;
    let report = fixture.serving.drain(within(Duration::from_secs(1))).await;
    assert!((900..1500).contains(&report.took.as_millis()), "{report:?}");
    assert_eq!(report.cut_total, 2, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_loses_no_call_through_tls() {
    let authority = Authority::new();
    let client = authority.client(None, &[b"h2"]);
    let handled = Arc::new(AtomicUsize::new(0));
    let counter = handled.clone();
    let work = move |_body: Bytes| {
        counter.fetch_add(1, Relaxed);
        async {
            time::sleep(Duration::from_millis(1)).await;
            "done"
        }
    };
    for _round in 0..3 {
        handled.store(0, Relaxed);
        let services = Services::new().http(Router::new().route("/", post(work.clone())));
        let listener: Listener = authority.listener(None).await;
        let addr = listener.local_addr();
        let serving =
            Server::new(ServerConfig::default(), Identity::new(), Health::new()).serve(listener, services);
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let sender = client.h2(addr).await;
            for _ in 0..8 {
                let (mut sender, stop) = (sender.clone(), stop.clone());
                callers.spawn(async move {
                    let mut answered = 0;
                    while !stop.load(Relaxed) {
                        let mut call = request(addr, "POST", "/", &[]);
                        *call.body_mut() = Full::new(Bytes::from_static(b"work"));
                        let sent = time::timeout(Duration::from_secs(2), sender.try_send_request(call));
                        match sent.await {
                            Ok(Ok(answer)) => {
                                http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
                                answered += 1;
                            }
                            Ok(Err(mut failed)) => {
                                if failed.take_message().is_none() {
                                    crate::drain::assert_goaway(&failed.into_error());
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
        until("the load runs", || handled.load(Relaxed) > 300).await;
        let report = serving.drain(within(LIMIT)).await;
        stop.store(true, Relaxed);
        let mut answered = 0;
        while let Some(caller) = callers.join_next().await {
            answered += caller.unwrap();
        }
        assert_eq!(report.cut_total, 0, "{report:?}");
        assert_eq!(answered, handled.load(Relaxed), "every handled call was answered");
    }
}
