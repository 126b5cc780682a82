//! Scenario 7: one of five providers fails 30 % of its calls at random, then all of them fail 2 % for long.
//!
//! The one is ejected soon; of those that all fail a little none ever is. Both are read from the caller's own
//! statistics.

use std::{path::Path, time::Duration};

use meshwork_testkit::truth::eventually;
use meshwork_tests::{
    Result,
    behave::Behaviour,
    judge::{Judge, Length},
    local_fleet::LocalFleet,
    residue::Residue,
};
use tokio::time::{Instant, sleep};

use crate::clients::{Clients, Mark, behave, leave};

const NODES: usize = 5;
const DEADLINE: Duration = Duration::from_secs(1);
/// What a call takes that fails: what others take too.
const FAILS_IN: Duration = Duration::from_millis(10);
const OFTEN: f64 = 0.3;
const RARELY: f64 = 0.02;
/// When the one that fails often must be out.
const OUT_WITHIN: Duration = Duration::from_secs(10);

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let fleet = LocalFleet::start(actor, NODES).await?;
    let before = Residue::now();
    one_fails_often(&fleet, length, judge).await?;
    behave(&fleet, Behaviour::default().failing(RARELY, FAILS_IN)).await?;
    all_fail_rarely(&fleet, length, judge).await?;
    leave(fleet, before, judge).await;
    Ok(())
}

fn rate(length: Length) -> f64 {
    length.pick(500.0, 1_000.0, 1_000.0)
}

async fn one_fails_often(fleet: &LocalFleet, length: Length, judge: &mut Judge) -> Result<()> {
    let clients = Clients::new(fleet.discovery()?, 1, DEADLINE, |_| {})?;
    clients.connected(NODES).await?;
    let load = clients.load(rate(length), Mark::None);
    // Ten seconds and more of good behaviour speak for it.
    sleep(Duration::from_secs(length.pick(1, 12, 12))).await;

    let bad = &fleet.providers[0];
    bad.controls().behave(Behaviour::default().failing(OFTEN, FAILS_IN)).await?;
    let (since, failed) = (Instant::now(), load.failed());
    let is_out = || ejections(&clients).iter().any(|(id, times)| id == bad.id() && *times > 0);
    // The strict figure decides later; here only how long it is looked at.
    let out = eventually(OUT_WITHIN * 4, "the one that fails often is ejected", || async { is_out() }).await;
    judge.time("one of five fails 30 %: ejected after", since.elapsed(), OUT_WITHIN);
    judge.succeeds("ejection", out);
    judge.told("failed until then", load.failed() - failed);
    let others = ejections(&clients).iter().filter(|(id, times)| id != bad.id() && *times > 0).count();
    judge.count("others ejected", others, 0);
    load.stop();
    judge.told("calls", load.report().await.calls().len());
    clients.end(&fleet.living(), length, judge).await;
    Ok(())
}

async fn all_fail_rarely(fleet: &LocalFleet, length: Length, judge: &mut Judge) -> Result<()> {
    let clients = Clients::new(fleet.discovery()?, 1, DEADLINE, |_| {})?;
    clients.connected(NODES).await?;
    let load = clients.load(rate(length), Mark::None);
    sleep(Duration::from_secs(length.pick(4, 60, 300))).await;
    let ejected: u32 = ejections(&clients).iter().map(|(_, times)| times).sum();
    load.stop();
    let report = load.report().await;
    judge.told("| all fail 2 %: calls", report.calls().len());
    let failed = report.failed() as f64 / report.calls().len() as f64;
    judge.told("failed", format_args!("{:.1} %", failed * 100.0));
    judge.count("ejections", usize::try_from(ejected)?, 0);
    // Else nothing was put to the test.
    judge.holds("about 2 % failed", (RARELY / 2.0..RARELY * 2.0).contains(&failed));
    clients.end(&fleet.living(), length, judge).await;
    Ok(())
}

/// How often each provider was ejected.
fn ejections(clients: &Clients) -> Vec<(String, u32)> {
    clients.nodes().iter().map(|node| (node.instance.id.to_string(), node.ejections)).collect()
}
