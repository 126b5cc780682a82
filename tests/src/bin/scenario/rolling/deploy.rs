//! A rolling restart under the calls of one client, whose registry tells it everything later.

use std::time::Duration;

use meshwork_core::{Query, ServiceName};
use meshwork_testkit::proxy::{FaultProxy, Toward};
use meshwork_tests::{Result, SERVICE, judge::Judge};
use tokio::time::sleep;

use super::{
    fleet::{Fleet, PLACES},
    line::{Kind, Line, judged},
    sight::{Read, Sight},
    stage::Stage,
};
use crate::registry::Registry;

/// How much later the client hears of a change, in milliseconds.
const DELAYS: [u64; 4] = [0, 100, 500, 2_000];

/// What is spoken, and how many milliseconds the client hears later.
pub(super) fn links(stage: &Stage<'_>, registry: &Registry) -> Vec<(Kind, u64)> {
    let short = match registry {
        Registry::Etcd(_) => (Kind::Grpc, 100),
        Registry::Consul(_) => (Kind::GrpcTls, 0),
        Registry::Local(_) => (Kind::Http1, 0),
    };
    let mut all = Vec::new();
    for kind in [Kind::Grpc, Kind::GrpcTls, Kind::Http1] {
        let some: &[u64] = if kind == Kind::Grpc { &DELAYS } else { &[100, 2_000] };
        all.extend(stage.length.pick(some, some, &DELAYS).iter().map(|delay| (kind, *delay)));
    }
    stage.length.pick(vec![short], all.clone(), all)
}

/// One rolling restart under calls.
pub(super) async fn deploy(
    stage: &Stage<'_>,
    registry: &Registry,
    kind: Kind,
    delay: Duration,
    judge: &mut Judge,
) -> Result<()> {
    judge.begin(format!("{registry}, {kind}, {} ms", delay.as_millis()));
    let mut plan = stage.plan(registry.told_within(delay));
    if kind == Kind::GrpcTls {
        plan = stage.certificates.shown_by(plan);
    }
    let mut fleet = Fleet::start(stage.actor, registry, plan).await?;

    let link = match registry.server()? {
        Some(server) => Some(FaultProxy::start(server).await?),
        None => None,
    };
    if let Some(link) = &link {
        link.delay(Toward::Client, delay);
    }
    let held_back = if link.is_some() { Duration::ZERO } else { delay };
    let discovery = registry.discovery(link.as_ref())?;
    let read = if kind == Kind::Http1 { Read::Foreign } else { Read::Native };
    let watch = discovery.watch(&Query::new(ServiceName::new(SERVICE)?));
    let sight = Sight::of(watch, held_back, read);
    let line = Line::new(sight.watch.clone(), kind, &stage.certificates.authority)?;
    line.connected(PLACES).await?;

    let load = line.load(stage.rate());
    sleep(stage.calm()).await;
    fleet.roll(stage.length.pick(1, 3, 3)).await?;
    sleep(stage.calm()).await;
    load.stop();
    let report = load.report().await;
    judged(&report, judge);

    let living = fleet.living();
    let limit = delay * 2 + stage.truth_within();
    judge.succeeds("view equals truth", line.sees(&living, limit).await);
    fleet.truth(&living, limit, judge).await;
    judge.holds("no call is left", line.close().await);
    drop((sight, discovery, link));
    let runs = fleet.stop(limit, judge).await?;
    judge.count("ran twice", usize::try_from(runs)?.saturating_sub(report.calls().len()), 0);
    judge.end();
    Ok(())
}
