//! The stop: budgets, what overruns, what fails, and stopping more than once.

use std::{future::pending, time::Duration};

use axum::{Router, routing::get};
use meshwork::{App, Component, Memory, Phase};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::rig::{LIMIT, Running, Story, announced, app, eventually, falls};

/// What `drain.deadline` is in these tests, and how late a noisy machine may be.
const DEADLINE: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_overruns_its_budget_is_named_and_the_others_still_run() {
    let (memory, story) = (Memory::new(), Story::default());
    let app = app(&memory)
        .component(story.component("database"))
        .component(Component::new("cache").stop(|_| pending::<()>()).stop_timeout(Duration::from_millis(100)))
        .on_stop(story.hook("flush"))
        .on_stop(|_| async { falls("no room") })
        .on_stop(|_| async { Err::<(), _>("collector is away") });
    let running = Running::start(app).await;
    let began = Instant::now();
    let report = running.stop().await;
    assert!(began.elapsed() < DEADLINE + SLACK, "{:?}", began.elapsed());
    assert_eq!(report.code(), 6, "{report}");
    assert_eq!(report.cut.len(), 1, "{report}");
    assert!(report.cut[0].contains("component `cache`: not done within 100"), "{report}");
    assert_eq!(report.faults.len(), 2, "{report}");
    assert!(report.faults[0].contains("`on_stop` hook 3") && report.faults[0].contains("collector is away"));
    assert!(report.faults[1].contains("`on_stop` hook 2") && report.faults[1].contains("no room"));
    assert_eq!(story.told(), ["database starts", "flush", "database stops"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_is_announced_nowhere_serves_while_its_callers_hear_of_the_stop() {
    let settle = Duration::from_millis(700);
    let unannounced = "[drain]\nsettle = \"700ms\"\n[registry]\nuse = \"none\"";
    let app = App::new().with_environment("test").with_config_dir("/nowhere").with_config(unannounced);
    let running = Running::start(app.http(Router::new().route("/", get(|| async { "hello" })))).await;
    let addr = running.handle.local_addr().unwrap();
    running.handle.stop();
    eventually("it leaves", || running.handle.phase() == Phase::Leaving).await;
    let mut peer = TcpStream::connect(addr).await.unwrap();
    peer.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    let report = running.ended().await.unwrap();
    assert!(report.code() == 0 && report.took >= settle, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_gone_at_once_and_the_exit_on_time_though_every_stage_sleeps_for_ever() {
    let (memory, story) = (Memory::new(), Story::default());
    let entered = story.clone();
    let hangs = Router::new().route(
        "/hang",
        get(move || async move {
            entered.note("handler");
            pending::<String>().await
        }),
    );
    let app = app(&memory)
        .http(hangs)
        .component(Component::new("database").stop(|_| pending::<()>()))
        .on_serving(|_| pending::<()>())
        .on_stop(|_| pending::<()>());
    let running = Running::start(app).await;
    let addr = running.handle.local_addr().unwrap();
    let mut peer = TcpStream::connect(addr).await.unwrap();
    peer.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    eventually("the handler hangs", || story.told() == ["handler"]).await;

    let began = Instant::now();
    running.handle.stop();
    eventually("the key is gone", || announced(&memory) == 0).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let report = running.ended().await.unwrap();
    let took = began.elapsed();
    assert!(took < DEADLINE + Duration::from_millis(500) + SLACK, "{took:?}");
    assert_eq!(report.code(), 6, "{report}");
    let named = |what: &str| report.cut.iter().any(|line| line.contains(what));
    assert!(
        named("GET /hang")
            && named("`on_serving` hook 1")
            && named("`on_stop` hook 1")
            && named("component `database`"),
        "{report}"
    );
    // Each had its share: the hook that hangs did not take that of the component.
    assert!(!named("not run"), "{report}");
    let mut rest = Vec::new();
    let _cut = tokio::time::timeout(LIMIT, peer.read_to_end(&mut rest)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_that_block_their_threads_hold_nothing_up() {
    let memory = Memory::new();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let app = app(&memory)
        .component(Component::new("last").stop_timeout(Duration::from_millis(300)))
        .on_stop(move |_| async move {
            let _dropped = ended.recv();
        });
    let running = Running::start(app).await;
    let began = Instant::now();
    let report = running.stop().await;
    assert!(began.elapsed() < DEADLINE + SLACK, "{:?}", began.elapsed());
    assert!(report.cut.iter().any(|line| line.contains("blocks its thread")), "{report}");
    drop(end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_twice_from_hooks_and_from_handlers_is_stopping_once() {
    let memory = Memory::new();
    let app = app(&memory);
    let handle = app.handle();
    let stops = Router::new().route(
        "/stop",
        get(move || async move {
            handle.stop();
            handle.stop();
            "stopping"
        }),
    );
    let app = app
        .http(stops)
        .on_stop(|handle| async move { handle.stop() })
        .on_stop(|handle| async move { handle.stopping().cancelled().await });
    let running = Running::start(app).await;
    let mut peer = TcpStream::connect(running.handle.local_addr().unwrap()).await.unwrap();
    peer.write_all(b"GET /stop HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("stopping"), "{answer}");
    let report = running.ended().await.unwrap();
    assert!(report.is_clean(), "{report}");

    let from_a_hook = crate::rig::app(&memory).on_serving(|handle| async move {
        handle.stop();
        handle.stop();
    });
    assert!(Running::launch(from_a_hook).ended().await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serving_hook_that_fails_or_panics_ends_the_app_with_5() {
    let failing = app(&Memory::new()).on_serving(|_| async { Err::<(), _>("no licence") });
    let report = Running::launch(failing).ended().await.unwrap();
    assert_eq!(report.code(), 5, "{report}");
    assert!(report.cause.contains("`on_serving` hook 1"), "{report}");
    let panicking = app(&Memory::new()).on_serving(|_| async { falls("no licence") });
    let report = Running::launch(panicking).ended().await.unwrap();
    assert_eq!(report.code(), 5, "{report}");
    assert!(report.faults[0].contains("panicked: no licence"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_does_not_answer_does_not_delay_the_exit() {
    let memory = Memory::new();
    let running = Running::start(app(&memory).with_config("[drain]\ndeadline = \"1100ms\"")).await;
    memory.lag(Duration::from_secs(60));
    let began = Instant::now();
    let report = running.stop().await;
    // Half of what a withdrawal may take where there is time for it.
    assert!(began.elapsed() < Duration::from_millis(2_000), "{:?}", began.elapsed());
    assert_eq!(report.code(), 0, "{report}");
    assert!(report.faults.iter().any(|fault| fault.contains("deregistration")), "{report}");
}
