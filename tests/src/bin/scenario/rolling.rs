//! Scenario 11: five processes are restarted one after the other, and nobody who calls notices.

mod fleet;
mod fresh;
mod line;
mod platform;
mod registry;
mod sight;
mod strangers;

use std::{net::TcpListener, path::Path, time::Duration};

use meshwork_core::{Query, ServiceName};
use meshwork_testkit::{
    ports::Port,
    proxy::{FaultProxy, Toward},
};
use meshwork_tests::{
    Result, SERVICE,
    judge::{Judge, Length},
    provider::{Plan, Provider},
    residue::Residue,
};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::{
    fleet::{Certificates, Fleet, Manners, PLACES, STOP, clean},
    line::{Kind, Line, judged},
    platform::{Offset, Platform},
    registry::Registry,
    sight::{Read, Sight},
    strangers::Stranger,
};
use crate::caller::nothing_left;

/// How long a view and a registry may take to be the truth, beyond the delay between them.
const TRUE: Duration = Duration::from_secs(1);

struct Stage<'a> {
    actor: &'a Path,
    certificates: Certificates,
    length: Length,
}

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let stage = Stage { actor, certificates: Certificates::new()?, length };
    for registry in [Registry::etcd().await?, Registry::consul().await?, Registry::local()?] {
        let before = Residue::now();
        for (kind, delay) in stage.links(&registry) {
            stage.deploy(&registry, kind, Duration::from_millis(delay), judge).await?;
        }
        judge.begin(format!("{registry}: what is left"));
        judge.succeeds("nothing leaked", nothing_left(before).await);
        judge.end();
    }
    let before = Residue::now();
    stage.fresh_connections(judge).await?;
    stage.platform(judge).await?;
    for stranger in [Stranger::Tonic, Stranger::TonicShared, Stranger::Curl, Stranger::Wrk] {
        stage.handed_over(stranger, judge).await?;
    }
    stage.curl_of_five(judge).await?;
    judge.begin("the rest: what is left");
    judge.succeeds("nothing leaked", nothing_left(before).await);
    judge.end();
    Ok(())
}

