//! What channels leave behind when they are built, used and dropped, and what floods of peers can make them hold.
//! In a process of its own, one thing after another, because it counts the files, tasks and memory of the process.
//!
//! `MESHWORK_LIVES=10000 cargo test -p meshwork-client --test lifetime -- --nocapture` is the long version.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

use std::{convert::Infallible, fs, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use meshwork_client::{Channel, ClientConfig};
use meshwork_core::{Instance, InstanceId, Origin, ServiceName, Watch};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::{Handle, Runtime},
    task::JoinSet,
    time::{self, Instant},
};

const MS: Duration = Duration::from_millis(1);
const MIB: usize = 1024 * 1024;

/// What the process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    files: usize,
    tasks: usize,
}

fn held() -> Held {
    let files = fs::read_dir("/proc/self/fd").unwrap().count();
    Held { files, tasks: Handle::current().metrics().num_alive_tasks() }
}

/// The memory of the process in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

async fn until_as_before(before: Held) {
    let end = Instant::now() + Duration::from_secs(20);
    while held() != before {
        assert!(Instant::now() < end, "{:?} is left of {before:?}", held());
        time::sleep(10 * MS).await;
    }
}

/// A server of HTTP/1.1 and HTTP/2 that says it is `users/users-1`.
async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut builder = auto::Builder::new(TokioExecutor::new());
                builder.http2().max_concurrent_streams(20_000);
                let service = hyper::service::service_fn(answer);
                let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    addr
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/slow" {
        time::sleep(20 * MS).await;
    }
    let mut answer = Response::new(Full::from("ok"));
    answer.headers_mut().insert("meshwork-is", "users/users-1".parse().unwrap());
    Ok(answer)
}

fn record(name: &str, scheme: &str, addr: SocketAddr) -> Arc<Instance> {
    let service = ServiceName::new("users").unwrap();
    let mut instance = Instance::with_id(service, InstanceId::new(name).unwrap());
    instance.endpoints.push(format!("{scheme}://{addr}").parse().unwrap());
    if name != "users-1" {
        instance.origin = Origin::Foreign;
    }
    Arc::new(instance)
}

fn channel(records: &[Arc<Instance>]) -> Channel {
    let watch = Watch::fixed(records.into());
    Channel::new(ServiceName::new("users").unwrap(), watch, ClientConfig::default())
}

async fn ok(channel: &Channel, path: &str) {
    let answer = channel.post(path).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "ok");
}

/// Builds, calls, idles and drops: in several ways.
async fn live(nth: usize, records: &[Arc<Instance>]) {
    let channel = channel(records);
    match nth % 8 {
        // Never called.
        0 => {}
        1 => channel.ready().await.unwrap(),
        2 => {
            // Dropped under calls, whose callers are gone too.
            let call = tokio::spawn({
                let channel = channel.clone();
                async move { ok(&channel, "/slow").await }
            });
            time::sleep(5 * MS).await;
            call.abort();
        }
        3 => {
            // The body outlives the channel.
            let answer = channel.post("/").send().await.unwrap();
            drop(channel);
            assert_eq!(answer.text().await.unwrap(), "ok");
        }
        4 => {
            ok(&channel, "/").await;
            assert!(channel.close().await);
        }
        _ => {
            for _ in 0..3 {
                ok(&channel, "/").await;
            }
            time::sleep(2 * MS).await;
            ok(&channel, "/").await;
        }
    }
}

async fn lives(count: usize, records: &Arc<[Arc<Instance>]>) {
    let mut alive = JoinSet::new();
    for nth in 0..count {
        let records = Arc::clone(records);
        alive.spawn(async move { live(nth, &records).await });
        if alive.len() >= 8 {
            alive.join_next().await.unwrap().unwrap();
        }
    }
    alive.join_all().await;
}

async fn channels_leave_nothing_behind() {
    let count = std::env::var("MESHWORK_LIVES").map_or(200, |lives| lives.parse().unwrap());
    let addr = serve().await;
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let schemes = [("users-1", "http"), ("users-2", "http"), ("users-3", "grpc")];
    let mut records: Vec<_> = schemes.iter().map(|(name, scheme)| record(name, scheme, addr)).collect();
    records.push(record("users-4", "grpc", refused));
    let records: Arc<[_]> = records.into();
    time::sleep(20 * MS).await;
    let before = held();
    lives(100, &records).await;
    until_as_before(before).await;
    let settled = resident();
    lives(count, &records).await;
    until_as_before(before).await;
    let grown = resident().saturating_sub(settled);
    println!("{count} lives: {} KiB more, {:?} as before", grown / 1024, before);
    assert!(grown < 8 * MIB, "{} KiB more after {count} lives", grown / 1024);
}

async fn a_burst_is_forgotten() {
    let count = if std::env::var("MESHWORK_LIVES").is_ok() { 10_000 } else { 1000 };
    let addr = serve().await;
    time::sleep(20 * MS).await;
    let before = held();
    // The time allowed is not what is tested.
    let channel = channel(&[record("users-1", "http", addr)]).timeout(Duration::from_secs(300));
    ok(&channel, "/").await;
    // The task of the call is about to end.
    time::sleep(50 * MS).await;
    let connected = held();
    let mut after = Vec::new();
    for _ in 0..6 {
        let mut calls = JoinSet::new();
        for _ in 0..count {
            let channel = channel.clone();
            calls.spawn(async move { ok(&channel, "/slow").await });
        }
        calls.join_all().await;
        until_as_before(connected).await;
        after.push(resident());
    }
    println!(
        "after each burst of {count} calls: {:?} KiB",
        after.iter().map(|held| held / 1024).collect::<Vec<_>>()
    );
    // The allocator needs a few until it has the room that it then uses again.
    let (early, late) = (after[..3].iter().max().unwrap(), after[3..].iter().min().unwrap());
    assert!(*late < early + 8 * MIB, "{after:?} bytes after each burst");
    drop(channel);
    until_as_before(before).await;
}

/// Sends this for ever once a request came, and never reads again.
async fn flood(frame: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _sent = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
                // The preface, and in the next the request.
                for _ in 0..2 {
                    let _read = stream.read(&mut buffer).await;
                }
                let frames = frame.repeat(1000);
                while stream.write_all(&frames).await.is_ok() {}
            });
        }
    });
    addr
}

async fn a_flood_that_nobody_can_answer_is_not_kept() {
    const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const WINDOW_UPDATE: &[u8] = &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const RST_STREAM: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
    for frame in [PING, SETTINGS, WINDOW_UPDATE, RST_STREAM] {
        let addr = flood(frame).await;
        let channel = channel(&[record("users-2", "grpc", addr)]);
        let before = resident();
        let call = channel.timeout(500 * MS).post("/").send().await;
        let grown = resident().saturating_sub(before);
        assert!(call.is_err(), "nothing was answered");
        assert!(grown < 16 * MIB, "{} KiB more", grown / 1024);
    }
}

#[test]
fn channels_leave_nothing_behind_whatever_came_over_them() {
    // A runtime each: what floods the one is not counted in the next.
    Runtime::new().unwrap().block_on(channels_leave_nothing_behind());
    Runtime::new().unwrap().block_on(a_burst_is_forgotten());
    Runtime::new().unwrap().block_on(a_flood_that_nobody_can_answer_is_not_kept());
}
