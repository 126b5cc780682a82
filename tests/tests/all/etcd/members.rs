//! Several members, some of them dead, frozen or silent.

use std::time::Duration;

use meshwork_core::decode;
use meshwork_testkit::{
    etcd::Etcd,
    proxy::{FaultProxy, Toward},
    truth::eventually,
};
use tokio::time::Instant;

use super::bench::{Bench, LONG, Opened, Raw, backend, instance, key_of, shows, until};

/// The longest that a call may take while one member does not answer.
const CALL: Duration = Duration::from_millis(2500);

#[tokio::test]
async fn with_one_member_dead_at_start_the_first_success_comes_within_2500_ms() {
    let bench = Bench::start().await;
    let [good] = &bench.etcd.endpoints()[..] else { panic!("one member") };
    let refusing = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    refusing.refuse().await.unwrap();
    let silent = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    silent.black_hole(Toward::Both);
    for dead in [refusing.url(), silent.url()] {
        // Which member comes first is by chance: often enough it is the dead one.
        for _ in 0..4 {
            let opened = Opened::new(backend([dead.clone(), good.clone()]));
            let begun = Instant::now();
            let (watch, registration) = (opened.watch("user"), opened.register(instance("user", 80)));
            until(&watch, CALL, "the view is fresh", |view| view.staleness().is_fresh()).await;
            tokio::time::timeout(CALL, registration.live()).await.unwrap().unwrap();
            assert!(begun.elapsed() <= CALL, "{:?}", begun.elapsed());
            registration.deregister().await.unwrap();
        }
    }
}

#[tokio::test]
async fn with_one_member_frozen_mid_run_no_call_takes_longer_than_2500_ms() {
    let etcd = Etcd::cluster(3).start().await.unwrap();
    let raw = Raw::connect(&etcd.endpoints()).await;
    let mut proxies = Vec::new();
    for member in etcd.members() {
        proxies.push(FaultProxy::start(member.addr()).await.unwrap());
    }
    let leader = etcd.leader().await.unwrap();
    // Follow a follower: whoever leads, losing it costs an election besides.
    let (opened, registration, used) = loop {
        let before: Vec<u64> = proxies.iter().map(|proxy| proxy.traffic().bytes_to_client).collect();
        let urls = proxies.iter().map(FaultProxy::url);
        let opened = Opened::new(backend(urls).with_lease_ttl(Duration::from_secs(6)));
        let registration = opened.announce(instance("user", 80)).await;
        let used = (0..3).find(|n| proxies[*n].traffic().bytes_to_client > before[*n]).unwrap();
        if used != leader {
            break (opened, registration, used);
        }
        registration.deregister().await.unwrap();
    };
    let id = registration.id();
    let (key, watch) = (key_of("user", id.as_str()), opened.watch("user"));
    shows(&watch, [id.as_str()], LONG).await;
    let lease = raw.lease_of(&key).await;
    etcd.member(used).freeze().await.unwrap();
    let answering: Vec<String> =
        etcd.members().iter().enumerate().filter(|(n, _)| *n != used).map(|(_, m)| m.url()).collect();
    let raw = Raw::connect(&answering).await;
    for weight in 1..=3 {
        let begun = Instant::now();
        registration.update(|instance| instance.weight = weight);
        raw.until(&key, CALL, "the update is written", |kv| {
            kv.is_some_and(|kv| decode(kv.value()).unwrap().weight == weight)
        })
        .await;
        println!("update {weight} written after {:?}", begun.elapsed());
    }
    until(&watch, LONG, "the watch is back", |view| view.value()[0].weight == 3).await;
    assert_eq!(raw.lease_of(&key).await, lease);
    etcd.member(used).thaw();
}

#[tokio::test]
async fn members_that_are_advertised_are_used_when_asked_for() {
    let etcd = Etcd::cluster(3).start().await.unwrap();
    let proxy = FaultProxy::start(etcd.member(0).addr()).await.unwrap();
    let opened = Opened::new(backend([proxy.url()]).with_synced_members());
    let watch = opened.watch("user");
    let registration = opened.announce(instance("user", 80)).await;
    shows(&watch, [registration.id().as_str()], LONG).await;
    // Whether the list of members was read shows only once the configured one is away.
    let raw = Raw::connect(&etcd.endpoints()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.refuse().await.unwrap();
    proxy.cut().await.unwrap();
    let other = super::bench::named("user", "other", 81);
    raw.put_instance(&other).await;
    shows(&watch, [registration.id().as_str(), "other"], LONG).await;
}

#[tokio::test]
async fn endpoints_may_be_replaced_one_by_one_or_all_at_once_and_nothing_is_lost() {
    let etcd = Etcd::cluster(3).start().await.unwrap();
    let raw = Raw::connect(&etcd.endpoints()).await;
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for member in etcd.members() {
        old.push(FaultProxy::start(member.addr()).await.unwrap());
        new.push(FaultProxy::start(member.addr()).await.unwrap());
    }
    let backend = backend(old.iter().map(FaultProxy::url)).with_lease_ttl(Duration::from_secs(6));
    let (endpoints, opened) = (backend.endpoints(), Opened::new(backend));
    let registration = opened.announce(instance("user", 80)).await;
    let key = key_of("user", registration.id().as_str());
    let watch = opened.watch("user");
    shows(&watch, [registration.id().as_str()], LONG).await;
    let (lease, found) = (raw.lease_of(&key).await, raw.get(&key).await.unwrap().create_revision());
    assert!(endpoints.replace(["nowhere"]).is_err());
    let begun = Instant::now();
    endpoints.replace(new.iter().map(FaultProxy::url)).unwrap();
    for proxy in &old {
        eventually(CALL, "the old address is left", || async { proxy.traffic().open == 0 }).await.unwrap();
        proxy.refuse().await.unwrap();
    }
    registration.update(|instance| instance.weight = 7);
    until(&watch, LONG, "the change is seen", |view| view.value()[0].weight == 7).await;
    println!("moved in {:?}", begun.elapsed());
    assert!(watch.latest().staleness().is_fresh());
    // The one in use stays while it is among them.
    let dials = |proxies: &[FaultProxy]| proxies.iter().map(|proxy| proxy.traffic().connections).sum::<u64>();
    let used = new.iter().find(|proxy| proxy.traffic().open > 0).unwrap();
    let before = dials(&new);
    endpoints.replace([used.url()]).unwrap();
    registration.update(|instance| instance.weight = 8);
    until(&watch, LONG, "the change is seen", |view| view.value()[0].weight == 8).await;
    assert_eq!(dials(&new), before);
    let now = raw.get(&key).await.unwrap();
    assert_eq!((Some(now.lease()), now.create_revision()), (lease, found), "the record was never absent");
}
