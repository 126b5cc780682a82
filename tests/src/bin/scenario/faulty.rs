//! Scenario 5: one of eleven providers answers UNAVAILABLE in 1 ms for the middle half of the run.
//!
//! It looks faster than all others and idle. Once with calls that may not run twice: few fail. Once with calls that
//! may: none does.

use std::{path::Path, time::Duration};

use meshwork_tests::{
    Result,
    behave::Behaviour,
    judge::{Judge, Length},
    local_fleet::LocalFleet,
    residue::Residue,
};
use tokio::time::{Instant, sleep};

use crate::clients::{Clients, Mark, failed, leave, share_after};

const NODES: usize = 11;
const RATE: f64 = 1_000.0;
const DEADLINE: Duration = Duration::from_secs(1);
const FAILS_IN: Duration = Duration::from_millis(1);
/// How long it is bad in the full run.
const FULL: Duration = Duration::from_secs(30);
/// How many calls may fail, and which part of all the bad one may get while it is bad.
const FAILED: usize = 25;
const SHARE: f64 = 0.001;
/// When it must have its share again.
const BACK: Duration = Duration::from_secs(10);

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let fleet = LocalFleet::start(actor, NODES).await?;
    let before = Residue::now();
    for mark in [Mark::None, Mark::Idempotent] {
        round(&fleet, mark, length, judge).await?;
    }
    leave(fleet, before, judge).await;
    Ok(())
}

async fn round(fleet: &LocalFleet, mark: Mark, length: Length, judge: &mut Judge) -> Result<()> {
    let clients = Clients::new(fleet.discovery()?, 1, DEADLINE, |_| {})?;
    clients.connected(NODES).await?;
    let load = clients.load(RATE, mark);
    let quarter = Duration::from_secs(length.pick(1, 15, 15));
    sleep(quarter).await;
    let bad = &fleet.providers[0];
    let entered = || async { Ok::<_, meshwork::BoxError>(bad.controls().served().await?.get.entered) };

    bad.controls().behave(Behaviour::default().failing(1.0, FAILS_IN)).await?;
    let (begun, had) = (load.begun(), entered().await?);
    sleep(quarter * 2).await;
    let (begun, had) = (load.begun() - begun, entered().await? - had);
    bad.controls().behave(Behaviour::default()).await?;
    let well = Instant::now();
    sleep(length.pick(BACK / 2, quarter, quarter)).await;
    load.stop();
    let report = load.report().await;

    judge.told(
        if mark == Mark::None { "without retry: calls" } else { "| with retry: calls" },
        report.calls().len(),
    );
    failed(&report, if mark == Mark::None { FAILED } else { 0 }, judge);
    // It gets them until it is known: a short run may have as many as a full one.
    let most = SHARE * FULL.as_secs_f64() * RATE;
    judge.count(
        "calls to the bad one",
        usize::try_from(had)?,
        most.max(SHARE * begun as f64).round() as usize,
    );
    judge.told("of", begun);
    match share_after(&report, bad.pid(), NODES, well) {
        Some(after) => judge.time("back after", after, BACK),
        None => judge.holds("the one that is well again gets its share", false),
    }
    clients.end(&fleet.living(), length, judge).await;
    Ok(())
}
