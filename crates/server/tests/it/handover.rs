//! Sockets handed from one process to the next; both sides are in this one.

use std::{io::ErrorKind, path::PathBuf, time::Duration};

use axum::{Router, routing::get as route_get};
use meshwork_server::{Inherited, Listener, Offer, Predecessor, ServerConfig, Services};
use tokio::{io::AsyncWriteExt, net::UnixStream, task::JoinHandle};

use crate::support::{Fixture, get, raw, start_on, within};

fn says(text: &'static str) -> Services {
    Services::new().http(Router::new().route("/", route_get(move || async move { text })))
}

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("handover.sock");
    Place { _dir: dir, path }
}

/// One that serves and offers its socket.
async fn first(place: &Place) -> (Fixture, JoinHandle<u32>) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let sockets = vec![("http", listener.descriptor().unwrap())];
    let fixture = start_on(listener, ServerConfig::default(), says("first")).await;
    let mut offer = Offer::prepare(&place.path).unwrap();
    offer.open().unwrap();
    let listeners = fixture.serving.listeners();
    let taken = tokio::spawn(async move {
        let pid = offer.taken("users", &sockets).await.unwrap();
        listeners.close();
        pid
    });
    (fixture, taken)
}

async fn ask(place: &Place) -> (Predecessor, Inherited) {
    let (predecessor, mut sockets) = Predecessor::ask(&place.path, "users").await.unwrap().unwrap();
    assert_eq!((predecessor.pid(), sockets.len()), (std::process::id(), 1));
    (predecessor, sockets.remove(0))
}

#[tokio::test]
async fn the_one_before_serves_until_the_one_after_does() {
    let place = place();
    assert!(Predecessor::ask(&place.path, "users").await.unwrap().is_none(), "nobody is there");
    let (one, taken) = first(&place).await;
    let (predecessor, socket) = ask(&place).await;
    assert_eq!((socket.name.as_deref(), socket.listener.local_addr()), (Some("http"), one.addr));
    for _ in 0..3 {
        assert!(raw(one.addr, &get("/")).await.ends_with("first"), "nobody else serves yet");
    }
    let two = start_on(socket.listener, ServerConfig::default(), says("second")).await;
    assert!(predecessor.relieve().await.unwrap());
    assert_eq!(taken.await.unwrap(), std::process::id());
    one.serving.drain(within(Duration::from_secs(5))).await;
    assert!(raw(two.addr, &get("/")).await.ends_with("second"));
}

#[tokio::test]
async fn a_successor_that_ends_early_or_speaks_otherwise_changes_nothing() {
    let place = place();
    let (one, taken) = first(&place).await;
    let (predecessor, socket) = ask(&place).await;
    // The second waits for the end of the first.
    let path = place.path.clone();
    let second = tokio::spawn(async move { Predecessor::ask(&path, "users").await.unwrap().unwrap() });
    drop((predecessor, socket));
    drop(second.await.unwrap());

    let refused = Predecessor::ask(&place.path, "orders").await.unwrap_err().to_string();
    assert!(refused.contains("is `users`, not `orders`"), "{refused}");
    let mut stranger = UnixStream::connect(&place.path).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    drop(stranger);
    assert!(raw(one.addr, &get("/")).await.ends_with("first"));
    assert!(!taken.is_finished());
    let (predecessor, _socket) = ask(&place).await;
    // One that is gone need not hear.
    taken.abort();
    assert!(taken.await.unwrap_err().is_cancelled());
    assert!(!predecessor.relieve().await.unwrap());
    assert!(Predecessor::ask(&place.path, "users").await.unwrap().is_none(), "a socket without a process");
}

#[tokio::test]
async fn what_is_no_socket_stays_where_it_is() {
    let place = place();
    std::fs::write(&place.path, "precious").unwrap();
    assert_eq!(Offer::prepare(&place.path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&place.path).unwrap(), b"precious");
    let missing = place.path.join("not").join("there");
    assert!(Offer::prepare(&missing).is_err());
    // An offer that never stood leaves nothing.
    std::fs::remove_file(&place.path).unwrap();
    drop(Offer::prepare(&place.path).unwrap());
    assert_eq!(std::fs::read_dir(place.path.parent().unwrap()).unwrap().count(), 0);
}
