//! Peers that waste what a server has: streams, frames, files.

use std::{fs::File, os::unix::fs::FileExt, time::Duration};

use axum::{Router, routing::get as route_get};
use meshwork_server::Services;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{self, Instant},
};

use crate::support::{Fixture, LIMIT, ask, config, h2, request, start, start_with, until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// `GET /hang` in HPACK: three entries of the static table, then a path and an authority.
const GET_HANG: &[u8] = b"\x82\x86\x44\x05/hang\x41\x01x";
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn services() -> Services {
    let hang = || async { std::future::pending::<&str>().await };
    Services::new()
        .http(Router::new().route("/", route_get(|| async { "served" })).route("/hang", route_get(hang)))
}

async fn attacker(fixture: &Fixture) -> TcpStream {
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream
}

/// Others are served, soon.
async fn assert_serves(fixture: &Fixture) {
    let (_, body) = ask(&mut h2(fixture.addr).await, request(fixture.addr, "GET", "/", &[])).await.unwrap();
    assert_eq!(body, "served");
}

/// Writes `parts` one after the other until the connection is closed or takes no more; how many bytes it took.
async fn flood(stream: TcpStream, mut parts: impl FnMut() -> Vec<u8>, reads: bool) -> usize {
    let (mut read, mut write) = stream.into_split();
    let reader = tokio::spawn(async move {
        let mut waste = [0; 16 * 1024];
        while reads && read.read(&mut waste).await.is_ok_and(|bytes| bytes > 0) {}
        if !reads {
            std::future::pending::<()>().await;
        }
    });
    let (mut written, end) = (0, Instant::now() + Duration::from_secs(8));
    while Instant::now() < end {
        let part = parts();
        match time::timeout(Duration::from_millis(500), write.write_all(&part)).await {
            Ok(Ok(())) => written += part.len(),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    reader.abort();
    written
}

fn opened(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, GET_HANG)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RESET, 0, stream, &8u32.to_be_bytes())
}

#[tokio::test]
async fn streams_opened_and_reset_at_once_begin_no_handler() {
    let fixture = start(services()).await;
    let mut next = 1;
    let burst = || {
        let all = (0..1000).flat_map(|nth| [opened(next + 2 * nth), reset(next + 2 * nth)]);
        let all = all.collect::<Vec<_>>().concat();
        next += 2000;
        all
    };
    let (stream, began) = (attacker(&fixture).await, Instant::now());
    time::timeout(LIMIT, flood(stream, burst, true)).await.expect("the flood does not end");
    // Given up, and then not listened to for more than a second.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(6), "the server listens on: {took:?}");
    until("nothing is in flight", || fixture.stats.requests_in_flight() == 0).await;
    let begun = fixture.stats.requests_total();
    println!("{begun} requests begun of {} sent", next / 2);
    assert!(begun <= 3 * 4096, "{begun}");
    assert_serves(&fixture).await;
}

#[tokio::test]
async fn more_streams_reset_after_they_began_than_allowed_cost_the_connection() {
    let fixture = start_with(config(|config| config.max_cancelled_requests = 700), services()).await;
    let mut stream = attacker(&fixture).await;
    let mut next = 1;
    let end = Instant::now() + LIMIT;
    // The reader sees the end; the writer may be the first to.
    while fixture.stats.connections_wasted_total() == 0 {
        assert!(Instant::now() < end, "{} requests begun", fixture.stats.requests_total());
        let streams = || (0..400).map(|nth| next + 2 * nth);
        let begun = fixture.stats.requests_total();
        if stream.write_all(&streams().flat_map(opened).collect::<Vec<_>>()).await.is_err() {
            break;
        }
        until("they have begun", || fixture.stats.requests_total() >= begun + 400).await;
        drop(stream.write_all(&streams().flat_map(reset).collect::<Vec<_>>()).await);
        until("they are over", || fixture.stats.requests_in_flight() == 0).await;
        next += 800;
    }
    println!("closed after {} requests", fixture.stats.requests_total());
    until("it is closed", || fixture.stats.connections() == 0).await;
    // On a slow machine a second may end between two bursts.
    assert!(fixture.stats.requests_total() <= 4 * 700);
    assert_serves(&fixture).await;
}

#[tokio::test]
async fn time_outs_of_a_caller_do_not_cost_its_connection() {
    let fixture = start(services()).await;
    let mut client = h2(fixture.addr).await;
    for _ in 0..20 {
        let mut calls = Vec::new();
        for _ in 0..50 {
            let mut client = client.clone();
            let hang = request(fixture.addr, "GET", "/hang", &[]);
            calls.push(tokio::spawn(async move { client.send_request(hang).await }));
        }
        until("all are in flight", || fixture.stats.requests_in_flight() == 50).await;
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        until("none is in flight", || fixture.stats.requests_in_flight() == 0).await;
    }
    let (_, body) = ask(&mut client, request(fixture.addr, "GET", "/", &[])).await.unwrap();
    assert_eq!((body.as_str(), fixture.stats.connections_wasted_total()), ("served", 0));
}

#[tokio::test]
async fn a_head_that_never_ends_is_closed() {
    let fixture = start(services()).await;
    let mut stream = attacker(&fixture).await;
    stream.write_all(&frame(HEADERS, END_STREAM, 1, GET_HANG)).await.unwrap();
    // Literal fields without indexing: `x: x`.
    let fields = b"\0\x01x\x01x".repeat(3000);
    let written = flood(stream, || frame(CONTINUATION, 0, 1, &fields), true).await;
    println!("a head of {written} bytes");
    // What the sockets hold and nobody reads is among them.
    assert!(written < 64 << 20, "{written}");
    until("it is closed", || fixture.stats.connections() == 0).await;
    assert_eq!(fixture.stats.requests_total(), 0);
    assert_serves(&fixture).await;
}

#[tokio::test]
async fn pings_and_settings_whose_answers_nobody_reads_are_not_piled_up() {
    let fixture = start(services()).await;
    for part in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])] {
        let many = part.repeat(1000);
        let stream = attacker(&fixture).await;
        let written = flood(stream, || many.clone(), false).await;
        println!("{written} bytes of frames of kind {}", part[3]);
        // Four times what the sockets on both sides hold at most; the server reads no faster than it answers.
        assert!(written < 64 << 20, "{written}");
        assert_serves(&fixture).await;
    }
}

