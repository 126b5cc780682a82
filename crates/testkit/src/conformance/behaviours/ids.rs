//! Whose an id is.

use std::sync::Arc;

use meshwork_core::{InstanceId, Timestamp};

use crate::conformance::{
    bench::{Bench, LONG, endpoint, eventually, find, live, until},
    flaw::{Proof, ensure},
    rig::Deed,
    suite::group,
};

group! { "ids":
    Calm two_processes_with_one_id_end_with_two = "a cloned machine is a conflict, then a new id",
    Calm the_record_of_another_process_under_our_id_is_left_to_it = "every claim noted ends, then comes a new id",
    Calm an_id_is_kept_through_updates = "Registration::id: it changes only after a conflict",
}

/// The first stays who he is; the second finds himself another id, and both are found.
async fn two_processes_with_one_id_end_with_two(bench: Bench) -> Proof {
    let (service, id) = (bench.service("users"), InstanceId::generate(&bench.service("users")));
    let mut one = bench.instance(&service);
    one.id = id.clone();
    let mut other = one.clone();
    other.endpoints = vec![endpoint("http://127.0.0.2:4200")];
    other.start_time = Some(Timestamp::from_millis(1_700_000_000_000));
    let first = bench.open()?.announce(one).await?;
    let (process, watch) = (bench.open()?, bench.open()?.watch(&service)?);
    let second = process.register(other)?;
    eventually(LONG, "the second takes another id", || second.id() != id).await?;
    live(&second).await?;
    ensure!(first.id() == id, "the first gave up its id");
    let view = until(&watch, LONG, "both are seen", |view| view.value().len() == 2).await?;
    let (one, other) = (find(&view, &id), find(&view, &second.id()));
    ensure!(
        one.is_some_and(|i| i.endpoints == first.instance().endpoints)
            && other.is_some_and(|i| i.endpoints == second.instance().endpoints),
        "the addresses are mixed up: {:?}",
        view.value()
    );
    Ok(())
}

async fn the_record_of_another_process_under_our_id_is_left_to_it(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    let mut other = (*registration.instance()).clone();
    other.endpoints = vec![endpoint("http://127.0.0.2:4300")];
    other.start_time = Some(Timestamp::from_millis(1_700_000_000_000));
    bench.act(Deed::Put(Arc::new(other.clone()))).await?;
    eventually(LONG, "we go on under another id", || registration.id() != id).await?;
    live(&registration).await?;
    let own = registration.id();
    let view =
        until(&watch, LONG, "both are seen", |view| view.value().len() == 2 && find(view, &own).is_some())
            .await?;
    let theirs = find(&view, &id).map(|instance| &instance.endpoints);
    ensure!(theirs == Some(&other.endpoints), "theirs is {theirs:?}");
    Ok(())
}

async fn an_id_is_kept_through_updates(bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    registration.update(|instance| {
        instance.id = InstanceId::generate(&instance.service);
        instance.zone = "zone-9".into();
    });
    bench
        .see(&watch, "the update is seen", |view| find(view, &id).is_some_and(|i| &*i.zone == "zone-9"))
        .await?;
    bench.shows(&watch, [&id]).await?;
    ensure!(registration.id() == id, "its id became {}", registration.id());
    Ok(())
}
