//! The server loses everything it had and answers again.

use std::sync::Arc;

use tokio::time::{self, Instant};

use crate::conformance::{
    bench::{Bench, LONG, SLACK, find, names, state, until},
    flaw::{Flaw, Proof},
    rig::Deed,
    suite::group,
};

group! { "server wiped":
    Wiped all_registrations_are_back_in_time = "rpcx#420, nitro-plugins#127: I must restart each service one by one",
    Wiped updates_are_seen_after_it = "a wiped store accepts a watch from the future in silence",
    Wiped nobody_is_left_who_is_not_there = "nacos#7219: ghosts after a full restart",
    Wiped leaving_after_it_is_clean = "rpcx#420: the dead lease was used for ever",
    Wiped an_update_during_it_is_not_lost = "nacos-sdk-go#249: the current record is the only source",
}

async fn all_registrations_are_back_in_time(mut bench: Bench) -> Proof {
    let service = bench.service("users");
    let (one, other) = (bench.open()?, bench.open()?);
    let mut all = Vec::new();
    for process in [&one, &other, &one] {
        all.push(process.announce(bench.instance(&service)).await?);
    }
    let old = bench.open()?.watch(&service)?;
    let ids: Vec<_> = all.iter().map(|registration| registration.id()).collect();
    bench.shows(&old, &ids).await?;
    bench.step().await?;
    let wiped = Instant::now();
    let new = bench.open()?.watch(&service)?;
    for watch in [&new, &old] {
        let back = |view: &meshwork_core::Snapshot| {
            view.staleness().is_fresh() && names(view, &ids.iter().collect())
        };
        until(watch, LONG, "all are back, once each", back).await?;
    }
    bench.judge("back", wiped.elapsed(), bench.limits.wiped)?;
    for registration in &all {
        state(registration, "live", LONG).await?;
    }
    Ok(())
}

async fn updates_are_seen_after_it(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    bench.step().await?;
    for weight in 1..=3 {
        registration.update(|instance| instance.weight = weight);
        until(&watch, LONG, "the weight is seen", |view| find(view, &id).is_some_and(|i| i.weight == weight))
            .await?;
    }
    let second = bench.open()?.announce(bench.instance(&service)).await?;
    until(&watch, LONG, "a new one is seen", |view| find(view, &second.id()).is_some()).await?;
    Ok(())
}

/// A record without an owner was wiped: nobody puts it back, and no view may keep it for ever.
async fn nobody_is_left_who_is_not_there(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let ghost = Arc::new(bench.instance(&service));
    let put = bench.act(Deed::Put(Arc::clone(&ghost))).await;
    if let Err(Flaw::Failed(seen)) = put {
        return Err(Flaw::Failed(seen));
    }
    let watch = bench.open()?.watch(&service)?;
    let (own, foreign) = (registration.id(), put.is_ok().then_some(&ghost.id));
    bench.shows(&watch, foreign.into_iter().chain([&own])).await?;
    bench.step().await?;
    let limit = (bench.limits.wiped + bench.limits.ttl) * SLACK;
    let true_again =
        |view: &meshwork_core::Snapshot| view.staleness().is_fresh() && names(view, &[&own].into());
    until(&watch, limit, "only who is there is seen", true_again).await?;
    Ok(())
}

async fn leaving_after_it_is_clean(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let early = process.announce(bench.instance(&service)).await?;
    let late = process.announce(bench.instance(&service)).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&early.id(), &late.id()]).await?;
    bench.step().await?;
    // One may not have noticed yet, the other has come back.
    bench.leave(early).await?;
    state(&late, "live", LONG).await?;
    bench.leave(late).await?;
    until(&watch, LONG, "both are gone", |view| view.staleness().is_fresh() && view.value().is_empty())
        .await?;
    time::sleep(bench.limits.ttl).await;
    bench.shows(&watch, []).await?;
    Ok(())
}

async fn an_update_during_it_is_not_lost(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    // The server goes and comes while this is under way.
    let updating = async {
        for weight in 1..=200 {
            registration.update(|instance| instance.weight = weight);
            time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let (stepped, ()) = tokio::join!(bench.step(), updating);
    stepped?;
    until(&watch, LONG, "the last update is seen", |view| find(view, &id).is_some_and(|i| i.weight == 200))
        .await?;
    let fresh = bench.open()?.watch(&service)?;
    until(&fresh, LONG, "by a new reader too", |view| find(view, &id).is_some_and(|i| i.weight == 200))
        .await?;
    Ok(())
}
