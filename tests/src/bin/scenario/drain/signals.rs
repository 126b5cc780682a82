//! The order of the first signal's work, and the second signal.

use std::{net::SocketAddr, time::Duration};

use meshwork_testkit::{ports::Port, truth::eventually};
use meshwork_tests::{Result, event::Event, judge::Judge, provider::Provider};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{PATIENCE, stage::Stage};

/// Signals measured.
const SIGNALS: usize = 10;

/// The record goes first, then, after the settle time, the listener.
pub(super) async fn key_before_listener(stage: &Stage<'_>, judge: &mut Judge) -> Result<()> {
    let provider = stage.provider().await?;
    let addr = provider.addr();
    let asked = Instant::now();
    provider.process().terminate();
    let gone = async {
        while stage.registry.announced().await?.contains(provider.id()) {}
        Ok::<_, meshwork::BoxError>(Instant::now())
    };
    let (gone, closed) = tokio::join!(gone, closed(addr));
    let gone = gone?;
    judge.holds("the key is gone before the listener closes", gone < closed);
    judge.told("key gone after", format_args!("{} ms", (gone - asked).as_millis()));
    let before = closed.saturating_duration_since(gone);
    judge.told("before the listener by", format_args!("{} ms", before.as_millis()));
    provider.stopped(PATIENCE).await?;
    Ok(())
}

/// When `addr` begins to refuse.
async fn closed(addr: SocketAddr) -> Instant {
    while TcpStream::connect(addr).await.is_ok() {
        sleep(Duration::from_millis(5)).await;
    }
    Instant::now()
}

/// A second SIGTERM while a handler hangs.
pub(super) async fn second(stage: &Stage<'_>, judge: &mut Judge) -> Result<()> {
    let mut launched = Vec::new();
    for _ in 0..SIGNALS {
        let port = Port::claim()?;
        launched.push((stage.plan().on(&port).launch(stage.actor)?, port));
    }
    let mut providers = Vec::new();
    for (process, port) in launched {
        providers.push((Provider::of(process).await?, port));
    }
    let (mut times, mut wrong) = (Vec::new(), 0);
    for (provider, _port) in &providers {
        let mut http = TcpStream::connect(provider.addr()).await?;
        http.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        provider.event(|event| *event == Event::Hanging, PATIENCE).await?;
        provider.process().terminate();
        // The first must have been taken: two that come together are one.
        let is_leaving = || async { provider.process().stderr().iter().any(|line| line.contains("leaving")) };
        eventually(PATIENCE, "the first signal was taken", is_leaving).await?;
        let asked = Instant::now();
        provider.process().terminate();
        let status = provider.process().ended(PATIENCE).await?;
        times.push(asked.elapsed());
        wrong += usize::from(status.code() != Some(143));
    }
    times.sort_unstable();
    judge.time("second SIGTERM: median of 10", times[SIGNALS / 2], Duration::from_millis(100));
    judge.time("worst", times[SIGNALS - 1], Duration::from_millis(500));
    judge.holds("it exits with 143 each time", wrong == 0);
    Ok(())
}
