//! The registry, or the way to it, or the provider itself, is away for a while.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails its test")]

use std::time::Duration;

use meshwork_core::{ErrorChain, ErrorKind, RegistrationState};
use meshwork_testkit::{
    etcd::Etcd,
    process::Program,
    proxy::{FaultProxy, Toward},
    truth::eventually,
};
use tokio::{io::AsyncWriteExt, time::Instant};

use super::bench::{Bench, LONG, Opened, SOON, TTL, backend, instance, key_of, named, shows, until};

#[tokio::test]
async fn a_wiped_store_has_the_record_again_within_5_s_under_a_new_lease() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    let registration = opened.announce(instance("user", 80)).await;
    let key = key_of("user", registration.id().as_str());
    let watch = opened.watch("user");
    shows(&watch, [registration.id().as_str()], LONG).await;
    for _ in 0..2 {
        let lease = bench.raw.lease_of(&key).await.unwrap();
        bench.etcd.restart(true).await.unwrap();
        bench
            .raw
            .until(&key, Duration::from_secs(5), "the record is there again", |kv| {
                kv.is_some_and(|kv| kv.lease() != 0 && kv.lease() != lease)
            })
            .await;
    }
    shows(&watch, [registration.id().as_str()], LONG).await;
    until(&watch, LONG, "it is fresh", |view| view.staleness().is_fresh()).await;
}

#[tokio::test]
async fn a_registry_that_is_down_at_start_is_waited_for() {
    let bench = Bench::start().await;
    bench.etcd.kill9().await.unwrap();
    let opened = bench.opened();
    let watch = opened.watch("user");
    let registration = opened.register(instance("user", 80));
    let state = registration.state();
    eventually(Duration::from_secs(3), "both say why", || async {
        watch.latest().staleness().cause().is_some()
            && matches!(&*state.borrow(), RegistrationState::Pending { cause: Some(_) })
    })
    .await
    .unwrap();
    let view = watch.latest();
    let cause = view.staleness().cause().unwrap();
    assert!(view.staleness().is_pending() && cause.kind() == ErrorKind::Unavailable);
    let text = ErrorChain(&**cause).to_string();
    assert!(text.contains("refused") && text.contains(&bench.etcd.endpoints()[0]), "{text}");
    bench.etcd.restart(false).await.unwrap();
    tokio::time::timeout(LONG, registration.live()).await.unwrap().unwrap();
    shows(&watch, [registration.id().as_str()], LONG).await;
}

/// A server of another protocol, and what a caller learns of it.
async fn told_of_another_server(closes: bool) -> (ErrorKind, String) {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut socket, _)) = server.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let _ = socket.write_all(answer).await;
            if !closes {
                kept.push(socket);
            }
        }
    });
    let watch = Opened::new(backend([format!("http://{address}")])).watch("user");
    until(&watch, LONG, "the view says why", |view| view.staleness().cause().is_some()).await;
    let view = watch.latest();
    let cause = view.staleness().cause().unwrap();
    (cause.kind(), ErrorChain(&**cause).to_string())
}

#[tokio::test]
async fn what_is_no_etcd_is_a_protocol_error_or_says_that_it_closed_the_connection() {
    let (kind, text) = told_of_another_server(false).await;
    assert_eq!(kind, ErrorKind::Protocol, "{text}");
    let (_, text) = told_of_another_server(true).await;
    assert!(text.contains("closed the connection") || text.contains("protocol error"), "{text}");
}

#[tokio::test]
async fn the_last_good_set_stands_while_the_registry_is_away() {
    let bench = Bench::start().await;
    let (caller, watch) = (bench.opened(), bench.opened().watch("user"));
    let second = caller.watch("user");
    bench.raw.put_instance(&named("user", "a", 80)).await;
    shows(&watch, ["a"], LONG).await;
    bench.etcd.freeze().await.unwrap();
    until(&watch, Duration::from_secs(15), "it is stale", |view| view.staleness().cause().is_some()).await;
    shows(&watch, ["a"], LONG).await;
    bench.etcd.thaw();
    bench.raw.put_instance(&named("user", "b", 81)).await;
    shows(&watch, ["a", "b"], LONG).await;
    shows(&second, ["a", "b"], LONG).await;
}

