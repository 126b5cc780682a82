//! One's own record: kept, verified, put back, and given up to nobody by accident.

use meshwork_core::{
    Decoded, Dialect, Instance, InstanceId, Record, Refusal, RegistrationState, ServiceName, decode, encode,
};
use meshwork_testkit::{proxy::FaultProxy, truth::eventually};

use super::bench::{Bench, LONG, Opened, SOON, TTL, backend, instance, key_of, named, shows};

#[tokio::test]
async fn the_record_stands_under_one_lease_that_is_kept() {
    let bench = Bench::start().await;
    let registration = bench.opened().announce(instance("user", 80)).await;
    let key = key_of("user", registration.id().as_str());
    let lease = bench.raw.lease_of(&key).await.unwrap();
    tokio::time::sleep(TTL * 2).await;
    assert_eq!(bench.raw.lease_of(&key).await, Some(lease));
    assert_eq!(bench.raw.leases().await, [lease]);
    assert!(matches!(*registration.state().borrow(), RegistrationState::Live));
}

#[tokio::test]
async fn a_revoked_lease_is_replaced_within_2_s() {
    let bench = Bench::start().await;
    let registration = bench.opened().announce(instance("user", 80)).await;
    let key = key_of("user", registration.id().as_str());
    for _ in 0..3 {
        let lease = bench.raw.lease_of(&key).await.unwrap();
        bench.raw.client().lease_revoke(lease).await.unwrap();
        bench
            .raw
            .until(&key, SOON, "the record is back under a new lease", |kv| {
                kv.is_some_and(|kv| kv.lease() != 0 && kv.lease() != lease)
            })
            .await;
    }
    eventually(LONG, "one lease is left", || async { bench.raw.leases().await.len() == 1 }).await.unwrap();
}

#[tokio::test]
async fn a_key_that_somebody_deletes_is_back_within_2_s_under_the_same_lease() {
    let bench = Bench::start().await;
    let registration = bench.opened().announce(instance("user", 80)).await;
    let key = key_of("user", registration.id().as_str());
    let lease = bench.raw.lease_of(&key).await.unwrap();
    bench.raw.delete(&key).await;
    bench.raw.until(&key, SOON, "the record is back", |kv| kv.is_some_and(|kv| kv.lease() == lease)).await;
}

#[tokio::test]
async fn whatever_else_stands_under_our_key_is_put_back_within_2_s() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    let registration = opened.announce(instance("user", 80)).await;
    let key = key_of("user", registration.id().as_str());
    let (mine, lease) = (bench.raw.get(&key).await.unwrap(), bench.raw.lease_of(&key).await.unwrap());
    let mut edited = decode(mine.value()).unwrap();
    edited.weight = 1;
    for foreign in [b"nonsense".to_vec(), vec![0xff], encode(&edited).unwrap(), mine.value().to_vec()] {
        // Without a lease, which the last of them differs in alone.
        bench.raw.put(&key, foreign).await;
        bench
            .raw
            .until(&key, SOON, "our own record is back under our lease", |kv| {
                kv.is_some_and(|kv| kv.value() == mine.value() && kv.lease() == lease)
            })
            .await;
    }
    assert_eq!(registration.id().as_str(), key.rsplit('/').next().unwrap(), "the id is kept");
    assert_eq!(bench.raw.leases().await, [lease]);
}

#[tokio::test]
async fn the_record_of_another_process_under_our_id_is_left_to_it() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    let registration = opened.announce(instance("user", 80)).await;
    let id = registration.id();
    let key = key_of("user", id.as_str());
    let lease = bench.raw.lease_of(&key).await.unwrap();
    let mut clone = decode(bench.raw.get(&key).await.unwrap().value()).unwrap();
    clone.endpoints = vec!["http://127.0.0.2:80".parse().unwrap()];
    let theirs = bench.raw.client().lease_grant(600, None).await.unwrap().id();
    bench.raw.put_under(&key, encode(&clone).unwrap(), theirs).await.unwrap();
    eventually(LONG, "we go on under another id", || async { registration.id() != id }).await.unwrap();
    let other = registration.id();
    shows(&opened.watch("user"), [id.as_str(), other.as_str()], LONG).await;
    assert_eq!(bench.raw.lease_of(&key).await, Some(theirs));
    let leases = bench.raw.leases().await;
    assert!(!leases.contains(&lease) && leases.len() == 2, "{leases:?}");
}

