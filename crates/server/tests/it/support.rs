//! Starts servers and speaks to them.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshwork_core::{InstanceId, ServiceName};
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services, Serving, Stats};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{self, Instant},
};

/// The most any wait of a test may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A running server and what a test asks it.
pub(crate) struct Fixture {
    pub(crate) serving: Serving,
    pub(crate) addr: SocketAddr,
    pub(crate) identity: Identity,
    pub(crate) health: Health,
    pub(crate) stats: Stats,
}

/// Serves `services` on a free port, as `users/users-1`.
pub(crate) async fn start(services: Services) -> Fixture {
    start_with(ServerConfig::default(), services).await
}

pub(crate) async fn start_with(config: ServerConfig, services: Services) -> Fixture {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    start_on(listener, config, services).await
}

pub(crate) async fn start_on(listener: Listener, config: ServerConfig, services: Services) -> Fixture {
    let (identity, health) = (Identity::new(), Health::new());
    identity.set([(&ServiceName::new("users").unwrap(), &InstanceId::new("users-1").unwrap())]);
    health.set_serving(true);
    let addr = listener.local_addr();
    let server = Server::new(config, identity.clone(), health.clone());
    let stats = server.stats();
    Fixture { serving: server.serve(listener, services), addr, identity, health, stats }
}

/// The default settings, changed.
pub(crate) fn config(change: impl FnOnce(&mut ServerConfig)) -> ServerConfig {
    let mut config = ServerConfig::default();
    change(&mut config);
    config
}

pub(crate) fn within(limit: Duration) -> Instant {
    Instant::now() + limit
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = within(LIMIT);
    while !condition() {
        assert!(Instant::now() < end, "timed out waiting until {what}");
        time::sleep(Duration::from_millis(2)).await;
    }
}

/// One raw HTTP/1 exchange on a connection of its own, as text.
pub(crate) async fn raw(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut stream).await
}

/// Everything until the other side closes; a reset ends it too.
pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end like any other here.
    drop(time::timeout(LIMIT, stream.read_to_end(&mut text)).await.expect("the server did not close"));
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads until `text` has come.
pub(crate) async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0; 1];
    while !String::from_utf8_lossy(&seen).contains(text) {
        let read = time::timeout(LIMIT, stream.read(&mut byte)).await.expect("timed out reading").unwrap();
        assert!(read > 0, "closed before {text:?}: {:?}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

pub(crate) type H2 = http2::SendRequest<Full<Bytes>>;

/// An HTTP/2 connection with prior knowledge.
pub(crate) async fn h2(addr: SocketAddr) -> H2 {
    let stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(format!("http://{addr}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

/// One exchange over HTTP/2: the head and the body as text.
pub(crate) async fn ask(
    client: &mut H2,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Empty<Bytes>>, String), hyper::Error> {
    let exchange = async {
        let (head, body) = client.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok((Response::from_parts(head, Empty::new()), String::from_utf8_lossy(&body).into_owned()))
    };
    time::timeout(LIMIT, exchange).await.expect("no answer in time")
}

pub(crate) fn header<'a, B>(response: &'a Response<B>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}
