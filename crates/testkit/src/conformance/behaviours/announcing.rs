//! A registration while all is well: live, changed, beside others.

use std::time::Duration;

use meshwork_core::{InstanceId, Registration, RegistrationState, Status};
use tokio::time::{self, Instant};

use crate::conformance::{
    bench::{Bench, LONG, QUIET, Trail, endpoint, find, live, shown, until},
    flaw::{Proof, ensure},
    suite::group,
};

group! { "announcing":
    Calm registering_never_blocks_and_becomes_live = "Registry::register: synchronous, infallible",
    Calm a_registration_outlives_its_time_to_live = "rabbitmq-server!17404: leases granted, never kept alive",
    Calm two_instances_of_one_service_stand_side_by_side = "core: an instance is one process",
    Calm several_services_of_one_process_leave_one_by_one = "kratos!3594: one id for several services of a process",
    Calm an_update_is_seen_without_absence = "Announcer::update: never absent in between; go-zero revokes before it puts",
    Calm quick_updates_end_in_the_last_one = "Registration::update: level-triggered, only the last content is written",
    Calm an_update_before_it_is_live_is_announced = "Registration::update: the wished record",
    Calm unready_and_up_again_are_seen = "core: status",
    Calm a_changed_address_keeps_the_id = "nacos-sdk-go#249: the current record is the only source",
    Calm an_update_that_nobody_could_read_leaves_the_good_record = "registrar: an Invalid update leaves the last good one",
    Alone storms_of_coming_and_going_end_in_the_truth = "dubbo#16149: events pile up; the state must win",
}

/// What its own process says of it.
fn is_live(registration: &Registration) -> bool {
    matches!(*registration.state().borrow(), RegistrationState::Live)
}

/// A start that waits for a registry is the App's decision, not the backend's.
async fn registering_never_blocks_and_becomes_live(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let begun = Instant::now();
    let registration = process.register(bench.instance(&service))?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_millis(200), "register took {took:?}");
    live(&registration).await?;
    live(&registration).await?;
    ensure!(is_live(&registration), "live() answered, and the state is {:?}", registration.state().borrow());
    Ok(())
}

/// Neither the owner nor anybody else notices that claims run out, because it is kept.
async fn a_registration_outlives_its_time_to_live(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&registration.id()]).await?;
    let (trail, mut states) = (Trail::of(&watch), registration.state());
    states.mark_unchanged();
    let longer = (bench.limits.ttl * 2).clamp(QUIET, Duration::from_secs(8));
    let changed = time::timeout(longer, states.changed()).await;
    ensure!(changed.is_err(), "its state became {:?}", *states.borrow());
    trail.never_misses(&registration.id())?;
    bench.shows(&watch, [&registration.id()]).await?;
    Ok(())
}

async fn two_instances_of_one_service_stand_side_by_side(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let one = process.announce(bench.instance(&service)).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&one.id()]).await?;
    // Of the same process, and of another one.
    let two = process.announce(bench.instance(&service)).await?;
    let three = bench.open()?.announce(bench.instance(&service)).await?;
    bench.shows(&watch, [&one.id(), &two.id(), &three.id()]).await?;
    bench.leave(two).await?;
    bench.shows(&watch, [&one.id(), &three.id()]).await?;
    ensure!(is_live(&one) && is_live(&three), "one that left took others with it");
    Ok(())
}

async fn several_services_of_one_process_leave_one_by_one(bench: Bench) -> Proof {
    let (process, caller) = (bench.open()?, bench.open()?);
    let mut all = Vec::new();
    for n in 0..5 {
        let service = bench.service(&format!("service-{n}"));
        let mut instance = bench.instance(&service);
        // One listener may serve them all.
        instance.endpoints = vec![endpoint("http://127.0.0.1:4000"), endpoint("grpc://127.0.0.1:4000")];
        all.push((caller.watch(&service)?, process.announce(instance).await?));
    }
    for (watch, registration) in &all {
        bench.shows(watch, [&registration.id()]).await?;
    }
    let (watch, registration) = all.remove(2);
    bench.leave(registration).await?;
    bench.shows(&watch, []).await?;
    for (watch, registration) in &all {
        bench.shows(watch, [&registration.id()]).await?;
        ensure!(is_live(registration), "one that left took others with it");
    }
    Ok(())
}

async fn an_update_is_seen_without_absence(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    let trail = Trail::of(&watch);
    for weight in [1, 0, 65_535, 7] {
        registration.update(|instance| {
            instance.weight = weight;
            instance.labels.set("weight", weight.to_string());
        });
        let what = format!("weight {weight} is seen");
        let view =
            bench.see(&watch, &what, |view| find(view, &id).is_some_and(|i| i.weight == weight)).await?;
        let label = find(&view, &id).and_then(|instance| instance.labels.get("weight"));
        ensure!(label == Some(&weight.to_string()), "weight {weight} came with label {label:?}");
    }
    trail.never_misses(&id)?;
    ensure!(registration.id() == id, "an update changed the id");
    Ok(())
}

