//! Scenario 12: what a stop does to streams, a hung handler, silent peers, and an impatient supervisor.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use meshwork_testkit::{etcd::Etcd, truth::eventually};
use meshwork_tests::{
    Result, SERVICE,
    event::{Event, Stopped},
    judge::{Judge, Length},
    provider::{Plan, Provider},
    records,
    residue::Residue,
    users::{ENDLESS, HANG},
};
use orders::users::{GetUser, users_client::UsersClient};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::Code;

use crate::caller::{Caller, nothing_left};

/// Streams open at once.
const STREAMS: usize = 100;
/// Signals measured.
const SIGNALS: usize = 10;
/// What no step may exceed, beyond the deadline of the drain.
const PATIENCE: Duration = Duration::from_secs(20);
/// The beginning of every HTTP/2 connection, of which half is sent.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Stage<'a> {
    actor: &'a Path,
    etcd: Etcd,
    settle: Duration,
    deadline: Duration,
}

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let etcd = Etcd::single().start().await.map_err(|error| format!("{error:?}"))?;
    let settle = Duration::from_millis(length.pick(500, 1_000, 3_000));
    let deadline = Duration::from_secs(length.pick(3, 5, 25));
    let stage = Stage { actor, etcd, settle, deadline };
    let before = Residue::now();
    let caller = Caller::new(&stage.etcd, "0s");
    stage.streams(&caller, judge).await?;
    stage.hung_handler(&caller, judge).await?;
    caller.end().await;
    stage.silent_sockets(judge).await?;
    stage.key_before_listener(judge).await?;
    stage.second_signal(judge).await?;
    let leases = eventually(PATIENCE, "no lease is left", || async {
        records::leases(&stage.etcd).await.is_ok_and(|leases| leases.is_empty())
    });
    judge.succeeds("registry is empty", leases.await);
    judge.succeeds("nothing leaked", nothing_left(before).await);
    Ok(())
}

