//! What a view shows, and of what.

use std::{collections::BTreeSet, time::Duration};

use meshwork_core::{ErrorChain, ErrorKind, InstanceId, Query, Registration};
use tokio::time::{self, Instant};

use crate::conformance::{
    bench::{Bench, LONG, find, live, name, names, shown, until},
    flaw::{Flaw, Proof, ensure},
    suite::group,
};

group! { "finding":
    Calm a_quiet_service_is_fresh_and_empty_at_once = "kratos#3022, kratos#2231: the first view needs no change",
    Calm what_a_closed_list_lacks_is_invalid_not_empty = "Watch: empty is not unknown",
    Calm a_service_that_is_there_is_fresh_at_once = "kratos#1551: the contract is state, not events",
    Alone an_instance_is_seen_by_another_process_in_time = "a change reaches the picker",
    Calm a_view_is_sorted_by_id = "Instances: a set of instances, sorted by id",
    Calm a_new_reader_sees_what_an_old_one_sees = "apisix!13717: watch path and re-list path judge alike",
    Calm an_unknown_parameter_is_invalid_and_named = "Query: an unknown parameter is Pending with an Invalid cause",
    Calm services_with_similar_names_do_not_mix = "prefix neighbours (`user`, `user-admin`)",
    Calm services_whose_names_differ_by_case_do_not_mix = "core: a name is its bytes",
    Calm environments_do_not_mix = "core: a query may name its environment",
    Alone hundreds_of_instances_are_seen_whole = "kuberesolver#66: 100 of 500 pods were used",
    Calm the_catalog_lists_what_is_announced_and_forgets_what_left = "Catalog: a watch of all service names",
    Calm a_backend_says_in_one_line_what_it_is = "go-micro#913: the banner names the registry of each client",
}

/// A caller may start before any provider: an empty answer is an answer, and no call needs to wait for a change.
async fn a_quiet_service_is_fresh_and_empty_at_once(bench: Bench) -> Proof {
    bench.is_open()?;
    let watch = bench.open()?.watch(&bench.service("quiet"))?;
    let view = bench.see(&watch, "it is fresh", |view| view.staleness().is_fresh()).await?;
    ensure!(view.value().is_empty(), "the first view is {}", shown(&view));
    Ok(())
}

/// An operator's list knows all there is: a name that it lacks is a mistake, and nobody's empty service.
async fn what_a_closed_list_lacks_is_invalid_not_empty(bench: Bench) -> Proof {
    if bench.is_open().is_ok() {
        return Err(Flaw::Skipped("its list of services is open".into()));
    }
    is_refused(&bench, &Query::new(bench.service("unlisted"))).await.map(drop)
}

/// Whoever comes later sees at once what stands, without a change that would tell him.
async fn a_service_that_is_there_is_fresh_at_once(bench: Bench) -> Proof {
    let crowd = bench.crowd(3).await?;
    let watch = bench.open()?.watch(&crowd.service)?;
    // Of two registries one may answer later; what is fresh must be whole.
    let view = bench.see(&watch, "it is fresh", |view| view.staleness().is_fresh()).await?;
    ensure!(names(&view, &crowd.ids.iter().collect()), "the first view is {}", shown(&view));
    Ok(())
}

/// The time of walk 2, measured where nothing else runs.
async fn an_instance_is_seen_by_another_process_in_time(bench: Bench) -> Proof {
    let (service, provider, caller) = (bench.service("users"), bench.open()?, bench.open()?);
    let first = provider.announce(bench.instance(&service)).await?;
    let watch = caller.watch(&service)?;
    bench.shows(&watch, [&first.id()]).await?;
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let second = provider.announce(bench.instance(&service)).await?;
        let (id, begun) = (second.id(), Instant::now());
        until(&watch, LONG, "the second is seen", |view| find(view, &id).is_some()).await?;
        slowest = slowest.max(begun.elapsed());
        bench.leave(second).await?;
    }
    bench.judge("seen", slowest, bench.limits.seen)
}

async fn a_view_is_sorted_by_id(bench: Bench) -> Proof {
    let crowd = bench.crowd(12).await?;
    let watch = bench.open()?.watch(&crowd.service)?;
    let view = bench.shows(&watch, &crowd.ids).await?;
    let ids: Vec<&InstanceId> = view.value().iter().map(|instance| &instance.id).collect();
    ensure!(ids.is_sorted(), "the order is {ids:?}");
    Ok(())
}

/// After changes of every kind a reader who saw them and one who lists afresh agree in every field.
async fn a_new_reader_sees_what_an_old_one_sees(bench: Bench) -> Proof {
    let (service, provider) = (bench.service("users"), bench.open()?);
    let old = bench.open()?.watch(&service)?;
    let mut all: Vec<Registration> = Vec::new();
    for _ in 0..3 {
        all.push(provider.announce(bench.instance(&service)).await?);
    }
    let last = provider.announce(bench.instance(&service)).await?;
    all[0].update(|instance| instance.weight = 7);
    all[1].update(|instance| instance.labels.set("tier", "gold"));
    let gone = last.id();
    // Of two registries one may lose it later.
    bench.leave(last).await?;
    time::sleep(bench.limits.settles).await;
    let ids: Vec<InstanceId> = all.iter().map(Registration::id).collect();
    let wished: Vec<_> = all.iter().map(Registration::instance).collect();
    let is_settled = |view: &meshwork_core::Snapshot| {
        names(view, &ids.iter().collect()) && wished.iter().all(|wish| find(view, &wish.id) == Some(wish))
    };
    let seen = bench.see(&old, &format!("the changes are seen, and that {gone} left"), is_settled).await?;
    let new = bench.open()?.watch(&service)?;
    let fresh = bench.see(&new, "it is fresh", |view| view.staleness().is_fresh()).await?;
    ensure!(
        fresh.value() == seen.value(),
        "the old reader has {}, the new one {}",
        shown(&seen),
        shown(&fresh)
    );
    Ok(())
}

