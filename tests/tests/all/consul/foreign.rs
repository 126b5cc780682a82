//! Services that others registered.

use meshwork_core::Origin;
use serde_json::json;

use super::bench::{Bench, LONG, instance, only, query, shows, until};

#[tokio::test]
async fn a_service_registered_with_curl_is_found_and_usable() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    let watch = opened.watch("redis");
    shows(&watch, [], LONG).await;
    bench.put(&json!({ "Name": "redis", "Address": "127.0.0.1", "Port": 6379, "Tags": ["primary"] })).await;
    shows(&watch, ["redis.server"], LONG).await;
    let view = watch.latest();
    let redis = only(&view);
    assert_eq!(
        (redis.origin, redis.endpoints[0].to_string()),
        (Origin::Foreign, "http://127.0.0.1:6379".to_owned())
    );
    assert_eq!((redis.weight, redis.labels.get("tags")), (100, Some("primary")));
    let grpc = opened.watch_query(&query("redis").with("protocol", "grpc"));
    until(&grpc, LONG, "it speaks what the query says", |view| {
        view.value().first().is_some_and(|i| i.endpoints[0].to_string() == "grpc://127.0.0.1:6379")
    })
    .await;
    bench.consul.cli(["services", "deregister", "-id=redis"]).await.unwrap();
    shows(&watch, [], LONG).await;
}

#[tokio::test]
async fn a_service_without_an_address_is_at_its_node_and_odd_names_are_found() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    bench.put(&json!({ "Name": "my_service", "ID": "one two", "Port": 80 })).await;
    let watch = opened.watch("my_service");
    until(&watch, LONG, "it is found", |view| view.value().len() == 1).await;
    let view = watch.latest();
    let id = only(&view).id.to_string();
    assert!(id.starts_with("one-two.server-"), "{id}");
    assert_eq!(only(&view).endpoints[0].to_string(), "http://127.0.0.1:80");
}

#[tokio::test]
async fn natives_and_strangers_of_one_service_stand_side_by_side() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    bench.put(&json!({ "Name": "users", "ID": "old", "Address": "127.0.0.1", "Port": 80 })).await;
    let native = opened.announce(instance("users", 81)).await;
    let watch = opened.watch("users");
    shows(&watch, ["old.server", native.id().as_str()], LONG).await;
    let weights: Vec<u16> = watch.latest().value().iter().map(|i| i.weight).collect();
    assert_eq!(weights, [100, 100]);
}

#[tokio::test]
async fn checks_of_service_and_node_take_a_stranger_out() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    let service = json!({ "Name": "users", "ID": "old", "Address": "127.0.0.1", "Port": 80,
        "Check": { "CheckID": "mine", "TTL": "60s", "Status": "passing" } });
    bench.put(&service).await;
    let watch = opened.watch("users");
    shows(&watch, ["old.server"], LONG).await;
    let state = |state: &'static str| {
        let body = json!({ "Status": state }).to_string();
        let bench = &bench;
        async move { bench.agent().must("PUT", "/v1/agent/check/update/mine", &body).await.unwrap() }
    };
    state("critical").await;
    shows(&watch, [], LONG).await;
    state("warning").await;
    shows(&watch, ["old.server"], LONG).await;
    let node = json!({ "Name": "disk", "ID": "disk", "TTL": "60s", "Status": "critical" }).to_string();
    bench.agent().must("PUT", "/v1/agent/check/register", &node).await.unwrap();
    shows(&watch, [], LONG).await;
    bench.agent().must("PUT", "/v1/agent/check/deregister/disk", "").await.unwrap();
    shows(&watch, ["old.server"], LONG).await;
    bench.consul.cli(["maint", "-enable"]).await.unwrap();
    until(&watch, LONG, "the node's maintenance is seen", |view| {
        view.value().len() == 1 && super::bench::usable(view).is_empty()
    })
    .await;
}
