//! Leaving: what was released never comes back, whatever was under way.

use meshwork_core::encode;
use meshwork_testkit::{
    proxy::{FaultProxy, Toward},
    truth::eventually,
};

use super::bench::{Bench, LONG, Opened, TTL, backend, instance, key, key_of};

#[tokio::test]
async fn a_put_that_comes_late_finds_no_lease() {
    let bench = Bench::start().await;
    let me = instance("user", 80);
    let (key, value) = (key(&me), encode(&me).unwrap());
    let registration = bench.opened().announce(me).await;
    let lease = bench.raw.lease_of(&key).await.unwrap();
    registration.deregister().await.unwrap();
    assert!(bench.raw.get(&key).await.is_none());
    assert!(bench.raw.leases().await.is_empty());
    assert!(bench.raw.put_under(&key, value, lease).await.is_err());
    assert!(bench.raw.get(&key).await.is_none());
}

#[tokio::test]
async fn dropping_a_registration_leaves_too() {
    let bench = Bench::start().await;
    let registration = bench.opened().announce(instance("user", 80)).await;
    let key = key_of("user", registration.id().as_str());
    drop(registration);
    bench.raw.until(&key, LONG, "the record is gone", |kv| kv.is_none()).await;
    assert!(bench.raw.leases().await.is_empty());
}

#[tokio::test]
async fn a_claim_whose_answers_were_lost_leaves_one_lease_and_then_none() {
    let bench = Bench::start().await;
    let proxy = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    let opened = Opened::new(backend([proxy.url()]));
    // The connection stands before its answers are held back.
    let first = opened.announce(instance("first", 80)).await;
    proxy.black_hole(Toward::Client);
    let registration = opened.register(instance("user", 81));
    eventually(LONG, "a lease is granted unheard", || async { bench.raw.leases().await.len() > 1 })
        .await
        .unwrap();
    proxy.heal();
    tokio::time::timeout(LONG, registration.live()).await.unwrap().unwrap();
    let key = key_of("user", registration.id().as_str());
    let lease = bench.raw.lease_of(&key).await.unwrap();
    let own = bench.raw.lease_of(&key_of("first", first.id().as_str())).await.unwrap();
    eventually(TTL * 4, "only the leases of the records are left", || async {
        let leases = bench.raw.leases().await;
        leases.len() == 2 && leases.contains(&lease) && leases.contains(&own)
    })
    .await
    .unwrap();
    registration.deregister().await.unwrap();
    first.deregister().await.unwrap();
    assert!(bench.raw.leases().await.is_empty() && bench.raw.all("/meshwork/").await.is_empty());
}

#[tokio::test]
async fn leaving_in_the_middle_of_a_claim_leaves_nothing_behind() {
    let bench = Bench::start().await;
    let proxy = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    let opened = Opened::new(backend([proxy.url()]));
    let first = opened.announce(instance("first", 80)).await;
    proxy.black_hole(Toward::Client);
    let registration = opened.register(instance("user", 81));
    let key = key_of("user", registration.id().as_str());
    eventually(LONG, "a lease is granted unheard", || async { bench.raw.leases().await.len() > 1 })
        .await
        .unwrap();
    let begun = tokio::time::Instant::now();
    let left = registration.deregister().await;
    assert!(begun.elapsed() < LONG / 4, "leaving is not held up: {:?}", begun.elapsed());
    proxy.heal();
    drop(first);
    // Confirmed or not: it may stand for its time to live and never longer.
    eventually(TTL * 3, "nothing is left", || async {
        bench.raw.get(&key).await.is_none() && bench.raw.leases().await.is_empty()
    })
    .await
    .unwrap();
    drop(left);
}
