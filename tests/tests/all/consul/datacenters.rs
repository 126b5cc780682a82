//! Two datacenters: the near one first.

use std::time::Duration;

use meshwork_core::Status;
use meshwork_testkit::consul;

use super::bench::{Bench, LONG, Opened, backend, instance, query, shows, until};

#[tokio::test]
async fn the_next_datacenter_serves_while_the_near_one_has_nobody() {
    let bench = Bench::with(consul::Consul::datacenters(2)).await;
    let (near, far) = (bench.consul.agents()[0].url(), bench.consul.agents()[1].url());
    let opened = Opened::new(backend(near).with_datacenters(["dc1", "dc2"]));
    let mut distant = backend(far).config().clone();
    distant.wan_address = Some("127.0.0.9".to_owned());
    let distant = Opened::new(meshwork_registry_consul::Consul::with_config(distant).with_env("test"));
    let watch = opened.watch("users");
    shows(&watch, [], LONG).await;
    let far_one = distant.announce(instance("users", 80)).await;
    shows(&watch, [far_one.id().as_str()], LONG).await;
    let endpoint = watch.latest().value()[0].endpoints[0].to_string();
    assert_eq!(endpoint, "http://127.0.0.9:80", "the wide address");

    let near_one = opened.announce(instance("users", 81)).await;
    shows(&watch, [near_one.id().as_str()], LONG).await;
    near_one.update(|instance| instance.status = Status::Unready);
    shows(&watch, [far_one.id().as_str()], LONG).await;
    near_one.update(|instance| instance.status = Status::Up);
    shows(&watch, [near_one.id().as_str()], LONG).await;

    let explicit = opened.watch_query(&query("users").with("dc", "dc2"));
    shows(&explicit, [far_one.id().as_str()], LONG).await;
    // A far datacenter that is gone does not disturb the near one.
    bench.consul.agents()[1].kill9().await.unwrap();
    until(&explicit, Duration::from_secs(60), "the far view is stale and full", |view| {
        !view.staleness().is_fresh() && view.value().len() == 1
    })
    .await;
    assert!(watch.latest().staleness().is_fresh());
    shows(&watch, [near_one.id().as_str()], LONG).await;
}
