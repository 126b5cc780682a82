//! Streams that are open, and a handler that hangs, when the stop begins.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use meshwork_testkit::truth::eventually;
use meshwork_tests::{
    Result,
    event::{Event, Stopped},
    judge::Judge,
    users::{ENDLESS, HANG},
};
use orders::users::{GetUser, users_client::UsersClient};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic::{Code, Status};

use super::{
    OFF, PATIENCE,
    stage::{Stage, names},
};
use crate::caller::Caller;

/// Streams open at once.
const STREAMS: usize = 100;

/// Half end by themselves once the process is asked to stop, half never do.
pub(super) async fn end(stage: &Stage<'_>, judge: &mut Judge) -> Result<()> {
    let caller = Caller::over(&stage.registry.found_here(), "0s");
    let provider = stage.provider().await?;
    let mut streams = JoinSet::new();
    let opened = Arc::new(AtomicUsize::new(0));
    for place in 0..STREAMS {
        let id = if place % 2 == 0 { ENDLESS } else { place as u64 };
        streams.spawn(watch(caller.clone(), id, Arc::clone(&opened)));
    }
    let all_open = || async { opened.load(Ordering::Relaxed) == STREAMS };
    if let Err(error) = eventually(PATIENCE, "100 streams are open", all_open).await {
        let first = streams.try_join_next();
        let open = opened.load(Ordering::Relaxed);
        return Err(format!("{error}: {open} are, the first that ended {first:?}").into());
    }

    let asked = Instant::now();
    provider.process().terminate();
    let (mut finished, mut told, mut unclear) = (0, 0, Vec::new());
    let mut last = Duration::ZERO;
    let ending = async {
        while let Some(ended) = streams.join_next().await {
            last = asked.elapsed();
            match ended {
                Ok(Ok(())) => finished += 1,
                Ok(Err(status)) if is_clear(&status) => told += 1,
                Ok(Err(status)) => unclear.push(format!("{:?}: {}", status.code(), status.message())),
                Err(error) => unclear.push(error.to_string()),
            }
        }
    };
    timeout(stage.deadline + PATIENCE, ending).await?;
    let stopped = provider.stopped(PATIENCE).await?;
    judge.told("streams finished", finished);
    judge.told("told", told);
    judge.count("without a clear status", unclear.len(), 0);
    if let Some(first) = unclear.first() {
        judge.note(&format!("a stream ended with {first}"));
    }
    judge.holds("streams that end by themselves finish", finished >= STREAMS / 2);
    judge.time("streams after the deadline", last.saturating_sub(stage.deadline), Duration::ZERO);
    judge.holds("streams that were told count as cut", stopped.code == if told > 0 { 6 } else { 0 });
    judge.holds("it left the registry", stopped.faults.is_empty());
    caller.end().await;
    Ok(())
}

/// One stream, to its end.
async fn watch(caller: Caller, id: u64, opened: Arc<AtomicUsize>) -> Result<(), Status> {
    // The caller may not have heard of anybody yet.
    let channel = caller.channel().wait_for_ready(true);
    let mut stream = UsersClient::new(channel).watch(GetUser { id }).await?.into_inner();
    stream.message().await?;
    opened.fetch_add(1, Ordering::Relaxed);
    while stream.message().await?.is_some() {}
    Ok(())
}

/// Says that it is over here, and that it is nobody's fault.
fn is_clear(status: &Status) -> bool {
    let why = status.metadata().get("meshwork-ended");
    status.code() == Code::Unavailable && why.is_some_and(|why| why == "draining")
}

/// How the stop of a process went in which a handler hangs over gRPC and one over HTTP.
pub(super) struct Hung {
    took: Duration,
    stopped: Stopped,
    answered: bool,
}

pub(super) async fn hung(stage: &Stage<'_>) -> Result<Hung> {
    let caller = Caller::over(&stage.registry.found_here(), "0s");
    let provider = stage.provider().await?;
    let channel = caller.channel().to_instance(provider.id()).wait_for_ready(true);
    let grpc = tokio::spawn(async move { UsersClient::new(channel).get(GetUser { id: HANG }).await });
    let mut http = TcpStream::connect(provider.addr()).await?;
    http.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    for _ in 0..2 {
        provider.event(|event| *event == Event::Hanging, PATIENCE).await?;
    }
    let asked = Instant::now();
    provider.process().terminate();
    let stopped = provider.stopped(stage.deadline + PATIENCE).await?;
    let took = asked.elapsed();
    let answered = timeout(PATIENCE, grpc).await??.is_ok();
    caller.end().await;
    Ok(Hung { took, stopped, answered })
}

impl Hung {
    pub(super) fn judge(&self, stage: &Stage<'_>, judge: &mut Judge) {
        judge.time("hung handler cut off the deadline by", self.took.abs_diff(stage.deadline), OFF);
        judge.holds("it exits with 6", self.stopped.code == 6);
        judge.holds("the report names the gRPC method", names(&self.stopped, "/users.v1.Users/Get"));
        judge.holds("the report names the HTTP path", names(&self.stopped, "GET /hang"));
        judge.holds("the caller of the hung handler gets an error", !self.answered);
    }
}
