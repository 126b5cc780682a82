//! A registry that is away, or is none.

use axum::{Router, routing::get};
use meshwork_testkit::{etcd::Etcd, truth::eventually};
use meshwork_tests::{SERVICE, http1, provider::Plan, records};
use tokio::net::TcpListener;

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