async fn quick_updates_end_in_the_last_one(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    registration.update(|instance| instance.weight = 0);
    // Fresh, so that it stands in all of it: a union may show one side's word before the other side is read.
    let weighs = |weight| {
        bench.see(&watch, "the weight is seen", move |view| {
            view.staleness().is_fresh() && view.value().first().is_some_and(|i| i.weight == weight)
        })
    };
    weighs(0).await?;
    let trail = Trail::of(&watch);
    for weight in 1..=50 {
        registration.update(|instance| instance.weight = weight);
        tokio::task::yield_now().await;
    }
    weighs(50).await?;
    time::sleep(QUIET).await;
    let weights: Vec<u16> =
        trail.views().iter().filter_map(|view| find(view, &id)).map(|i| i.weight).collect();
    ensure!(weights.is_sorted() && weights.last() == Some(&50), "weights went {weights:?}");
    trail.never_misses(&id)
}

async fn an_update_before_it_is_live_is_announced(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let watch = bench.open()?.watch(&service)?;
    let registration = process.register(bench.instance(&service))?;
    registration.update(|instance| instance.zone = "zone-2".into());
    live(&registration).await?;
    let id = registration.id();
    bench
        .see(&watch, "the zone is seen", |view| find(view, &id).is_some_and(|i| &*i.zone == "zone-2"))
        .await?;
    Ok(())
}

async fn unready_and_up_again_are_seen(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    let trail = Trail::of(&watch);
    for status in [Status::Unready, Status::Up, Status::Unready, Status::Up] {
        registration.update(|instance| instance.status = status);
        let what = format!("it is {}", status.as_str());
        bench.see(&watch, &what, |view| find(view, &id).is_some_and(|i| i.status == status)).await?;
    }
    trail.never_misses(&id)
}

async fn a_changed_address_keeps_the_id(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    let moved = endpoint("http://127.0.0.9:4100");
    registration.update(|instance| instance.endpoints = vec![moved.clone()]);
    let view = bench
        .see(&watch, "the new address is seen", |view| {
            view.value().iter().any(|i| i.endpoints == [moved.clone()])
        })
        .await?;
    ensure!(
        view.value().len() == 1 && find(&view, &id).is_some(),
        "its id changed, or it is there twice: {}",
        shown(&view)
    );
    ensure!(registration.id() == id && is_live(&registration), "its owner took it for another");
    Ok(())
}

/// What readers would refuse is not written; the process goes on as it was announced, and may mend its wish.
async fn an_update_that_nobody_could_read_leaves_the_good_record(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    let trail = Trail::of(&watch);
    registration.update(|instance| {
        instance.weight = 1;
        for n in 0..=64 {
            instance.labels.set(format!("label-{n}"), "x");
        }
    });
    time::sleep(QUIET).await;
    let view = watch.latest();
    ensure!(find(&view, &id).is_some_and(|i| i.weight == 100), "the good record is gone: {:?}", view.value());
    ensure!(is_live(&registration), "the good record is not live: {:?}", *registration.state().borrow());
    registration.update(|instance| {
        instance.weight = 9;
        for n in 0..=64 {
            instance.labels.remove(&format!("label-{n}"));
        }
    });
    bench
        .see(&watch, "the mended wish is seen", |view| find(view, &id).is_some_and(|i| i.weight == 9))
        .await?;
    trail.never_misses(&id)
}

/// Whatever order requests arrive in: what is left is what was wished last, and nothing else.
async fn storms_of_coming_and_going_end_in_the_truth(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let watch = bench.open()?.watch(&service)?;
    let mut kept: Vec<Registration> = Vec::new();
    let mut leaving = tokio::task::JoinSet::new();
    for round in 0..40 {
        let registration = process.register(bench.instance(&service))?;
        match round % 4 {
            0 => kept.push(registration),
            1 => drop(registration),
            2 => drop(leaving.spawn(registration.deregister())),
            _ => {
                registration.update(|instance| instance.weight = 3);
                tokio::task::yield_now().await;
                leaving.spawn(registration.deregister());
            }
        }
    }
    for registration in &kept {
        live(registration).await?;
    }
    let left = time::timeout(LONG, leaving.join_all()).await;
    ensure!(left.is_ok(), "leaving took longer than {LONG:?}");
    let ids: Vec<InstanceId> = kept.iter().map(Registration::id).collect();
    until(&watch, LONG, "the kept ones are seen", |view| ids.iter().all(|id| find(view, id).is_some()))
        .await?;
    bench.shows(&watch, &ids).await?;
    time::sleep(QUIET).await;
    bench.shows(&watch, &ids).await?;
    let fresh = bench.open()?.watch(&service)?;
    bench.shows(&fresh, &ids).await?;
    Ok(())
}
