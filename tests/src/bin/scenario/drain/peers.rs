//! Peers that say nothing, do not read, or have no more to ask.

use std::time::Duration;

use meshwork_tests::{Result, event::Stopped, http1, judge::Judge};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    OFF, PATIENCE,
    stage::{Stage, names},
};

/// Peers of each kind.
const PEERS: usize = 20;
/// The beginning of every HTTP/2 connection, of which half is sent.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long the last work may be over before the process is.
const IDLE: Duration = Duration::from_millis(200);

/// 20 that never say anything and 20 that say half a preface hold nothing up.
pub(super) async fn silent(stage: &Stage<'_>, judge: &mut Judge) -> Result<()> {
    let provider = stage.provider().await?;
    let mut peers = Vec::new();
    for place in 0..2 * PEERS {
        let mut peer = TcpStream::connect(provider.addr()).await?;
        if place % 2 == 0 {
            peer.write_all(&PREFACE[..PREFACE.len() / 2]).await?;
        }
        peers.push(peer);
    }
    // They must have been accepted to be of any trouble: a later one is answered.
    http1::get(provider.addr(), "/who").await?;
    let asked = Instant::now();
    provider.process().terminate();
    let stopped = provider.stopped(stage.deadline + PATIENCE).await?;
    let drained = asked.elapsed().saturating_sub(stage.settle);
    judge.time("20 silent peers and 20 half prefaces held the drain up for", drained, OFF);
    judge.holds("silent peers are not cut", stopped.code == 0);
    drop(peers);
    Ok(())
}

/// How the stop of a process went to which 20 peers listen that never read.
pub(super) struct Unread {
    took: Duration,
    stopped: Stopped,
}

pub(super) async fn unread(stage: &Stage<'_>) -> Result<Unread> {
    let provider = stage.provider().await?;
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let mut peer = TcpStream::connect(provider.addr()).await?;
        peer.write_all(b"GET /flood HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        // It is under way; no more of it is read.
        let mut first = [0; 12];
        timeout(PATIENCE, peer.read_exact(&mut first)).await??;
        peers.push(peer);
    }
    let asked = Instant::now();
    provider.process().terminate();
    let stopped = provider.stopped(stage.deadline + PATIENCE).await?;
    let took = asked.elapsed();
    drop(peers);
    Ok(Unread { took, stopped })
}

impl Unread {
    pub(super) fn judge(&self, stage: &Stage<'_>, judge: &mut Judge) {
        let off = self.took.abs_diff(stage.deadline);
        judge.time("20 that never read: exit off the deadline by", off, OFF);
        judge.holds("peers that never read are cut", self.stopped.code == 6);
        judge.holds("the report names what they asked for", names(&self.stopped, "GET /flood"));
        judge.holds("all of them are counted", self.stopped.cut.len() == PEERS);
    }
}

/// One connection that is kept alive and idle.
pub(super) async fn idle(stage: &Stage<'_>, judge: &mut Judge) -> Result<()> {
    let provider = stage.provider().await?;
    let mut peer = TcpStream::connect(provider.addr()).await?;
    peer.write_all(b"GET /who HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    let mut answer = [0; 12];
    timeout(PATIENCE, peer.read_exact(&mut answer)).await??;
    let asked = Instant::now();
    provider.process().terminate();
    provider.process().ended(stage.deadline + PATIENCE).await?;
    let over = asked.elapsed().saturating_sub(stage.settle);
    judge.holds("it was answered", &answer == b"HTTP/1.1 200");
    judge.time("idle keep-alive connection: exit after the last work by", over, IDLE);
    drop(peer);
    Ok(())
}
