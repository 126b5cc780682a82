//! HTTP/1.1, HTTP/2 and gRPC on one port, as axum and tonic serve them.

use std::net::SocketAddr;

use axum::{
    Router,
    extract::{ConnectInfo, MatchedPath, Request},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get as route_get, post},
};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use meshwork_server::{Listener, Server, ServerConfig, Services};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::{
    echo::{Echo, EchoClient, collect, text},
    support::{ask, get, h2, raw, read_until, request, start},
};

fn router() -> Router {
    Router::new()
        .route("/hello", route_get(|| async { "hello" }))
        .route(
            "/who",
            route_get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
        )
        .route("/echo", post(|body: String| async move { body }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "the router's own fallback") })
}

#[tokio::test]
async fn one_port_speaks_http1_http2_and_every_kind_of_grpc_call() {
    let fixture = start(Services::new().http(router()).grpc_service(Echo)).await;
    let addr = fixture.addr;

    assert!(raw(addr, &get("/hello")).await.ends_with("hello"));
    let (answer, body) = ask(&mut h2(addr).await, request(addr, "GET", "/hello", &[])).await.unwrap();
    assert_eq!(
        (answer.status(), answer.version(), body.as_str()),
        (StatusCode::OK, http::Version::HTTP_2, "hello")
    );

    let mut client = EchoClient::connect(addr).await;
    assert_eq!(client.unary(text("one")).await.unwrap(), "one");
    assert_eq!(collect(client.server(text("a b c")).await.unwrap()).await.0, ["a", "b", "c"]);
    assert_eq!(client.client(&["x", "y"]).await.unwrap(), "x y");
    let both = client.both(stream::iter([text("1"), text("2")])).await.unwrap();
    assert_eq!(collect(both).await.0, ["1", "2"]);
}

#[tokio::test]
async fn both_fallbacks_answer_in_their_own_words() {
    let fixture = start(Services::new().http(router()).grpc_service(Echo)).await;
    let answer = raw(fixture.addr, &get("/nothing")).await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.ends_with("the router's own fallback"), "{answer}");
    let status = EchoClient::connect(fixture.addr).await.unknown_method().await;
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn handlers_learn_the_peer_in_axum_and_in_tonic() {
    let fixture = start(Services::new().http(router()).grpc_service(Echo)).await;
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    let own = stream.local_addr().unwrap().to_string();
    stream.write_all(get("/who").as_bytes()).await.unwrap();
    assert!(crate::support::read_all(&mut stream).await.ends_with(&own));
    let peer = EchoClient::connect(fixture.addr).await.unary(text("peer")).await.unwrap();
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
}

#[tokio::test]
async fn two_ports_share_one_server() {
    let bind = || Listener::bind("127.0.0.1:0".parse().unwrap());
    let (first, second) = (bind().await.unwrap(), bind().await.unwrap());
    let (http_addr, grpc_addr) = (first.local_addr(), second.local_addr());
    let (http, grpc) = Services::new().http(router()).grpc_service(Echo).into_two();
    let server = Server::new(ServerConfig::default(), Default::default(), Default::default());
    let serving = server.serve(first, http).also(second, grpc);
    assert_eq!(serving.local_addrs(), [http_addr, grpc_addr]);
    assert!(raw(http_addr, &get("/hello")).await.ends_with("hello"));
    assert!(raw(grpc_addr, &get("/hello")).await.starts_with("HTTP/1.1 404"));
    assert_eq!(EchoClient::connect(grpc_addr).await.unary(text("x")).await.unwrap(), "x");
    assert_eq!(serving.stats().connections_total(), 3);
}

#[tokio::test]
async fn a_layer_goes_around_everything_whenever_it_is_added() {
    async fn mark(path: Option<MatchedPath>, request: Request, next: Next) -> Response {
        let mut answer = next.run(request).await;
        let path = path.map_or("-".into(), |path| path.as_str().to_owned());
        answer.headers_mut().insert("x-layer", path.parse().unwrap());
        answer
    }
    let services = Services::new()
        .layer(middleware::from_fn(mark))
        .http(router())
        .grpc_service(Echo)
        .http(Router::new().route("/later/{id}", route_get(|| async { "later" })));
    let fixture = start(services).await;
    let answer = raw(fixture.addr, &get("/later/7")).await;
    assert!(answer.contains("x-layer: /later/{id}") && answer.ends_with("later"), "{answer}");
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let request = request(fixture.addr, "POST", "/test.Echo/Nothing", &grpc);
    let (answer, _) = ask(&mut h2(fixture.addr).await, request).await.unwrap();
    assert_eq!(crate::support::header(&answer, "x-layer"), "/test.Echo/{*rest}");
}

#[tokio::test]
async fn an_upgrade_passes_through() {
    async fn upgrade(mut request: Request) -> Response {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let mut bytes = [0; 4];
            while io.read_exact(&mut bytes).await.is_ok() {
                io.write_all(&bytes.map(|byte| byte.to_ascii_uppercase())).await.unwrap();
            }
        });
        let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "shout")];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
    let fixture = start(Services::new().http(Router::new().route("/shout", route_get(upgrade)))).await;
    // Even while leaving.
    fixture.serving.leave();
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    let ask = "GET /shout HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("connection: upgrade"), "{head}");
    stream.write_all(b"abcd").await.unwrap();
    read_until(&mut stream, "ABCD").await;

    let report = fixture.serving.drain(crate::support::within(std::time::Duration::from_millis(500))).await;
    assert_eq!(report.cut.len(), 1, "{report:?}");
    assert_eq!(report.cut[0].kind, meshwork_server::CutKind::Upgraded);
    assert_eq!(crate::support::read_all(&mut stream).await, "");
}
