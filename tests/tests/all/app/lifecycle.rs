//! Phases, hooks, readiness and the stop.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, routing::get};
use meshwork::{Handle, Memory, Phase, RunError};
use meshwork_testkit::truth::eventually;
use meshwork_tests::{SERVICE, http1};

use super::rig::{LIMIT, Running, app, users};

type Story = Arc<Mutex<Vec<String>>>;

fn note(story: &Story, what: &str) {
    story.lock().unwrap().push(what.to_owned());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_run_in_order_and_those_of_the_stop_in_reverse() {
    let memory = Memory::new();
    let story = Story::default();
    let service = meshwork::ServiceName::new(SERVICE).unwrap();
    let hook = |what: &'static str| {
        let (story, memory, service) = (Arc::clone(&story), memory.clone(), service.clone());
        move |handle: Handle| async move {
            let announced = memory.instances(&service).len();
            note(&story, &format!("{what}, {}, {announced} announced", handle.phase()));
        }
    };
    let app = users(app(SERVICE).with_registry(memory.clone()), "Ada")
        .warm_up(hook("warm_up 1"))
        .warm_up(hook("warm_up 2"))
        .on_serving(hook("on_serving 1"))
        .on_serving(hook("on_serving 2"))
        .on_stop(hook("on_stop 1"))
        .on_stop(hook("on_stop 2"));
    let running = Running::start(app).await;
    eventually(LIMIT, "both serving hooks have run", || async { story.lock().unwrap().len() == 4 })
        .await
        .unwrap();
    assert!(running.stop().await.is_clean());
    let told = story.lock().unwrap().clone();
    assert_eq!(
        told,
        [
            "warm_up 1, starting, 0 announced",
            "warm_up 2, starting, 0 announced",
            "on_serving 1, serving, 1 announced",
            "on_serving 2, serving, 1 announced",
            "on_stop 2, draining, 0 announced",
            "on_stop 1, draining, 0 announced",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_up_that_fails_ends_the_start_before_anything_is_announced() {
    let memory = Memory::new();
    let service = meshwork::ServiceName::new(SERVICE).unwrap();
    let app = users(app(SERVICE).with_registry(memory.clone()), "Ada")
        .warm_up(|_| async { Ok::<_, std::io::Error>(()) })
        .warm_up(|_| async { Err::<(), _>("cache has no room") })
        .on_serving(|_| async { Err::<(), _>("it serves") });
    let running = Running::launch(app);
    let handle = running.handle.clone();
    let error = running.ended().await.unwrap_err();
    assert!(matches!(error, RunError::Start { .. }), "{error:?}");
    assert_eq!(error.code(), 5);
    let text = format!("{error:?}");
    assert!(text.contains("`warm_up` hook 2") && text.contains("cache has no room"), "{text}");
    assert_eq!(handle.phase(), Phase::Stopped);
    assert!(memory.instances(&service).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serving_hook_that_fails_stops_the_app_and_is_told() {
    let app = users(app(SERVICE).with_registry(Memory::new()), "Ada")
        .on_serving(|_| async { Err::<(), _>("no licence") });
    let report = Running::launch(app).ended().await.unwrap();
    assert!(report.faults.iter().any(|fault| fault.contains("no licence")), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_not_announced_before_every_named_part_is_ready() {
    let memory = Memory::new();
    let service = meshwork::ServiceName::new(SERVICE).unwrap();
    let app = users(app(SERVICE).with_registry(memory.clone()), "Ada");
    let database = app.handle().readiness("database");
    let running = Running::launch(app);
    let bound = || async { running.handle.local_addr().is_some() };
    eventually(LIMIT, "it is bound", bound).await.unwrap();
    let answer = http1::get(running.addr(), "/.meshwork/ready").await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("database"), "{}", answer.body);
    assert_eq!(http1::get(running.addr(), "/.meshwork/health").await.unwrap().status, 200);
    assert_eq!(running.handle.phase(), Phase::Starting);
    assert!(memory.instances(&service).is_empty());

    database.set(true);
    assert!(tokio::time::timeout(LIMIT, running.handle.serving()).await.unwrap());
    assert_eq!(memory.instances(&service).len(), 1);
    eventually(LIMIT, "it says that it is ready", || async {
        http1::get(running.addr(), "/.meshwork/ready").await.is_ok_and(|answer| answer.status == 200)
    })
    .await
    .unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_warm_up_takes_nothing_from_the_registrys_time() {
    let memory = Memory::new();
    memory.lag(Duration::from_millis(100));
    let app = app(SERVICE).with_registry(memory).with_config("[registry]\nstart_timeout = \"1s\"");
    let warming = users(app, "Ada").warm_up(|_| tokio::time::sleep(Duration::from_millis(1_200)));
    Running::start(warming).await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_record_is_announced() {
    let memory = Memory::new();
    let service = meshwork::ServiceName::new(SERVICE).unwrap();
    let app = users(app(SERVICE).with_registry(memory.clone()), "Ada");
    app.handle().update(|instance| instance.weight = 7);
    let running = Running::start(app).await;
    assert_eq!(memory.instances(&service)[0].weight, 7);
    running.handle.update(|instance| instance.labels.set("colour", "blue"));
    eventually(LIMIT, "the label is announced", || async {
        memory.instances(&service).first().is_some_and(|i| i.labels.get("colour") == Some("blue"))
    })
    .await
    .unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handle_stops_it_and_work_under_way_finishes() {
    let (entered, mut enter) = tokio::sync::mpsc::channel(1);
    let (leave, left) = tokio::sync::watch::channel(false);
    let slow = Router::new().route(
        "/slow",
        get(move || async move {
            entered.send(()).await.unwrap();
            left.clone().wait_for(|left| *left).await.unwrap();
            "done"
        }),
    );
    let running = Running::start(app(SERVICE).with_registry(Memory::new()).http(slow)).await;
    let addr = running.addr();
    let call = tokio::spawn(async move { http1::get(addr, "/slow").await.unwrap() });
    enter.recv().await.unwrap();
    running.handle.stop();
    let drains = || async { running.handle.phase() == Phase::Draining };
    eventually(LIMIT, "it drains", drains).await.unwrap();
    leave.send(true).unwrap();
    assert_eq!(call.await.unwrap().body, "done");
    let report = running.ended().await.unwrap();
    assert_eq!((&*report.cause, report.finished, report.code()), ("handle", 1, 0), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_surround_http_and_grpc_alike() {
    use axum::{extract::Request, middleware::Next};
    use orders::users::{GetUser, users_client::UsersClient};
    let memory = Memory::new();
    let stamp = |request: Request, next: Next| async move {
        let mut answer = next.run(request).await;
        answer.headers_mut().insert("x-stamp", http::HeaderValue::from_static("1"));
        answer
    };
    let app_with_layer = app(SERVICE).with_registry(memory.clone()).layer(axum::middleware::from_fn(stamp));
    let running = Running::start(users(app_with_layer, "Ada")).await;
    let head = http1::get(running.addr(), "/who").await.unwrap().head;
    assert!(head.contains("x-stamp: 1"), "{head}");
    let channel = app("caller").with_registry(memory).channel(SERVICE);
    let answer = UsersClient::new(channel).get(GetUser { id: 7 }).await.unwrap();
    assert_eq!(answer.metadata().get("x-stamp").unwrap(), "1");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_until_the_given_future_is_ready() {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let app = users(app(SERVICE).with_registry(Memory::new()), "Ada");
    let handle = app.handle();
    let serving = tokio::spawn(app.serve_until(async move {
        let _dropped = stopped.await;
    }));
    assert!(tokio::time::timeout(LIMIT, handle.serving()).await.unwrap());
    stop.send(()).unwrap();
    let report = tokio::time::timeout(LIMIT, serving).await.unwrap().unwrap().unwrap();
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_in_code_is_added_to_what_was_given_before() {
    let app = app(SERVICE)
        .with_config("[service]\nzone = \"zone1\"\n")
        .with_config("[service]\nzone = \"zone2\"\n");
    let running = Running::start(users(app.with_registry(Memory::new()), "Ada")).await;
    let instance = running.handle.instance().unwrap();
    assert_eq!((instance.service.as_str(), &*instance.zone), (SERVICE, "zone2"));
    running.stop().await;
}
