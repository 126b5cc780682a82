//! The server stops, as by SIGKILL, and is started again with what it kept.

use std::{sync::Arc, time::Duration};

use meshwork_core::{ErrorKind, Registration, RegistrationState, Staleness};
use tokio::time::{self, Instant};

use crate::conformance::{
    bench::{Bench, LONG, SLACK, Trail, endpoint, find, live, shown, state, until},
    flaw::{Flaw, Proof, ensure},
    rig::Deed,
    suite::group,
};

group! { "server stopped and started":
    OneLost one_lost_server_of_many_costs_nothing = "etcd#15922: leader change is not loss",
    Stopped the_view_stands_says_so_and_is_fresh_again = "etcd#7247: the last good set stands for ever",
    Stopped a_registration_is_lost_says_why_and_is_live_again = "kratos#3883, gf#3167: not found again until restart",
    Stopped there_are_no_duplicates_after_the_return = "nacos#15857: what an outage leaves behind",
    Stopped only_the_newest_update_of_an_outage_appears = "nacos-sdk-go#249: after reconnect the OLD instance was registered",
    Stopped leaving_meanwhile_ends_in_time_and_for_good = "consul#8605, nacos#7219: blocks for ever; stays for ever",
    Stopped dropping_meanwhile_leaves_nothing = "Registration: drop leaves, or the time to live does",
    Stopped a_start_meanwhile_waits_and_is_live_after = "a start never fails: a dead registry is a state",
    Stopped a_view_that_begins_meanwhile_is_pending_not_empty = "Watch: empty is not unknown",
    Stopped a_process_that_is_opened_meanwhile_waits_too = "dubbo-go#3615: recovers by itself",
    Stopped a_spoiled_record_keeps_its_last_good_one_when_all_is_read_again = "apisix!13717: it vanished at an unrelated full reload",
    Stopped nobody_hammers_a_server_that_is_away = "go-zero#3364, sensu-go#3092: tight loops, GBs of log",
}

/// Back, as far as others see it: exactly these, once each, and fresh.
async fn is_back(bench: &Bench, registrations: &[&Registration], since: Instant) -> Proof {
    let ids: Vec<_> = registrations.iter().map(|registration| registration.id()).collect();
    let watch = bench.open()?.watch(&registrations[0].instance().service)?;
    let back = |view: &meshwork_core::Snapshot| {
        view.staleness().is_fresh()
            && view.value().len() == ids.len()
            && ids.iter().all(|id| find(view, id).is_some())
    };
    until(&watch, LONG, "all are back, once each", back).await?;
    for registration in registrations {
        state(registration, "live", LONG).await?;
    }
    bench.judge("back", since.elapsed(), bench.limits.returned)
}

async fn one_lost_server_of_many_costs_nothing(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    let trail = Trail::of(&watch);
    bench.step().await?;
    let (lost, second) = (Instant::now(), bench.open()?.register(bench.instance(&service))?);
    live(&second).await?;
    until(&watch, LONG, "a new one is seen", |view| find(view, &second.id()).is_some()).await?;
    bench.judge("served again", lost.elapsed(), bench.limits.returned)?;
    state(&registration, "live", LONG).await?;
    bench.step().await?;
    time::sleep(bench.limits.ttl).await;
    trail.never_misses(&id)?;
    ensure!(registration.id() == id, "it is now {}", registration.id());
    is_back(&bench, &[&registration, &second], Instant::now()).await
}

async fn the_view_stands_says_so_and_is_fresh_again(mut bench: Bench) -> Proof {
    let crowd = bench.crowd(2).await?;
    let watch = bench.open()?.watch(&crowd.service)?;
    let before = bench.shows(&watch, &crowd.ids).await?;
    let trail = Trail::of(&watch);
    bench.step().await?;
    let limit = bench.limits.noticed * SLACK;
    let view = until(&watch, limit, "the view is stale", |view| !view.staleness().is_fresh()).await?;
    ensure!(view.value() == before.value(), "{} became {}", shown(&before), shown(&view));
    match view.staleness() {
        Staleness::Stale { since, cause, .. } => {
            ensure!(since.elapsed() < limit, "stale since {:?}", since.elapsed());
            ensure!(cause.kind() == ErrorKind::Unavailable, "its cause is {}: {cause}", cause.kind());
        }
        other => return Err(Flaw::Failed(format!("the view is {other:?}"))),
    }
    bench.step().await?;
    let returned = Instant::now();
    let fresh =
        |view: &meshwork_core::Snapshot| view.staleness().is_fresh() && view.value().len() == crowd.ids.len();
    until(&watch, LONG, "the view is fresh and whole", fresh).await?;
    bench.judge("fresh", returned.elapsed(), bench.limits.returned)?;
    let emptied =
        trail.views().iter().find(|view| view.value().is_empty() && !view.staleness().is_pending()).cloned();
    ensure!(emptied.is_none() || !bench.limits.keeps_records, "the view was emptied: {emptied:?}");
    Ok(())
}