/// A typing error must not find everything, or nothing, in silence.
async fn an_unknown_parameter_is_invalid_and_named(bench: Bench) -> Proof {
    let crowd = bench.crowd(1).await?;
    let text =
        is_refused(&bench, &Query::new(crowd.service.clone()).with("favourite-colour", "blue")).await?;
    ensure!(text.contains("favourite-colour"), "the cause does not name the parameter: {text}");
    Ok(())
}

async fn is_refused(bench: &Bench, query: &Query) -> Result<String, Flaw> {
    let watch = bench.open()?.ask(query)?;
    let view = bench.see(&watch, "the view says why", |view| view.staleness().cause().is_some()).await?;
    let cause = view.staleness().cause().filter(|cause| cause.kind() == ErrorKind::Invalid);
    match cause {
        Some(cause) if view.staleness().is_pending() => Ok(ErrorChain(&**cause).to_string()),
        _ => {
            Err(Flaw::Failed(format!("the view is not pending with an invalid query, but {}", shown(&view))))
        }
    }
}

async fn services_with_similar_names_do_not_mix(bench: Bench) -> Proof {
    let base = bench.service("a");
    let similar = ["", "-b", ".b", "_b", "b", "-b.c"].map(|tail| name(&format!("{base}{tail}")));
    let (provider, caller) = (bench.open()?, bench.open()?);
    let mut kept = Vec::new();
    for service in &similar {
        let registration = provider.announce(bench.instance(service)).await?;
        kept.push((caller.watch(service)?, registration));
    }
    let late = provider.announce(bench.instance(&similar[1])).await?;
    for (place, (watch, registration)) in kept.iter().enumerate() {
        let own = registration.id();
        let wanted = if place == 1 { vec![own, late.id()] } else { vec![own] };
        bench.shows(watch, &wanted).await?;
    }
    Ok(())
}

async fn services_whose_names_differ_by_case_do_not_mix(bench: Bench) -> Proof {
    let lower = bench.service("users");
    let upper = name(&lower.as_str().to_ascii_uppercase());
    let (provider, caller) = (bench.open()?, bench.open()?);
    let (a, b) = (caller.watch(&lower)?, caller.watch(&upper)?);
    let one = provider.announce(bench.instance(&lower)).await?;
    let other = provider.announce(bench.instance(&upper)).await?;
    bench.shows(&a, [&one.id()]).await?;
    bench.shows(&b, [&other.id()]).await?;
    Ok(())
}

async fn environments_do_not_mix(bench: Bench) -> Proof {
    let (service, provider, caller) = (bench.service("users"), bench.open()?, bench.open()?);
    let mut kept = Vec::new();
    for env in ["blue", "green"] {
        let mut instance = bench.instance(&service);
        instance.env = env.into();
        let registration = provider.announce(instance).await?;
        kept.push((caller.ask(&Query::new(service.clone()).in_env(env))?, registration));
    }
    for (watch, registration) in &kept {
        bench.shows(watch, [&registration.id()]).await?;
    }
    Ok(())
}

async fn hundreds_of_instances_are_seen_whole(bench: Bench) -> Proof {
    const EACH: usize = 50;
    let (service, mut all) = (bench.service("many"), Vec::new());
    let early = bench.open()?.watch(&service)?;
    for _ in 0..4 {
        let process = bench.open()?;
        for _ in 0..EACH {
            all.push(process.register(bench.instance(&service))?);
        }
    }
    for registration in &all {
        live(registration).await?;
    }
    let ids: BTreeSet<InstanceId> = all.iter().map(Registration::id).collect();
    ensure!(ids.len() == 4 * EACH, "ids were given up: {} are left", ids.len());
    let late = bench.open()?.watch(&service)?;
    for watch in [&early, &late] {
        let what = format!("all {} are seen", ids.len());
        let view = until(watch, LONG, &what, |view| names(view, &ids.iter().collect())).await?;
        ensure!(view.value().is_sorted_by(|a, b| a.id < b.id), "not sorted, or one twice");
    }
    while !all.is_empty() {
        // Not all in one moment: how many can leave within its limit is the server's affair.
        let mut leaving = tokio::task::JoinSet::new();
        for registration in all.drain(all.len().saturating_sub(10)..) {
            leaving.spawn(registration.deregister());
        }
        let left = leaving.join_all().await.into_iter().filter(Result::is_ok).count();
        ensure!(left > 0, "nobody could leave");
    }
    until(&early, LONG, "all have left", |view| view.value().is_empty()).await?;
    Ok(())
}

async fn the_catalog_lists_what_is_announced_and_forgets_what_left(bench: Bench) -> Proof {
    let (process, service) = (bench.open()?, bench.service("listed"));
    let catalog = process.catalog.as_ref().ok_or_else(|| Flaw::Skipped("it has no catalog".into()))?;
    let mut services = catalog.services();
    let registration = process.announce(bench.instance(&service)).await?;
    let listed = async {
        while !services.changed().await.value().contains(&service) {}
        bench.leave(registration).await?;
        while services.changed().await.value().contains(&service) {}
        Ok(())
    };
    let ended = time::timeout(LONG, listed).await;
    ended.unwrap_or_else(|_elapsed| Err(Flaw::Failed("the catalog does not follow".into())))
}

async fn a_backend_says_in_one_line_what_it_is(bench: Bench) -> Proof {
    let text = bench.open()?.description;
    ensure!(!text.trim().is_empty() && text.lines().count() == 1, "its description is {text:?}");
    Ok(())
}