impl Stage<'_> {
    /// What is spoken, and how many milliseconds the client hears later.
    fn links(&self, registry: &Registry) -> Vec<(Kind, u64)> {
        let short = match registry {
            Registry::Etcd(_) => (Kind::Grpc, 100),
            Registry::Consul(_) => (Kind::GrpcTls, 0),
            Registry::Local(_) => (Kind::Http1, 0),
        };
        let all = [Kind::Grpc, Kind::GrpcTls, Kind::Http1]
            .into_iter()
            .flat_map(|kind| [0, 100, 500, 2_000].map(|delay| (kind, delay)));
        self.length.pick(vec![short], all.clone().collect(), all.collect())
    }

    /// One rolling restart under calls.
    async fn deploy(
        &self,
        registry: &Registry,
        kind: Kind,
        delay: Duration,
        judge: &mut Judge,
    ) -> Result<()> {
        let length = self.length;
        judge.begin(format!("{registry}, {kind}, {} ms", delay.as_millis()));
        let settle = delay + Duration::from_millis(length.pick(400, 1_000, 1_000));
        let mut plan = Manners::settling(settle).of(Plan::provider());
        if kind == Kind::GrpcTls {
            plan = self.certificates.shown_by(plan);
        }
        let mut fleet = Fleet::start(self.actor, registry, plan).await?;

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
        let line = Line::new(sight.watch.clone(), kind, &self.certificates.authority)?;
        line.connected(PLACES).await?;

        let load = line.load(length.pick(250.0, 1_000.0, 1_000.0));
        sleep(self.calm()).await;
        fleet.roll(length.pick(1, 3, 3)).await?;
        sleep(self.calm()).await;
        load.stop();
        let report = load.report().await;
        judged(&report, judge);

        let living = fleet.living();
        let limit = delay * 2 + length.allows(TRUE);
        judge.succeeds("view equals truth", line.sees(&living, limit).await);
        fleet.truth(&living, limit, judge).await;
        judge.holds("no call is left", line.close().await);
        drop((sight, discovery, link));
        let runs = fleet.stop(limit, judge).await?;
        judge.count("ran twice", usize::try_from(runs)?.saturating_sub(report.calls().len()), 0);
        judge.end();
        Ok(())
    }

    /// Callers that open a connection for each call, to somebody who is in the view.
    async fn fresh_connections(&self, judge: &mut Judge) -> Result<()> {
        let length = self.length;
        judge.begin("local, a new connection per call");
        let registry = Registry::local()?;
        let settle = Duration::from_millis(length.pick(400, 1_000, 1_000));
        let plan = Manners::settling(settle).of(Plan::provider());
        let mut fleet = Fleet::start(self.actor, &registry, plan).await?;
        let discovery = registry.discovery(None)?;
        let watch = discovery.watch(&Query::new(ServiceName::new(SERVICE)?));
        tokio::time::timeout(STOP, watch.ready()).await?;
        let load = fresh::load(watch, length.pick(250.0, 1_000.0, 1_000.0));
        sleep(self.calm()).await;
        fleet.roll(length.pick(1, 1, 3)).await?;
        sleep(self.calm()).await;
        load.stop();
        let report = load.report().await;
        judged(&report, judge);
        fleet.stop(length.allows(TRUE), judge).await?;
        Ok(())
    }

    /// A platform that announces by itself, sooner and later than it asks to stop.
    async fn platform(&self, judge: &mut Judge) -> Result<()> {
        let offsets: &[Offset] = self.length.pick(
            &[-1_000, 0, 1_000],
            &[-10_000, -2_000, 0, 2_000, 10_000],
            &[-10_000, -5_000, -2_000, -500, 0, 500, 2_000, 5_000, 10_000],
        );
        let latest = offsets.iter().copied().max().unwrap_or_default();
        let spare = Duration::from_millis(self.length.pick(400, 1_000, 1_000));
        // Ours go elsewhere when they are refused, so that the usual time is enough; others need all of it.
        let usual = Duration::from_millis(self.length.pick(400, 3_000, 3_000));
        let others = Duration::from_millis(latest.unsigned_abs()) + spare;
        let (grpc, http1) = (Kind::Grpc, Kind::Http1);

        judge.begin("platform, ours");
        let mut platform = self.started(usual).await?;
        let lines =
            [grpc, http1].map(|kind| Line::new(platform.list.watch(), kind, &self.certificates.authority));
        let [grpc, http1] = lines;
        let (grpc, http1) = (grpc?, http1?);
        grpc.connected(PLACES).await?;
        http1.connected(PLACES).await?;
        let rate = self.length.pick(125.0, 500.0, 500.0);
        let loads = [grpc.load(rate), http1.load(rate)];
        sleep(self.calm()).await;
        for offset in offsets {
            platform.replace(*offset).await?;
        }
        sleep(self.calm()).await;
        for load in loads {
            load.stop();
            judged(&load.report().await, judge);
        }
        for line in [grpc, http1] {
            let true_view = line.sees(&platform.living(), self.length.allows(TRUE)).await;
            judge.succeeds("view equals truth", true_view);
            judge.holds("no call is left", line.close().await);
        }
        platform.stop().await?;
        clean(&platform.ended, judge);

        judge.begin("platform, others, a new connection per call");
        let mut platform = self.started(others).await?;
        let load = fresh::load(platform.list.watch(), rate);
        sleep(self.calm()).await;
        for offset in offsets {
            platform.replace(*offset).await?;
        }
        sleep(self.calm()).await;
        load.stop();
        judged(&load.report().await, judge);
        platform.stop().await?;
        clean(&platform.ended, judge);
        judge.end();
        Ok(())
    }

    async fn started(&self, settle: Duration) -> Result<Platform<'_>> {
        Platform::start(self.actor, Manners::settling(settle).of(Plan::provider())).await
    }

    /// A socket that outlives the processes behind it, as under systemd.
    async fn handed_over(&self, stranger: Stranger, judge: &mut Judge) -> Result<()> {
        judge.begin(format!("handed over, {}", stranger.name()));
        if !stranger.is_here() {
            judge.skipped("all of it", "it is not on this machine");
            return Ok(());
        }
        let (dir, port) = (TempDir::new()?, Port::claim()?);
        let socket = TcpListener::bind(port.addr())?;
        let settle = Duration::from_millis(self.length.pick(400, 1_000, 1_000));
        let plan = Manners::settling(settle).of(Plan::provider()).on(&port).local(dir.path());
        let begin = || async { Provider::of(plan.program_with(self.actor, &socket)?.start()?).await };

        let mut provider = begin().await?;
        let (stop, mut ended) = (CancellationToken::new(), Vec::new());
        let asking = tokio::spawn(stranger.ask(vec![port.addr()], stop.clone()));
        sleep(self.calm()).await;
        for _ in 0..self.length.pick(2, 10, 30) {
            ended.push(provider.stop(STOP).await?);
            provider = begin().await?;
        }
        sleep(self.calm()).await;
        stop.cancel();
        let tally = asking.await??;
        ended.push(provider.stop(STOP).await?);
        let runs = usize::try_from(clean(&ended, judge))?;
        if stranger != Stranger::Wrk {
            // It leaves calls behind when it ends; the others do not.
            judge.count("ran without an answer", runs.saturating_sub(tally.answered), 0);
        }
        tally.judged(judge);
        Ok(())
    }

    /// A stranger who knows all five addresses and tries the next one when one refuses.
    async fn curl_of_five(&self, judge: &mut Judge) -> Result<()> {
        judge.begin("five addresses, curl");
        if !Stranger::Curl.is_here() {
            judge.skipped("all of it", "it is not on this machine");
            return Ok(());
        }
        let registry = Registry::local()?;
        let settle = Duration::from_millis(self.length.pick(400, 1_000, 1_000));
        let plan = Manners::settling(settle).of(Plan::provider());
        let mut fleet = Fleet::start_on_one_port(self.actor, &registry, plan).await?;
        let stop = CancellationToken::new();
        let asking = tokio::spawn(Stranger::Curl.ask(fleet.addrs(), stop.clone()));
        sleep(self.calm()).await;
        fleet.roll(self.length.pick(1, 3, 3)).await?;
        sleep(self.calm()).await;
        stop.cancel();
        asking.await??.judged(judge);
        fleet.stop(self.length.allows(TRUE), judge).await?;
        Ok(())
    }

    fn calm(&self) -> Duration {
        Duration::from_millis(self.length.pick(300, 1_000, 1_000))
    }
}
