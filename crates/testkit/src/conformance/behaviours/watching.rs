//! What a watch promises to whoever reads it.

use std::time::Duration;

use meshwork_core::Snapshot;
use tokio::time::{self, Instant};

use crate::conformance::{
    bench::{Bench, LONG, QUIET, Trail, eventually, find, shown},
    flaw::{Flaw, Proof, ensure},
    suite::group,
};

group! { "watching":
    Calm generations_only_grow = "View: grows with every publication of one watch",
    Alone equal_content_wakes_nobody = "consul#1244, consul!5358: reports with equal content are ignored",
    Calm a_clone_of_a_watch_sees_changes_for_itself = "Watch: clones see changes independently",
    Calm a_dropped_changed_future_loses_nothing = "Watch::changed: cancel safety",
    Calm a_slow_reader_gets_the_latest_view_only = "dubbo#16149: latest value wins, no queue of events",
    Calm two_watches_of_one_query_agree = "Discovery: equal queries share one subscription",
    Calm a_watch_outlives_the_handle_it_came_from = "Watch: the topic behind it lives while any clone lives",
}

async fn generations_only_grow(bench: Bench) -> Proof {
    let (service, provider) = (bench.service("users"), bench.open()?);
    let watch = bench.open()?.watch(&service)?;
    let trail = Trail::of(&watch);
    for _ in 0..5 {
        let registration = provider.announce(bench.instance(&service)).await?;
        bench.shows(&watch, [&registration.id()]).await?;
        drop(registration);
        bench.shows(&watch, []).await?;
    }
    let generations: Vec<u64> = trail.views().iter().map(Snapshot::generation).collect();
    ensure!(generations.is_sorted_by(|a, b| a < b), "generations went {generations:?}");
    Ok(())
}

/// Heartbeats, neighbours and writes of what stands already are no news for a client with connections to keep.
async fn equal_content_wakes_nobody(bench: Bench) -> Proof {
    let crowd = bench.crowd(2).await?;
    let process = bench.open()?;
    let mut watch = process.watch(&crowd.service)?;
    bench.shows(&watch, &crowd.ids).await?;
    // What comes late of the beginning is no fault.
    while time::timeout(QUIET, watch.changed()).await.is_ok() {}
    let before = watch.latest();
    for registration in &crowd.registrations {
        registration.update(|instance| instance.weight = instance.weight.min(100));
    }
    if let Ok(neighbour) = process.register(bench.instance(&bench.service("crowd-neighbour"))) {
        neighbour.live().await.map_err(|e| Flaw::Failed(e.to_string()))?;
        drop(neighbour);
    }
    // Longer than a heartbeat, where the time to live is a test's.
    let quiet = bench.limits.ttl.clamp(QUIET, Duration::from_secs(3));
    match time::timeout(quiet, watch.changed()).await {
        Err(_elapsed) => Ok(()),
        Ok(view) => Err(Flaw::Failed(format!("{} became {}", shown(&before), shown(&view)))),
    }
}

async fn a_clone_of_a_watch_sees_changes_for_itself(bench: Bench) -> Proof {
    let crowd = bench.crowd(1).await?;
    let mut first = bench.open()?.watch(&crowd.service)?;
    let mut second = first.clone();
    for watch in [&mut first, &mut second] {
        let fresh = async { while !watch.changed().await.staleness().is_fresh() {} };
        let seen = time::timeout(LONG, fresh).await;
        ensure!(seen.is_ok(), "one reader took the change of the other");
    }
    let late = time::timeout(LONG, first.clone().changed()).await;
    ensure!(late.is_ok_and(|view| view.staleness().is_fresh()), "a late clone does not answer at once");
    Ok(())
}

/// A caller's `select!` drops the future again and again; the last change must still arrive.
async fn a_dropped_changed_future_loses_nothing(bench: Bench) -> Proof {
    let (service, provider) = (bench.service("users"), bench.open()?);
    let registration = provider.announce(bench.instance(&service)).await?;
    let mut watch = bench.open()?.watch(&service)?;
    let begun = Instant::now();
    for weight in 1..=20 {
        registration.update(|instance| instance.weight = weight);
        loop {
            ensure!(begun.elapsed() < LONG, "weight {weight} was lost: {}", shown(&watch.latest()));
            let Ok(view) = time::timeout(Duration::from_millis(1), watch.changed()).await else { continue };
            if view.value().first().is_some_and(|instance| instance.weight == weight) {
                break;
            }
        }
    }
    Ok(())
}

async fn a_slow_reader_gets_the_latest_view_only(bench: Bench) -> Proof {
    let (service, provider) = (bench.service("users"), bench.open()?);
    let registration = provider.announce(bench.instance(&service)).await?;
    let mut slow = bench.open()?.watch(&service)?;
    bench.shows(&slow, [&registration.id()]).await?;
    for weight in 1..=30 {
        registration.update(|instance| instance.weight = weight);
    }
    let is_last = |view: &Snapshot| view.value().first().is_some_and(|instance| instance.weight == 30);
    bench.see(&slow, "the last weight is seen", is_last).await?;
    let view = slow.changed().await;
    ensure!(is_last(&view), "a late reader first got {:?}", view.value());
    let next = time::timeout(QUIET, slow.changed()).await;
    ensure!(next.is_err(), "there was more to read: {}", shown(&slow.latest()));
    Ok(())
}

/// And they do so by one subscription, where the rig can count.
async fn two_watches_of_one_query_agree(bench: Bench) -> Proof {
    let crowd = bench.crowd(2).await?;
    let counted = bench.open_counted();
    let (process, stats) = match counted {
        Ok((process, counted)) => (process, Some(counted.stats)),
        Err(_) => (bench.open()?, None),
    };
    let (first, second) = (process.watch(&crowd.service)?, process.watch(&crowd.service)?);
    let (a, b) = (bench.shows(&first, &crowd.ids).await?, bench.shows(&second, &crowd.ids).await?);
    ensure!(a.value() == b.value(), "{} and {}", shown(&a), shown(&b));
    if let Some(stats) = stats {
        let subscriptions = stats.subscriptions.get();
        ensure!(subscriptions == 1, "{subscriptions} subscriptions for one query");
    }
    Ok(())
}

/// A client keeps a watch and nothing else: what it came from may be dropped.
async fn a_watch_outlives_the_handle_it_came_from(bench: Bench) -> Proof {
    bench.is_open()?;
    let (service, provider) = (bench.service("users"), bench.open()?);
    let watch = {
        let caller = bench.open()?;
        caller.watch(&service)?
    };
    bench.shows(&watch, []).await?;
    let registration = provider.announce(bench.instance(&service)).await?;
    let view = bench.shows(&watch, [&registration.id()]).await?;
    ensure!(find(&view, &registration.id()).is_some(), "{}", shown(&view));
    eventually(LONG, "the view stays fresh", || watch.latest().staleness().is_fresh()).await?;
    Ok(())
}
