//! Notices of real processes: a registry that is away, an instance that stands still, a webhook that does not answer.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Json, Router, extract::State, routing::post};
use meshwork::{Memory, NoticeKind, NoticeState};
use meshwork_testkit::{etcd::Etcd, truth::eventually};
use meshwork_tests::{SERVICE, provider::Plan};
use serde_json::Value;
use tokio::{net::TcpListener, time::timeout};

use super::rig::{LIMIT, Running, actor, app};

type Heard = Arc<Mutex<Vec<Value>>>;

/// A webhook that takes everything.
async fn webhook() -> (Running, Heard) {
    let heard = Heard::default();
    let hook = |State(heard): State<Heard>, Json(notice): Json<Value>| async move {
        heard.lock().unwrap().push(notice);
    };
    let routes = Router::new().route("/hook", post(hook)).with_state(Arc::clone(&heard));
    (Running::start(app("hooks").with_registry(Memory::new()).http(routes)).await, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_away_and_back_is_told_to_the_webhook_and_a_mute_one_holds_up_no_stop() {
    let etcd = Etcd::single().start().await.unwrap();
    let (hooks, heard) = webhook().await;
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plan = |url: String| {
        let plan = Plan::provider().etcd(&etcd.endpoints()).config("registry.etcd.lease_ttl", "2s");
        plan.config("service.notices.webhook", url).config("service.notices.delay", "100ms")
    };
    let told = plan(format!("http://{}/hook", hooks.addr())).start(actor()).await.unwrap();
    let deaf = plan(format!("http://{}/s3cr3t", mute.local_addr().unwrap())).start(actor()).await.unwrap();

    etcd.kill9().await.unwrap();
    let turned = |state: &str| {
        let heard = heard.lock().unwrap();
        heard.iter().rfind(|notice| notice["kind"] == "registration").is_some_and(|n| n["state"] == state)
    };
    eventually(LIMIT, "the loss is told", || async { turned("critical") }).await.unwrap();
    let first = heard.lock().unwrap()[0].clone();
    assert_eq!((&first["service"], &first["instance"]), (&SERVICE.into(), &told.id().into()), "{first}");
    let tries =
        || async { deaf.process().stderr().iter().any(|line| line.contains("does not take notices")) };
    eventually(LIMIT, "the other webhook is given up", tries).await.unwrap();

    etcd.start().unwrap();
    etcd.ready(LIMIT).await.unwrap();
    eventually(LIMIT, "the return is told", || async { turned("passing") }).await.unwrap();
    assert_eq!(heard.lock().unwrap().last().unwrap()["open"], 0);

    for provider in [&told, &deaf] {
        let stopped = provider.stop(LIMIT).await.unwrap();
        assert_eq!(stopped.code, 0, "{stopped:?}");
        // 200 ms to settle and at most half a second for the webhook, on a slow machine.
        assert!(stopped.took_ms < 4_000, "{stopped:?}");
    }
    assert!(!deaf.process().stderr().iter().any(|line| line.contains("s3cr3t")));
    hooks.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_stands_still_is_told_and_when_it_goes_on() {
    let etcd = Etcd::single().start().await.unwrap();
    let provider = Plan::provider().etcd(&etcd.endpoints()).start(actor()).await.unwrap();
    let registry = format!("[registry]\nuse = \"etcd\"\netcd.endpoints = {:?}\n", etcd.endpoints());
    let caller = app("caller").with_config(registry).with_config("[service.notices]\ndelay = \"0s\"");
    let caller = caller.with_client(SERVICE, |client| {
        client.ping_interval = Duration::from_millis(400);
        client.ping_timeout = Duration::from_millis(400);
    });
    let routes = Router::new().route("/", axum::routing::get(|| async {}));
    let caller = Running::start(caller.http(routes)).await;
    let channel = caller.handle.channel(SERVICE).unwrap();
    assert_eq!(channel.get("/who").send().await.unwrap().status(), 200);
    let mut notices = caller.handle.notices();
    let mut until = async |state: NoticeState| {
        let told = async {
            loop {
                let notice = notices.next().await.unwrap();
                if (notice.kind, notice.state) == (NoticeKind::Peer, state) {
                    return notice;
                }
            }
        };
        timeout(LIMIT, told).await.expect("it is told in time")
    };

    provider.process().freeze().await.unwrap();
    let still = until(NoticeState::Warning).await;
    assert_eq!(&*still.name, provider.id());
    provider.process().thaw();
    let again = until(NoticeState::Passing).await;
    assert_eq!((&*again.name, again.open), (provider.id(), 0), "{again}");
    assert_eq!(channel.get("/who").send().await.unwrap().status(), 200);
    assert!(caller.stop().await.is_clean());
    assert_eq!(provider.stop(LIMIT).await.unwrap().code, 0);
}
