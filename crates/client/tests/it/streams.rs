//! Long streams and large bodies: a GOAWAY costs nobody anything, and what is large passes in constant memory.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use meshwork_client::Channel;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{self, Instant},
};
use tower_service::Service;

use crate::support::{LIMIT, MS, Registry, foreign, tasks_left, text, until};

/// A socket that reads on to its end after it was closed, as servers must that close under load.
struct Lingering(Option<TcpStream>);

impl Lingering {
    fn inner(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.0.as_mut().unwrap())
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(mut stream) = self.0.take() else { return };
        tokio::spawn(async move {
            let _closed = stream.shutdown().await;
            let mut rest = vec![0; 4096];
            let reading = async { while let Ok(1..) = stream.read(&mut rest).await {} };
            let _late = time::timeout(Duration::from_secs(1), reading).await;
        });
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buf)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

/// An HTTP/2 server whose connections say GOAWAY at this age, though streams are open.
async fn ageing(age: Duration, connections: Arc<AtomicUsize>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            serving.spawn(serve(age, Lingering(Some(stream))));
        }
    });
    (addr, task)
}

async fn serve(age: Duration, stream: Lingering) {
    let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
        let body = match request.uri().path() {
            "/long" => Either::Left(StreamBody::new(words(8))),
            _ => Either::Right(Full::new(Bytes::from_static(b"ok"))),
        };
        Ok::<_, Infallible>(Response::new(body))
    });
    let builder = auto::Builder::new(TokioExecutor::new()).http2_only();
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = time::sleep(age) => connection.as_mut().graceful_shutdown(),
    }
    let _ended = connection.await;
}

