//! Agents and servers that are frozen, killed, wiped, or lose their leader, alone and two at once.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails its test")]

use std::time::{Duration, Instant};

use meshwork_core::{RegistrationState, Watch};
use meshwork_testkit::{consul, truth::eventually};

use super::bench::{Bench, LONG, Opened, backend, instance, shows, until};

/// For what has to heal after servers are back: Consul's own joins and elections take their time.
const HEALED: Duration = Duration::from_secs(30);

fn patient(url: impl Into<String>) -> meshwork_registry_consul::Consul {
    backend(url).with_ttl(Duration::from_secs(15)).with_request_timeout(Duration::from_secs(1))
}

async fn stale_and_full(watch: &Watch) {
    until(watch, LONG, "the view is stale and full", |view| {
        !view.staleness().is_fresh() && view.value().len() == 1
    })
    .await;
}

async fn fresh_and_full(watch: &Watch) {
    let begun = Instant::now();
    until(watch, HEALED, "the view is fresh and full", |view| {
        view.staleness().is_fresh() && view.value().len() == 1
    })
    .await;
    println!("fresh and full after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_leader_that_is_killed_or_frozen_costs_no_registration_and_empties_no_view() {
    let bench = Bench::with(consul::Consul::servers(3)).await;
    let leader = bench.consul.leader().await.unwrap();
    let other = bench.consul.agents().iter().find(|agent| agent.name() != leader.name()).unwrap();
    let opened = Opened::new(patient(other.url()));
    let registration = opened.announce(instance("users", 80)).await;
    let watch = opened.watch("users");
    shows(&watch, [registration.id().as_str()], LONG).await;
    let mut seen = watch.clone();
    let never_empty = tokio::spawn(async move {
        loop {
            assert_eq!(seen.changed().await.value().len(), 1);
        }
    });
    leader.kill9().await.unwrap();
    let second = eventually_led(&bench, leader.name()).await;
    leader.restart().await.unwrap();
    fresh_and_full(&watch).await;

    if second != other.name() {
        let second = bench.consul.agents().iter().find(|agent| agent.name() == second).unwrap();
        second.freeze().await.unwrap();
        eventually_led(&bench, second.name()).await;
        second.thaw();
        fresh_and_full(&watch).await;
    }
    assert!(matches!(*registration.state().borrow(), RegistrationState::Live));
    assert!(!never_empty.is_finished(), "the view was never empty");
    never_empty.abort();
}

async fn eventually_led(bench: &Bench, former: &str) -> String {
    eventually(HEALED, "another one leads", || async {
        bench.consul.leader().await.is_ok_and(|leader| leader.name() != former)
    })
    .await
    .unwrap();
    bench.consul.leader().await.unwrap().name().to_owned()
}

#[tokio::test]
async fn a_frozen_server_behind_an_agent_is_outlasted() {
    let bench = Bench::with(consul::Consul::with_client_agent()).await;
    let opened = Opened::new(patient(bench.consul.url()));
    let registration = opened.announce(instance("users", 80)).await;
    let watch = opened.watch("users");
    shows(&watch, [registration.id().as_str()], LONG).await;
    bench.consul.first().freeze().await.unwrap();
    stale_and_full(&watch).await;
    assert!(matches!(*registration.state().borrow(), RegistrationState::Live), "its own agent answers");
    bench.consul.first().thaw();
    fresh_and_full(&watch).await;
}

#[tokio::test]
async fn server_and_agent_killed_together_and_wiped_are_told_again() {
    let bench = Bench::with(consul::Consul::with_client_agent()).await;
    let opened = Opened::new(patient(bench.consul.url()));
    let registration = opened.announce(instance("users", 80)).await;
    let watch = opened.watch("users");
    shows(&watch, [registration.id().as_str()], LONG).await;
    for agent in bench.consul.agents() {
        agent.kill9().await.unwrap();
    }
    stale_and_full(&watch).await;
    for agent in bench.consul.agents() {
        agent.wipe().unwrap();
        agent.start().unwrap();
    }
    for agent in bench.consul.agents() {
        agent.ready(HEALED).await.unwrap();
    }
    fresh_and_full(&watch).await;
    eventually(HEALED, "it is live", || async {
        matches!(*registration.state().borrow(), RegistrationState::Live)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_agent_frozen_for_longer_than_the_time_to_live_is_taken_back() {
    let bench = Bench::with(consul::Consul::with_client_agent()).await;
    let short = || backend(bench.consul.url()).with_request_timeout(Duration::from_secs(1));
    let registration = Opened::new(short()).announce(instance("users", 80)).await;
    let watch = Opened::new(backend(bench.consul.first().url())).watch("users");
    shows(&watch, [registration.id().as_str()], LONG).await;
    bench.agent().freeze().await.unwrap();
    eventually(LONG, "it knows that it is lost", || async {
        matches!(*registration.state().borrow(), RegistrationState::Lost { .. })
    })
    .await
    .unwrap();
    bench.agent().thaw();
    eventually(LONG, "it is live", || async {
        matches!(*registration.state().borrow(), RegistrationState::Live)
    })
    .await
    .unwrap();
    shows(&watch, [registration.id().as_str()], LONG).await;
}
