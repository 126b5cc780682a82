//! Listeners that go from one app to the next.

use std::{fs, path::Path, time::Duration};

use axum::{Router, routing::get};
use meshwork::{App, Memory};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use tokio_util::sync::CancellationToken;

use crate::rig::{LIMIT, NAME, Running, announced, app, eventually};

fn at(path: &Path, memory: &Memory, says: &'static str) -> App {
    app(memory)
        .with_config(format!("[service]\nhandover = {path:?}"))
        .http(Router::new().route("/who", get(move || async move { says })))
}

async fn who(running: &Running) -> String {
    let mut peer = TcpStream::connect(running.handle.local_addr().unwrap()).await.unwrap();
    peer.write_all(b"GET /who HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, peer.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_successor_serves_at_the_same_port_and_the_one_before_leaves() {
    let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let path = dir.path().join("handover.sock");
    let first = Running::start(at(&path, &memory, "first")).await;
    let addr = first.handle.local_addr();

    // One that does not come so far as to serve changes nothing.
    let cold = at(&path, &memory, "cold").warm_up(|_| async { Err::<(), _>("no cache") });
    assert_eq!(Running::launch(cold).ended().await.unwrap_err().code(), 5);
    assert_eq!((who(&first).await, announced(&memory)), ("first".to_owned(), 1));

    let second = Running::start(at(&path, &memory, "second")).await;
    assert_eq!(second.handle.local_addr(), addr);
    assert_eq!(who(&second).await, "second");
    let report = first.ended().await.unwrap();
    assert!(report.is_clean() && report.cause.contains("handed over to process"), "{report}");
    eventually("one is announced", || announced(&memory) == 1).await;
    assert_eq!(who(&second).await, "second");

    // The third finds one that is about to leave, and still takes over.
    let slow = "[drain]\nsettle = \"1s\"";
    let third = Running::start(at(&path, &memory, "third").with_config(slow)).await;
    assert!(second.ended().await.unwrap().is_clean());
    third.handle.stop();
    let fourth = Running::start(at(&path, &memory, "fourth")).await;
    assert_eq!((fourth.handle.local_addr(), &*who(&fourth).await), (addr, "fourth"));
    assert!(third.ended().await.unwrap().is_clean());
    assert!(fourth.stop().await.is_clean());
    // Nobody is there any more: the fifth binds a port of its own.
    let fifth = Running::start(at(&path, &memory, "fifth")).await;
    assert_eq!(who(&fifth).await, "fifth");
    fifth.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_name_the_key_and_leave_the_one_that_serves() {
    let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let path = dir.path().join("handover.sock");
    let first = Running::start(at(&path, &memory, "first")).await;
    let refused = async |app: App, text: &str| {
        let error = Running::launch(app).ended().await.unwrap_err();
        assert_eq!(error.code(), 2, "{error}");
        assert!(format!("{error:?}").contains(text), "{error:?}");
    };
    let other = at(&path, &memory, "other").with_config("[service]\nname = \"users\"");
    refused(other, "here is `orders`, not `users`").await;
    let moved = at(&path, &memory, "moved").with_config("[service]\nhttp = \"127.0.0.1:1\"");
    refused(moved, "127.0.0.1:1 is not 127.0.0.1:").await;
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    refused(at(&file, &memory, "file"), "service.handover").await;
    refused(at(&dir.path().join("not/there.sock"), &memory, "missing"), "service.handover").await;
    refused(at(Path::new(&"x".repeat(97)), &memory, "long"), "1 to 96").await;
    assert_eq!(who(&first).await, "first");
    let report = tokio::time::timeout(LIMIT, first.stop()).await.unwrap();
    assert!(report.is_clean() && report.took < Duration::from_secs(3), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_follow_the_registry_see_nothing_of_it() {
    let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
    let path = dir.path().join("handover.sock");
    let next = || at(&path, &memory, "served").with_config("[drain]\nsettle = \"300ms\"");
    let mut now = Running::start(next()).await;
    let caller = app(&memory).with_config("[registry]\nuse = \"none\"");
    let (channel, end) = (caller.channel(NAME), CancellationToken::new());
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (channel, end) = (channel.clone(), end.clone());
            tokio::spawn(async move {
                let (mut calls, mut failed) = (0, Vec::new());
                while !end.is_cancelled() {
                    let answer = async { channel.get("/who").send().await?.text().await };
                    match answer.await {
                        Ok(text) if text == "served" => calls += 1,
                        other => failed.push(format!("{other:?}")),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                (calls, failed)
            })
        })
        .collect();
    for _ in 0..3 {
        let before = std::mem::replace(&mut now, Running::start(next()).await);
        assert!(before.ended().await.unwrap().is_clean());
    }
    end.cancel();
    for caller in callers {
        let (calls, failed) = caller.await.unwrap();
        assert!(calls > 0 && failed.is_empty(), "{calls} calls, failed: {failed:?}");
    }
    now.stop().await;
}
