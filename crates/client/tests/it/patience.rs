//! Long times in a few moments: over wires in memory the clock runs as fast as the tests allow.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use meshwork_client::{CallError, CallErrorKind, Connect, Connected};
use meshwork_core::{AddressRules, BoxFuture, Endpoint, Instance};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    task::JoinSet,
    time::{self, Instant},
};

use crate::support::{Registry, foreign, native, text};

const SECOND: Duration = Duration::from_secs(1);
const PING: u8 = 6;

/// Connections in memory to HTTP/2 servers behind every address; each dial is noted.
#[derive(Clone, Default)]
struct Wires(Arc<State>);

#[derive(Default)]
struct State {
    dials: Mutex<Vec<(Instant, u16)>>,
    refusing: AtomicBool,
    /// Frames of each kind that clients sent, but for acknowledgements.
    frames: Mutex<[usize; 16]>,
    confirmations: Mutex<Vec<Instant>>,
}

impl Wires {
    /// Dials of a port since then, in seconds.
    fn dials(&self, port: u16, since: Instant) -> Vec<f64> {
        let dials = self.0.dials.lock().unwrap();
        dials
            .iter()
            .filter(|(at, to)| *to == port && *at >= since)
            .map(|(at, _)| (*at - since).as_secs_f64())
            .collect()
    }

    fn frames(&self, kind: u8) -> usize {
        self.0.frames.lock().unwrap()[usize::from(kind)]
    }

    fn refuse(&self, refusing: bool) {
        self.0.refusing.store(refusing, Ordering::SeqCst);
    }
}

impl Connect for Wires {
    fn connect<'a>(
        &'a self,
        to: &'a Endpoint,
        _rules: &'a AddressRules,
    ) -> BoxFuture<'a, Result<Connected, CallError>> {
        Box::pin(async move {
            self.0.dials.lock().unwrap().push((Instant::now(), to.port()));
            if self.0.refusing.load(Ordering::SeqCst) {
                let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
                return Err(CallError::new(CallErrorKind::Connect, "connecting").with_source(refused));
            }
            let (near, far) = tokio::io::duplex(64 * 1024);
            let tap = Tap { stream: far, state: Arc::clone(&self.0), head: Vec::new(), skip: 24 };
            tokio::spawn(serve(tap, Arc::clone(&self.0)));
            Ok(Connected::new(Box::new(near)))
        })
    }
}

async fn serve(stream: Tap, state: Arc<State>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut open = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        match request.uri().path() {
            "/.meshwork/is" => {
                state.confirmations.lock().unwrap().push(Instant::now());
                let to = request.headers()["meshwork-to"].clone();
                let answer = Response::builder().status(204).header("meshwork-is", to).body(()).unwrap();
                let _gone = respond.send_response(answer, true);
            }
            "/hang" => drop(open.spawn(async move {
                let _respond = respond;
                std::future::pending::<()>().await;
            })),
            _ => {
                if let Ok(mut body) = respond.send_response(Response::new(()), false) {
                    let _gone = body.send_data(Bytes::from_static(b"ok"), true);
                }
            }
        }
    }
}

/// The server's end, which counts the frames that come.
struct Tap {
    stream: DuplexStream,
    state: Arc<State>,
    head: Vec<u8>,
    skip: usize,
}