async fn a_registration_is_lost_says_why_and_is_live_again(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let id = registration.id();
    bench.step().await?;
    state(&registration, "lost", (bench.limits.noticed + bench.limits.ttl) * SLACK).await?;
    match &*registration.state().borrow() {
        RegistrationState::Lost { cause, .. } => {
            ensure!(cause.kind() == ErrorKind::Unavailable, "its cause is {}: {cause}", cause.kind());
        }
        other => return Err(Flaw::Failed(format!("its state is {other:?}"))),
    }
    bench.step().await?;
    is_back(&bench, &[&registration], Instant::now()).await?;
    ensure!(registration.id() == id, "it came back as {}", registration.id());
    bench.leave(registration).await
}

async fn there_are_no_duplicates_after_the_return(mut bench: Bench) -> Proof {
    let service = bench.service("users");
    let (one, other) = (bench.open()?, bench.open()?);
    let mut all = Vec::new();
    for process in [&one, &other, &one, &other, &one] {
        all.push(process.announce(bench.instance(&service)).await?);
    }
    bench.step().await?;
    state(&all[0], "lost", (bench.limits.noticed + bench.limits.ttl) * SLACK).await?;
    bench.step().await?;
    let returned = Instant::now();
    is_back(&bench, &all.iter().collect::<Vec<_>>(), returned).await?;
    time::sleep(bench.limits.ttl).await;
    is_back(&bench, &all.iter().collect::<Vec<_>>(), Instant::now()).await
}

/// The process moved while nobody could be told: where it was must not be announced again, not even for a moment.
async fn only_the_newest_update_of_an_outage_appears(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    bench.step().await?;
    state(&registration, "lost", (bench.limits.noticed + bench.limits.ttl) * SLACK).await?;
    let trail = Trail::of(&watch);
    for port in [4501, 4502, 4503] {
        registration
            .update(|instance| instance.endpoints = vec![endpoint(&format!("http://127.0.0.3:{port}"))]);
    }
    let newest = registration.instance();
    bench.step().await?;
    let is_there = |view: &meshwork_core::Snapshot| find(view, &id).is_some_and(|seen| *seen == *newest);
    until(&watch, LONG, "the newest address is seen", |view| view.staleness().is_fresh() && is_there(view))
        .await?;
    let between = trail
        .views()
        .iter()
        .flat_map(|view| view.value().to_vec())
        .find(|seen| seen.endpoints.iter().any(|endpoint| matches!(endpoint.port(), 4501 | 4502)));
    ensure!(between.is_none(), "an address in between was announced: {between:?}");
    let fresh = bench.open()?.watch(&service)?;
    until(&fresh, LONG, "the newest alone is seen", |view| view.value().len() == 1 && is_there(view)).await?;
    Ok(())
}

async fn leaving_meanwhile_ends_in_time_and_for_good(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    bench.step().await?;
    let begun = Instant::now();
    let left = time::timeout(LONG, registration.deregister()).await;
    let took = begun.elapsed();
    ensure!(left.is_ok_and(|left| left.is_err()), "there is no server, and it says that it left");
    bench.judge("left", took, bench.limits.leave)?;
    bench.step().await?;
    // A store gives each claim its whole time to live again when it starts.
    let limit = (bench.limits.ttl + bench.limits.returned) * SLACK;
    until(&watch, limit, "it is gone", |view| view.staleness().is_fresh() && view.value().is_empty()).await?;
    time::sleep(bench.limits.ttl).await;
    let fresh = bench.open()?.watch(&service)?;
    bench.shows(&fresh, []).await?;
    Ok(())
}

async fn dropping_meanwhile_leaves_nothing(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let never = process.register(bench.instance(&service));
    bench.step().await?;
    drop((registration, never));
    let late = process.register(bench.instance(&service))?;
    drop(late);
    bench.step().await?;
    let limit = (bench.limits.ttl + bench.limits.returned) * SLACK;
    let watch = bench.open()?.watch(&service)?;
    until(&watch, limit, "nothing is left", |view| view.staleness().is_fresh() && view.value().is_empty())
        .await?;
    time::sleep(bench.limits.ttl).await;
    bench.shows(&watch, []).await?;
    Ok(())
}