/// Runs in a process of its own, with few files.
#[test]
fn without_files_the_server_waits_and_goes_on() {
    const CHILD: &str = "MESHWORK_TEST_FEW_FILES";
    if std::env::var_os(CHILD).is_some() {
        return few_files();
    }
    let this = std::env::current_exe().unwrap();
    // The shell lowers its own limit, and becomes the test.
    let run = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 96 && exec \"$0\" --exact guards::without_files_the_server_waits_and_goes_on --nocapture"])
        .arg(this)
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    text.lines().filter(|line| line.contains("failures to accept")).for_each(|line| println!("{line}"));
    assert!(run.status.success(), "{text}\n{}", String::from_utf8_lossy(&run.stderr));
}

/// What this process has worked so far, to 10 ms, by a file that is open already.
fn cpu(stat: &File) -> Duration {
    let mut text = [0; 1024];
    let length = stat.read_at(&mut text, 0).unwrap();
    let (_, fields) = std::str::from_utf8(&text[..length]).unwrap().rsplit_once(')').unwrap();
    let ticks = |nth| fields.split_whitespace().nth(nth).unwrap().parse::<u64>().unwrap();
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

#[tokio::main(flavor = "current_thread")]
async fn few_files() {
    let stat = File::open("/proc/self/stat").unwrap();
    let fixture = start(services()).await;
    let mut held = Vec::new();
    // Each takes one file here and one there, until there is none.
    while fixture.stats.accept_errors_total() == 0 {
        match TcpStream::connect(fixture.addr).await {
            Ok(stream) => held.push(stream),
            Err(_) => time::sleep(Duration::from_millis(1)).await,
        }
    }
    let (open, began, worked) = (held.len(), Instant::now(), cpu(&stat));
    time::sleep(Duration::from_secs(2)).await;
    let (failures, worked) = (fixture.stats.accept_errors_total(), cpu(&stat) - worked);
    println!(
        "{failures} failures to accept in {:?} with {open} connections, {worked:?} of CPU",
        began.elapsed()
    );
    assert!(worked < Duration::from_millis(200), "the accept loop spins: {worked:?} in two seconds");
    // Pauses double from 5 ms to 1 s.
    assert!((2..=12).contains(&failures), "{failures}");
    held.truncate(10);
    assert_serves(&fixture).await;
    drop(held);
    until("all are closed", || fixture.stats.connections() == 0).await;
}
