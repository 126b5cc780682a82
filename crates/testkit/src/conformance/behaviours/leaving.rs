//! Going away: seen, complete, and for good.

use std::time::Duration;

use meshwork_core::{Departure, RegistrationState, Status};
use tokio::time;

use crate::conformance::{
    bench::{Bench, LONG, QUIET, Trail, find, live, names, shown},
    flaw::{Flaw, Proof, ensure},
    suite::group,
};

group! { "leaving":
    Calm who_leaves_is_gone_for_everybody_and_stays_gone = "what is released never comes back",
    Calm leaving_is_marked_before_it_is_gone = "nacos#10209: an explicit deregister counts as intended",
    Calm a_silent_departure_bears_no_mark = "Departure::Silent: the process lives on elsewhere",
    Calm the_status_leaving_is_never_taken_back = "`leaving` is final for an id",
    Calm dropping_a_registration_leaves = "Registration: drop leaves, unconfirmed",
    Calm who_leaves_before_he_is_live_was_never_there = "Announcer::claim: what is noted is enough to release all",
    Calm an_update_just_before_leaving_brings_nobody_back = "a put that comes late finds no claim",
    Calm a_dropped_departure_goes_on = "Registration::deregister: cancel safety",
    Calm one_that_leaves_leaves_its_neighbours = "prefix neighbours",
    Calm who_left_may_come_again_under_a_new_id = "core: an id is new for each process",
    Alone leaving_is_quick = "consul#8605, kratos#1584: exit is not delayed",
}

async fn who_leaves_is_gone_for_everybody_and_stays_gone(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (watch, state) = (bench.open()?.watch(&service)?, registration.state());
    bench.shows(&watch, [&registration.id()]).await?;
    bench.leave(registration).await?;
    ensure!(matches!(*state.borrow(), RegistrationState::Gone { .. }), "its state is {:?}", *state.borrow());
    bench.shows(&watch, []).await?;
    let trail = Trail::of(&watch);
    time::sleep(QUIET).await;
    let fresh = bench.open()?.watch(&service)?;
    bench.shows(&fresh, []).await?;
    match trail.views().iter().find(|view| !view.value().is_empty()) {
        None => Ok(()),
        Some(view) => Err(Flaw::Failed(format!("it came back: {}", shown(view)))),
    }
}

/// A client finishes what it has under way with one that says goodbye, and does not take it for a failure.
async fn leaving_is_marked_before_it_is_gone(bench: Bench) -> Proof {
    if !bench.limits.sees_every_revision {
        return Err(Flaw::Skipped("a reader of this registry may miss what is gone a moment later".into()));
    }
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    let trail = Trail::of(&watch);
    // After a calm the next change is published at once; right after another it may be one with what follows it.
    time::sleep(QUIET / 4).await;
    bench.leave(registration).await?;
    bench.shows(&watch, []).await?;
    let seen = trail.statuses(&id);
    ensure!(seen.contains(&Some(Status::Leaving)), "it was seen as {seen:?}");
    Ok(())
}

async fn a_silent_departure_bears_no_mark(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    let trail = Trail::of(&watch);
    bench.depart(registration, Departure::Silent).await?;
    bench.shows(&watch, []).await?;
    let seen = trail.statuses(&id);
    ensure!(!seen.contains(&Some(Status::Leaving)), "it was seen as {seen:?}");
    Ok(())
}

async fn the_status_leaving_is_never_taken_back(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    let is_up = |view: &meshwork_core::Snapshot| find(view, &id).is_some_and(|i| i.status == Status::Up);
    bench.see(&watch, "it is up", is_up).await?;
    registration.update(|instance| instance.status = Status::Leaving);
    let is_leaving =
        |view: &meshwork_core::Snapshot| find(view, &id).is_some_and(|i| i.status == Status::Leaving);
    bench.see(&watch, "it is leaving", is_leaving).await?;
    let trail = Trail::of(&watch);
    registration.update(|instance| instance.status = Status::Up);
    time::sleep(QUIET).await;
    match trail.views().iter().find(|view| is_up(view)) {
        None => Ok(()),
        Some(view) => Err(Flaw::Failed(format!("it is up again: {}", shown(view)))),
    }
}

async fn dropping_a_registration_leaves(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let watch = bench.open()?.watch(&service)?;
    let registration = process.announce(bench.instance(&service)).await?;
    bench.shows(&watch, [&registration.id()]).await?;
    drop(registration);
    bench.shows(&watch, []).await?;
    Ok(())
}

