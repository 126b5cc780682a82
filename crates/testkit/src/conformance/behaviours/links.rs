//! One process that is cut from a registry which everybody else reaches.

use meshwork_core::Staleness;
use tokio::time::{self, Instant};

use crate::conformance::{
    bench::{Bench, LONG, SLACK, Trail, find, shown, state, until},
    flaw::{Proof, ensure},
    suite::group,
};

group! { "links":
    Calm a_silent_instance_is_gone_in_time_and_back_after = "go-zero#1926: cut longer than the TTL, never found again; dubbo#5625",
    Calm short_cuts_take_nobody_out = "etcd#15922: a lost connection is not a lost lease",
    Calm a_reader_that_was_cut_sees_the_truth_after = "etcd#7247, jetcd#1209: the watch hangs for ever after a cut",
    Calm a_link_that_swallows_everything_is_noticed = "etcd#8495: bytes swallowed without a reset",
    Calm a_first_read_over_a_dead_link_is_pending_with_its_cause = "Staleness::Pending: what the last attempt met",
    Calm a_claim_whose_answers_are_lost_leaves_one_record = "Announcer::claim: noted before it is sent",
    Calm a_departure_over_a_dead_link_ends_in_time = "consul#8605: ends within its limit, and its claim with its time to live",
}

/// Others lose it within its time to live; it knows, and comes back under the same id once it can.
async fn a_silent_instance_is_gone_in_time_and_back_after(bench: Bench) -> Proof {
    let (service, (process, linked)) = (bench.service("users"), bench.open_linked().await?);
    let registration = process.announce(bench.instance(&service)).await?;
    let neighbour = bench.open()?.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id, &neighbour.id()]).await?;
    linked.sever().await?;
    let cut = Instant::now();
    let limit = bench.limits.ttl * SLACK + LONG;
    until(&watch, limit, "it is gone for others", |view| find(view, &id).is_none()).await?;
    // A store looks at what has run out once a second or so.
    bench.judge("gone", cut.elapsed(), bench.limits.ttl + bench.limits.returned)?;
    state(&registration, "lost", limit).await?;
    linked.mend().await?;
    let mended = Instant::now();
    until(&watch, limit, "it is back", |view| find(view, &id).is_some()).await?;
    state(&registration, "live", LONG).await?;
    bench.judge("back", mended.elapsed(), bench.limits.returned)?;
    ensure!(registration.id() == id, "it came back as {}", registration.id());
    bench.shows(&watch, [&id, &neighbour.id()]).await?;
    bench.leave(registration).await?;
    bench.shows(&watch, [&neighbour.id()]).await?;
    Ok(())
}

/// A reset costs a connection, nothing else: not the registration, and no word to the clients.
async fn short_cuts_take_nobody_out(bench: Bench) -> Proof {
    let (service, (process, linked)) = (bench.service("users"), bench.open_linked().await?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), bench.open()?.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    let trail = Trail::of(&watch);
    for _ in 0..5 {
        linked.cut().await?;
        time::sleep(bench.limits.ttl / 10).await;
    }
    state(&registration, "live", LONG).await?;
    registration.update(|instance| instance.weight = 5);
    until(&watch, LONG, "an update is seen", |view| find(view, &id).is_some_and(|i| i.weight == 5)).await?;
    trail.never_misses(&id)?;
    ensure!(registration.id() == id, "it is now {}", registration.id());
    Ok(())
}

