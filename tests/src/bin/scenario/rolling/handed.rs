//! Clients that are not ours over restarts: of one socket that is handed over, and of five addresses.

use std::{mem, net::TcpListener, path::Path, time::Duration};

use meshwork_testkit::ports::Port;
use meshwork_tests::{
    Result,
    event::Stopped,
    judge::Judge,
    provider::{Plan, Provider},
};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    fleet::{Fleet, STOP, clean},
    stage::Stage,
    strangers::Stranger,
};
use crate::registry::Registry;

/// Who keeps the socket while one process goes and another comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hand {
    /// A supervisor, as systemd does: it stops one, then starts the next.
    Supervisor,
    /// The process itself, until the next one serves.
    Predecessor,
}

/// Who asks, and who keeps the socket meanwhile.
pub(super) fn pairs(stage: &Stage<'_>) -> Vec<(Stranger, Hand)> {
    let strangers = [Stranger::Tonic, Stranger::TonicShared, Stranger::Curl, Stranger::Wrk];
    let hands = [Hand::Supervisor, Hand::Predecessor];
    let all: Vec<_> = strangers.into_iter().flat_map(|who| hands.map(|hand| (who, hand))).collect();
    let some = [(Stranger::TonicShared, Hand::Supervisor), (Stranger::Wrk, Hand::Predecessor)];
    stage.length.pick(some.to_vec(), all.clone(), all)
}

/// One socket, and the processes that serve it in turn.
struct Relay<'a> {
    actor: &'a Path,
    plan: Plan,
    /// What the supervisor keeps.
    socket: Option<TcpListener>,
    provider: Provider,
    ended: Vec<Stopped>,
}

impl<'a> Relay<'a> {
    async fn start(actor: &'a Path, plan: Plan, socket: Option<TcpListener>) -> Result<Self> {
        let provider = begun(actor, &plan, socket.as_ref()).await?;
        Ok(Self { actor, plan, socket, provider, ended: Vec::new() })
    }

    /// The next process.
    async fn pass_on(&mut self) -> Result<()> {
        if self.socket.is_some() {
            self.ended.push(self.provider.stop(STOP).await?);
        }
        let next = begun(self.actor, &self.plan, self.socket.as_ref()).await?;
        let last = mem::replace(&mut self.provider, next);
        if self.socket.is_none() {
            self.ended.push(last.stopped(STOP).await?);
        }
        Ok(())
    }

    async fn stop(mut self) -> Result<Vec<Stopped>> {
        self.ended.push(self.provider.stop(STOP).await?);
        Ok(self.ended)
    }
}

async fn begun(actor: &Path, plan: &Plan, socket: Option<&TcpListener>) -> Result<Provider> {
    match socket {
        Some(socket) => Provider::of(plan.program_with(actor, socket)?.start()?).await,
        None => plan.start(actor).await,
    }
}

/// A socket that outlives the processes behind it.
pub(super) async fn handed_over(
    stage: &Stage<'_>,
    stranger: Stranger,
    hand: Hand,
    judge: &mut Judge,
) -> Result<()> {
    let by = if hand == Hand::Supervisor { "a supervisor" } else { "the one before" };
    judge.begin(format!("handed over by {by}, {}", stranger.name()));
    if !stranger.is_here() {
        judge.skipped("all of it", "it is not on this machine");
        return Ok(());
    }
    let (dir, port) = (TempDir::new()?, Port::claim()?);
    let plan = stage.plan(Duration::ZERO).on(&port).local(dir.path());
    let mut relay = match hand {
        Hand::Supervisor => Relay::start(stage.actor, plan, Some(TcpListener::bind(port.addr())?)).await?,
        Hand::Predecessor => {
            let at = dir.path().join("handover.sock").display().to_string();
            Relay::start(stage.actor, plan.service("handover", at), None).await?
        }
    };
    let stop = CancellationToken::new();
    let asking = tokio::spawn(stranger.ask(vec![port.addr()], stop.clone()));
    sleep(stage.calm()).await;
    for _ in 0..stage.length.pick(1, 10, 30) {
        relay.pass_on().await?;
    }
    sleep(stage.calm()).await;
    stop.cancel();
    let tally = asking.await??;
    let runs = usize::try_from(clean(&relay.stop().await?, judge))?;
    if stranger != Stranger::Wrk {
        // It leaves calls behind when it ends; the others do not.
        judge.count("ran without an answer", runs.saturating_sub(tally.answered), 0);
    }
    tally.judged(judge);
    Ok(())
}

/// A stranger who knows all five addresses and tries the next one when one refuses.
pub(super) async fn curl_of_five(stage: &Stage<'_>, judge: &mut Judge) -> Result<()> {
    judge.begin("five addresses, curl");
    if !Stranger::Curl.is_here() {
        judge.skipped("all of it", "it is not on this machine");
        return Ok(());
    }
    let registry = Registry::local()?;
    let mut fleet = Fleet::start_on_one_port(stage.actor, &registry, stage.plan(Duration::ZERO)).await?;
    let stop = CancellationToken::new();
    let asking = tokio::spawn(Stranger::Curl.ask(fleet.addrs(), stop.clone()));
    sleep(stage.calm()).await;
    fleet.roll(stage.length.pick(1, 3, 3)).await?;
    sleep(stage.calm()).await;
    stop.cancel();
    asking.await??.judged(judge);
    fleet.stop(stage.truth_within(), judge).await?;
    Ok(())
}