/// A word each 50 ms.
fn words(count: usize) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::iter(0..count).then(|_| async {
        time::sleep(50 * MS).await;
        Ok(Frame::data("word ".into()))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goaways_with_streams_open_under_load_fail_no_call_and_no_stream() {
    let connections = Arc::default();
    let (addr, _server) = ageing(100 * MS, Arc::clone(&connections)).await;
    let before = tasks_left();
    let channel = Registry::of([foreign("users-1", "grpc", addr)]).channel();
    let end = Instant::now() + Duration::from_millis(1500);
    let mut streams = JoinSet::new();
    for nth in 0..4 {
        let channel = channel.clone();
        streams.spawn(async move {
            time::sleep(nth * 30 * MS).await;
            let mut all = 0;
            while Instant::now() < end {
                assert_eq!(text(channel.post("/long")).await.unwrap(), "word ".repeat(8));
                all += 1;
            }
            all
        });
    }
    let mut calls = JoinSet::new();
    while Instant::now() < end || calls.len() < 300 {
        // A POST is never retried.
        calls.spawn(text(channel.post("/")));
        time::sleep(MS).await;
    }
    let results = calls.join_all().await;
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {}", failed.len(), results.len(), failed[0]);
    assert!(streams.join_all().await.into_iter().sum::<i32>() >= 8);
    let connections = connections.load(Ordering::SeqCst);
    assert!(connections >= 5, "{connections} connections");
    drop(channel);
    until("nothing is left of it", || tasks_left() <= before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_closes_idle_connections_just_as_calls_come_fails_none_of_a_thousand() {
    // Each channel is idle for about as long as the peer keeps connections, a little more or less.
    const AGE: u64 = 150;
    let (addr, _server) = ageing(Duration::from_millis(AGE), Arc::default()).await;
    let mut channels = JoinSet::new();
    for nth in 0..40_u64 {
        // It waits for a connection however long that takes on a busy machine.
        let channel = Registry::of([foreign("users-1", "grpc", addr)]).channel().wait_for_ready(true);
        channels.spawn(async move {
            for call in 0..25 {
                // A POST is never retried: what is saved here was not delivered.
                assert_eq!(text(channel.post("/")).await.unwrap(), "ok");
                time::sleep(Duration::from_micros((AGE - 6) * 1000 + (nth * 25 + call) * 12)).await;
            }
            assert_eq!(channel.nodes()[0].failures, 0);
        });
    }
    channels.join_all().await;
}

const MIB: u64 = 1024 * 1024;
const CHUNK: u64 = 64 * 1024;
/// What may be under way between the two ends: windows, send buffers, the kernel's sockets.
const UNDER_WAY: u64 = 24 * MIB;

/// The size of a large body; `MESHWORK_BODY_MIB` sets another (1024 = the long version).
fn large() -> u64 {
    std::env::var("MESHWORK_BODY_MIB").map_or(64, |mib| mib.parse::<u64>().unwrap()) * MIB
}

/// How far the two ends of a body are.
#[derive(Default)]
struct Transfer {
    made: AtomicU64,
    taken: AtomicU64,
    most: AtomicU64,
    stopped: AtomicBool,
}

impl Transfer {
    /// A body of so many bytes, made as it is sent.
    fn body(
        self: &Arc<Self>,
        bytes: u64,
    ) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Send + use<> {
        let transfer = Arc::clone(self);
        let chunk = Bytes::from(vec![7; CHUNK as usize]);
        StreamBody::new(stream::iter(0..bytes / CHUNK).map(move |_| {
            let made = transfer.made.fetch_add(CHUNK, Ordering::SeqCst) + CHUNK;
            transfer.most.fetch_max(made - transfer.taken.load(Ordering::SeqCst), Ordering::SeqCst);
            Ok(Frame::data(chunk.clone()))
        }))
    }

    /// Reads a body to its end, after a pause in which the other end must stop.
    async fn take<B>(&self, mut body: B)
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Debug,
    {
        let mut taken = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.iter().all(|byte| *byte == 7));
            taken += data.len() as u64;
            self.taken.store(taken, Ordering::SeqCst);
            if taken >= 2 * MIB && !self.stopped.swap(true, Ordering::SeqCst) {
                time::sleep(100 * MS).await;
            }
        }
    }

    fn check(&self, bytes: u64) {
        let (made, taken, most) = (&self.made, &self.taken, &self.most);
        assert_eq!((made.load(Ordering::SeqCst), taken.load(Ordering::SeqCst)), (bytes, bytes));
        let most = most.load(Ordering::SeqCst);
        assert!(most < UNDER_WAY, "{} MiB were under way", most / MIB);
        assert!(self.stopped.load(Ordering::SeqCst));
    }
}

/// A server that takes the body of a POST, and answers a GET with a large one.
async fn bulk(up: Arc<Transfer>, down: Arc<Transfer>, bytes: u64) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (up, down) = (Arc::clone(&up), Arc::clone(&down));
            serving.spawn(async move {
                let service = hyper::service::service_fn(|request: Request<Incoming>| {
                    let (up, down) = (Arc::clone(&up), Arc::clone(&down));
                    async move {
                        let body = if request.method() == http::Method::POST {
                            up.take(request.into_body()).await;
                            Either::Left(Full::new(Bytes::from_static(b"taken")))
                        } else {
                            Either::Right(down.body(bytes))
                        };
                        Ok::<_, Infallible>(Response::new(body))
                    }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (addr, task)
}

async fn post(channel: &Channel, transfer: &Arc<Transfer>, bytes: u64) {
    let request = Request::post("/").body(transfer.body(bytes)).unwrap();
    let answer = channel.clone().call(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_up_and_down_in_constant_memory() {
    let bytes = large();
    for scheme in ["grpc", "http"] {
        let (up, down) = (Arc::<Transfer>::default(), Arc::<Transfer>::default());
        let (addr, _server) = bulk(Arc::clone(&up), Arc::clone(&down), bytes).await;
        let channel = Registry::of([foreign("users-1", scheme, addr)]).channel();
        let both = async {
            post(&channel, &up, bytes).await;
            let answer = channel.get("/").send().await.unwrap();
            down.take(answer.into_inner().into_body()).await;
        };
        time::timeout(LIMIT * (1 + bytes.div_ceil(64 * MIB) as u32), both).await.expect("bodies that end");
        up.check(bytes);
        down.check(bytes);
        assert_eq!(channel.nodes()[0].failures, 0);
    }
}
