//! Hostile peers, frame by frame: each costs its own callers a typed error and nobody else anything.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use meshwork_client::{CallError, CallErrorKind, Channel};
use meshwork_core::{Delivered, Verdict};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{JoinHandle, JoinSet},
    time::{self, Instant},
};
use tower_service::Service;

use crate::{
    echo::{client, text as message},
    peer::Peer,
    support::{LIMIT, MS, Registry, foreign, text, until},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a peer does. Requests get its frames as answer, but for those that say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evil {
    // From the connection's beginning.
    Noise,
    PingsAndNoSettings,
    ClosesAtOnce,
    AbsurdSettings,
    NoStreamsAllowed,
    // As answers.
    Silence,
    ShortWindowUpdate,
    DataOnNoStream,
    Push,
    HugeHeader,
    EndlessHeader,
    BadHpack,
    StatusTooLow,
    StatusTooHigh,
    NoStatus,
    ResetStorm,
    ResetMidway,
    PingFlood,
    SettingsFlood,
    EmptyFrames,
    LongBody,
    ShortBody,
    CloseMidway,
    CloseAfterEach,
    CalmDown,
    // As gRPC answers.
    TrailersWithoutStatus,
    NoTrailers,
    HeadAndNothing,
    CodeOutOfRange,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HPACK: a literal field, not indexed, with a new name.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        // An integer with a prefix of 7 bits.
        match text.len() {
            len @ 0..127 => field.push(len as u8),
            len => {
                field.push(127);
                let mut rest = len - 127;
                while rest >= 128 {
                    field.push((rest % 128) as u8 | 128);
                    rest /= 128;
                }
                field.push(rest as u8);
            }
        }
        field.extend(text.bytes());
    }
    field
}

/// `:status: 200` and these fields.
fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut head = vec![0x88];
    fields.iter().for_each(|(name, value)| head.extend(field(name, value)));
    head
}

fn ok(stream: u32) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, &head(&[])), frame(DATA, END_STREAM, stream, b"ok")].concat()
}

fn grpc_head(stream: u32) -> Vec<u8> {
    let fields = head(&[("content-type", "application/grpc")]);
    // An empty message follows: no compression, no length.
    [frame(HEADERS, END_HEADERS, stream, &fields), frame(DATA, 0, stream, &[0; 5])].concat()
}

/// A peer that does one evil to every connection and request.
struct Villain {
    addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Villain {
    async fn start(evil: Evil) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (accepted, asked) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let task = tokio::spawn({
            let (accepted, asked) = (Arc::clone(&accepted), Arc::clone(&asked));
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    accepted.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(attend(evil, stream, Arc::clone(&asked)));
                }
            }
        });
        Self { addr, accepted, asked, task }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Villain {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn attend(evil: Evil, stream: TcpStream, asked: Arc<AtomicUsize>) {
    stream.set_nodelay(true).unwrap();
    let (mut from, mut to) = stream.into_split();
    let beginning = match evil {
        Evil::Noise => b"220 mail.test ESMTP\r\n".repeat(4),
        Evil::PingsAndNoSettings => frame(PING, 0, 0, &[0; 8]).repeat(10),
        Evil::ClosesAtOnce => return,
        // INITIAL_WINDOW_SIZE above 2^31 - 1.
        Evil::AbsurdSettings => frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        Evil::NoStreamsAllowed => frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0]),
        _ => frame(SETTINGS, 0, 0, &[]),
    };
    if to.write_all(&beginning).await.is_err() {
        return;
    }
    let mut preface = [0; 24];
    if from.read_exact(&mut preface).await.is_err() {
        return;
    }
    while let Some((kind, flags, stream)) = read(&mut from).await {
        match kind {
            SETTINGS if flags == 0 => drop(to.write_all(&frame(SETTINGS, 1, 0, &[])).await),
            HEADERS => {
                asked.fetch_add(1, Ordering::SeqCst);
                if !answer(evil, stream, &mut to).await {
                    return;
                }
            }
            _ => {}
        }
    }
}

/// The kind, flags and stream of the next frame.
async fn read(from: &mut OwnedReadHalf) -> Option<(u8, u8, u32)> {
    let mut head = [0; 9];
    from.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]])))
}

