//! The server stands still: its connections are open and nobody answers.

use tokio::time::{self, Instant};

use crate::conformance::{
    bench::{Bench, LONG, SLACK, find, live, shown, state, until},
    flaw::{Proof, ensure},
    suite::group,
};

group! { "server frozen":
    Frozen a_frozen_server_is_noticed_and_survived = "etcd#5985: the watch hangs for ever; do I need to crash the program?",
    Frozen leaving_a_frozen_server_ends_in_time = "consul#8605: blocks for ever when the agent does not answer",
    Frozen a_start_at_a_frozen_server_waits_and_is_live_after = "consul#8605: every registry call has its own deadline",
    Frozen an_update_at_a_frozen_server_appears_after = "Registration::update: as soon as the keeper can",
}

async fn a_frozen_server_is_noticed_and_survived(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    bench.step().await?;
    let (frozen, limit) = (Instant::now(), bench.limits.noticed * SLACK);
    let view = until(&watch, limit, "the view is stale", |view| !view.staleness().is_fresh()).await?;
    ensure!(find(&view, &id).is_some(), "the view lost what it had: {}", shown(&view));
    state(&registration, "lost", limit).await?;
    bench.judge("noticed", frozen.elapsed(), bench.limits.noticed)?;
    bench.step().await?;
    let thawed = Instant::now();
    state(&registration, "live", LONG).await?;
    until(&watch, LONG, "the view is true", |view| {
        view.staleness().is_fresh() && view.value().len() == 1 && find(view, &registration.id()).is_some()
    })
    .await?;
    bench.judge("back", thawed.elapsed(), bench.limits.returned)?;
    ensure!(registration.id() == id, "it came back as {}", registration.id());
    Ok(())
}

async fn leaving_a_frozen_server_ends_in_time(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&registration.id()]).await?;
    bench.step().await?;
    let begun = Instant::now();
    let left = time::timeout(LONG, registration.deregister()).await;
    let took = begun.elapsed();
    ensure!(left.is_ok_and(|left| left.is_err()), "nobody answered, and it says that it left");
    bench.judge("left", took, bench.limits.leave)?;
    bench.step().await?;
    let limit = (bench.limits.ttl + bench.limits.returned) * SLACK;
    until(&watch, limit, "it is gone", |view| view.staleness().is_fresh() && view.value().is_empty()).await?;
    Ok(())
}

async fn a_start_at_a_frozen_server_waits_and_is_live_after(mut bench: Bench) -> Proof {
    let service = bench.service("users");
    bench.step().await?;
    let process = bench.open()?;
    let registration = process.register(bench.instance(&service))?;
    let waited = time::timeout(std::time::Duration::from_secs(1), registration.live()).await;
    ensure!(waited.is_err(), "live() ended with {waited:?}");
    bench.step().await?;
    let thawed = Instant::now();
    live(&registration).await?;
    bench.judge("live", thawed.elapsed(), bench.limits.returned)?;
    let watch = bench.open()?.watch(&service)?;
    until(&watch, LONG, "it is there once", |view| view.value().len() == 1).await?;
    time::sleep(bench.limits.ttl).await;
    bench.shows(&watch, [&registration.id()]).await?;
    Ok(())
}

async fn an_update_at_a_frozen_server_appears_after(mut bench: Bench) -> Proof {
    let (service, process) = (bench.service("users"), bench.open()?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    bench.step().await?;
    for weight in 1..=3 {
        registration.update(|instance| instance.weight = weight);
        time::sleep(std::time::Duration::from_millis(50)).await;
    }
    bench.step().await?;
    until(&watch, LONG, "the last update is seen", |view| find(view, &id).is_some_and(|i| i.weight == 3))
        .await?;
    bench.shows(&watch, [&id]).await?;
    Ok(())
}
