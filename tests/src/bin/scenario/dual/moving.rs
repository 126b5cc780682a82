//! The migration, by one file that all processes share: write both and read etcd, read both, write Consul only, read
//! Consul only; then etcd is switched off.

use std::time::Duration;

use meshwork_testkit::{load::Load, truth::eventually};
use meshwork_tests::{
    Result,
    judge::{Judge, Length},
};
use tokio::time::{Instant, sleep};

use super::stage::{Home, PATIENCE, RATE, Side, Stage, tell};

/// What the file says at each step, and how many providers are in etcd and in Consul then.
const STEPS: [(&str, &str, usize, usize); 4] = [
    ("both", "primary", 3, 3),
    ("both", "union", 3, 3),
    ("secondary", "union", 0, 3),
    ("secondary", "secondary", 0, 3),
];
/// How long a changed file may take until the registries show it.
const APPLIED: Duration = Duration::from_secs(3);

pub(super) async fn play(stage: &mut Stage, length: Length, judge: &mut Judge) -> Result<()> {
    let (caller, handle) = stage.caller("primary").await?;
    for _ in 0..3 {
        stage.provide(Home::Moving).await?;
    }
    let call = caller.clone();
    let load = Load::rate(RATE).lasting(Duration::MAX).start(move |_| call.clone().plain());
    caller.heard_of(&stage.pids(), PATIENCE).await?;
    let eye = stage.watch(&caller);
    let made = stage.connections();
    let stays = Duration::from_secs(length.pick(1, 4, 15));
    for (step, (write, read, etcd, consul)) in STEPS.into_iter().enumerate() {
        stage.write(Home::Moving, write, read)?;
        let changed = Instant::now();
        let applied = handle.reload().await.map_err(|error| format!("{error:?}"))?;
        judge.holds("nothing of it needs a restart", applied.restart_needed.is_empty());
        judge.holds("the caller takes it", step == 0 || !applied.applied.is_empty());
        let listed = || async {
            let (old, new) = tokio::join!(stage.listed(Side::Etcd), stage.listed(Side::Consul));
            old.is_ok_and(|ids| ids.len() == etcd) && new.is_ok_and(|ids| ids.len() == consul)
        };
        let told = format!("etcd lists {etcd} and Consul {consul}");
        judge.succeeds(&format!("write {write}, read {read}"), eventually(PATIENCE, &told, listed).await);
        judge.time("applied after", changed.elapsed(), APPLIED);
        sleep(stays).await;
        judge
            .succeeds("the view is the truth", caller.view_is(&stage.living(), length.allows(APPLIED)).await);
    }
    stage.etcd.kill9().await?;
    sleep(stays).await;
    load.stop();
    let report = load.report().await;
    tell("moving", &report, judge);
    eye.judged(judge).await;
    stage.judge_connections(&made, judge);
    caller.end().await;
    for place in 0..stage.places.len() {
        judge.succeeds("providers stop", stage.stop(place).await);
    }
    stage.places.clear();
    let nobody = || async { stage.listed(Side::Consul).await.is_ok_and(|ids| ids.is_empty()) };
    judge.succeeds("Consul is empty", eventually(PATIENCE, "nobody is listed", nobody).await);
    Ok(())
}
