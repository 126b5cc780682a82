//! Scenario 12: what a stop does to streams, hung handlers and hooks, peers that are silent or never read, and an
//! impatient supervisor; the same on each kind of registry.

mod hooks;
mod peers;
mod signals;
mod stage;
mod streams;

use std::{path::Path, time::Duration};

use meshwork_tests::{
    Result,
    judge::{Judge, Length},
    residue::Residue,
};

use self::stage::Stage;
use crate::{caller::nothing_left, registry::Registry};

/// What no step may exceed, beyond the deadline of the drain.
const PATIENCE: Duration = Duration::from_secs(20);
/// How far from the deadline an end may be that comes at the deadline.
const OFF: Duration = Duration::from_millis(500);

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    for registry in [Registry::etcd().await?, Registry::consul().await?, Registry::local()?] {
        judge.begin(registry.to_string());
        let stage = Stage {
            actor,
            registry,
            settle: Duration::from_millis(length.pick(500, 1_000, 3_000)),
            deadline: Duration::from_secs(length.pick(3, 5, 25)),
        };
        on(&stage, judge).await?;
        judge.end();
    }
    Ok(())
}

async fn on(stage: &Stage<'_>, judge: &mut Judge) -> Result<()> {
    let before = Residue::now();
    streams::end(stage, judge).await?;
    // What lasts until the deadline lasts at the same time.
    let (hung, unread, hooks) =
        tokio::try_join!(streams::hung(stage), peers::unread(stage), hooks::asleep(stage))?;
    hung.judge(stage, judge);
    unread.judge(stage, judge);
    hooks.judge(stage, judge);
    peers::silent(stage, judge).await?;
    peers::idle(stage, judge).await?;
    signals::key_before_listener(stage, judge).await?;
    signals::second(stage, judge).await?;
    judge.succeeds("registry is empty", stage.registry.empty(PATIENCE).await);
    judge.succeeds("nothing leaked", nothing_left(before).await);
    Ok(())
}
