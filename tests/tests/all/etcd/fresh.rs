//! What a view may believe after the watch was cut: the store may have gone on, been compacted, been
//! wiped, or be another one.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails its test")]

use std::time::Duration;

use meshwork_core::ErrorKind;
use meshwork_testkit::proxy::{FaultProxy, Toward};

use super::bench::{Bench, LONG, Opened, Raw, backend, instance, key, named, shows, until};

/// A server, a proxy before it, and the registry over the proxy.
async fn behind_a_proxy() -> (Bench, FaultProxy, Opened) {
    let bench = Bench::start().await;
    let proxy = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    let opened = Opened::new(backend([proxy.url()]));
    (bench, proxy, opened)
}

/// Puts under a lease, as a provider would: the only puts at which a watch may resume.
async fn put_leased(raw: &Raw, service: &str, id: &str) {
    let instance = named(service, id, 80);
    let lease = raw.client().lease_grant(600, None).await.unwrap().id();
    raw.put_under(&key(&instance), meshwork_core::encode(&instance).unwrap(), lease).await.unwrap();
}

#[tokio::test]
async fn a_short_cut_is_bridged_and_nothing_of_it_is_missed() {
    let (bench, proxy, opened) = behind_a_proxy().await;
    let watch = opened.watch("user");
    shows(&watch, [], LONG).await;
    put_leased(&bench.raw, "user", "a").await;
    shows(&watch, ["a"], LONG).await;
    let before = watch.latest().generation();
    for (id, rest) in [("b", vec!["a", "b"]), ("c", vec!["a", "b", "c"])] {
        proxy.cut().await.unwrap();
        put_leased(&bench.raw, "user", id).await;
        shows(&watch, rest, LONG).await;
    }
    bench.raw.delete(&key(&named("user", "a", 80))).await;
    shows(&watch, ["b", "c"], LONG).await;
    // A cut right after a removal cannot be resumed: everything is read anew.
    proxy.cut().await.unwrap();
    put_leased(&bench.raw, "user", "d").await;
    shows(&watch, ["b", "c", "d"], LONG).await;
    assert!(watch.latest().staleness().is_fresh() && watch.latest().generation() > before);
}

#[tokio::test]
async fn what_was_compacted_while_cut_off_is_read_anew() {
    let (bench, proxy, opened) = behind_a_proxy().await;
    let watch = opened.watch("user");
    shows(&watch, [], LONG).await;
    put_leased(&bench.raw, "user", "a").await;
    put_leased(&bench.raw, "user", "b").await;
    shows(&watch, ["a", "b"], LONG).await;
    proxy.refuse().await.unwrap();
    proxy.cut().await.unwrap();
    bench.raw.delete(&key(&named("user", "a", 80))).await;
    put_leased(&bench.raw, "user", "c").await;
    bench.raw.compact().await;
    proxy.accept().await.unwrap();
    shows(&watch, ["b", "c"], LONG).await;
    until(&watch, LONG, "it is fresh", |view| view.staleness().is_fresh()).await;
}

#[tokio::test]
async fn a_wiped_store_with_the_same_cluster_id_is_not_taken_for_the_old_one() {
    let (bench, proxy, opened) = behind_a_proxy().await;
    let watch = opened.watch("user");
    shows(&watch, [], LONG).await;
    put_leased(&bench.raw, "user", "a").await;
    put_leased(&bench.raw, "user", "b").await;
    shows(&watch, ["a", "b"], LONG).await;
    let revision = bench.raw.revision().await;
    // Wiped and still behind us.
    bench.etcd.restart(true).await.unwrap();
    put_leased(&bench.raw, "user", "c").await;
    assert!(bench.raw.revision().await < revision);
    shows(&watch, ["c"], LONG).await;
    // Wiped and already past us, so that only the record itself can tell.
    let revision = bench.raw.revision().await;
    proxy.refuse().await.unwrap();
    bench.etcd.restart(true).await.unwrap();
    for id in ["d", "e", "f"] {
        put_leased(&bench.raw, "user", id).await;
    }
    assert!(bench.raw.revision().await > revision);
    proxy.accept().await.unwrap();
    shows(&watch, ["d", "e", "f"], LONG).await;
    until(&watch, LONG, "it is fresh", |view| view.staleness().is_fresh()).await;
}

#[tokio::test]
async fn a_half_open_stream_is_cut_and_the_view_says_so() {
    let (bench, proxy, opened) = behind_a_proxy().await;
    let watch = opened.watch("user");
    put_leased(&bench.raw, "user", "a").await;
    shows(&watch, ["a"], LONG).await;
    // Nothing arrives any more, and nobody says so.
    proxy.swallow(Toward::Both);
    put_leased(&bench.raw, "user", "b").await;
    until(&watch, Duration::from_secs(15), "it is stale", |view| view.staleness().cause().is_some()).await;
    shows(&watch, ["a"], LONG).await;
    proxy.heal();
    proxy.cut().await.unwrap();
    shows(&watch, ["a", "b"], LONG).await;
    until(&watch, LONG, "it is fresh", |view| view.staleness().is_fresh()).await;
}

#[tokio::test]
async fn another_cluster_behind_the_same_address_is_an_error_and_not_a_set() {
    let (bench, proxy, opened) = behind_a_proxy().await;
    let other = meshwork_testkit::etcd::Etcd::single().start().await.unwrap();
    let other_raw = Raw::connect(&other.endpoints()).await;
    let watch = opened.watch("user");
    let registration = opened.announce(instance("user", 80)).await;
    shows(&watch, [registration.id().as_str()], LONG).await;
    put_leased(&other_raw, "user", "impostor").await;
    proxy.redirect(other.member(0).addr());
    proxy.cut().await.unwrap();
    until(&watch, LONG, "the view says why", |view| {
        view.staleness().cause().is_some_and(|cause| cause.kind() == ErrorKind::Protocol)
    })
    .await;
    shows(&watch, [registration.id().as_str()], LONG).await;
    assert_eq!(other_raw.all("/meshwork/").await.len(), 1, "nothing was written there");
    drop(bench);
}
