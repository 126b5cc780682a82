//! Losses of a registration's own while the server is there.

use std::sync::Arc;

use meshwork_core::Registration;
use tokio::time::Instant;

use crate::conformance::{
    bench::{Bench, LONG, Trail, find, state, until},
    flaw::{Proof, ensure},
    rig::Deed,
    suite::group,
};

group! { "healing":
    Calm a_forgotten_registration_is_back_in_time = "go-zero#1926, kratos#3883, nacos#15857: found again without a restart",
    Calm losing_it_again_and_again_is_healed_each_time = "kratos!2398: the fifth loss ended the heart-beat for good",
    Calm a_deleted_record_is_put_back = "go-zero#4201: a key deleted by hand is not restored",
    Calm an_edited_record_is_put_back = "go-zero!4960: my key with my value under my lease",
    Calm a_forgotten_one_can_still_be_updated = "rpcx#420: the re-put used the dead lease",
    Calm a_forgotten_one_can_still_leave = "Registration::deregister: nothing of it appears again",
}

async fn announced(
    bench: &Bench,
) -> Result<(Registration, meshwork_core::Watch), crate::conformance::flaw::Flaw> {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&registration.id()]).await?;
    Ok((registration, watch))
}

/// What others see after it: this very record, once.
async fn is_back(bench: &Bench, registration: &Registration) -> Proof {
    let wished = registration.instance();
    let fresh = bench.open()?.watch(&wished.service)?;
    let is_there = |view: &meshwork_core::Snapshot| {
        view.value().len() == 1 && find(view, &wished.id).is_some_and(|seen| *seen == *wished)
    };
    until(&fresh, LONG, "its record is back as it was", is_there).await?;
    state(registration, "live", LONG).await.map(drop)
}

async fn a_forgotten_registration_is_back_in_time(bench: Bench) -> Proof {
    let (registration, _watch) = announced(&bench).await?;
    let id = registration.id();
    bench.act(Deed::Forget(registration.instance())).await?;
    let begun = Instant::now();
    is_back(&bench, &registration).await?;
    ensure!(registration.id() == id, "it came back as {}", registration.id());
    bench.judge("back", begun.elapsed(), bench.limits.own_loss)
}

async fn losing_it_again_and_again_is_healed_each_time(bench: Bench) -> Proof {
    let (registration, watch) = announced(&bench).await?;
    let id = registration.id();
    for _ in 0..6 {
        bench.act(Deed::Forget(registration.instance())).await?;
        is_back(&bench, &registration).await?;
    }
    bench.shows(&watch, [&id]).await?;
    Ok(())
}

async fn a_deleted_record_is_put_back(bench: Bench) -> Proof {
    let (registration, _watch) = announced(&bench).await?;
    bench.act(Deed::Erase(registration.instance())).await?;
    let begun = Instant::now();
    is_back(&bench, &registration).await?;
    bench.judge("back", begun.elapsed(), bench.limits.own_loss)
}

/// A record has one writer; whoever wants it different writes an override, not the record.
async fn an_edited_record_is_put_back(bench: Bench) -> Proof {
    let (registration, watch) = announced(&bench).await?;
    let trail = Trail::of(&watch);
    let mut edited = (*registration.instance()).clone();
    edited.weight = 1;
    edited.labels.set("edited", "by hand");
    bench.act(Deed::Put(Arc::new(edited))).await?;
    let begun = Instant::now();
    is_back(&bench, &registration).await?;
    trail.never_misses(&registration.id())?;
    bench.judge("put back", begun.elapsed(), bench.limits.own_loss)
}

async fn a_forgotten_one_can_still_be_updated(bench: Bench) -> Proof {
    let (registration, watch) = announced(&bench).await?;
    bench.act(Deed::Forget(registration.instance())).await?;
    registration.update(|instance| instance.weight = 42);
    let id = registration.id();
    until(&watch, LONG, "the update is seen", |view| find(view, &id).is_some_and(|i| i.weight == 42)).await?;
    is_back(&bench, &registration).await
}

async fn a_forgotten_one_can_still_leave(bench: Bench) -> Proof {
    let (registration, watch) = announced(&bench).await?;
    bench.act(Deed::Forget(registration.instance())).await?;
    bench.leave(registration).await?;
    bench.shows(&watch, []).await?;
    tokio::time::sleep(crate::conformance::bench::QUIET).await;
    bench.shows(&watch, []).await?;
    Ok(())
}
