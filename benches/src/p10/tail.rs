//! Open-loop load on three instances, with hedging and without.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use meshwork_client::{Channel, ClientConfig};
use meshwork_core::{BoxError, Watch};
use meshwork_testkit::load::Load;

use super::server;
use crate::{
    duel::Child,
    verdict::{Findings, Mode},
};

const RATE: f64 = 400.0;
/// From these a client learns how long calls take.
const WARM_UP: u64 = 600;

/// What one client saw.
struct Seen {
    p50: Duration,
    p999: Duration,
    failed: usize,
    /// Requests that reached a handler, per call.
    load: f64,
}

pub(super) fn measure(mode: Mode, findings: &mut Findings) -> Result<(), BoxError> {
    let mut server = Child::start(&["p10-server"])?;
    let addrs = server.read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let calls = mode.of(12_000, 200);
    let mut see = |hedge: bool| -> Result<Seen, BoxError> {
        let channel = runtime.block_on(channel(&addrs, hedge))?;
        runtime.block_on(ask(&channel, mode.of(WARM_UP, 50)));
        server.ask("count")?;
        let report = runtime.block_on(ask(&channel, calls));
        let handled: f64 = server.ask("count")?.parse()?;
        Ok(Seen {
            p50: report.latency(0.5),
            p999: report.latency(0.999),
            failed: report.failed(),
            load: handled / calls as f64,
        })
    };
    let (plain, hedged) = (see(false)?, see(true)?);
    let ratio = hedged.p999.as_secs_f64() / plain.p999.as_secs_f64();
    findings.text(format!(
        "1 % of answers take 100 x, {calls} calls at {RATE}/s: p99.9 hedged / plain {ratio:.3} ({:?} / {:?}, p50 {:?} / \
         {:?}), requests per call {:.4} / {:.4}, failed {} / {}",
        hedged.p999, plain.p999, hedged.p50, plain.p50, hedged.load, plain.load, hedged.failed, plain.failed
    ));
    findings.at_most(ratio, 0.2, &"hedged p99.9");
    findings.at_most(hedged.load / plain.load, 1.02, &"load of hedging");
    findings.hold(hedged.failed + plain.failed == 0, "all answered", "calls");
    Ok(())
}

async fn channel(addrs: &str, hedge: bool) -> Result<Channel, BoxError> {
    let addrs = addrs.split(' ').map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
    let instances = addrs.iter().enumerate().map(|(nth, addr)| Ok(Arc::new(server::instance(nth, *addr)?)));
    let instances = instances.collect::<Result<Vec<_>, BoxError>>()?;
    let service = instances.first().ok_or("there is an address")?.service.clone();
    let mut config = ClientConfig::default();
    config.hedge = hedge;
    let channel = Channel::new(service, Watch::fixed(Arc::from(instances)), config);
    channel.ready().await?;
    Ok(channel)
}

async fn ask(channel: &Channel, calls: u64) -> meshwork_testkit::load::Report<(), BoxError> {
    let channel = channel.clone();
    let load = Load::rate(RATE).calls(calls).lasting(Duration::from_secs(120));
    load.run(move |_| {
        let channel = channel.clone();
        async move {
            channel.get("/").send().await?.error_for_status()?.bytes().await?;
            Ok(())
        }
    })
    .await
}
