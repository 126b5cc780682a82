//! What many services of one process share.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails its test")]

use std::{fs, time::Duration};

use meshwork_testkit::{etcd, proxy::FaultProxy, truth::eventually};
use tokio::{time, time::Instant};

use super::bench::{Bench, LONG, Opened, backend, instance, named, shows};

/// How many services are announced and found at once.
const SERVICES: u16 = 500;

/// The streams of this kind that are open at the server.
async fn open(etcd: &etcd::Etcd, method: &str) -> f64 {
    let label = format!("grpc_method=\"{method}\"");
    let member = etcd.member(0);
    let started = member.metric("grpc_server_started_total", &label).await.unwrap();
    started - member.metric("grpc_server_handled_total", &label).await.unwrap()
}

/// The memory that this process holds, in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_services_share_one_connection_one_watch_stream_and_one_keep_alive_stream() {
    let bench = Bench::start().await;
    let proxy = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    let opened = Opened::new(backend([proxy.url()]).with_lease_ttl(Duration::from_secs(15)));
    let (before, begun) = (resident(), Instant::now());
    let services = opened.catalog.services();
    let mut kept = Vec::new();
    for n in 0..SERVICES {
        let service = format!("service-{n}");
        let registration = opened.register(instance(&service, 1000 + n));
        kept.push((registration, opened.watch(&service)));
    }
    for (registration, watch) in &kept {
        time::timeout(LONG, registration.live()).await.unwrap().unwrap();
        shows(watch, [registration.id().as_str()], LONG).await;
    }
    eventually(LONG, "the catalog lists all", || async {
        services.latest().value().len() == usize::from(SERVICES)
    })
    .await
    .unwrap();
    println!(
        "{SERVICES} services announced and found in {:?}; about {} KiB for each",
        begun.elapsed(),
        resident().saturating_sub(before) / u64::from(SERVICES)
    );
    // A lease is renewed after a third of its time: all of them at least once, over one stream.
    eventually(LONG, "leases are renewed", || async { open(&bench.etcd, "LeaseKeepAlive").await == 1.0 })
        .await
        .unwrap();
    let streams = bench.etcd.member(0).metric("etcd_debugging_mvcc_watch_stream_total", "").await.unwrap();
    let watchers = bench.etcd.member(0).metric("etcd_debugging_mvcc_watcher_total", "").await.unwrap();
    println!("{:?}; {streams} watch streams, {watchers} watches", proxy.traffic());
    assert_eq!(proxy.traffic().connections, 1);
    assert_eq!((streams, open(&bench.etcd, "Watch").await), (1.0, 1.0));
    assert_eq!(watchers as u16, 2 * SERVICES + 1, "one for each view, each record, and the catalog");
    assert_eq!(bench.raw.leases().await.len(), usize::from(SERVICES), "one lease for each registration");
}

#[tokio::test]
async fn the_catalog_lists_the_services_that_have_a_record_in_our_environment() {
    let bench = Bench::start().await;
    let proxy = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    let opened = Opened::new(backend([proxy.url()]));
    let services = opened.catalog.services();
    let lists = async |names: &[&str]| {
        let what = format!("it lists {names:?}");
        eventually(LONG, &what, || async {
            let view = services.latest();
            view.staleness().is_fresh()
                && view.value().iter().map(|name| name.as_str()).eq(names.iter().copied())
        })
        .await
        .unwrap();
    };
    lists(&[]).await;
    let registration = opened.announce(instance("user", 80)).await;
    bench.raw.put_instance(&named("orders", "o-1", 81)).await;
    bench.raw.put_instance(&named("orders", "o-2", 82)).await;
    bench.raw.put("/meshwork/prod/instances/elsewhere/e-1", "{}").await;
    bench.raw.put("/meshwork/test/documents/rules", "{}").await;
    lists(&["orders", "user"]).await;
    bench.raw.delete("/meshwork/test/instances/orders/o-1").await;
    registration.deregister().await.unwrap();
    lists(&["orders"]).await;
    proxy.cut().await.unwrap();
    bench.raw.delete("/meshwork/test/instances/orders/o-2").await;
    bench.raw.put_instance(&named("new", "n-1", 83)).await;
    lists(&["new"]).await;
    assert!(proxy.traffic().open <= 1, "{:?}", proxy.traffic());
}