/// Answers a request; says whether the connection goes on.
async fn answer(evil: Evil, stream: u32, to: &mut OwnedWriteHalf) -> bool {
    let started = frame(HEADERS, END_HEADERS, stream, &head(&[]));
    let frames = match evil {
        Evil::ShortWindowUpdate => frame(WINDOW_UPDATE, 0, stream, &[0; 3]),
        Evil::DataOnNoStream => frame(DATA, 0, 0, b"x"),
        Evil::Push => frame(PUSH_PROMISE, END_HEADERS, stream, &[&[0, 0, 0, 2][..], &head(&[])].concat()),
        Evil::HugeHeader => huge_header(stream, 64),
        Evil::EndlessHeader => huge_header(stream, 1000),
        Evil::BadHpack => frame(HEADERS, END_HEADERS, stream, &[0xff; 20]),
        Evil::StatusTooLow => frame(HEADERS, END_HEADERS | END_STREAM, stream, &field(":status", "099")),
        Evil::StatusTooHigh => frame(HEADERS, END_HEADERS | END_STREAM, stream, &field(":status", "1200")),
        Evil::NoStatus => frame(HEADERS, END_HEADERS | END_STREAM, stream, &field("server", "evil")),
        Evil::ResetStorm => frame(RST_STREAM, 0, stream, &[0, 0, 0, 2]).repeat(100_000),
        Evil::ResetMidway => {
            [started, frame(DATA, 0, stream, b"part"), frame(RST_STREAM, 0, stream, &[0, 0, 0, 2])].concat()
        }
        Evil::PingFlood => [frame(PING, 0, 0, &[7; 8]).repeat(100_000), ok(stream)].concat(),
        Evil::SettingsFlood => [frame(SETTINGS, 0, 0, &[]).repeat(100_000), ok(stream)].concat(),
        Evil::EmptyFrames => {
            [started, frame(DATA, 0, stream, &[]).repeat(100_000), frame(DATA, END_STREAM, stream, b"ok")]
                .concat()
        }
        Evil::LongBody => {
            let announced = frame(HEADERS, END_HEADERS, stream, &head(&[("content-length", "2")]));
            [announced, frame(DATA, END_STREAM, stream, b"more than two")].concat()
        }
        Evil::ShortBody => {
            let announced = frame(HEADERS, END_HEADERS, stream, &head(&[("content-length", "20")]));
            [announced, frame(DATA, END_STREAM, stream, b"less")].concat()
        }
        Evil::CloseMidway => [started, frame(DATA, 0, stream, b"part")].concat(),
        // ENHANCE_YOUR_CALM, no stream was seen.
        Evil::CalmDown => frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]),
        Evil::TrailersWithoutStatus => {
            let trailers = frame(HEADERS, END_HEADERS | END_STREAM, stream, &field("x-checksum", "1"));
            [grpc_head(stream), trailers].concat()
        }
        Evil::NoTrailers => [grpc_head(stream), frame(DATA, END_STREAM, stream, &[])].concat(),
        Evil::HeadAndNothing => {
            let fields = head(&[("content-type", "application/grpc")]);
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields)
        }
        Evil::CodeOutOfRange => {
            let trailers = frame(HEADERS, END_HEADERS | END_STREAM, stream, &field("grpc-status", "99"));
            [grpc_head(stream), trailers].concat()
        }
        Evil::CloseAfterEach => ok(stream),
        _ => Vec::new(),
    };
    let sent = to.write_all(&frames).await.is_ok();
    if evil == Evil::CloseMidway {
        time::sleep(20 * MS).await;
    }
    sent && !matches!(evil, Evil::CloseMidway | Evil::CloseAfterEach | Evil::CalmDown)
}

/// A header of `blocks` × 16 KiB in CONTINUATION frames that never say it is complete before the last.
fn huge_header(stream: u32, blocks: usize) -> Vec<u8> {
    let block = field("x-huge", &"x".repeat(16_000));
    let mut frames = frame(HEADERS, END_STREAM, stream, &head(&[]));
    for nth in 1..=blocks {
        let flags = if nth == blocks { END_HEADERS } else { 0 };
        frames.extend(frame(CONTINUATION, flags, stream, &block));
    }
    frames
}

/// A channel to a villain and to an honest peer.
struct Scene {
    villain: Villain,
    honest: Peer,
    channel: Channel,
    _registry: Registry,
}

impl Scene {
    async fn of(evil: Evil) -> Self {
        let (villain, honest) = (Villain::start(evil).await, Peer::foreign("honest").await);
        let records = [foreign("evil", "grpc", villain.addr), foreign("honest", "grpc", honest.addr)];
        let registry = Registry::of(records);
        let channel = registry.channel_with(|config| config.connect_timeout = 300 * MS);
        Self { villain, honest, channel, _registry: registry }
    }

    /// Calls the villain, and its body too.
    async fn ask(&self) -> Result<String, CallError> {
        self.ask_within(LIMIT).await
    }