#[tokio::test]
async fn a_provider_cut_off_for_three_times_its_ttl_is_back_soon_after() {
    let bench = Bench::start().await;
    let proxy = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    let registration = Opened::new(backend([proxy.url()])).announce(instance("user", 80)).await;
    let key = key_of("user", registration.id().as_str());
    proxy.swallow(Toward::Both);
    bench.raw.until(&key, TTL * 4, "its lease runs out", |kv| kv.is_none()).await;
    let state = registration.state();
    eventually(LONG, "it knows", || async { matches!(*state.borrow(), RegistrationState::Lost { .. }) })
        .await
        .unwrap();
    proxy.heal();
    proxy.cut().await.unwrap();
    bench.raw.until(&key, TTL + SOON, "the record is back", |kv| kv.is_some()).await;
}

#[tokio::test]
async fn a_leader_change_is_no_loss() {
    let etcd = Etcd::cluster(3).start().await.unwrap();
    let raw = super::bench::Raw::connect(&etcd.endpoints()).await;
    let opened = Opened::new(backend(etcd.endpoints()).with_lease_ttl(Duration::from_secs(6)));
    let registration = opened.announce(instance("user", 80)).await;
    let key = key_of("user", registration.id().as_str());
    let lease = raw.lease_of(&key).await.unwrap();
    let revision = raw.revision().await;
    for _ in 0..2 {
        let leader = etcd.leader().await.unwrap();
        etcd.member(leader).kill9().await.unwrap();
        etcd.leader().await.unwrap();
        etcd.member(leader).restart().await.unwrap();
        let state = registration.state();
        eventually(LONG, "it is live", || async { matches!(*state.borrow(), RegistrationState::Live) })
            .await
            .unwrap();
    }
    let found = raw.get(&key).await.unwrap();
    assert_eq!(found.lease(), lease, "the lease id is unchanged");
    assert!(found.create_revision() <= revision, "the record was never absent");
}

/// Set for the process that only announces an instance.
const PROVIDER: &str = "MESHWORK_TESTS_ETCD_PROVIDER";

#[tokio::test]
async fn a_provider_process_for_the_test_below() {
    let Ok(endpoint) = std::env::var(PROVIDER) else { return };
    let registration = Opened::new(backend([endpoint])).announce(named("user", "paused", 80)).await;
    println!("announced {}", registration.id());
    tokio::time::sleep(Duration::from_secs(120)).await;
}

#[tokio::test]
async fn a_provider_that_stood_still_is_back_within_2_s() {
    let bench = Bench::start().await;
    let me = std::env::current_exe().unwrap();
    let name = std::thread::current()
        .name()
        .unwrap()
        .replace("a_provider_that_stood_still_is_back_within_2_s", "a_provider_process_for_the_test_below");
    let provider = Program::new(me)
        .args(["--exact", &name, "--nocapture"])
        .env(PROVIDER, &bench.etcd.endpoints()[0])
        .start()
        .unwrap();
    let key = key_of("user", "paused");
    bench.raw.until(&key, LONG, "it is announced", |kv| kv.is_some()).await;
    let lease = bench.raw.lease_of(&key).await.unwrap();
    provider.freeze().await.unwrap();
    bench.raw.until(&key, TTL * 4, "its lease runs out", |kv| kv.is_none()).await;
    provider.thaw();
    let begun = Instant::now();
    bench.raw.until(&key, SOON, "the record is back", |kv| kv.is_some_and(|kv| kv.lease() != lease)).await;
    println!("back {:?} after it was thawed", begun.elapsed());
}
