//! Scenario 4: one live endpoint and two that refuse, from the very first call.
//!
//! The two were processes that announced themselves for long and were killed before anybody called.

use std::{path::Path, time::Duration};

use meshwork_testkit::load::Load;
use meshwork_tests::{
    Result,
    judge::{Judge, Length},
    records,
    residue::Residue,
};

use crate::{
    caller::{Caller, most_connects, nothing_left},
    fleet::{Fleet, TTL},
};

/// The dead stay listed over the whole run.
const LISTED: Duration = Duration::from_secs(300);
const RATE: f64 = 200.0;

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let lasting = Duration::from_secs(length.pick(5, 20, 90));
    let fleet = Fleet::start(actor, &[TTL, LISTED, LISTED]).await?;
    let refused: Vec<_> = fleet.places[1..].iter().map(|place| place.provider.addr()).collect();
    for place in &fleet.places[1..] {
        place.provider.kill9().await?;
    }
    let listed = records::announced(&fleet.etcd, meshwork_tests::SERVICE).await?;
    judge.holds("all three are listed when the first call begins", listed.len() == 3);

    let before = Residue::now();
    let caller = Caller::new(&fleet.etcd, "1s");
    let call = caller.clone();
    let report = Load::rate(RATE).lasting(lasting).start(move |_| call.clone().plain()).report().await;
    judge.told("calls", report.calls().len());
    judge.count("failed", report.failed(), 0);
    if let Some(failure) = report.calls().iter().find_map(Caller::failure) {
        judge.note(&format!("first failure: {failure}"));
    }
    let first = report.calls().first().map(meshwork_testkit::load::Call::latency).unwrap_or_default();
    judge.told("first call", format_args!("{:.1} ms", first.as_secs_f64() * 1e3));
    judge.told("p50", format_args!("{:.1} ms", report.p50().as_secs_f64() * 1e3));
    judge.told("p99", format_args!("{:.1} ms", report.p99().as_secs_f64() * 1e3));
    for addr in refused {
        let most = most_connects(lasting);
        judge.count("connects to a refused one", caller.connects(addr), most);
    }

    // The dead are listed no longer once their leases go.
    for lease in records::leases(&fleet.etcd).await? {
        let held = fleet.etcd.etcdctl(["lease", "timetolive", &lease, "--keys"]).await?;
        if !held.contains(fleet.places[0].provider.id()) {
            fleet.etcd.etcdctl(["lease", "revoke", &lease]).await?;
        }
    }
    judge.succeeds("view equals truth", caller.view_is(&fleet.living(), length.allows(TTL)).await);
    judge.succeeds("registry equals truth", fleet.truth(length.allows(TTL)).await);
    caller.end().await;
    judge.succeeds("providers stop", fleet.stop().await);
    judge.succeeds("no lease is left", fleet.truth(length.allows(TTL)).await);
    judge.succeeds("nothing leaked", nothing_left(before).await);
    Ok(())
}
