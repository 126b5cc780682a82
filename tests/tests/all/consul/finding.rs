//! What is found: quickly, by tags, by environment, in every way that Consul can be asked.

use std::time::{Duration, Instant};

use meshwork_core::ErrorKind;
use meshwork_registry_consul::{Consul, Reads};
use meshwork_testkit::consul;
use tokio::time;

use super::bench::{Bench, LONG, Opened, TTL, backend, instance, query, shows, until};

#[tokio::test]
async fn a_quiet_service_is_fresh_at_once_and_a_change_is_seen_at_once() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    let watch = opened.watch("users");
    time::timeout(LONG, watch.ready()).await.unwrap();
    let mut took = Vec::new();
    for n in 0..20 {
        let registration = opened.register(instance("users", 80 + n));
        let begun = Instant::now();
        shows(&watch, [registration.id().as_str()], LONG).await;
        took.push(begun.elapsed());
        registration.deregister().await.unwrap();
        shows(&watch, [], LONG).await;
        // An idle cluster: the bucket of questions fills again.
        time::sleep(Duration::from_millis(700)).await;
    }
    took.sort();
    println!("registration to view: median {:?}, worst {:?}", took[took.len() / 2], took[took.len() - 1]);
    assert!(took[took.len() / 2] < Duration::from_millis(400), "{took:?}");
}

#[tokio::test]
async fn tags_environments_and_modes_select() {
    let bench = Bench::start().await;
    let tagged = Opened::new(backend(bench.consul.url()).with_tags(["v2", "blue"]));
    let (plain, blue) = (bench.opened(), tagged.announce(instance("users", 80)).await);
    let old = plain.announce(instance("users", 81)).await;
    let mut elsewhere = instance("users", 82);
    elsewhere.env = "prod".into();
    let elsewhere = plain.announce(elsewhere).await;
    let (blue, old, elsewhere) = (blue.id(), old.id(), elsewhere.id());
    shows(&plain.watch("users"), [blue.as_str(), old.as_str()], LONG).await;
    shows(&plain.watch_query(&query("users").with("tag", "v2,blue")), [blue.as_str()], LONG).await;
    shows(&plain.watch_query(&query("users").with("tag", "v3")), [], LONG).await;
    shows(&plain.watch_query(&query("users").in_env("prod")), [elsewhere.as_str()], LONG).await;
    for (name, value) in [("passing", "true"), ("near", "_agent"), ("reads", "consistent"), ("dc", "dc1")] {
        shows(&plain.watch_query(&query("users").with(name, value)), [blue.as_str(), old.as_str()], LONG)
            .await;
    }
}

#[tokio::test]
async fn an_unknown_parameter_or_datacenter_is_told() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    let wrong = opened.watch_query(&query("users").with("datacentre", "dc1"));
    until(&wrong, LONG, "the parameter is refused", |view| {
        view.staleness().cause().is_some_and(|cause| cause.kind() == ErrorKind::Invalid)
    })
    .await;
    let nowhere = opened.watch_query(&query("users").with("dc", "mars"));
    until(&nowhere, LONG, "the datacenter is named", |view| {
        view.staleness().cause().is_some_and(|cause| cause.to_string().contains("mars"))
    })
    .await;
}

#[tokio::test]
async fn streaming_or_not_through_a_client_agent_it_is_the_same() {
    for streaming in [true, false] {
        let plan = consul::Consul::with_client_agent().hcl(format!("use_streaming_backend = {streaming}"));
        let bench = Bench::with(plan).await;
        for reads in [Reads::Default, Reads::Stale, Reads::Consistent] {
            let opened = Opened::new(backend(bench.consul.url()).with_reads(reads));
            let watch = opened.watch("users");
            shows(&watch, [], LONG).await;
            let a = opened.announce(instance("users", 80)).await;
            shows(&watch, [a.id().as_str()], LONG).await;
            let b = opened.announce(instance("users", 81)).await;
            shows(&watch, [a.id().as_str(), b.id().as_str()], LONG).await;
            let maint = format!("-service={}", a.id());
            bench.consul.cli(["maint", "-enable", &maint]).await.unwrap();
            until(&watch, LONG, "maintenance is seen", |view| super::bench::usable(view).len() == 1).await;
            a.deregister().await.unwrap();
            b.deregister().await.unwrap();
            shows(&watch, [], LONG).await;
        }
    }
}

#[tokio::test]
async fn more_services_than_open_queries_take_turns() {
    let bench = Bench::start().await;
    let mut config = backend(bench.consul.url()).config().clone();
    config.max_queries = 3;
    config.ttl = TTL * 5;
    let opened = Opened::new(Consul::with_config(config).with_env("test"));
    let names: Vec<String> = (0..12).map(|n| format!("service-{n}")).collect();
    let watches: Vec<_> = names.iter().map(|name| opened.watch(name)).collect();
    for watch in &watches {
        shows(watch, [], LONG).await;
    }
    let announcer = bench.opened();
    for (n, name) in names.iter().enumerate() {
        let registration = announcer.announce(instance(name, 100 + n as u16)).await;
        let took = shows(&watches[n], [registration.id().as_str()], LONG).await;
        assert!(took < Duration::from_secs(15), "{name} took {took:?}");
    }
}

#[tokio::test]
async fn the_catalog_lists_exact_names() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    let services = opened.catalog.services();
    let names = || services.latest().value().iter().map(ToString::to_string).collect::<Vec<_>>();
    let _kept = opened.announce(instance("users.v1", 80)).await;
    let _also = opened.announce(instance("orders", 81)).await;
    meshwork_testkit::truth::eventually(LONG, "all names are listed", || async {
        names() == ["consul", "orders", "users.v1"]
    })
    .await
    .unwrap();
}