impl Tap {
    fn look(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let wanted = (9 - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if let [high, middle, low, kind, flags, ..] = self.head[..]
                && self.head.len() == 9
            {
                let is_answer = (kind == 4 || kind == PING) && flags & 1 == 1;
                self.state.frames.lock().unwrap()[usize::from(kind)] += usize::from(!is_answer);
                self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.head.clear();
            }
        }
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.look(&buf.filled()[before..]);
        read
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn at(port: u16) -> std::net::SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn on(wires: &Wires) -> impl FnOnce(&mut meshwork_client::ClientConfig) + use<> {
    let connect = Arc::new(wires.clone());
    move |config| config.connect = connect
}

/// grpc-go closes a connection for its third ping within 5 min (with an open stream or without), grpc-core for its
/// third without data in between: what sends none is never closed for it.
#[tokio::test(start_paused = true)]
async fn a_foreign_server_gets_no_ping_in_fifteen_minutes_idle_or_busy() {
    let wires = Wires::default();
    let channel = Registry::of([foreign("users-1", "grpc", at(1))]).channel_with(on(&wires));
    assert_eq!(text(channel.post("/")).await.unwrap(), "ok");
    time::sleep(15 * 60 * SECOND).await;
    let silent = tokio::spawn(text(channel.timeout(3600 * SECOND).post("/hang")));
    for _ in 0..15 * 60 {
        assert_eq!(text(channel.post("/")).await.unwrap(), "ok");
        time::sleep(SECOND).await;
    }
    // With nothing but the open stream.
    time::sleep(15 * 60 * SECOND).await;
    silent.abort();
    assert_eq!(wires.frames(PING), 0);
    let node = &channel.nodes()[0];
    assert_eq!((node.connects, node.failures), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_native_instance_is_asked_for_a_sign_of_life_only_when_it_is_silent_and_never_more_often() {
    let wires = Wires::default();
    let channel = Registry::of([native("users-1", "http", at(1))]).channel_with(on(&wires));
    assert_eq!(text(channel.post("/")).await.unwrap(), "ok");
    for (pause, asked) in [(SECOND, 0..=1), (15 * 60 * SECOND, 85..=121)] {
        wires.0.confirmations.lock().unwrap().clear();
        let begun = Instant::now();
        while begun.elapsed() < 15 * 60 * SECOND {
            assert_eq!(text(channel.post("/")).await.unwrap(), "ok");
            time::sleep(pause).await;
        }
        let times = wires.0.confirmations.lock().unwrap().clone();
        assert!(asked.contains(&times.len()), "asked {} times", times.len());
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.min().is_none_or(|least| least >= Duration::from_millis(7400)), "{times:?}");
    }
    assert_eq!((wires.frames(PING), channel.nodes()[0].connects), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_without_the_callee_cost_a_dial_each_few_seconds_and_then_calls_go_on() {
    let wires = Wires::default();
    wires.refuse(true);
    let begun = Instant::now();
    let channel = Registry::of([foreign("users-1", "grpc", at(1))]).channel_with(on(&wires));
    while begun.elapsed() < 10 * 60 * SECOND {
        let error = text(channel.post("/")).await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Connect, "{error}");
    }
    let dials = wires.dials(1, begun);
    assert!((100..=160).contains(&dials.len()), "{} dials", dials.len());
    let within_a_second = dials.windows(6).filter(|some| some[5] - some[0] < 1.0).count();
    assert_eq!(within_a_second, 0, "more than a few within a second: {dials:?}");
    wires.refuse(false);
    let back = Instant::now();
    assert_eq!(text(channel.wait_for_ready(true).timeout(60 * SECOND).post("/")).await.unwrap(), "ok");
    assert!(back.elapsed() <= 6 * SECOND, "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn connections_grow_old_at_different_times() {
    const NODES: u16 = 20;
    let wires = Wires::default();
    let begun = Instant::now();
    let records = (1..=NODES).map(|nth| foreign(&format!("users-{nth}"), "grpc", at(nth)));
    let channel = Registry::of(records.collect::<Vec<Instance>>()).channel_with(|config| {
        on(&wires)(config);
        config.max_age = Some(100 * SECOND);
    });
    for _ in 0..150 {
        assert_eq!(text(channel.post("/")).await.unwrap(), "ok");
        time::sleep(SECOND).await;
    }
    let mut replaced = Vec::new();
    for port in 1..=NODES {
        let dials = wires.dials(port, begun);
        assert_eq!(dials.len(), 2, "of {port}: {dials:?}");
        replaced.push(dials[1]);
    }
    replaced.sort_by(f64::total_cmp);
    let (first, last) = (replaced[0], replaced[usize::from(NODES) - 1]);
    assert!(first >= 90.0 && last <= 111.0, "{replaced:?}");
    assert!(last - first > 5.0, "all at once: {replaced:?}");
    assert!(channel.nodes().iter().all(|node| node.connects == 1 && node.failures == 0));
}

#[tokio::test(start_paused = true)]
async fn half_of_the_nodes_leaving_at_once_are_never_dialled_again() {
    let wires = Wires::default();
    let record = |nth: u16| foreign(&format!("users-{nth}"), "grpc", at(nth));
    let registry = Registry::of((1..=10).map(record));
    let channel = registry.channel_with(on(&wires));
    channel.ready().await.unwrap();
    time::sleep(SECOND).await;
    wires.refuse(true);
    // They are gone before the registry says so.
    registry.set((1..=5).map(record));
    let left = Instant::now();
    for _ in 0..100 {
        assert_eq!(text(channel.post("/")).await.unwrap(), "ok");
        time::sleep(SECOND).await;
    }
    for port in 6..=10 {
        assert_eq!(wires.dials(port, left), Vec::<f64>::new());
    }
}
