//! Records that nobody can read, and records of others.

use std::sync::Arc;

use meshwork_core::{InstanceId, RefusalKind};
use tokio::time;

use crate::conformance::{
    bench::{Bench, LONG, QUIET, Trail, eventually, find, until},
    flaw::{Flaw, Proof, ensure},
    rig::{Deed, Malformed},
    suite::group,
};

group! { "hostile records":
    Calm a_malformed_neighbour_hurts_only_itself = "one undecodable value left a consumer of another framework without addresses",
    Calm a_malformed_neighbour_that_comes_later_hurts_only_itself = "apisix!13717: watch path and re-list path judge alike",
    Calm a_malformed_record_is_counted_once = "apisix#13931: `invalid_records{reason}` = 1, neighbours untouched",
    Calm an_overwritten_record_keeps_its_last_good_one = "apisix!13717: the last good record of that instance stands",
    Calm a_record_written_by_hand_is_found_and_goes_when_deleted = "a reader takes what is well formed, whoever wrote it",
    Calm an_instance_of_other_software_is_found_as_foreign = "plain services registered by others are usable",
}

/// Plants what this rig can; says how many.
async fn plant(bench: &Bench, service: &meshwork_core::ServiceName) -> Result<u64, Flaw> {
    let (mut planted, mut why) = (0, String::new());
    for (n, kind) in Malformed::ALL.into_iter().enumerate() {
        let id = InstanceId::new(format!("{service}-bad-{n}")).expect("invariant: an id");
        match bench.act(Deed::Plant(kind, service.clone(), id)).await {
            Ok(()) => planted += 1,
            Err(Flaw::Skipped(reason)) => why = reason,
            Err(failed) => return Err(failed),
        }
    }
    if planted == 0 { Err(Flaw::Skipped(why)) } else { Ok(planted) }
}

async fn a_malformed_neighbour_hurts_only_itself(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    plant(&bench, &service).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&registration.id()]).await?;
    // What comes after it is seen as well.
    let later = process.announce(bench.instance(&service)).await?;
    bench.shows(&watch, [&registration.id(), &later.id()]).await?;
    Ok(())
}

async fn a_malformed_neighbour_that_comes_later_hurts_only_itself(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&registration.id()]).await?;
    let trail = Trail::of(&watch);
    plant(&bench, &service).await?;
    let later = process.announce(bench.instance(&service)).await?;
    bench.shows(&watch, [&registration.id(), &later.id()]).await?;
    registration.update(|instance| instance.weight = 3);
    let id = registration.id();
    bench.see(&watch, "an update is seen", |view| find(view, &id).is_some_and(|i| i.weight == 3)).await?;
    trail.never_misses(&id)?;
    let stale = trail.views().iter().filter(|view| !view.staleness().is_fresh()).count();
    ensure!(stale == 0, "the view was stale {stale} times");
    Ok(())
}

async fn a_malformed_record_is_counted_once(bench: Bench) -> Proof {
    let (service, provider) = (bench.service("users"), bench.open()?);
    let (process, counted) = bench.open_counted()?;
    let registration = provider.announce(bench.instance(&service)).await?;
    let planted = plant(&bench, &service).await?;
    let watch = process.watch(&service)?;
    bench.shows(&watch, [&registration.id()]).await?;
    let refused = || counted.stats.refusals().map(|(_, count)| count).sum::<u64>();
    eventually(LONG, &format!("{planted} records are counted as refused"), || refused() >= planted).await?;
    // Reading them again does not count them again.
    registration.update(|instance| instance.weight = 3);
    let id = registration.id();
    bench.see(&watch, "an update is seen", |view| find(view, &id).is_some_and(|i| i.weight == 3)).await?;
    time::sleep(QUIET).await;
    let kinds: Vec<(RefusalKind, u64)> = counted.stats.refusals().filter(|(_, count)| *count > 0).collect();
    ensure!(refused() == planted, "{planted} records were counted as {kinds:?}");
    Ok(())
}

/// The owner is alive, so it mends its record as well; meanwhile nobody may miss it.
async fn an_overwritten_record_keeps_its_last_good_one(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let neighbour = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id, &neighbour.id()]).await?;
    let trail = Trail::of(&watch);
    for weight in 1..=3 {
        bench.act(Deed::Spoil(registration.instance())).await?;
        neighbour.update(|instance| instance.weight = weight);
        let other = neighbour.id();
        bench
            .see(&watch, "the neighbour's update is seen", |view| {
                find(view, &other).is_some_and(|i| i.weight == weight)
            })
            .await?;
    }
    registration.update(|instance| instance.weight = 77);
    until(&watch, LONG, "its own update is seen", |view| find(view, &id).is_some_and(|i| i.weight == 77))
        .await?;
    trail.never_misses(&id)?;
    trail.never_misses(&neighbour.id())
}

async fn a_record_written_by_hand_is_found_and_goes_when_deleted(bench: Bench) -> Proof {
    bench.is_open()?;
    let (service, caller) = (bench.service("users"), bench.open()?);
    let watch = caller.watch(&service)?;
    bench.shows(&watch, []).await?;
    let instance = Arc::new(bench.instance(&service));
    bench.act(Deed::Put(Arc::clone(&instance))).await?;
    bench.shows(&watch, [&instance.id]).await?;
    bench.act(Deed::Erase(Arc::clone(&instance))).await?;
    until(&watch, LONG, "it is gone", |view| view.value().is_empty()).await?;
    Ok(())
}

async fn an_instance_of_other_software_is_found_as_foreign(bench: Bench) -> Proof {
    let service = bench.service("legacy");
    let id = InstanceId::new("legacy-1").expect("invariant: an id");
    bench.act(Deed::PutForeign(service.clone(), id)).await?;
    let watch = bench.open()?.watch(&service)?;
    let view = bench.see(&watch, "it is found", |view| view.value().len() == 1).await?;
    let found = &view.value()[0];
    ensure!(!found.is_native(), "it is taken for one of ours: {found:?}");
    let addresses: Vec<String> = found.endpoints.iter().map(ToString::to_string).collect();
    ensure!(addresses == ["http://127.0.0.1:7000"], "its addresses are {addresses:?}");
    Ok(())
}