    async fn ask_within(&self, limit: Duration) -> Result<String, CallError> {
        text(self.channel.to_instance("evil").timeout(limit).post("/").body("x")).await
    }

    /// Calls that may go anywhere else do not suffer.
    async fn neighbours_are_unharmed(&self) {
        let honest = self.channel.to_instance("honest");
        for _ in 0..20 {
            assert_eq!(text(honest.post("/")).await.unwrap(), "honest");
        }
        let nodes = self.channel.nodes();
        let honest = nodes.iter().find(|node| node.instance.id.as_str() == "honest").unwrap();
        assert_eq!((honest.failures, honest.connects), (0, 1));
        assert_eq!(self.honest.connections(), 1);
        let begun = Instant::now();
        until("nothing is left in flight", || self.channel.nodes().iter().all(|node| node.inflight == 0))
            .await;
        assert!(begun.elapsed() < Duration::from_secs(4));
    }
}

async fn fails(evil: Evil, kind: CallErrorKind, delivered: Delivered) {
    let scene = Scene::of(evil).await;
    let limit = if kind == CallErrorKind::Deadline { 300 * MS } else { LIMIT };
    for _ in 0..3 {
        let error = scene.ask_within(limit).await.expect_err(&format!("{evil:?} was taken for an answer"));
        assert_eq!((error.kind(), error.delivered()), (kind, delivered), "{evil:?}: {error}");
        assert!(!error.attempts().is_empty(), "{evil:?}: {error}");
        assert!(error.to_string().contains(&scene.villain.addr.to_string()), "{evil:?}: {error}");
    }
    scene.neighbours_are_unharmed().await;
}

#[tokio::test]
async fn a_peer_that_does_not_begin_well_is_no_connection() {
    for evil in [Evil::Noise, Evil::ClosesAtOnce, Evil::AbsurdSettings] {
        let scene = Scene::of(evil).await;
        for _ in 0..3 {
            let error = scene.ask().await.expect_err("no connection");
            // Either the dial failed, or the connection before its first call.
            assert_eq!(error.delivered(), Delivered::No, "{evil:?}: {error}");
            assert!(
                matches!(
                    error.kind(),
                    CallErrorKind::Connect | CallErrorKind::Transport | CallErrorKind::Deadline
                ),
                "{evil:?}: {error}"
            );
        }
        scene.neighbours_are_unharmed().await;
        assert!(scene.villain.accepted() <= 12, "{evil:?} was dialled {} times", scene.villain.accepted());
    }
}

#[tokio::test]
async fn a_peer_that_allows_no_stream_gets_none_and_its_calls_end() {
    let scene = Scene::of(Evil::NoStreamsAllowed).await;
    for _ in 0..2 {
        let error = scene.ask_within(300 * MS).await.unwrap_err();
        assert_eq!((error.kind(), error.delivered()), (CallErrorKind::Deadline, Delivered::No), "{error}");
    }
    assert_eq!(scene.villain.asked.load(Ordering::SeqCst), 0);
    assert!(scene.villain.accepted() <= 5, "{}", scene.villain.accepted());
    scene.neighbours_are_unharmed().await;
}

#[tokio::test]
async fn broken_frames_and_heads_may_have_been_delivered() {
    for evil in [
        Evil::ShortWindowUpdate,
        Evil::DataOnNoStream,
        Evil::Push,
        Evil::HugeHeader,
        Evil::BadHpack,
        Evil::StatusTooLow,
        Evil::StatusTooHigh,
        Evil::NoStatus,
        Evil::ResetStorm,
    ] {
        fails(evil, CallErrorKind::Transport, Delivered::Maybe).await;
    }
}

#[tokio::test]
async fn a_header_without_end_is_cut_off() {
    fails(Evil::EndlessHeader, CallErrorKind::Transport, Delivered::Maybe).await;
}

#[tokio::test]
async fn bodies_that_lie_or_break_off_are_errors() {
    for evil in [Evil::ResetMidway, Evil::LongBody, Evil::ShortBody, Evil::CloseMidway] {
        fails(evil, CallErrorKind::Transport, Delivered::Maybe).await;
    }
}

#[tokio::test]
async fn a_peer_that_never_answers_costs_the_time_allowed() {
    for evil in [Evil::Silence, Evil::PingsAndNoSettings] {
        fails(evil, CallErrorKind::Deadline, Delivered::Maybe).await;
    }
}

#[tokio::test]
async fn a_goaway_to_every_stream_delivers_nothing() {
    fails(Evil::CalmDown, CallErrorKind::Transport, Delivered::No).await;
}

