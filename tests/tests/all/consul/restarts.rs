//! Agents that go and come back, with their data and without.

use std::time::Duration;

use meshwork_core::{RegistrationState, Status};
use meshwork_testkit::consul;

use super::bench::{Bench, LONG, Opened, backend, instance, shows, until, usable};

/// Back within this time after the agent is.
const BACK: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_agent_that_forgot_us_knows_us_again_within_one_heartbeat() {
    let bench = Bench::start().await;
    let opened = Opened::new(backend(bench.consul.url()).with_ttl(Duration::from_secs(15)));
    let watch = opened.watch("users");
    let registration = opened.announce(instance("users", 80)).await;
    let id = registration.id();
    shows(&watch, [id.as_str()], LONG).await;
    bench.agent().kill9().await.unwrap();
    until(&watch, LONG, "the view is stale and full", |view| {
        !view.staleness().is_fresh() && view.value().len() == 1
    })
    .await;
    bench.agent().restart().await.unwrap();
    let begun = std::time::Instant::now();
    bench.stands(id.as_str(), BACK, "it is registered again", |_| true).await;
    println!("registered again {:?} after the agent was back without its data", begun.elapsed());
    shows(&watch, [id.as_str()], BACK).await;
    until(&watch, BACK, "the view is fresh", |view| view.staleness().is_fresh()).await;
    let state = registration.state();
    meshwork_testkit::truth::eventually(BACK, "it is live", || async {
        matches!(*state.borrow(), RegistrationState::Live)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_client_agent_restarts_with_and_without_its_data() {
    let bench = Bench::with(consul::Consul::with_client_agent()).await;
    let opened = Opened::new(backend(bench.consul.url()).with_ttl(Duration::from_secs(15)));
    // Whoever looks from the server is not cut off.
    let far = Opened::new(backend(bench.consul.first().url()));
    let (watch, from_far) = (opened.watch("users"), far.watch("users"));
    let registration = opened.announce(instance("users", 80)).await;
    let id = registration.id();
    shows(&from_far, [id.as_str()], LONG).await;
    for wiped in [false, true] {
        bench.agent().kill9().await.unwrap();
        if wiped {
            bench.agent().wipe().unwrap();
        }
        bench.agent().restart().await.unwrap();
        bench.stands(id.as_str(), BACK, "it stands at the agent", |_| true).await;
        shows(&from_far, [id.as_str()], BACK).await;
        shows(&watch, [id.as_str()], BACK).await;
        until(&watch, BACK, "the view is fresh", |view| view.staleness().is_fresh()).await;
    }
}

#[tokio::test]
async fn an_unready_instance_that_was_forgotten_comes_back_unready() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    let mut users = instance("users", 80);
    users.status = Status::Unready;
    let registration = opened.announce(users).await;
    let watch = opened.watch("users");
    shows(&watch, [registration.id().as_str()], LONG).await;
    bench.agent().kill9().await.unwrap();
    bench.agent().restart().await.unwrap();
    bench.stands(registration.id().as_str(), BACK, "it is registered again", |_| true).await;
    until(&watch, BACK, "it takes no calls", |view| view.staleness().is_fresh() && usable(view).is_empty())
        .await;
    registration.update(|instance| instance.status = Status::Up);
    until(&watch, BACK, "it takes calls", |view| usable(view).len() == 1).await;
}

#[tokio::test]
async fn a_frozen_agent_is_noticed_and_forgiven() {
    let bench = Bench::start().await;
    let opened = Opened::new(
        backend(bench.consul.url())
            .with_ttl(Duration::from_secs(15))
            .with_request_timeout(Duration::from_secs(1)),
    );
    let watch = opened.watch("users");
    let registration = opened.announce(instance("users", 80)).await;
    shows(&watch, [registration.id().as_str()], LONG).await;
    bench.agent().freeze().await.unwrap();
    until(&watch, Duration::from_secs(10), "the view is stale and full", |view| {
        !view.staleness().is_fresh() && view.value().len() == 1
    })
    .await;
    bench.agent().thaw();
    until(&watch, BACK, "the view is fresh", |view| view.staleness().is_fresh() && view.value().len() == 1)
        .await;
}

#[tokio::test]
async fn a_server_without_a_leader_takes_nothing_out() {
    let bench = Bench::with(consul::Consul::with_client_agent()).await;
    let opened = bench.opened();
    let watch = opened.watch("users");
    let registration = Opened::new(backend(bench.consul.url()).with_ttl(Duration::from_secs(30)))
        .announce(instance("users", 80))
        .await;
    shows(&watch, [registration.id().as_str()], LONG).await;
    bench.consul.first().kill9().await.unwrap();
    until(&watch, LONG, "the view is stale and full", |view| {
        !view.staleness().is_fresh() && view.value().len() == 1
    })
    .await;
    bench.consul.first().restart().await.unwrap();
    until(&watch, LONG, "the view is fresh and full", |view| {
        view.staleness().is_fresh() && view.value().len() == 1
    })
    .await;
}
