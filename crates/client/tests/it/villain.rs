//! Peers that do one evil to every connection and request, frame by frame; and HTTP/1.1 servers that do.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{JoinHandle, JoinSet},
    time,
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
pub(crate) enum Evil {
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

impl Evil {
    pub(crate) const ALL: [Self; 29] = [
        Self::Noise,
        Self::PingsAndNoSettings,
        Self::ClosesAtOnce,
        Self::AbsurdSettings,
        Self::NoStreamsAllowed,
        Self::Silence,
        Self::ShortWindowUpdate,
        Self::DataOnNoStream,
        Self::Push,
        Self::HugeHeader,
        Self::EndlessHeader,
        Self::BadHpack,
        Self::StatusTooLow,
        Self::StatusTooHigh,
        Self::NoStatus,
        Self::ResetStorm,
        Self::ResetMidway,
        Self::PingFlood,
        Self::SettingsFlood,
        Self::EmptyFrames,
        Self::LongBody,
        Self::ShortBody,
        Self::CloseMidway,
        Self::CloseAfterEach,
        Self::CalmDown,
        Self::TrailersWithoutStatus,
        Self::NoTrailers,
        Self::HeadAndNothing,
        Self::CodeOutOfRange,
    ];
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
pub(crate) struct Villain {
    pub(crate) addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Villain {
    pub(crate) async fn start(evil: Evil) -> Self {
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

    /// Connections accepted ever.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Requests ever.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
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
        time::sleep(Duration::from_millis(20)).await;
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

/// Sends this as the answer to every HTTP/1.1 request.
pub(crate) async fn http1(answer: &'static [u8]) -> (SocketAddr, JoinHandle<()>) {
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

/// HTTP/1.1 answers that are none.
pub(crate) fn http1_evils() -> [&'static [u8]; 7] {
    let huge =
        [b"HTTP/1.1 200 OK\r\nx-huge: ".to_vec(), vec![b'x'; 1024 * 1024], b"\r\n\r\n".to_vec()].concat();
    [
        b"220 mail.test ESMTP\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nless",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nno number\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        huge.leak(),
    ]
}
