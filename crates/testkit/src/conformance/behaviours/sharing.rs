//! What a process costs its registry.

use std::time::Duration;

use tokio::time::{self, Instant};

use crate::conformance::{
    bench::{Bench, LONG, QUIET, live, until},
    flaw::{Proof, ensure},
    suite::group,
};

group! { "sharing":
    Alone two_hundred_services_of_one_process_share_connections = "etcd#11886, go-micro#2821: one connection per process, however many services",
    Alone an_idle_process_is_quiet = "consul#1244: busy loops; go-zero#3364: 100 % CPU",
    Calm subscriptions_end_with_their_last_watch = "one subscription per query, which ends",
}

async fn two_hundred_services_of_one_process_share_connections(bench: Bench) -> Proof {
    const SERVICES: usize = 200;
    let (process, linked) = bench.open_linked().await?;
    let (mut watches, mut registrations) = (Vec::new(), Vec::new());
    for n in 0..SERVICES {
        let service = bench.service(&format!("service-{n}"));
        watches.push(process.watch(&service)?);
        if n % 10 == 0 {
            registrations.push(process.register(bench.instance(&service))?);
        }
    }
    for registration in &registrations {
        live(registration).await?;
    }
    let mut most = 0;
    for (n, watch) in watches.iter().enumerate() {
        let expected = usize::from(n % 10 == 0);
        let what = format!("service {n} is fresh with {expected}");
        until(watch, LONG, &what, |view| view.staleness().is_fresh() && view.value().len() == expected)
            .await?;
        most = most.max(linked.traffic().open);
    }
    let limit = bench.limits.connections;
    ensure!(most <= limit, "{most} connections were open for {SERVICES} services, {limit} are promised");
    Ok(())
}

async fn an_idle_process_is_quiet(bench: Bench) -> Proof {
    let (service, (process, linked)) = (bench.service("users"), bench.open_linked().await?);
    let registration = process.announce(bench.instance(&service)).await?;
    let watch = process.watch(&service)?;
    bench.shows(&watch, [&registration.id()]).await?;
    time::sleep(QUIET).await;
    let (before, begun) = (linked.traffic(), Instant::now());
    time::sleep(Duration::from_secs(2)).await;
    let (after, seconds) = (linked.traffic(), begun.elapsed().as_secs_f64());
    let passed = |traffic: crate::proxy::Traffic| traffic.bytes_to_client + traffic.bytes_to_server;
    let bytes = (passed(after) - passed(before)) as f64 / seconds;
    let connections = after.connections - before.connections;
    ensure!(
        bytes <= bench.limits.idle_bytes as f64,
        "{bytes:.0} bytes pass each second, {} are promised",
        bench.limits.idle_bytes
    );
    ensure!(connections <= 4, "{connections} connections were made in {seconds:.1} s");
    Ok(())
}

async fn subscriptions_end_with_their_last_watch(bench: Bench) -> Proof {
    let crowd = bench.crowd(1).await?;
    let (process, counted) = bench.open_counted()?;
    let first = process.watch(&crowd.service)?;
    bench.shows(&first, &crowd.ids).await?;
    let second = first.clone();
    drop((first, process, counted.backend));
    time::sleep(QUIET / 2).await;
    let open = counted.stats.subscriptions.get();
    ensure!(open == 1, "{open} subscriptions while a clone of the watch lives");
    drop(second);
    crate::conformance::bench::eventually(LONG, "no subscription is left", || {
        counted.stats.subscriptions.get() == 0
    })
    .await?;
    Ok(())
}