async fn a_start_meanwhile_waits_and_is_live_after(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    bench.step().await?;
    let registration = process.register(bench.instance(&service))?;
    let waited = time::timeout(Duration::from_secs(1), registration.live()).await;
    ensure!(waited.is_err(), "live() ended with {waited:?}");
    let pending = registration.state().borrow().clone();
    match &pending {
        RegistrationState::Pending { cause: Some(cause) } => {
            ensure!(cause.kind() == ErrorKind::Unavailable, "its cause is {}: {cause}", cause.kind());
        }
        RegistrationState::Pending { cause: None } => {}
        other => return Err(Flaw::Failed(format!("its state is {other:?}"))),
    }
    bench.step().await?;
    let returned = Instant::now();
    live(&registration).await?;
    is_back(&bench, &[&registration], returned).await
}

async fn a_view_that_begins_meanwhile_is_pending_not_empty(mut bench: Bench) -> Proof {
    let crowd = bench.crowd(1).await?;
    let caller = bench.open()?;
    bench.step().await?;
    let watch = caller.watch(&crowd.service)?;
    let limit = bench.limits.noticed * SLACK;
    let view = until(&watch, limit, "it says why", |view| view.staleness().cause().is_some()).await?;
    ensure!(view.staleness().is_pending() && view.known().is_none(), "{}", shown(&view));
    bench.step().await?;
    let returned = Instant::now();
    until(&watch, LONG, "it is fresh", |view| view.staleness().is_fresh()).await?;
    bench.judge("fresh", returned.elapsed(), bench.limits.returned)
}

async fn a_process_that_is_opened_meanwhile_waits_too(mut bench: Bench) -> Proof {
    let service = bench.service("users");
    bench.step().await?;
    let process = bench.open()?;
    let (watch, registration) = (process.watch(&service)?, process.register(bench.instance(&service))?);
    time::sleep(Duration::from_millis(500)).await;
    bench.step().await?;
    let returned = Instant::now();
    live(&registration).await?;
    until(&watch, LONG, "it sees itself", |view| view.staleness().is_fresh() && view.value().len() == 1)
        .await?;
    bench.judge("there", returned.elapsed(), bench.limits.returned)
}

/// No owner is there to mend it, and after the return every reader reads everything anew.
async fn a_spoiled_record_keeps_its_last_good_one_when_all_is_read_again(mut bench: Bench) -> Proof {
    let service = bench.service("users");
    let (one, other) = (Arc::new(bench.instance(&service)), Arc::new(bench.instance(&service)));
    bench.act(Deed::Put(Arc::clone(&one))).await?;
    bench.act(Deed::Put(Arc::clone(&other))).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&one.id, &other.id]).await?;
    bench.act(Deed::Spoil(Arc::clone(&one))).await?;
    bench.step().await?;
    let limit = bench.limits.noticed * SLACK;
    until(&watch, limit, "the view is stale", |view| !view.staleness().is_fresh()).await?;
    bench.step().await?;
    until(&watch, LONG, "the view is fresh", |view| view.staleness().is_fresh()).await?;
    bench.shows(&watch, [&one.id, &other.id]).await?;
    // Who never saw it good cannot know it.
    let fresh = bench.open()?.watch(&service)?;
    bench.shows(&fresh, [&other.id]).await?;
    Ok(())
}

async fn nobody_hammers_a_server_that_is_away(mut bench: Bench) -> Proof {
    let (service, (process, linked)) = (bench.service("users"), bench.open_linked().await?);
    let registration = process.announce(bench.instance(&service)).await?;
    let mut watches = Vec::new();
    for n in 0..20 {
        let watch = process.watch(&bench.service(&format!("quiet-{n}")))?;
        bench.shows(&watch, []).await?;
        watches.push(watch);
    }
    bench.step().await?;
    let (before, begun) = (linked.traffic(), Instant::now());
    time::sleep(Duration::from_secs(2)).await;
    let made = linked.traffic().connections - before.connections;
    let seconds = begun.elapsed().as_secs_f64();
    bench.step().await?;
    // Twenty subscriptions and a claim, with a back-off each, and a link for each of several servers.
    ensure!(made as f64 / seconds <= 60.0, "{made} connections were tried in {seconds:.1} s");
    state(&registration, "live", LONG).await?;
    for watch in &watches {
        until(watch, LONG, "it is fresh", |view| view.staleness().is_fresh()).await?;
    }
    Ok(())
}
