//! Processes that are found otherwise than by a channel that follows a registry: by who opens a connection for each
//! call, and through a platform that announces by itself.

use std::time::Duration;

use meshwork_core::{Query, ServiceName};
use meshwork_tests::{Result, SERVICE, judge::Judge};
use tokio::time::{sleep, timeout};

use super::{
    fleet::{Fleet, PLACES, STOP, clean},
    fresh,
    line::{Kind, Line, judged},
    platform::{Offset, Platform},
    stage::Stage,
};
use crate::registry::Registry;

/// Callers that open a connection for each call, to somebody who is in the view.
pub(super) async fn fresh_connections(stage: &Stage<'_>, judge: &mut Judge) -> Result<()> {
    judge.begin("local, a new connection per call");
    let registry = Registry::local()?;
    let mut fleet = Fleet::start(stage.actor, &registry, stage.plan(Duration::ZERO)).await?;
    let discovery = registry.discovery(None)?;
    let watch = discovery.watch(&Query::new(ServiceName::new(SERVICE)?));
    timeout(STOP, watch.ready()).await?;
    let load = fresh::load(watch, stage.rate());
    sleep(stage.calm()).await;
    fleet.roll(stage.length.pick(1, 1, 3)).await?;
    sleep(stage.calm()).await;
    load.stop();
    judged(&load.report().await, judge);
    fleet.stop(stage.truth_within(), judge).await?;
    Ok(())
}

/// When addresses leave the list, from the signal.
fn offsets(stage: &Stage<'_>) -> &'static [Offset] {
    stage.length.pick(
        &[-1_000, 0, 1_000],
        &[-10_000, -2_000, 0, 2_000, 10_000],
        &[-10_000, -5_000, -2_000, -500, 0, 500, 2_000, 5_000, 10_000],
    )
}

async fn replaced(platform: &mut Platform<'_>, stage: &Stage<'_>) -> Result<()> {
    sleep(stage.calm()).await;
    for offset in offsets(stage) {
        platform.replace(*offset).await?;
    }
    sleep(stage.calm()).await;
    Ok(())
}

/// Our clients go elsewhere when they are refused, so that processes need not settle until the last has heard.
pub(super) async fn listed_for_ours(stage: &Stage<'_>, judge: &mut Judge) -> Result<()> {
    judge.begin("platform, ours");
    let usual = Duration::from_millis(stage.length.pick(0, 2_000, 2_000));
    let mut platform = Platform::start(stage.actor, stage.plan(usual)).await?;
    let mut lines = Vec::new();
    for kind in [Kind::Grpc, Kind::Http1] {
        let line = Line::new(platform.list.watch(), kind, &stage.certificates.authority)?;
        line.connected(PLACES).await?;
        lines.push((kind, line));
    }
    let loads: Vec<_> = lines.iter().map(|(_, line)| line.load(stage.rate() / 2.0)).collect();
    replaced(&mut platform, stage).await?;
    for ((kind, line), load) in lines.into_iter().zip(loads) {
        load.stop();
        judge.told("|", kind);
        judged(&load.report().await, judge);
        let sees = line.sees(&platform.living(), stage.truth_within()).await;
        judge.succeeds("view equals truth", sees);
        judge.holds("no call is left", line.close().await);
    }
    platform.stop().await?;
    clean(&platform.ended, judge);
    Ok(())
}

/// Others know only what the list says: processes settle until it has changed.
pub(super) async fn listed_for_others(stage: &Stage<'_>, judge: &mut Judge) -> Result<()> {
    judge.begin("platform, others, a new connection per call");
    let latest = offsets(stage).iter().max().copied().unwrap_or_default();
    let settled = stage.plan(Duration::from_millis(latest.unsigned_abs()));
    let mut platform = Platform::start(stage.actor, settled).await?;
    let load = fresh::load(platform.list.watch(), stage.rate());
    replaced(&mut platform, stage).await?;
    load.stop();
    judged(&load.report().await, judge);
    platform.stop().await?;
    clean(&platform.ended, judge);
    Ok(())
}
