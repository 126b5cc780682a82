//! A registry that is away, or is none.

use axum::{Router, routing::get};
use std::{net::SocketAddr, time::Duration};

use meshwork_testkit::{
    consul::Consul,
    etcd::Etcd,
    proxy::{FaultProxy, Toward},
    truth::eventually,
};
use meshwork_tests::{
    SERVICE, http1,
    provider::{Plan, Provider},
    records,
};
use tokio::{net::TcpListener, time::Instant};

use super::rig::{LIMIT, actor, ended};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_unannounced_where_that_is_allowed_and_is_announced_when_etcd_comes() {
    let etcd = Etcd::single().start().await.unwrap();
    etcd.kill9().await.unwrap();
    let plan = Plan::provider()
        .etcd(&etcd.endpoints())
        .config("registry.required", "false")
        .config("registry.start_timeout", "500ms");
    let provider = plan.start(actor()).await.unwrap();
    assert_eq!(http1::get(provider.addr(), "/who").await.unwrap().status, 200);
    let warned = || async { provider.process().stderr().iter().any(|line| line.contains("not announced")) };
    eventually(LIMIT, "it warns", warned).await.unwrap();

    etcd.start().unwrap();
    etcd.ready(LIMIT).await.unwrap();
    eventually(LIMIT, "it is announced", || async {
        records::announced(&etcd, SERVICE).await.is_ok_and(|ids| ids.len() == 1)
    })
    .await
    .unwrap();
    let stopped = provider.stop(LIMIT).await.unwrap();
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert!(records::announced(&etcd, SERVICE).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_no_etcd_is_a_clear_error_at_start() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let page = Router::new().fallback(get(|| async { "<html>it works</html>" }));
        axum::serve(listener, page).await
    });
    let plan = Plan::run().etcd(std::slice::from_ref(&url)).config("registry.start_timeout", "1s");
    let (code, said) = ended(&plan.launch(actor()).unwrap()).await;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains(&url), "{said}");
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_outlives_its_registry() {
    let etcd = Etcd::single().start().await.unwrap();
    let plan = Plan::provider().etcd(&etcd.endpoints()).config("registry.etcd.lease_ttl", "2s");
    let provider = plan.start(actor()).await.unwrap();
    etcd.restart(true).await.unwrap();
    eventually(LIMIT, "it is announced in the new store", || async {
        records::announced(&etcd, SERVICE).await.is_ok_and(|ids| ids.len() == 1)
    })
    .await
    .unwrap();
    etcd.kill9().await.unwrap();
    // It cannot take its record back now. That is told and does not hold the stop up.
    let stopped = provider.stop(LIMIT).await.unwrap();
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert!(stopped.faults.iter().any(|fault| fault.contains("deregistration")), "{stopped:?}");
}

/// How long calls are served after the signal in the tests below, as by default outside of development. The registry
/// has less, so that whatever it does the exit is not later.
const SETTLE: Duration = Duration::from_secs(3);

/// What comes and goes through `proxy` disappears.
async fn behind(upstream: SocketAddr) -> FaultProxy {
    FaultProxy::start(upstream).await.unwrap()
}

/// Stops providers whose registry does not answer any more: no later than one that does.
async fn stop_without_an_answer(providers: Vec<Provider>) {
    let began = Instant::now();
    providers.iter().for_each(|provider| provider.process().terminate());
    for provider in providers {
        let stopped = provider.stopped(LIMIT).await.unwrap();
        // Nothing of it was a call's fault.
        assert_eq!(stopped.code, 0, "{stopped:?}");
        assert!(stopped.faults.iter().any(|fault| fault.contains("deregistration")), "{stopped:?}");
        println!("stopped after {} ms, settling takes {SETTLE:?}", stopped.took_ms);
        assert!(
            Duration::from_millis(stopped.took_ms) < SETTLE + Duration::from_millis(1_500),
            "{stopped:?}"
        );
    }
    assert!(began.elapsed() < SETTLE * 3, "{:?}", began.elapsed());
}

/// Starts one whose registry cannot be reached while it announces itself, and asks it to stop.
async fn stop_while_announcing(plan: Plan, proxy: &FaultProxy) {
    let seen = proxy.traffic().connections;
    let process = plan.config("registry.start_timeout", "1m").launch(actor()).unwrap();
    let dials = || async { proxy.traffic().connections > seen };
    eventually(LIMIT, "it dials its registry", dials).await.unwrap();
    let began = Instant::now();
    process.terminate();
    let (code, said) = ended(&process).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(began.elapsed() < SETTLE * 3, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_frozen_or_black_holed_does_not_delay_the_exit() {
    let etcd = Etcd::single().start().await.unwrap();
    let proxy = behind(etcd.member(0).addr()).await;
    let settling = |plan: Plan| plan.config("drain.settle", format!("{}s", SETTLE.as_secs()));
    let through = settling(Plan::provider().etcd(&[proxy.url()]));
    let holed = vec![through.start(actor()).await.unwrap()];
    let straight = settling(Plan::provider().etcd(&etcd.endpoints()));
    let frozen = vec![straight.start(actor()).await.unwrap()];
    proxy.black_hole(Toward::Both);
    stop_without_an_answer(holed).await;
    stop_while_announcing(through, &proxy).await;
    etcd.freeze().await.unwrap();
    stop_without_an_answer(frozen).await;
    etcd.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_that_is_frozen_or_black_holed_does_not_delay_the_exit() {
    let consul = Consul::dev().start().await.unwrap();
    let proxy = behind(consul.first().addr()).await;
    let settling = |plan: Plan| plan.config("drain.settle", format!("{}s", SETTLE.as_secs()));
    let through = settling(Plan::provider().consul(&proxy.url()));
    let holed = vec![through.start(actor()).await.unwrap()];
    let straight = settling(Plan::provider().consul(&consul.first().url()));
    let frozen = vec![straight.start(actor()).await.unwrap()];
    proxy.black_hole(Toward::Both);
    stop_without_an_answer(holed).await;
    stop_while_announcing(through, &proxy).await;
    consul.first().freeze().await.unwrap();
    stop_without_an_answer(frozen).await;
    consul.first().thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_that_kubernetes_injects_for_a_service_named_meshwork_disturb_nothing() {
    let injected = [
        ("MESHWORK_PORT", "tcp://10.96.0.7:80"),
        ("MESHWORK_SERVICE_HOST", "10.96.0.7"),
        ("MESHWORK_SERVICE_PORT", "80"),
        ("MESHWORK_SERVICE_PORT_HTTP", "80"),
        ("MESHWORK_PORT_80_TCP", "tcp://10.96.0.7:80"),
        ("MESHWORK_PORT_80_TCP_PROTO", "tcp"),
        ("MESHWORK_PORT_80_TCP_PORT", "80"),
        ("MESHWORK_PORT_80_TCP_ADDR", "10.96.0.7"),
    ];
    let plan = Plan::provider().config("registry.use", "none");
    let plan = injected.iter().fold(plan, |plan, (name, value)| plan.env(name, *value));
    let provider = plan.start(actor()).await.unwrap();
    assert_eq!(http1::get(provider.addr(), "/who").await.unwrap().status, 200);
    assert_eq!(provider.stop(LIMIT).await.unwrap().code, 0);
}