#[tokio::test]
async fn floods_are_waded_through_or_cut_off() {
    for evil in [Evil::PingFlood, Evil::SettingsFlood, Evil::EmptyFrames] {
        let scene = Scene::of(evil).await;
        match scene.ask_within(2 * LIMIT).await {
            Ok(body) => assert_eq!(body, "ok", "{evil:?}"),
            Err(error) => assert_eq!(error.kind(), CallErrorKind::Transport, "{evil:?}: {error}"),
        }
        scene.neighbours_are_unharmed().await;
    }
}

#[tokio::test]
async fn a_peer_that_closes_after_each_answer_fails_no_call() {
    let scene = Scene::of(Evil::CloseAfterEach).await;
    for _ in 0..30 {
        assert_eq!(scene.ask().await.unwrap(), "ok");
    }
    scene.neighbours_are_unharmed().await;
}

#[tokio::test]
async fn a_grpc_answer_without_status_is_an_error_of_ours() {
    for evil in [Evil::TrailersWithoutStatus, Evil::NoTrailers, Evil::HeadAndNothing] {
        let scene = Scene::of(evil).await;
        let status = client(&scene.channel.to_instance("evil")).unary(message("x")).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal, "{evil:?}: {status}");
        let error = CallError::of(&status).unwrap_or_else(|| panic!("{evil:?}: not ours: {status}"));
        assert_eq!((error.kind(), error.delivered()), (CallErrorKind::Transport, Delivered::Maybe));
        assert!(error.to_string().contains("it tells no grpc-status"), "{error}");
        assert_eq!(error.attempts().len(), 1);
        let nodes = scene.channel.nodes();
        assert_eq!((nodes[0].failures, nodes[0].inflight), (1, 0), "{evil:?}");
        scene.neighbours_are_unharmed().await;
    }
}

#[tokio::test]
async fn a_grpc_code_out_of_range_is_unknown_and_the_nodes_failure() {
    let scene = Scene::of(Evil::CodeOutOfRange).await;
    let status = client(&scene.channel.to_instance("evil")).unary(message("x")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unknown);
    assert_eq!(scene.channel.nodes()[0].failures, 1);
}

#[tokio::test]
async fn a_raw_call_sees_the_end_of_a_broken_grpc_answer_as_an_error_once() {
    let scene = Scene::of(Evil::HeadAndNothing).await;
    let mut request = Request::post("/a.B/C").body(Full::new(Bytes::new())).unwrap();
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let mut body = scene.channel.to_instance("evil").call(request).await.unwrap().into_body();
    assert!(!http_body::Body::is_end_stream(&body));
    assert!(body.frame().await.unwrap().is_err());
    assert!(body.frame().await.is_none());
}

/// Sends this as the answer to every HTTP/1.1 request.
async fn http1(answer: &'static [u8]) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    if stream.write_all(answer).await.is_err() || !answer.ends_with(b"\n") {
                        return;
                    }
                }
            });
        }
    });
    (addr, task)
}

#[tokio::test]
async fn broken_http1_answers_are_errors_and_are_not_asked_for_twice() {
    let huge =
        [b"HTTP/1.1 200 OK\r\nx-huge: ".to_vec(), vec![b'x'; 1024 * 1024], b"\r\n\r\n".to_vec()].concat();
    let answers: [&'static [u8]; 7] = [
        b"220 mail.test ESMTP\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nless",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nno number\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        huge.leak(),
    ];
    let honest = Peer::foreign("honest").await;
    for answer in answers {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        let (addr, _task) = http1(answer).await;
        let records = [foreign("evil", "http", addr), foreign("honest", "http", honest.addr)];
        let channel = Registry::of(records).channel();
        for _ in 0..2 {
            let error =
                text(channel.to_instance("evil").timeout(500 * MS).post("/")).await.expect_err(&shown);
            assert_eq!(error.delivered(), Delivered::Maybe, "{shown}: {error}");
            assert!(matches!(error.kind(), CallErrorKind::Transport), "{shown}: {error}");
        }
        assert_eq!(text(channel.to_instance("honest").post("/")).await.unwrap(), "honest");
    }
}

#[tokio::test]
async fn an_answer_nobody_asked_for_is_never_given_to_the_next_call() {
    let (addr, _task) = http1(
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nevil\n",
    )
    .await;
    let channel = Registry::of([foreign("evil", "http", addr)]).channel();
    for _ in 0..20 {
        match text(channel.get("/")).await {
            Ok(body) => assert_eq!(body, "ok\n"),
            Err(error) => assert_eq!(error.kind(), CallErrorKind::Transport, "{error}"),
        }
    }
}
