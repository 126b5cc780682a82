//! Against real sockets: an echo server behind the proxy, a plain client before it.

use std::{io, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{self, timeout},
};

use super::*;
use crate::truth::eventually;

const LIMIT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(100);

/// A server that sends back what it reads, and says goodbye when its client has ended.
struct Echo {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serve = async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                        let _ = to.write_all(b"bye").await;
                    }
                });
            }
        };
        Self { addr, task: tokio::spawn(serve) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn exchange(client: &mut TcpStream, text: &str) -> io::Result<String> {
    client.write_all(text.as_bytes()).await?;
    read(client, text.len()).await
}

async fn read(client: &mut TcpStream, length: usize) -> io::Result<String> {
    let mut bytes = vec![0; length];
    timeout(LIMIT, client.read_exact(&mut bytes)).await??;
    Ok(String::from_utf8(bytes).unwrap())
}

async fn is_silent(client: &mut TcpStream) -> bool {
    timeout(SILENCE, client.read_u8()).await.is_err()
}

async fn set_up() -> (Echo, FaultProxy, TcpStream) {
    let echo = Echo::start().await;
    let proxy = FaultProxy::start(echo.addr).await.unwrap();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(exchange(&mut client, "hello").await.unwrap(), "hello");
    (echo, proxy, client)
}

#[tokio::test]
async fn forwards_and_counts() {
    let (_echo, proxy, mut client) = set_up().await;
    client.shutdown().await.unwrap();
    assert_eq!(read(&mut client, 3).await.unwrap(), "bye");
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    eventually(LIMIT, "the connection has ended", || async { proxy.traffic().open == 0 }).await.unwrap();
    let traffic = proxy.traffic();
    assert_eq!((traffic.connections, traffic.bytes_to_server, traffic.bytes_to_client), (1, 5, 8));
}

#[tokio::test]
async fn delays_each_way() {
    let (_echo, proxy, mut client) = set_up().await;
    proxy.delay(Toward::Server, Duration::from_millis(60));
    proxy.delay(Toward::Client, Duration::from_millis(40));
    let begun = Instant::now();
    assert_eq!(exchange(&mut client, "late").await.unwrap(), "late");
    assert!(begun.elapsed() >= Duration::from_millis(100));
    proxy.heal();
    assert_eq!(exchange(&mut client, "soon").await.unwrap(), "soon");
}

#[tokio::test]
async fn slows_to_a_rate() {
    let (_echo, proxy, mut client) = set_up().await;
    proxy.slow(Toward::Client, NonZeroU64::new(10_000));
    let begun = Instant::now();
    let text = "x".repeat(3_000);
    assert_eq!(exchange(&mut client, &text).await.unwrap(), text);
    // The first portion passes at once.
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_black_hole_delivers_after_it_is_healed() {
    let (_echo, proxy, mut client) = set_up().await;
    proxy.black_hole(Toward::Server);
    client.write_all(b"wait").await.unwrap();
    assert!(is_silent(&mut client).await);
    assert_eq!(proxy.traffic().bytes_to_server, 5);
    proxy.heal();
    assert_eq!(read(&mut client, 4).await.unwrap(), "wait");
}

#[tokio::test]
async fn a_black_hole_hides_new_connections_from_the_server() {
    let (_echo, proxy, _client) = set_up().await;
    proxy.black_hole(Toward::Both);
    let mut late = TcpStream::connect(proxy.addr()).await.unwrap();
    late.write_all(b"hello").await.unwrap();
    assert!(is_silent(&mut late).await);
    proxy.heal();
    assert_eq!(read(&mut late, 5).await.unwrap(), "hello");
}

#[tokio::test]
async fn swallowed_bytes_are_lost_for_good() {
    let (_echo, proxy, mut client) = set_up().await;
    proxy.swallow(Toward::Client);
    client.write_all(b"lost").await.unwrap();
    eventually(LIMIT, "the server has it", || async { proxy.traffic().bytes_to_server == 9 }).await.unwrap();
    assert!(is_silent(&mut client).await);
    proxy.heal();
    assert_eq!(exchange(&mut client, "kept").await.unwrap(), "kept");
}

#[tokio::test]
async fn a_cut_resets_what_is_open_and_takes_new_connections() {
    let (_echo, proxy, mut client) = set_up().await;
    proxy.cut().await.unwrap();
    assert_eq!(proxy.traffic().open, 0);
    assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let mut again = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(exchange(&mut again, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_cut_also_ends_what_is_black_holed() {
    let (_echo, proxy, mut client) = set_up().await;
    proxy.black_hole(Toward::Both);
    proxy.cut().await.unwrap();
    assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn refuses_new_connections_and_keeps_the_open_ones() {
    let (_echo, proxy, mut client) = set_up().await;
    proxy.refuse().await.unwrap();
    let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(exchange(&mut client, "still").await.unwrap(), "still");
    proxy.accept().await.unwrap();
    TcpStream::connect(proxy.addr()).await.unwrap();
}

#[tokio::test]
async fn counts_the_connections_it_resets_at_the_door() {
    let (_echo, proxy, _client) = set_up().await;
    proxy.reset_new().await.unwrap();
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(new.read_u8().await.is_err());
    assert_eq!(proxy.traffic().connections, 2);
}

#[tokio::test]
async fn half_closes_one_way_while_the_other_goes_on() {
    let (_echo, proxy, mut client) = set_up().await;
    proxy.half_close(Toward::Server);
    // The server has read the end and says goodbye; what we send is lost.
    assert_eq!(read(&mut client, 3).await.unwrap(), "bye");
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    client.write_all(b"lost").await.unwrap();
    // Later connections are whole.
    let mut again = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(exchange(&mut again, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn an_unreachable_server_resets_its_clients() {
    let port = Port::claim().unwrap();
    let proxy = FaultProxy::start(port.addr()).await.unwrap();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(client.read_u8().await.is_err());
    assert_eq!(proxy.traffic().unreachable, 1);

    let echo = Echo::start().await;
    proxy.redirect(echo.addr);
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(exchange(&mut client, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn dropping_the_proxy_resets_its_clients() {
    let (_echo, proxy, mut client) = set_up().await;
    drop(proxy);
    let read = time::timeout(LIMIT, client.read_u8()).await.unwrap();
    assert!(read.is_err());
}