/// The claim is cut wherever it is; a request of it that is still under way must find nothing to live under.
async fn who_leaves_before_he_is_live_was_never_there(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let (watch, mut states) = (bench.open()?.watch(&service)?, Vec::new());
    for round in 0..16_u32 {
        let registration = process.register(bench.instance(&service))?;
        states.push(registration.state());
        // From "not yet begun" to "nearly done".
        time::sleep(Duration::from_micros(u64::from(round) * 250)).await;
        drop(registration);
    }
    let mut unconfirmed = 0;
    for state in &mut states {
        let gone = state.wait_for(|state| matches!(state, RegistrationState::Gone { .. }));
        let gone = time::timeout(LONG, gone).await.ok().and_then(Result::ok);
        match gone.as_deref() {
            Some(RegistrationState::Gone { outcome: Ok(()) }) => {}
            Some(_) => unconfirmed += 1,
            None => return Err(Flaw::Failed("one is not gone".into())),
        }
    }
    if unconfirmed > 0 {
        // What was not confirmed ends with its time to live.
        time::sleep((bench.limits.ttl + bench.limits.returned) * 2).await;
    }
    time::sleep(bench.limits.settles).await;
    bench.see(&watch, "nobody is left", |view| names(view, &[].into())).await?;
    let trail = Trail::of(&watch);
    time::sleep(QUIET * 2).await;
    match trail.views().iter().find(|view| !view.value().is_empty()) {
        Some(view) => Err(Flaw::Failed(format!("one came back: {}", shown(view)))),
        None => Ok(()),
    }
}

async fn an_update_just_before_leaving_brings_nobody_back(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let watch = bench.open()?.watch(&service)?;
    for _ in 0..8 {
        let registration = process.announce(bench.instance(&service)).await?;
        registration.update(|instance| instance.weight = 1);
        tokio::task::yield_now().await;
        bench.leave(registration).await?;
    }
    bench.shows(&watch, []).await?;
    time::sleep(QUIET).await;
    bench.shows(&watch, []).await?;
    Ok(())
}

async fn a_dropped_departure_goes_on(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&registration.id()]).await?;
    let cut = time::timeout(Duration::ZERO, registration.deregister()).await;
    drop(cut);
    bench.shows(&watch, []).await?;
    Ok(())
}

async fn one_that_leaves_leaves_its_neighbours(bench: Bench) -> Proof {
    let process = bench.open()?;
    let (service, neighbour) = (bench.service("users"), bench.service("users-admin"));
    let mut one = bench.instance(&service);
    let mut two = bench.instance(&service);
    // One id begins like the other.
    one.id = meshwork_core::InstanceId::new(format!("{service}-1")).expect("invariant: an id");
    two.id = meshwork_core::InstanceId::new(format!("{service}-12")).expect("invariant: an id");
    let (one, two) = (process.announce(one).await?, process.announce(two).await?);
    let other = process.announce(bench.instance(&neighbour)).await?;
    let caller = bench.open()?;
    let (watch, beside) = (caller.watch(&service)?, caller.watch(&neighbour)?);
    bench.shows(&watch, [&one.id(), &two.id()]).await?;
    bench.leave(one).await?;
    bench.shows(&watch, [&two.id()]).await?;
    bench.shows(&beside, [&other.id()]).await?;
    for registration in [&two, &other] {
        ensure!(matches!(*registration.state().borrow(), RegistrationState::Live), "a neighbour was lost");
    }
    Ok(())
}

async fn who_left_may_come_again_under_a_new_id(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let watch = bench.open()?.watch(&service)?;
    let mut instance = bench.instance(&service);
    for _ in 0..3 {
        let registration = process.register(instance.clone())?;
        live(&registration).await?;
        bench.shows(&watch, [&registration.id()]).await?;
        bench.leave(registration).await?;
        bench.shows(&watch, []).await?;
        // The same process, at the same address.
        instance.id = meshwork_core::InstanceId::generate(&service);
    }
    Ok(())
}

async fn leaving_is_quick(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let begun = time::Instant::now();
    let left = registration.deregister().await;
    ensure!(left.is_ok(), "the registry did not confirm it: {left:?}");
    bench.judge("left", begun.elapsed(), bench.limits.leave)
}