impl Stage<'_> {
    async fn provider(&self) -> Result<Provider> {
        let ms = |duration: Duration| format!("{}ms", duration.as_millis());
        let plan = Plan::provider()
            .etcd(&self.etcd.endpoints())
            // A process that is ended by its second signal cannot leave; its lease does.
            .config("registry.etcd.lease_ttl", "2s")
            .config("drain.settle", ms(self.settle))
            .config("drain.deadline", ms(self.deadline));
        let port = meshwork_testkit::ports::Port::claim()?;
        plan.on(&port).start(self.actor).await
    }

    /// 100 streams: half end by themselves once the process is asked to stop, half never do.
    async fn streams(&self, caller: &Caller, judge: &mut Judge) -> Result<()> {
        let provider = self.provider().await?;
        let mut streams = JoinSet::new();
        let opened = Arc::new(AtomicUsize::new(0));
        for place in 0..STREAMS {
            // The caller may not have heard of it yet.
            let (channel, opened) = (caller.channel().wait_for_ready(true), Arc::clone(&opened));
            streams.spawn(async move {
                let id = if place % 2 == 0 { ENDLESS } else { place as u64 };
                let stream = UsersClient::new(channel).watch(GetUser { id }).await?;
                let mut stream = stream.into_inner();
                stream.message().await?;
                opened.fetch_add(1, Ordering::Relaxed);
                while stream.message().await?.is_some() {}
                Ok::<_, tonic::Status>(id)
            });
        }
        let all_open = || async { opened.load(Ordering::Relaxed) == STREAMS };
        if let Err(error) = eventually(PATIENCE, "100 streams are open", all_open).await {
            let first = streams.try_join_next();
            return Err(format!(
                "{error}: {} are, the first that ended {first:?}",
                opened.load(Ordering::Relaxed)
            )
            .into());
        }

        let asked = Instant::now();
        provider.process().terminate();
        let (mut finished, mut told, mut unclear) = (0, 0, Vec::new());
        let mut last = Duration::ZERO;
        let ending = async {
            while let Some(ended) = streams.join_next().await {
                last = asked.elapsed();
                match ended {
                    Ok(Ok(_)) => finished += 1,
                    Ok(Err(status)) if status.code() == Code::Unavailable => told += 1,
                    Ok(Err(status)) => unclear.push(format!("{:?}: {}", status.code(), status.message())),
                    Err(error) => unclear.push(error.to_string()),
                }
            }
        };
        timeout(self.deadline + PATIENCE, ending).await?;
        let stopped = provider.stopped(PATIENCE).await?;
        judge.told("streams finished", finished);
        judge.told("told", told);
        judge.count("without a clear status", unclear.len(), 0);
        if let Some(first) = unclear.first() {
            judge.note(&format!("a stream ended with {first}"));
        }
        judge.holds("streams that end by themselves finish", finished >= STREAMS / 2);
        let late = last.saturating_sub(self.deadline);
        judge.time("streams after the deadline", late, Duration::ZERO);
        judge.holds("streams that were told count as cut or as ended", matches!(stopped.code, 0 | 6));
        judge.holds("it left the registry", stopped.faults.is_empty());
        Ok(())
    }

    /// One handler that never answers, over gRPC and over HTTP.
    async fn hung_handler(&self, caller: &Caller, judge: &mut Judge) -> Result<()> {
        let provider = self.provider().await?;
        let channel = caller.channel().wait_for_ready(true);
        let grpc = tokio::spawn(async move { UsersClient::new(channel).get(GetUser { id: HANG }).await });
        let mut http = TcpStream::connect(provider.addr()).await?;
        http.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        for _ in 0..2 {
            provider.event(|event| *event == Event::Hanging, PATIENCE).await?;
        }
        let asked = Instant::now();
        provider.process().terminate();
        let stopped = provider.stopped(self.deadline + PATIENCE).await?;
        let took = asked.elapsed();
        let off = took.abs_diff(self.deadline);
        judge.time("hung handler cut off the deadline by", off, Duration::from_millis(500));
        judge.holds("it exits with 6", stopped.code == 6);
        judge.holds("the report names the gRPC method", names(&stopped, "/users.v1.Users/Get"));
        judge.holds("the report names the HTTP path", names(&stopped, "GET /hang"));
        let answer = timeout(PATIENCE, grpc).await??;
        judge.holds("the caller of the hung handler gets an error", answer.is_err());
        Ok(())
    }

    /// Connections that never said anything, or only half a preface, hold nothing up.
    async fn silent_sockets(&self, judge: &mut Judge) -> Result<()> {
        let provider = self.provider().await?;
        let mut peers = Vec::new();
        for place in 0..20 {
            let mut peer = TcpStream::connect(provider.addr()).await?;
            if place % 2 == 0 {
                peer.write_all(&PREFACE[..PREFACE.len() / 2]).await?;
            }
            peers.push(peer);
        }
        // They must have been accepted to be of any trouble: a later one is answered.
        meshwork_tests::http1::get(provider.addr(), "/who").await?;
        let asked = Instant::now();
        provider.process().terminate();
        let stopped = provider.stopped(self.deadline + PATIENCE).await?;
        let drained = asked.elapsed().saturating_sub(self.settle);
        judge.time("20 silent peers held the drain up for", drained, Duration::from_millis(500));
        judge.holds("it exits with 0", stopped.code == 0);
        drop(peers);
        Ok(())
    }

    /// The record goes first, then, after the settle time, the listener.
    async fn key_before_listener(&self, judge: &mut Judge) -> Result<()> {
        let provider = self.provider().await?;
        let addr = provider.addr();
        provider.process().terminate();
        let gone = async {
            while records::announced(&self.etcd, SERVICE).await?.contains(provider.id()) {}
            Ok::<_, meshwork::BoxError>(Instant::now())
        };
        let (gone, closed) = tokio::join!(gone, closed(addr));
        let (gone, closed) = (gone?, closed);
        judge.holds("the key is gone before the listener closes", gone < closed);
        judge.told("key gone before listener by", format_args!("{} ms", (closed - gone).as_millis()));
        provider.stopped(PATIENCE).await?;
        Ok(())
    }

    /// A second SIGTERM while a handler hangs.
    async fn second_signal(&self, judge: &mut Judge) -> Result<()> {
        let mut times = Vec::new();
        let mut wrong = 0;
        for _ in 0..SIGNALS {
            let provider = self.provider().await?;
            let mut http = TcpStream::connect(provider.addr()).await?;
            http.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await?;
            provider.event(|event| *event == Event::Hanging, PATIENCE).await?;
            provider.process().terminate();
            // The first must have been taken: two that come together are one.
            let is_leaving =
                || async { provider.process().stderr().iter().any(|line| line.contains("leaving")) };
            eventually(PATIENCE, "the first signal was taken", is_leaving).await?;
            let asked = Instant::now();
            provider.process().terminate();
            let status = provider.process().ended(PATIENCE).await?;
            times.push(asked.elapsed());
            wrong += usize::from(status.code() != Some(143));
        }
        times.sort_unstable();
        judge.time("second SIGTERM: median", times[SIGNALS / 2], Duration::from_millis(100));
        judge.time("worst", times[SIGNALS - 1], Duration::from_millis(500));
        judge.holds("it exits with 143 each time", wrong == 0);
        Ok(())
    }
}

fn names(stopped: &Stopped, what: &str) -> bool {
    stopped.cut.iter().any(|line| line.contains(what))
}

/// When `addr` begins to refuse.
async fn closed(addr: SocketAddr) -> Instant {
    while TcpStream::connect(addr).await.is_ok() {
        sleep(Duration::from_millis(5)).await;
    }
    Instant::now()
}
