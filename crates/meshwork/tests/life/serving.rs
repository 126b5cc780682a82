//! While it serves: readiness and the record, health checks, live changes.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use axum::{Router, extract::ConnectInfo, routing::get};
use meshwork::{App, Check, Instance, Memory, ServiceName};
use tokio::net::TcpListener;

use crate::rig::{NAME, Running, announced, app, eventually, falls};

/// The one record of the service.
fn record(memory: &Memory) -> Option<Arc<Instance>> {
    memory.instances(&ServiceName::new(NAME).unwrap()).first().cloned()
}

fn says(memory: &Memory, status: &str) -> bool {
    record(memory).is_some_and(|record| record.status.as_str() == status)
}

/// With this `[service.readiness]`, and a part that is ready.
async fn with_part(memory: &Memory, readiness: &str) -> (Running, meshwork::Readiness) {
    let app = app(memory).with_config(format!("[service.readiness]\n{readiness}\n"));
    let part = app.handle().readiness("cache");
    part.set(true);
    (Running::start(app).await, part)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_readiness_makes_the_record_unready_and_it_comes_back() {
    let memory = Memory::new();
    let (running, part) = with_part(&memory, "loss_delay = \"10ms\"\nreturn_delay = \"10ms\"").await;
    let id = record(&memory).unwrap().id.clone();
    for _ in 0..3 {
        part.set(false);
        eventually("the record says unready", || says(&memory, "unready")).await;
        part.set(true);
        eventually("the record says up", || says(&memory, "up")).await;
    }
    assert_eq!(record(&memory).unwrap().id, id);
    assert!(running.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_flickers_does_not_reach_the_registry() {
    let memory = Memory::new();
    let (running, part) = with_part(&memory, "loss_delay = \"1500ms\"\nreturn_delay = \"1h\"").await;
    let (before, began) = (record(&memory).unwrap(), Instant::now());
    // Longer than the delay in all, and never for as long as that.
    while began.elapsed() < Duration::from_millis(2_200) {
        part.set(false);
        tokio::time::sleep(Duration::from_millis(10)).await;
        part.set(true);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(record(&memory).unwrap(), before);
    part.set(false);
    // An instance that is lost to readiness leaves as any other.
    assert!(running.stop().await.is_clean());
    assert_eq!(announced(&memory), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_is_withdrawn_where_the_policy_says_so_and_announced_again_under_a_new_id() {
    let memory = Memory::new();
    let readiness = "on_loss = \"withdraw\"\nloss_delay = \"10ms\"\nreturn_delay = \"10ms\"";
    let (running, part) = with_part(&memory, readiness).await;
    let first = record(&memory).unwrap();
    part.set(false);
    eventually("the record is gone", || announced(&memory) == 0).await;
    running.handle.update(|instance| instance.weight = 7);
    part.set(true);
    eventually("the record is back", || says(&memory, "up")).await;
    let second = record(&memory).unwrap();
    assert_ne!(second.id, first.id);
    assert_eq!((second.weight, &second.endpoints), (7, &first.endpoints));
    // A client that confirms whom it reaches finds the new id there.
    let channel = app(&memory).channel(NAME);
    assert_eq!(channel.get("/").send().await.unwrap().text().await.unwrap(), "hello");
    // Also a stop while it is withdrawn leaves nothing.
    part.set(false);
    eventually("the record is gone again", || announced(&memory) == 0).await;
    assert!(running.stop().await.is_clean());
    assert_eq!(announced(&memory), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_the_withdrawal_that_is_under_way() {
    let memory = Memory::new();
    let (running, part) = with_part(&memory, "on_loss = \"withdraw\"\nloss_delay = \"0s\"").await;
    memory.lag(Duration::from_millis(300));
    part.set(false);
    // Its registration is taken back from now on, and the registry is slow to confirm it.
    eventually("it withdraws", || running.handle.registration().is_none()).await;
    assert!(running.stop().await.is_clean());
    assert_eq!(announced(&memory), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_where_the_policy_says_so() {
    let memory = Memory::new();
    let (running, part) = with_part(&memory, "on_loss = \"keep\"\nloss_delay = \"0s\"").await;
    part.set(false);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(says(&memory, "up"));
    assert!(running.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_a_changed_record_without_a_new_connection() {
    let (memory, peers) = (Memory::new(), Arc::new(Mutex::new(HashSet::new())));
    let seen = Arc::clone(&peers);
    let app = app(&memory).http(Router::new().route(
        "/peer",
        get(move |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
            seen.lock().unwrap().insert(peer);
        }),
    ));
    let running = Running::start(app).await;
    let client: App = crate::rig::app(&memory).with_config("[client.default]\nmax_connections = 1");
    let channel = client.channel(NAME);
    for weight in [100, 7, 65_535] {
        running.handle.update(move |instance| {
            instance.weight = weight;
            instance.labels.set("weight", weight.to_string());
        });
        eventually("it is announced", || record(&memory).is_some_and(|record| record.weight == weight)).await;
        for _ in 0..5 {
            channel.get("/peer").send().await.unwrap();
        }
    }
    assert_eq!(peers.lock().unwrap().len(), 1, "one connection for all");
    assert!(running.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_must_pass_before_the_app_is_announced_and_turns_its_readiness_later() {
    let (memory, well) = (Memory::new(), Arc::new(AtomicBool::new(false)));
    let (asked, count) = (Arc::clone(&well), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    let check = Check::new("database", move || {
        let (well, run) = (asked.load(SeqCst), counted.fetch_add(1, SeqCst));
        async move {
            if run == 1 {
                falls("the probe itself is broken");
            }
            well.then_some(()).ok_or("database is away")
        }
    });
    let check = check.interval(Duration::from_millis(10)).failure_threshold(2).success_threshold(2);
    let app = app(&memory)
        .with_config("[service.readiness]\nloss_delay = \"10ms\"\nreturn_delay = \"10ms\"")
        .check(check);
    let running = Running::launch(app);
    eventually("it was asked, also after a panic", || count.load(SeqCst) > 3).await;
    assert_eq!(announced(&memory), 0);
    well.store(true, SeqCst);
    eventually("it is announced", || says(&memory, "up")).await;
    well.store(false, SeqCst);
    eventually("the record says unready", || says(&memory, "unready")).await;
    well.store(true, SeqCst);
    eventually("the record says up", || says(&memory, "up")).await;
    assert!(running.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_http_and_grpc_are_asked_as_they_are() {
    // An app that serves answers all three questions itself.
    let memory = Memory::new();
    let other = Running::start(app(&memory)).await;
    let addr = other.handle.local_addr().unwrap();
    let well = app(&Memory::new())
        .check(Check::tcp("tcp", addr.to_string()))
        .check(Check::http("http", format!("http://{addr}/.meshwork/ready")))
        .check(Check::grpc("grpc", format!("http://{addr}"), ""));
    assert!(Running::start(well).await.stop().await.is_clean());

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (gone, mute) = (closed.local_addr().unwrap(), silent.local_addr().unwrap());
    drop(closed);
    let ill = app(&Memory::new())
        .with_config("[service]\nstart_timeout = \"700ms\"")
        .check(Check::tcp("tcp", gone.to_string()))
        .check(Check::http("silent", format!("http://{mute}/")).timeout(Duration::from_millis(100)))
        .check(Check::http("http", format!("http://{addr}/no-such-route")))
        .check(Check::grpc("grpc", format!("http://{addr}"), "no.such.Service"));
    let error = Running::launch(ill).ended().await.unwrap_err();
    let said = format!("{error:?}");
    assert_eq!(error.code(), 5, "{said}");
    assert!(said.contains("readiness of `grpc`, `http`, `silent`, `tcp`"), "{said}");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_that_cannot_work_are_mistakes() {
    let twice = app(&Memory::new()).check(Check::tcp("a", "a:1")).check(Check::tcp("a", "b:1"));
    assert_eq!(Running::launch(twice).ended().await.unwrap_err().code(), 2);
    let secure = app(&Memory::new()).check(Check::http("search", "https://search.internal"));
    let error = Running::launch(secure).ended().await.unwrap_err();
    assert!(format!("{error:?}").contains("check `search`"), "{error:?}");
}
