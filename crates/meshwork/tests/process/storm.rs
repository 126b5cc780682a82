//! Callers that know one address and nothing else: some connect anew for each call, some keep their connections.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    sync::Mutex,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, error::Elapsed, interval, sleep, timeout},
};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::rig::LIMIT;

/// Between the calls of one who keeps his connection.
const THOUGHT: Duration = Duration::from_millis(10);

/// Callers in gRPC, each with a connection.
const GRPC: usize = 5;
/// How long the requests of those who are far away come after their connections.
const FAR: Duration = Duration::from_millis(150);

/// Whoever lets so much pass between connecting and asking is late by himself: a server that drains waits 500 ms.
const LATE: Duration = Duration::from_millis(400);

/// How hyper says that a stream came after the last one that its peer took, and that a request was never sent.
const GOODBYES: [&str; 2] = ["GoAway(b\"\", NO_ERROR, Remote)", "Canceled, \"connection closed\""];

/// What the callers saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) calls: usize,
    pub(crate) kept_calls: usize,
    pub(crate) grpc_calls: usize,
    /// Of these, sent again after a goodbye that said it had not been begun.
    pub(crate) resent: usize,
    pub(crate) failed: Vec<String>,
    /// New connections whose caller was held up before it asked, and then found nobody.
    pub(crate) late: usize,
    pub(crate) slowest: Duration,
    pub(crate) took: Duration,
}

/// Callers under way.
pub(crate) struct Storm {
    end: Arc<AtomicBool>,
    thread: thread::JoinHandle<Seen>,
}

impl Storm {
    /// `rate` new connections a second, on time whatever becomes of them, `kept` callers that keep theirs in HTTP/1.1, and
    /// some in gRPC, by a client that is not ours.
    pub(crate) fn begin(addr: SocketAddr, rate: u32, kept: usize) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(call(addr, rate, kept, ended))
        });
        Self { end, thread }
    }

    /// No more calls; waits for those under way.
    pub(crate) fn end(self) -> Seen {
        self.end.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

async fn call(addr: SocketAddr, rate: u32, kept: usize, end: Arc<AtomicBool>) -> Seen {
    let began = Instant::now();
    let (kept_calls, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let mut keepers = JoinSet::new();
    for _ in 0..kept {
        let (end, calls, failed) = (Arc::clone(&end), Arc::clone(&kept_calls), Arc::clone(&failed));
        keepers.spawn(async move {
            while !end.load(Relaxed) {
                if let Err(error) = keep(addr, &end, &calls).await {
                    failed.lock().await.push(format!("kept: {error}"));
                }
            }
        });
    }
    let (grpc_calls, resent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for _ in 0..GRPC {
        let (end, failed) = (Arc::clone(&end), Arc::clone(&failed));
        let (calls, resent) = (Arc::clone(&grpc_calls), Arc::clone(&resent));
        // One connection, made again by itself.
        let channel = Channel::from_shared(format!("http://{addr}")).unwrap().connect_lazy();
        keepers.spawn(async move {
            let mut client = HealthClient::new(channel);
            while !end.load(Relaxed) {
                match client.check(HealthCheckRequest::default()).await {
                    Ok(_answer) => drop(calls.fetch_add(1, Relaxed)),
                    Err(status) => match format!("{status:?}") {
                        // Surely never begun: who honours GOAWAY sends it again, which this client leaves to its user.
                        said if GOODBYES.iter().any(|goodbye| said.contains(goodbye)) => {
                            resent.fetch_add(1, Relaxed);
                            continue;
                        }
                        said => failed.lock().await.push(format!("grpc: {said}")),
                    },
                }
                sleep(THOUGHT).await;
            }
        });
    }
    let mut calls = JoinSet::new();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    // Each at its time, also after a pause of the machine.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut seen = Seen::default();
    while !end.load(Relaxed) {
        let due = ticks.tick().await;
        let away = FAR * (seen.calls as u32 % 10) / 10;
        calls.spawn(async move { (timeout(LIMIT, once(addr, away)).await, due.elapsed()) });
        seen.calls += 1;
        while let Some(ended) = calls.try_join_next() {
            seen.note(ended.unwrap());
        }
    }
    seen.took = began.elapsed();
    while let Some(ended) = calls.join_next().await {
        seen.note(ended.unwrap());
    }
    while keepers.join_next().await.is_some() {}
    seen.kept_calls = kept_calls.load(Relaxed);
    seen.grpc_calls = grpc_calls.load(Relaxed);
    seen.resent = resent.load(Relaxed);
    seen.failed.append(&mut *failed.lock().await);
    seen
}

impl Seen {
    fn note(&mut self, (ended, took): (Result<(io::Result<()>, Duration), Elapsed>, Duration)) {
        self.slowest = self.slowest.max(took);
        match ended {
            Ok((Ok(()), _)) => {}
            Ok((Err(_), pause)) if pause > LATE => self.late += 1,
            Ok((Err(error), pause)) => self.failed.push(format!("new, {pause:?} after connecting: {error}")),
            Err(elapsed) => self.failed.push(format!("new: {elapsed}")),
        }
    }
}

/// One call on a connection of its own; the request is to come so long after the connection. How it ended, and when the
/// request came.
async fn once(addr: SocketAddr, away: Duration) -> (io::Result<()>, Duration) {
    let peer = match TcpStream::connect(addr).await {
        Ok(peer) => peer,
        Err(error) => return (Err(error), Duration::ZERO),
    };
    let connected = Instant::now();
    sleep(away).await;
    let pause = connected.elapsed();
    (ask(peer).await, pause)
}

async fn ask(mut peer: TcpStream) -> io::Result<()> {
    peer.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    peer.read_to_string(&mut answer).await?;
    well(&answer)
}

/// Calls on one connection until the answer says that it is the last.
async fn keep(addr: SocketAddr, end: &AtomicBool, calls: &AtomicUsize) -> io::Result<()> {
    let mut peer = TcpStream::connect(addr).await?;
    while !end.load(Relaxed) {
        peer.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let (mut answer, mut chunk) = (String::new(), [0; 512]);
        while !answer.ends_with("hello") {
            match timeout(LIMIT, peer.read(&mut chunk)).await?? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer")),
                read => answer.push_str(&String::from_utf8_lossy(&chunk[..read])),
            }
        }
        well(&answer)?;
        calls.fetch_add(1, Relaxed);
        if answer.contains("connection: close") {
            return Ok(());
        }
        sleep(THOUGHT).await;
    }
    Ok(())
}

fn well(answer: &str) -> io::Result<()> {
    match answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello") {
        true => Ok(()),
        false => Err(io::Error::other(format!("answered {answer:?}"))),
    }
}
