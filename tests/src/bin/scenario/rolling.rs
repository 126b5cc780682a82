//! Scenario 11: five processes are restarted one after the other, and nobody who calls notices.

mod deploy;
mod fleet;
mod fresh;
mod handed;
mod line;
mod offered;
mod platform;
mod sight;
mod stage;
mod strangers;

use std::{path::Path, time::Duration};

use meshwork_tests::{
    Result,
    judge::{Judge, Length},
    residue::Residue,
};

use self::stage::Stage;
use crate::{caller::nothing_left, registry::Registry};

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let stage = Stage::new(actor, length)?;
    for registry in [Registry::etcd().await?, Registry::consul().await?, Registry::local()?] {
        let before = Residue::now();
        for (kind, delay) in deploy::links(&stage, &registry) {
            deploy::deploy(&stage, &registry, kind, Duration::from_millis(delay), judge).await?;
        }
        judge.begin(format!("{registry}: what is left"));
        judge.succeeds("nothing leaked", nothing_left(before).await);
        judge.end();
    }
    let before = Residue::now();
    offered::fresh_connections(&stage, judge).await?;
    offered::listed_for_ours(&stage, judge).await?;
    offered::listed_for_others(&stage, judge).await?;
    for (stranger, hand) in handed::pairs(&stage) {
        handed::handed_over(&stage, stranger, hand, judge).await?;
    }
    handed::curl_of_five(&stage, judge).await?;
    judge.begin("the rest: what is left");
    judge.succeeds("nothing leaked", nothing_left(before).await);
    judge.end();
    Ok(())
}