#[tokio::test]
async fn a_second_process_with_our_id_is_refused_and_takes_another() {
    let bench = Bench::start().await;
    let first = bench.opened().announce(named("user", "twin", 80)).await;
    let second = bench.opened().register(named("user", "twin", 81));
    let state = second.state();
    eventually(LONG, "the second is live", || async { matches!(*state.borrow(), RegistrationState::Live) })
        .await
        .unwrap();
    assert_eq!(first.id().as_str(), "twin");
    assert_ne!(second.id().as_str(), "twin");
    shows(&bench.opened().watch("user"), ["twin", second.id().as_str()], LONG).await;
}

#[tokio::test]
async fn an_update_is_in_place_and_keeps_the_lease() {
    let bench = Bench::start().await;
    let registration = bench.opened().announce(instance("user", 80)).await;
    let key = key_of("user", registration.id().as_str());
    let lease = bench.raw.lease_of(&key).await.unwrap();
    let mut seen = bench.raw.client().watch(key.as_str(), None).await.unwrap();
    for weight in 1..=5 {
        registration.update(|instance| instance.weight = weight);
        bench
            .raw
            .until(&key, LONG, "the weight is written", |kv| {
                kv.is_some_and(|kv| decode(kv.value()).unwrap().weight == weight)
            })
            .await;
    }
    let mut puts = 0;
    while puts < 5 {
        let answer = seen.message().await.unwrap().unwrap();
        for event in answer.events() {
            assert_eq!(event.event_type(), etcd_client::EventType::Put);
            assert_eq!(event.kv().unwrap().lease(), lease);
            puts += 1;
        }
    }
}

#[tokio::test]
async fn twenty_services_share_one_connection() {
    let bench = Bench::start().await;
    let proxy = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    let opened = Opened::new(backend([proxy.url()]));
    let mut kept = Vec::new();
    for n in 0..20u16 {
        let service = format!("service-{n}");
        let registration = opened.announce(instance(&service, 1000 + n)).await;
        let watch = opened.watch(&service);
        shows(&watch, [registration.id().as_str()], LONG).await;
        kept.push((registration, watch));
    }
    assert_eq!(proxy.traffic().connections, 1);
    assert_eq!(bench.raw.leases().await.len(), 20, "instances never share a lease");
}

/// A second format that is only written: `/other/{service}/{id}` = the first endpoint.
struct Plain;

impl Dialect for Plain {
    fn prefix(&self, _env: &str, service: &ServiceName) -> String {
        format!("/other/{service}/")
    }

    fn encode(&self, env: &str, i: &Instance, _lease: i64) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
        let key = format!("{}{}", self.prefix(env, &i.service), i.id);
        Ok(vec![(key, i.endpoints[0].to_string().into_bytes())])
    }

    fn id_of(&self, key: &str) -> Option<InstanceId> {
        InstanceId::new(key.rsplit('/').next()?).ok()
    }

    fn decode(&self, _record: &Record<'_>) -> Decoded {
        Decoded::NotMine
    }
}

#[tokio::test]
async fn the_records_of_two_dialects_are_one_instance_under_one_lease() {
    let bench = Bench::start().await;
    let opened = Opened::new(backend(bench.etcd.endpoints()).also_writing(Plain));
    let registration = opened.announce(instance("user", 80)).await;
    let id = registration.id();
    let (ours, other) = (key_of("user", id.as_str()), format!("/other/user/{id}"));
    let (a, b) = (bench.raw.get(&ours).await.unwrap(), bench.raw.get(&other).await.unwrap());
    assert_eq!((a.lease(), a.mod_revision()), (b.lease(), b.mod_revision()));
    bench.raw.delete(&other).await;
    bench
        .raw
        .until(&other, SOON, "the second record is back", |kv| kv.is_some_and(|kv| kv.lease() == a.lease()))
        .await;
    registration.deregister().await.unwrap();
    assert!(bench.raw.get(&ours).await.is_none() && bench.raw.get(&other).await.is_none());
    assert!(bench.raw.leases().await.is_empty());
}