async fn a_reader_that_was_cut_sees_the_truth_after(bench: Bench) -> Proof {
    let (service, provider) = (bench.service("users"), bench.open()?);
    let (caller, linked) = bench.open_linked().await?;
    let one = provider.announce(bench.instance(&service)).await?;
    let two = provider.announce(bench.instance(&service)).await?;
    let watch = caller.watch(&service)?;
    bench.shows(&watch, [&one.id(), &two.id()]).await?;
    linked.sever().await?;
    let limit = bench.limits.noticed * SLACK;
    let view = until(&watch, limit, "it notices", |view| !view.staleness().is_fresh()).await?;
    ensure!(view.value().len() == 2, "the view lost what it had: {}", shown(&view));
    bench.leave(one).await?;
    let three = provider.announce(bench.instance(&service)).await?;
    two.update(|instance| instance.weight = 8);
    linked.mend().await?;
    let (mended, id) = (Instant::now(), two.id());
    until(&watch, LONG, "it sees the truth", |view| {
        let is_there = find(view, &three.id()).is_some() && find(view, &id).is_some_and(|i| i.weight == 8);
        view.staleness().is_fresh() && view.value().len() == 2 && is_there
    })
    .await?;
    bench.judge("true again", mended.elapsed(), bench.limits.returned)
}

async fn a_link_that_swallows_everything_is_noticed(bench: Bench) -> Proof {
    let (service, (process, linked)) = (bench.service("users"), bench.open_linked().await?);
    let registration = process.announce(bench.instance(&service)).await?;
    let (id, watch) = (registration.id(), process.watch(&service)?);
    bench.shows(&watch, [&id]).await?;
    linked.swallow();
    let cut = Instant::now();
    let limit = bench.limits.noticed * SLACK;
    let view = until(&watch, limit, "the view is stale", |view| !view.staleness().is_fresh()).await?;
    ensure!(
        matches!(view.staleness(), Staleness::Stale { .. }) && view.value().len() == 1,
        "{}",
        shown(&view)
    );
    state(&registration, "lost", limit).await?;
    bench.judge("noticed", cut.elapsed(), bench.limits.noticed)?;
    linked.mend().await?;
    until(&watch, LONG, "the view is fresh", |view| view.staleness().is_fresh() && find(view, &id).is_some())
        .await?;
    state(&registration, "live", LONG).await.map(drop)
}

async fn a_first_read_over_a_dead_link_is_pending_with_its_cause(bench: Bench) -> Proof {
    let (service, (process, linked)) = (bench.service("users"), bench.open_linked().await?);
    linked.sever().await?;
    let watch = process.watch(&service)?;
    let limit = bench.limits.noticed * SLACK;
    let view = until(&watch, limit, "it says why", |view| view.staleness().cause().is_some()).await?;
    ensure!(view.staleness().is_pending() && view.known().is_none(), "{}", shown(&view));
    linked.mend().await?;
    until(&watch, LONG, "it is fresh", |view| view.staleness().is_fresh()).await?;
    Ok(())
}

/// The server did what was asked and nobody heard: asking again must not leave two.
async fn a_claim_whose_answers_are_lost_leaves_one_record(bench: Bench) -> Proof {
    let (service, (process, linked)) = (bench.service("users"), bench.open_linked().await?);
    // Its connection stands before its answers are held back.
    let first = process.announce(bench.instance(&bench.service("first"))).await?;
    linked.swallow();
    let registration = process.register(bench.instance(&service))?;
    time::sleep(bench.limits.ttl / 4).await;
    linked.mend().await?;
    crate::conformance::bench::live(&registration).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&registration.id()]).await?;
    bench.leave(registration).await?;
    until(&watch, LONG, "nothing is left", |view| view.value().is_empty()).await?;
    state(&first, "live", LONG).await.map(drop)
}

async fn a_departure_over_a_dead_link_ends_in_time(bench: Bench) -> Proof {
    let (service, (process, linked)) = (bench.service("users"), bench.open_linked().await?);
    let registration = process.announce(bench.instance(&service)).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&registration.id()]).await?;
    linked.swallow();
    let begun = Instant::now();
    let left = time::timeout(LONG, registration.deregister()).await;
    let took = begun.elapsed();
    ensure!(left.is_ok_and(|left| left.is_err()), "nobody answered, and it says that it left");
    bench.judge("left", took, bench.limits.leave)?;
    let limit = bench.limits.ttl * SLACK + LONG;
    until(&watch, limit, "its time to live ends it", |view| view.value().is_empty()).await?;
    Ok(())
}
